"""The one place where people decide how a step looks as an asset."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.pipeline.declaration import StepSpec

_NOT_IN_TAG = re.compile(r"[^A-Za-z0-9_.-]+")
_NOT_IN_GROUP = re.compile(r"[^A-Za-z0-9_]+")
_TAG_CHARS = 63


@dataclass(frozen=True, slots=True)
class AssetStep:
    """A declared step about to become an asset.

    `deps` are the assets of its inputs, as translated; `code_version` the hash of what decides its
    output. The rest is what the caller asked for, to be used as it is.
    """

    spec: StepSpec
    key: dg.AssetKey
    code_version: str
    deps: tuple[dg.AssetDep, ...] = ()
    description: str | None = None
    group_name: str | None = None
    partitions_def: dg.PartitionsDefinition | None = None
    owners: Sequence[str] = ()
    kinds: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)


class GenblazeTranslator:
    """Turns steps into asset specs; subclass it to change keys, groups, owners or anything else.

    Example:
        class Ours(GenblazeTranslator):
            def get_asset_spec(self, step: AssetStep) -> dg.AssetSpec:
                return super().get_asset_spec(step).replace_attributes(owners=["team:media"])
    """

    def get_asset_spec(self, step: AssetStep) -> dg.AssetSpec:
        """Return the spec of one step's asset; `deps` and `skippable` must stay as they are."""
        spec = step.spec
        return dg.AssetSpec(
            key=step.key,
            deps=step.deps,
            description=step.description or _description(spec),
            group_name=step.group_name,
            code_version=step.code_version,
            partitions_def=step.partitions_def,
            owners=list(step.owners),
            kinds=set(step.kinds) or {spec.modality.value, spec.provider_name},
            tags={
                "genblaze/provider": _tag(spec.provider_name),
                "genblaze/model": _tag(spec.model),
                **step.tags,
            },
            metadata={
                "provider": spec.provider_name,
                "model": spec.model,
                "modality": spec.modality.value,
                "step_type": spec.step_type.value,
            },
            skippable=True,
        )


def group_name_for(name: str) -> str:
    """Return a pipeline's name as a group name, for which Dagster allows letters, digits and _."""
    return _NOT_IN_GROUP.sub("_", name).strip("_") or "genblaze"


def _tag(value: str) -> str:
    return _NOT_IN_TAG.sub("_", value)[:_TAG_CHARS]


def _description(spec: StepSpec) -> str:
    made = f"{spec.modality.value.capitalize()} by `{spec.model}` of {spec.provider_name}"
    if spec.inputs:
        made += f", from {', '.join(f'`{name}`' for name in spec.inputs)}"
    if spec.prompt is None or spec.prompt_visibility is not PromptVisibility.PUBLIC:
        return f"{made}."
    quoted = "\n".join(f"> {line}" for line in str(spec.prompt).splitlines())
    return f"{made}.\n\n{quoted}"
