"""From one recorded step back to its declaration, and what of it cannot be restored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

from genblaze_dagster.core.enums import PromptVisibility, StepStatus
from genblaze_dagster.core.models import Step, is_valid_sha256
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.pipeline.declaration import (
    FALLBACK_FROM,
    FALLBACK_MODELS,
    RESERVED_METADATA,
    StepSpec,
)
from genblaze_dagster.pipeline.external import Source
from genblaze_dagster.pipeline.generation import fingerprint
from genblaze_dagster.providers.protocol import Provider

# Written by genblaze about one execution; they would be untrue of another.
_OF_ONE_EXECUTION = ("failure_reason", "moderation", "provider_invoked", "upstream_id")
_PROMPTS = ("prompt", "negative_prompt")
TEXT_FIELDS = frozenset({*_PROMPTS, "model", "provider", "prompt_visibility"})
"""Fields of a step whose changed value is always text."""

_NOT_MADE = (StepStatus.FAILED, StepStatus.CANCELLED)


class ProblemKind(StrEnum):
    """Why a run cannot be replayed as it is recorded."""

    NOTHING = "nothing to run"
    REDACTED = "manifest redacted"
    PROMPT = "prompt not recorded"
    ENCRYPTED = "prompt encrypted"
    FAILED_STEP = "step failed"
    PROVIDER = "provider not installed"
    INPUT = "input not identified"
    DECLARATION = "not declarable"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be restored, and what to do about it; `step` None is the whole run."""

    kind: ProblemKind
    step: str | None
    fact: str
    remedy: str

    def __str__(self) -> str:
        where = "" if self.step is None else f"step {self.step!r}: "
        return f"{where}{self.fact}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Restored:
    """A step as it will be run, what stands in its way, and what its user should know."""

    spec: StepSpec
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def restore(
    recorded: Step,
    name: str,
    sources: tuple[Source, ...],
    *,
    changes: Mapping[str, object],
    provider: Provider | None = None,
) -> Restored:
    """Return the declaration a recorded step came from.

    Args:
        recorded: the step in the manifest.
        name: what the step is called now; manifests do not name steps.
        sources: its inputs.
        changes: fields and parameters that get other values.
        provider: the provider to use instead of the recorded name.

    Raises:
        ConfigError: a changed field has a value of the wrong type.
    """
    spec = _changed(_declaration(recorded, name, sources), changes)
    problems = (
        *_unmade(recorded, name),
        *_missing_prompts(recorded, spec, changes),
        *_uncertain_inputs(spec),
    )
    if provider is not None:
        spec = replace(spec, provider=provider)
    return Restored(spec, problems, _notes(recorded, spec, changes))


def _declaration(recorded: Step, name: str, sources: tuple[Source, ...]) -> StepSpec:
    metadata = recorded.metadata
    declared_model = metadata.get(FALLBACK_FROM)
    fallback: object = metadata.get(FALLBACK_MODELS)
    models = cast(list[object], fallback) if isinstance(fallback, list) else []
    fingerprints = [f"{text}_sha256" for text in _hidden_prompts(recorded)]
    left_out = (*RESERVED_METADATA, *_OF_ONE_EXECUTION, *fingerprints)
    return StepSpec(
        name=name,
        # Only steps that import media may lack it, and those are not run.
        provider=recorded.provider or "",
        model=declared_model if isinstance(declared_model, str) else recorded.model,
        prompt=recorded.prompt,
        negative_prompt=recorded.negative_prompt,
        seed=recorded.seed,
        params=recorded.params,
        modality=recorded.modality,
        step_type=recorded.step_type,
        sources=sources,
        prompt_visibility=recorded.prompt_visibility,
        metadata={key: value for key, value in metadata.items() if key not in left_out},
        fallback_models=tuple(model for model in models if isinstance(model, str)),
    )


def _changed(spec: StepSpec, changes: Mapping[str, object]) -> StepSpec:
    fields: dict[str, Any] = {"params": dict(spec.params)}
    for field, value in changes.items():
        if field == "prompt_visibility":
            known = [visibility.value for visibility in PromptVisibility]
            _require(value in known, spec, field, f"one of {', '.join(known)}")
            fields[field] = PromptVisibility(str(value))
        elif field in TEXT_FIELDS:
            _require(isinstance(value, str), spec, field, "a text")
            fields[field] = value
        elif field == "seed":
            is_number = isinstance(value, int) and not isinstance(value, bool)
            _require(value is None or is_number, spec, field, "an integer or null")
            fields[field] = value
        else:
            fields["params"][field] = value
    if "model" in fields:
        others = (model for model in spec.fallback_models if model != fields["model"])
        fields["fallback_models"] = tuple(others)
    return replace(spec, **fields)


def _require(holds: bool, spec: StepSpec, field: str, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"{field} of step {spec.name!r} has another kind of value; give {wanted}")


def _unmade(recorded: Step, name: str) -> list[Problem]:
    if recorded.status not in _NOT_MADE:
        return []
    return [
        Problem(
            ProblemKind.FAILED_STEP,
            name,
            f"it {recorded.status.value} when it was recorded, so its record need not be complete",
            "replay a run in which it succeeded, or declare the pipeline again",
        )
    ]


def _missing_prompts(
    recorded: Step, spec: StepSpec, changes: Mapping[str, object]
) -> list[Problem]:
    if recorded.prompt_visibility is PromptVisibility.ENCRYPTED:
        unread = [text for text in _PROMPTS if getattr(recorded, text) and text not in changes]
        if unread or spec.prompt_visibility is PromptVisibility.ENCRYPTED:
            given = ", ".join(f"{spec.name}.{text}" for text in unread or ("prompt",))
            return [
                Problem(
                    ProblemKind.ENCRYPTED,
                    spec.name,
                    "its prompt is recorded encrypted",
                    f"give {given} and {spec.name}.prompt_visibility=private",
                )
            ]
    return [
        Problem(
            ProblemKind.PROMPT,
            spec.name,
            f"its {text.replace('_', ' ')} is {recorded.prompt_visibility.value}, and only its "
            "SHA-256 is recorded",
            f"give {spec.name}.{text}",
        )
        for text in _hidden_prompts(recorded)
        if text not in changes
    ]


def _uncertain_inputs(spec: StepSpec) -> list[Problem]:
    return [
        Problem(
            ProblemKind.INPUT,
            spec.name,
            f"its input {strip_url(source.asset.url)} has no sha256, so nobody can tell whether it "
            "is still the same",
            "declare the step again with this URL among its external_inputs",
        )
        for source in spec.external_inputs
        if source.asset is not None and not is_valid_sha256(source.asset.sha256)
    ]


def _notes(recorded: Step, spec: StepSpec, changes: Mapping[str, object]) -> tuple[str, ...]:
    gone = [key for key in _OF_ONE_EXECUTION if key in recorded.metadata]
    notes = [f"step {spec.name!r}: metadata {key} is of the old execution only" for key in gone]
    return (*notes, *_other_prompts(recorded, spec, changes))


def _other_prompts(recorded: Step, spec: StepSpec, changes: Mapping[str, object]) -> list[str]:
    """Compare prompts given for ones that are not recorded, when nothing else is changed."""
    if set(changes) - set(_PROMPTS):
        return []
    return [
        f"step {spec.name!r}: the {text.replace('_', ' ')} given is not the recorded one, its "
        "SHA-256 differs"
        for text in _hidden_prompts(recorded)
        if text in changes
        and recorded.metadata[f"{text}_sha256"] != fingerprint(str(changes[text]))
    ]


def _hidden_prompts(recorded: Step) -> list[str]:
    """Return which prompts of a step are recorded by their SHA-256 only."""
    if recorded.prompt_visibility is PromptVisibility.PUBLIC:
        return []
    return [
        text
        for text in _PROMPTS
        if getattr(recorded, text) is None and f"{text}_sha256" in recorded.metadata
    ]
