"""Generated media as Dagster assets: a whole pipeline, or one decorated prompt function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import dagster as dg

from genblaze_dagster._definition import (
    AssetOptions,
    Declared,
    Partitions,
    check_columns,
    check_options,
    declare,
    define,
    from_row,
    path_of,
    provider_keys,
    settings_of,
)
from genblaze_dagster._prompt_function import PromptFunction
from genblaze_dagster.core.enums import Modality, PromptVisibility, StepType
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.partitions import PromptRows
from genblaze_dagster.pipeline.declaration import DEFAULT_TIMEOUT_SECONDS, Pipeline
from genblaze_dagster.pipeline.external import External
from genblaze_dagster.pipeline.template import Column
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.translator import group_name_for

__all__ = ["AssetOptions", "Partitions", "generation_asset", "pipeline_assets"]


def pipeline_assets(
    pipeline: Pipeline,
    *,
    fuse: bool = True,
    reuse: bool = False,
    **options: Unpack[AssetOptions],
) -> list[dg.AssetsDefinition]:
    """Turn a pipeline into assets, one per step, whose partitions are prompt rows.

    By default all steps are one `multi_asset`: every partition flows through its steps without
    waiting for another one, so a failed image holds up its own video only. Steps can still be
    selected alone; their inputs then come from the store.

    Args:
        pipeline: the declared steps.
        fuse: False gives every step a Dagster step of its own, for steps that need other machines.
            A failed partition then holds up all partitions of the next step in the same run.
        reuse: take stored media of an equal earlier generation instead of paying again.
        **options: see `AssetOptions`; a pipeline's own `max_concurrency` comes before the 16.

    Raises:
        ConfigError: the pipeline is empty, or `max_concurrency` below 1.
        UnknownProviderError: a provider is neither registered nor a resource.
        PromptTemplateError: a template needs a column the prompt table does not have.
    """
    check_options(options, "to_assets")
    if not pipeline.steps:
        raise ConfigError("pipeline has no steps; add one with .step(...)")
    name = pipeline.name or "pipeline"
    prefix = options.get("key_prefix")
    path = [group_name_for(name)] if prefix is None else path_of(prefix)
    rows = PromptRows(options.get("partitions"))
    chosen: AssetOptions = {
        **options,
        "group_name": options.get("group_name") or group_name_for(name),
        "max_concurrency": options.get("max_concurrency") or pipeline.max_concurrency,
    }
    declared: dict[str, Declared] = {}
    for step in pipeline.steps:
        check_columns(step, rows)
        inputs = tuple(declared[wanted].spec.key for wanted in step.inputs)
        declared[step.name] = declare(
            step,
            dg.AssetKey([*path, step.name]),
            [dg.AssetDep(key) for key in dict.fromkeys(inputs)],
            from_row(step, inputs),
            chosen,
            rows=rows,
            code_version=step.code_version,
            inputs=inputs,
        )
    settings = settings_of(
        chosen,
        rows=rows,
        provider_keys=provider_keys(pipeline.steps, options.get("provider_resources", ())),
        reuse=reuse,
        pipeline=pipeline.name,
        tenant_id=pipeline.tenant_id,
        project_id=pipeline.project_id,
    )
    # Unlike any asset's own op, whose name is its key.
    op_name = f"{group_name_for('__'.join(path or [name]))}_pipeline"
    everything = list(declared.values())
    batches = [everything] if fuse else [[step] for step in everything]
    return [
        define(
            op_name if fuse else batch[0].spec.key.to_python_identifier(), batch, settings, chosen
        )
        for batch in batches
    ]


def generation_asset(
    *,
    provider: Provider | str,
    model: str,
    name: str | None = None,
    ins: Mapping[str, dg.AssetDep | dg.AssetKey | str] | None = None,
    modality: Modality | str = Modality.IMAGE,
    step_type: StepType | str = StepType.GENERATE,
    negative_prompt: str | None = None,
    seed: int | Column | None = None,
    params: Mapping[str, Any] | None = None,
    external_inputs: External | Sequence[External] | None = None,
    fallback_models: str | Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    prompt_visibility: PromptVisibility | str = PromptVisibility.PUBLIC,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    retry: RetryPolicy | None = None,
    code_version: str | None = None,
    description: str | None = None,
    reuse: bool = False,
    **options: Unpack[AssetOptions],
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make an asset of a function that writes the prompt.

    The function is called once per partition, on a thread unless it is `async`. It returns the
    prompt, or a mapping with any of `prompt`, `negative_prompt`, `seed`, `params` and `inputs`.
    Its parameters say what it gets:

    * `row`: the partition's prompt row, `partition_key`: its key;
    * any other: the upstream asset of that name (or as `ins` says), as `Media`, or as
      `dict[str, Media]` by partition key when it needs several partitions. What it gets is also
      what the model gets as input, unless it returns other `inputs` or there are external ones.

    Parameters with a default are left alone.

    Args:
        provider: provider instance, or the name of a registered one or of a resource.
        model: the vendor's model name.
        name: last part of the asset key; the function's name when left out.
        ins: upstream assets by parameter name; an `AssetDep` may carry a partition mapping.
        modality: what the model makes.
        step_type: what it does with its inputs.
        negative_prompt: what the model should avoid.
        seed: integer, or `Column` to take it from the row.
        params: parameters of the model.
        external_inputs: media that no asset makes, as in `Pipeline.step`; every partition gets it
            in place of upstream media.
        fallback_models: asked in turn when the model ends in a model error.
        metadata: hashed into the manifest.
        prompt_visibility: anything but public keeps the prompt out of everything that is stored.
        timeout: seconds for one partition.
        retry: policy for the vendor's calls.
        code_version: changes when the media should be made anew; the hash of the settings and of
            the function's source when left out.
        description: shown in the UI; the function's docstring when left out.
        reuse: take stored media of an equal earlier generation instead of paying again.
        **options: see `AssetOptions`.

    Raises:
        ConfigError: a setting or the function's signature is not usable.
        UnknownProviderError: the provider is neither registered nor a resource.

    Example:
        @generation_asset(provider="openai", model="gpt-image-1", partitions=table)
        def poster(row):
            return f"A poster of {row['subject']}, risograph"
    """
    check_options(options, "generation_asset")

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
                external_inputs=external_inputs,
                fallback_models=fallback_models,
                prompt_visibility=prompt_visibility,
                metadata=metadata,
                timeout=timeout,
                retry=retry,
                params=params,
            )
            .steps[0]
        )
        prompts = PromptFunction(function, step, ins or {})
        rows = PromptRows(options.get("partitions"))
        declared = declare(
            step,
            dg.AssetKey([*path_of(options.get("key_prefix") or []), step.name]),
            prompts.deps,
            prompts.prepare,
            options,
            rows=rows,
            code_version=code_version or prompts.code_version,
            description=description or function.__doc__,
            is_written=True,
        )
        settings = settings_of(
            options,
            rows=rows,
            provider_keys=provider_keys([step], options.get("provider_resources", ())),
            reuse=reuse,
        )
        return define(declared.spec.key.to_python_identifier(), [declared], settings, options)

    return decorate
