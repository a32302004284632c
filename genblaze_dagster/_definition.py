"""From declared steps to Dagster's definitions, shared by pipelines, prompt functions and agents."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

import dagster as dg

from genblaze_dagster import _compat
from genblaze_dagster._batch import Batch, BatchSettings
from genblaze_dagster._flows import BatchStep, Inputs, Prepare, Request
from genblaze_dagster.checks import provenance_spec
from genblaze_dagster.errors import ConfigError, PromptTemplateError
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.partitions import PromptRows, PromptTable
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.execution import DEFAULT_CONCURRENCY
from genblaze_dagster.pipeline.lost_answers import OnAmbiguous
from genblaze_dagster.provider_resources import PROVIDER_RESOURCES, resource_key
from genblaze_dagster.providers.registry import provider_names, resolve_provider
from genblaze_dagster.resources import LEDGER_KEY, MEDIA_KEY
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.translator import AssetStep, GenblazeTranslator

PARTITIONS_PER_RUN = 50

Partitions = PromptTable | dg.PartitionsDefinition

BatchFactory = Callable[[dg.AssetExecutionContext, Sequence[BatchStep], BatchSettings], Batch]


class AssetOptions(TypedDict, total=False):
    """What `to_assets`, `generation_asset` and `agent_asset` take alike, all of it optional.

    Editors show these as keyword arguments of each of them.
    """

    partitions: Partitions | None
    """A prompt table, or any partitions whose keys the templates use as `{partition_key}`; one
    unpartitioned asset when left out."""
    key_prefix: Sequence[str] | str | None
    """First parts of the asset key; those of a pipeline are its name when left out, `[]` is none."""
    group_name: str | None
    """Dagster group; the pipeline's name when left out."""
    owners: Sequence[str] | None
    """`team:name` or e-mail addresses."""
    kinds: Collection[str] | None
    """Icons in the UI; modality and provider when left out."""
    tags: Mapping[str, str] | None
    """Asset tags, besides provider and model."""
    translator: GenblazeTranslator | None
    """Decides everything about the asset specs."""
    max_concurrency: int | None
    """Partitions under way at once within a run; 16 when left out."""
    backfill_policy: dg.BackfillPolicy | None
    """How a backfill is cut into runs; 50 partitions per run when left out."""
    retry_policy: dg.RetryPolicy | None
    """Dagster's retries of the whole step; what is stored is not paid again."""
    pool: str | None
    """Dagster concurrency pool; it counts steps, not requests. `rate` and `concurrency` of a
    provider's resource count requests."""
    op_tags: Mapping[str, Any] | None
    """For executors and run launchers, passed on untouched."""
    provider_resources: Collection[str]
    """Further provider names that are keys of resources of yours."""
    io_manager_key: str
    """Resource key of a media IO manager."""
    ledger_key: str
    """Resource key of a `LedgerResource`."""
    budgets: Sequence[Budget]
    """Limits on what is paid, besides those of the `LedgerResource`. A partition that finds no room
    fails, unsent; others that fit are still made."""
    on_ambiguous: OnAmbiguous | str
    """`hold` (the default) leaves a submit whose answer is lost to a person. WARNING: `resubmit`
    sends it again, and pays twice whenever the first one had arrived."""


def check_options(options: AssetOptions, function: str) -> None:
    """Refuse options that do not exist, as Python does for arguments that are spelt out.

    Raises:
        TypeError: names function and option.
    """
    unknown = sorted(options.keys() - AssetOptions.__annotations__.keys())
    if unknown:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


@dataclass(frozen=True, slots=True)
class Declared:
    """One asset: its spec for Dagster, and the step behind it for the batch."""

    spec: dg.AssetSpec
    step: BatchStep


def declare(
    spec: StepSpec,
    key: dg.AssetKey,
    deps: Sequence[dg.AssetDep],
    prepare: Prepare,
    options: AssetOptions,
    *,
    rows: PromptRows,
    code_version: str,
    inputs: tuple[dg.AssetKey, ...] | None = None,
    description: str | None = None,
    is_written: bool = False,
) -> Declared:
    """Translate a step; the translator's key and code version are the ones that count.

    `inputs` are the assets of the step's inputs in order, those of `deps` when left out.
    """
    step = AssetStep(
        spec=spec,
        key=key,
        code_version=code_version,
        deps=tuple(deps),
        description=description,
        group_name=options.get("group_name"),
        partitions_def=rows.definition,
        owners=tuple(options.get("owners") or ()),
        kinds=frozenset(options.get("kinds") or ()),
        tags=dict(options.get("tags") or {}),
    )
    if inputs is None:
        inputs = tuple(dep.asset_key for dep in deps)
    translator = options.get("translator") or GenblazeTranslator()
    # Skippable, because a step that fails in part must not be asked for its outputs.
    asset = translator.get_asset_spec(step).replace_attributes(skippable=True)
    version = asset.code_version or code_version
    return Declared(asset, BatchStep(asset.key, spec, version, inputs, prepare, is_written))


def settings_of(
    options: AssetOptions,
    *,
    rows: PromptRows,
    provider_keys: frozenset[str],
    reuse: bool = False,
    **of_pipeline: Any,
) -> BatchSettings:
    """Return what all partitions of a batch share.

    Raises:
        ConfigError: `max_concurrency` is below 1, or `on_ambiguous` neither `hold` nor `resubmit`.
    """
    return BatchSettings(
        rows=rows,
        max_concurrency=_at_least_one(options.get("max_concurrency")),
        reuse=reuse,
        media_key=options.get("io_manager_key", MEDIA_KEY),
        ledger_key=options.get("ledger_key", LEDGER_KEY),
        provider_keys=provider_keys,
        budgets=tuple(options.get("budgets", ())),
        on_ambiguous=OnAmbiguous.of(options.get("on_ambiguous", OnAmbiguous.HOLD)),
        **of_pipeline,
    )


def define(
    name: str,
    declared: Sequence[Declared],
    settings: BatchSettings,
    options: AssetOptions,
    *,
    batch: BatchFactory = Batch,
    providers: AbstractSet[str] | None = None,
) -> dg.AssetsDefinition:
    """Return one Dagster step that makes all the declared assets.

    `batch` makes what runs them; `providers` are the resources it needs, those of the steps when
    left out.
    """
    steps = [one.step for one in declared]
    used = providers
    if used is None:
        used = {resource_key(step.spec.provider_name) for step in steps} & settings.provider_keys
    backfill_policy = options.get("backfill_policy")
    if backfill_policy is None and settings.rows.definition is not None:
        backfill_policy = dg.BackfillPolicy.multi_run(PARTITIONS_PER_RUN)

    def body(context: dg.AssetExecutionContext):
        yield from batch(context, steps, settings).execute()

    made = dg.multi_asset(
        name=name,
        specs=[one.spec.with_io_manager_key(settings.media_key) for one in declared],
        check_specs=[provenance_spec(step.key) for step in steps],
        # Also for a single asset: the check of a step that failed in part has no output.
        can_subset=True,
        required_resource_keys={settings.media_key, settings.ledger_key, *used},
        backfill_policy=backfill_policy,
        retry_policy=options.get("retry_policy"),
        pool=options.get("pool"),
        op_tags=options.get("op_tags"),
    )(body)
    _generated[body] = Generated(tuple(steps), settings, is_loop=batch is not Batch)
    return made


@dataclass(frozen=True, slots=True)
class Generated:
    """What is behind a generated assets definition; `is_loop` when every step is an agent loop."""

    steps: tuple[BatchStep, ...]
    settings: BatchSettings
    is_loop: bool


# By the body of the Dagster step, which copies of a definition share (`with_resources`,
# `map_asset_specs`); a definition itself has no place for more.
_generated: WeakKeyDictionary[Callable[..., Any], Generated] = WeakKeyDictionary()


def generated(assets: dg.AssetsDefinition) -> Generated | None:
    """Return what is behind assets of ours, None for anybody else's."""
    body = _compat.body_of(assets)
    return None if body is None else _generated.get(body)


def from_row(step: StepSpec, inputs: tuple[dg.AssetKey, ...]) -> Prepare:
    """Return the request of a pipeline's step: the row fills its templates."""

    async def prepare(
        store: MediaStore, partition: str | None, row: Mapping[str, object], consumed: Inputs
    ) -> Request:
        return Request(step, row, [ref for key in inputs for ref in consumed[key]])

    return prepare


def check_columns(step: StepSpec, rows: PromptRows) -> None:
    """Refuse a template that no row can fill.

    Raises:
        PromptTemplateError: names step, column, and what there is.
    """
    if rows.columns is None:
        return
    missing = sorted(step.variables - rows.columns)
    if missing:
        raise PromptTemplateError(
            f"step {step.name!r} needs {', '.join(missing)}, which no prompt row has "
            f"(they have: {', '.join(sorted(rows.columns))}); add the column or correct the name"
        )


def provider_keys(steps: Iterable[StepSpec], named: Collection[str]) -> frozenset[str]:
    """Return the keys of the resources that providers come from.

    Raises:
        UnknownProviderError: a provider is neither registered nor a resource.
    """
    keys: set[str] = set()
    for step in steps:
        if not isinstance(step.provider, str):
            continue
        key = resource_key(step.provider)
        if key in named or key in PROVIDER_RESOURCES:
            keys.add(key)
        elif step.provider not in provider_names():
            # Raises, with the nearest names.
            resolve_provider(step.provider)
    return frozenset(keys)


def path_of(prefix: Sequence[str] | str) -> list[str]:
    """Return a key prefix as a list."""
    return [prefix] if isinstance(prefix, str) else list(prefix)


def _at_least_one(max_concurrency: int | None) -> int:
    if max_concurrency is None:
        return DEFAULT_CONCURRENCY
    if max_concurrency < 1:
        raise ConfigError(f"max_concurrency is {max_concurrency}; give at least 1")
    return max_concurrency
