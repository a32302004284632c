"""From declared steps to Dagster's definitions, shared by pipelines and prompt functions."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import dagster as dg

from genblaze_dagster._batch import Batch, BatchSettings
from genblaze_dagster._flows import BatchStep, Inputs, Prepare, Request
from genblaze_dagster.checks import provenance_spec
from genblaze_dagster.errors import ConfigError, PromptTemplateError
from genblaze_dagster.partitions import PromptRows
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.providers.registry import provider_names, resolve_provider
from genblaze_dagster.resources import PROVIDER_RESOURCES
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.translator import AssetStep, GenblazeTranslator

PARTITIONS_PER_RUN = 50

BatchFactory = Callable[[dg.AssetExecutionContext, Sequence[BatchStep], BatchSettings], Batch]


@dataclass(frozen=True, slots=True)
class Declared:
    """One asset: its spec for Dagster, and the step behind it for the batch."""

    spec: dg.AssetSpec
    step: BatchStep


def declare(
    step: AssetStep,
    inputs: tuple[dg.AssetKey, ...],
    prepare: Prepare,
    translator: GenblazeTranslator | None,
) -> Declared:
    """Translate a step; the translator's key and code version are the ones that count."""
    # Skippable, because a step that fails in part must not be asked for its outputs.
    spec = (translator or GenblazeTranslator()).get_asset_spec(step)
    spec = spec.replace_attributes(skippable=True)
    version = spec.code_version or step.code_version
    return Declared(spec, BatchStep(spec.key, step.spec, version, inputs, prepare))


def define(
    name: str,
    declared: Sequence[Declared],
    settings: BatchSettings,
    *,
    backfill_policy: dg.BackfillPolicy | None,
    retry_policy: dg.RetryPolicy | None,
    pool: str | None,
    op_tags: Mapping[str, Any] | None,
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
        used = {step.spec.provider_name for step in steps} & settings.provider_keys
    if backfill_policy is None and settings.rows.definition is not None:
        backfill_policy = dg.BackfillPolicy.multi_run(PARTITIONS_PER_RUN)

    @dg.multi_asset(
        name=name,
        specs=[one.spec.with_io_manager_key(settings.media_key) for one in declared],
        check_specs=[provenance_spec(step.key) for step in steps],
        # Also for a single asset: the check of a step that failed in part has no output.
        can_subset=True,
        required_resource_keys={settings.media_key, settings.ledger_key, *used},
        backfill_policy=backfill_policy,
        retry_policy=retry_policy,
        pool=pool,
        op_tags=op_tags,
    )
    def body(context: dg.AssetExecutionContext):
        yield from batch(context, steps, settings).execute()

    return body


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
    """Return the providers that come from a Dagster resource of their name.

    Raises:
        UnknownProviderError: a provider is neither registered nor a resource.
    """
    keys: set[str] = set()
    for step in steps:
        if not isinstance(step.provider, str):
            continue
        if step.provider in named or step.provider in PROVIDER_RESOURCES:
            keys.add(step.provider)
        elif step.provider not in provider_names():
            # Raises, with the nearest names.
            resolve_provider(step.provider)
    return frozenset(keys)


def path_of(prefix: Sequence[str] | str) -> list[str]:
    """Return a key prefix as a list."""
    return [prefix] if isinstance(prefix, str) else list(prefix)


def at_least_one(max_concurrency: int) -> int:
    """Return a usable concurrency.

    Raises:
        ConfigError: it is below 1.
    """
    if max_concurrency < 1:
        raise ConfigError(f"max_concurrency is {max_concurrency}; give at least 1")
    return max_concurrency
