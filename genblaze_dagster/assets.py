"""Generated media as Dagster assets: a whole pipeline, or one decorated prompt function."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import dagster as dg

from genblaze_dagster._batch import BatchSettings
from genblaze_dagster._definition import (
    Declared,
    at_least_one,
    check_columns,
    declare,
    define,
    from_row,
    path_of,
    provider_keys,
)
from genblaze_dagster._prompt_function import PromptFunction
from genblaze_dagster.core.enums import Modality, PromptVisibility, StepType
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.partitions import PromptRows, PromptTable
from genblaze_dagster.pipeline.declaration import DEFAULT_TIMEOUT_SECONDS, Pipeline
from genblaze_dagster.pipeline.execution import DEFAULT_CONCURRENCY
from genblaze_dagster.pipeline.template import Column
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.resources import LEDGER_KEY, MEDIA_KEY
from genblaze_dagster.translator import AssetStep, GenblazeTranslator, group_name_for

Partitions = PromptTable | dg.PartitionsDefinition


def pipeline_assets(
    pipeline: Pipeline,
    *,
    partitions: Partitions | None = None,
    key_prefix: Sequence[str] | str | None = None,
    group_name: str | None = None,
    owners: Sequence[str] | None = None,
    kinds: Collection[str] | None = None,
    tags: Mapping[str, str] | None = None,
    translator: GenblazeTranslator | None = None,
    fuse: bool = True,
    reuse: bool = False,
    max_concurrency: int | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
    provider_resources: Collection[str] = (),
    io_manager_key: str = MEDIA_KEY,
    ledger_key: str = LEDGER_KEY,
) -> list[dg.AssetsDefinition]:
    """Turn a pipeline into assets, one per step, whose partitions are prompt rows.

    By default all steps are one `multi_asset`: every partition flows through its steps without
    waiting for another one, so a failed image holds up its own video only. Steps can still be
    selected alone; their inputs then come from the store.

    Args:
        pipeline: the declared steps.
        partitions: a prompt table, or any partitions whose keys the templates use as
            `{partition_key}`; one unpartitioned asset per step when left out.
        key_prefix: first parts of the asset keys; the pipeline's name when left out, `[]` for none.
        group_name: Dagster group; the pipeline's name when left out.
        owners: `team:name` or e-mail addresses.
        kinds: icons in the UI; modality and provider when left out.
        tags: asset tags, besides provider and model.
        translator: decides everything about the asset specs.
        fuse: False gives every step a Dagster step of its own, for steps that need other machines.
            A failed partition then holds up all partitions of the next step in the same run.
        reuse: take stored media of an equal earlier generation instead of paying again.
        max_concurrency: partitions under way at once within a run; 16 when left out.
        backfill_policy: how a backfill is cut into runs; 50 partitions per run when left out.
        retry_policy: Dagster's retries of the whole step; what is stored is not paid again.
        pool: Dagster concurrency pool; it counts steps, not requests.
        op_tags: for executors and run launchers, passed on untouched.
        provider_resources: further provider names that are keys of resources of yours.
        io_manager_key: resource key of a media IO manager.
        ledger_key: resource key of a `LedgerResource`.

    Raises:
        ConfigError: the pipeline is empty, or `max_concurrency` below 1.
        UnknownProviderError: a provider is neither registered nor a resource.
        PromptTemplateError: a template needs a column the prompt table does not have.
    """
    if not pipeline.steps:
        raise ConfigError("pipeline has no steps; add one with .step(...)")
    name = pipeline.name or "pipeline"
    prefix = [group_name_for(name)] if key_prefix is None else path_of(key_prefix)
    rows = PromptRows(partitions)
    declared: dict[str, Declared] = {}
    for step in pipeline.steps:
        check_columns(step, rows)
        inputs = tuple(declared[wanted].spec.key for wanted in step.inputs)
        declared[step.name] = declare(
            AssetStep(
                spec=step,
                key=dg.AssetKey([*prefix, step.name]),
                code_version=step.code_version,
                deps=tuple(dg.AssetDep(key) for key in dict.fromkeys(inputs)),
                group_name=group_name or group_name_for(name),
                partitions_def=rows.definition,
                owners=tuple(owners or ()),
                kinds=frozenset(kinds or ()),
                tags=dict(tags or {}),
            ),
            inputs,
            from_row(step, inputs),
            translator,
        )
    settings = BatchSettings(
        rows=rows,
        max_concurrency=at_least_one(
            max_concurrency or pipeline.max_concurrency or DEFAULT_CONCURRENCY
        ),
        reuse=reuse,
        media_key=io_manager_key,
        ledger_key=ledger_key,
        provider_keys=provider_keys(pipeline.steps, provider_resources),
        pipeline=pipeline.name,
        tenant_id=pipeline.tenant_id,
        project_id=pipeline.project_id,
    )
    # Unlike any asset's own op, whose name is its key.
    op_name = f"{group_name_for('__'.join(prefix or [name]))}_pipeline"
    everything = list(declared.values())
    batches = [everything] if fuse else [[step] for step in everything]
    return [
        define(
            op_name if fuse else batch[0].spec.key.to_python_identifier(),
            batch,
            settings,
            backfill_policy=backfill_policy,
            retry_policy=retry_policy,
            pool=pool,
            op_tags=op_tags,
        )
        for batch in batches
    ]


def generation_asset(
    *,
    provider: Provider | str,
    model: str,
    name: str | None = None,
    ins: Mapping[str, dg.AssetDep | dg.AssetKey | str] | None = None,
    partitions: Partitions | None = None,
    modality: Modality | str = Modality.IMAGE,
    step_type: StepType | str = StepType.GENERATE,
    negative_prompt: str | None = None,
    seed: int | Column | None = None,
    params: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    prompt_visibility: PromptVisibility | str = PromptVisibility.PUBLIC,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    retry: RetryPolicy | None = None,
    code_version: str | None = None,
    key_prefix: Sequence[str] | str | None = None,
    description: str | None = None,
    group_name: str | None = None,
    owners: Sequence[str] | None = None,
    kinds: Collection[str] | None = None,
    tags: Mapping[str, str] | None = None,
    translator: GenblazeTranslator | None = None,
    reuse: bool = False,
    max_concurrency: int = DEFAULT_CONCURRENCY,
    backfill_policy: dg.BackfillPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    op_tags: Mapping[str, Any] | None = None,
    provider_resources: Collection[str] = (),
    io_manager_key: str = MEDIA_KEY,
    ledger_key: str = LEDGER_KEY,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make an asset of a function that writes the prompt.

    The function is called once per partition, on a thread unless it is `async`. It returns the
    prompt, or a mapping with any of `prompt`, `negative_prompt`, `seed`, `params` and `inputs`.
    Its parameters say what it gets:

    * `row`: the partition's prompt row, `partition_key`: its key;
    * any other: the upstream asset of that name (or as `ins` says), as `Media`, or as
      `dict[str, Media]` by partition key when it needs several partitions. What it gets is also
      what the model gets as input, unless it returns other `inputs`.

    Parameters with a default are left alone.

    Args:
        provider: provider instance, or the name of a registered one or of a resource.
        model: the vendor's model name.
        name: last part of the asset key; the function's name when left out.
        ins: upstream assets by parameter name; an `AssetDep` may carry a partition mapping.
        partitions: see `pipeline_assets`.
        modality: what the model makes.
        step_type: what it does with its inputs.
        negative_prompt: what the model should avoid.
        seed: integer, or `Column` to take it from the row.
        params: parameters of the model.
        metadata: hashed into the manifest.
        prompt_visibility: anything but public keeps the prompt out of everything that is stored.
        timeout: seconds for one partition.
        retry: policy for the vendor's calls.
        code_version: changes when the media should be made anew; the hash of the settings and of
            the function's source when left out.
        key_prefix: first parts of the asset key.
        description: shown in the UI; the function's docstring when left out.
        group_name: Dagster group.
        owners: see `pipeline_assets`, as for everything below.
        kinds: icons in the UI.
        tags: asset tags.
        translator: decides everything about the asset spec.
        reuse: take stored media of an equal earlier generation.
        max_concurrency: partitions under way at once.
        backfill_policy: how a backfill is cut into runs.
        retry_policy: Dagster's retries of the whole step.
        pool: Dagster concurrency pool.
        op_tags: for executors and run launchers.
        provider_resources: further provider names that are keys of resources of yours.
        io_manager_key: resource key of a media IO manager.
        ledger_key: resource key of a `LedgerResource`.

    Raises:
        ConfigError: a setting or the function's signature is not usable.
        UnknownProviderError: the provider is neither registered nor a resource.

    Example:
        @generation_asset(provider="openai", model="gpt-image-1", partitions=table)
        def poster(row):
            return f"A poster of {row['subject']}, risograph"
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        step = (
            Pipeline()
            .step(
                provider,
                model=model,
                name=name or function.__name__,
                negative_prompt=negative_prompt,
                seed=seed,
                modality=modality,
                step_type=step_type,
                prompt_visibility=prompt_visibility,
                metadata=metadata,
                timeout=timeout,
                retry=retry,
                params=params,
            )
            .steps[0]
        )
        prompts = PromptFunction(function, step, ins or {})
        rows = PromptRows(partitions)
        declared = declare(
            AssetStep(
                spec=step,
                key=dg.AssetKey([*path_of(key_prefix or []), step.name]),
                code_version=code_version or prompts.code_version,
                deps=prompts.deps,
                description=description or function.__doc__,
                group_name=group_name,
                partitions_def=rows.definition,
                owners=tuple(owners or ()),
                kinds=frozenset(kinds or ()),
                tags=dict(tags or {}),
            ),
            tuple(dep.asset_key for dep in prompts.deps),
            prompts.prepare,
            translator,
        )
        settings = BatchSettings(
            rows=rows,
            max_concurrency=at_least_one(max_concurrency),
            reuse=reuse,
            media_key=io_manager_key,
            ledger_key=ledger_key,
            provider_keys=provider_keys([step], provider_resources),
        )
        return define(
            declared.spec.key.to_python_identifier(),
            [declared],
            settings,
            backfill_policy=backfill_policy,
            retry_policy=retry_policy,
            pool=pool,
            op_tags=op_tags,
        )

    return decorate
