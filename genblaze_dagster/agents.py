"""An agent loop as a Dagster asset: what the evaluator accepts is materialised."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import dagster as dg

from genblaze_dagster import _compat
from genblaze_dagster._batch import Batch, BatchSettings
from genblaze_dagster._definition import (
    AssetOptions,
    check_options,
    declare,
    define,
    from_row,
    path_of,
    settings_of,
)
from genblaze_dagster._flows import BatchStep
from genblaze_dagster._prompt_function import dependency
from genblaze_dagster.core.canonical import canonical_hash
from genblaze_dagster.core.enums import Modality
from genblaze_dagster.events import Finished, MaterializationLog
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.io_manager import StoreIOManager
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.redact import redact
from genblaze_dagster.partitions import PromptRows
from genblaze_dagster.pipeline.agent.calls import source_of, written
from genblaze_dagster.pipeline.agent.course import DEFAULT_ITERATIONS, Limits, PipelineFactory
from genblaze_dagster.pipeline.agent.evaluation import Evaluator
from genblaze_dagster.pipeline.agent.runner import AgentRunner, IterationReport, LoopReport
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.providers.catalogue import VENDORS
from genblaze_dagster.providers.protocol import Provider

_FEEDBACK_CHARS = 200
# An event stays below 16 KB.
_LISTED_ITERATIONS = 20
PROVIDER = "agent"
"""What stands for the provider in the asset's kinds and tags; the manifests name the real ones."""


def agent_asset(
    pipeline_factory: PipelineFactory,
    evaluator: Evaluator,
    *,
    name: str,
    max_iterations: int = DEFAULT_ITERATIONS,
    max_cost_usd: float | None = None,
    modality: Modality | str = Modality.IMAGE,
    deps: Sequence[dg.AssetDep | dg.AssetKey | str] = (),
    code_version: str | None = None,
    description: str | None = None,
    **options: Unpack[AssetOptions],
) -> dg.AssetsDefinition:
    """Make an asset of what an evaluator accepts.

    For every partition the loop runs pipelines until one is accepted. That one is materialised;
    the others are stored, recorded and indexed as `agent/<asset>`, and the materialisation lists
    them with their scores and costs. When none is accepted the partition fails, its media
    stays what it was, and the failure lists what was tried.

    Within one run or backfill and its retries no finished iteration is run, paid or judged again.
    A materialisation of its own starts a new loop.

    Args:
        pipeline_factory: returns the pipeline of an iteration from its `AgentContext`: the row is
            `context.variables`, and upstream media is in `context.inputs` by asset key. Its last
            step makes the asset. Sync or async.
        evaluator: judges each candidate, as in `AgentLoop`.
        name: last part of the asset key.
        max_iterations: of each partition.
        max_cost_usd: of each partition, as in `AgentLoop`.
        modality: what the asset is; for its description and icons.
        deps: upstream assets whose media the factory gets; an `AssetDep` may carry a mapping.
        code_version: changes when the media should be made anew; the hash of the limits and of
            the source of factory and evaluator when left out.
        description: shown in the UI; the factory's docstring when left out.
        **options: see `AssetOptions`. `provider_resources` are the keys of the resources whose
            providers the factory's steps name; `retry_policy` helps with what may pass, not with
            media that is not accepted.

    Raises:
        ConfigError: a limit allows nothing.
    """
    check_options(options, "agent_asset")
    limits = Limits(max_iterations=max_iterations, max_cost_usd=max_cost_usd)
    rows = PromptRows(options.get("partitions"))
    upstream = [dependency(dep) for dep in deps]
    step = StepSpec(name, PROVIDER, _name(pipeline_factory), modality=Modality(modality))
    declared = declare(
        step,
        dg.AssetKey([*path_of(options.get("key_prefix") or []), name]),
        upstream,
        from_row(step, tuple(dep.asset_key for dep in upstream)),
        options,
        rows=rows,
        code_version=code_version or _code_version(pipeline_factory, evaluator, limits),
        description=description or _description(pipeline_factory, step, limits),
    )
    settings = settings_of(
        options, rows=rows, provider_keys=frozenset(options.get("provider_resources", ()))
    )
    return define(
        declared.step.key.to_python_identifier(),
        [declared],
        settings,
        options,
        batch=partial(_AgentBatch, loop=_Loop(pipeline_factory, evaluator, limits)),
        # Which of them the factory's steps name is not known before they are made.
        providers=settings.provider_keys,
    )


@dataclass(frozen=True, slots=True)
class _Loop:
    """What is run for every partition."""

    factory: PipelineFactory
    evaluator: Evaluator
    limits: Limits


class _AgentBatch(Batch):
    """A batch in which every partition is a loop instead of one generation."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        steps: Sequence[BatchStep],
        settings: BatchSettings,
        *,
        loop: _Loop,
    ) -> None:
        super().__init__(context, steps, settings)
        self._loop = loop
        self._reports: Mapping[str | None, LoopReport] = {}

    def execute(self) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """Run the loops of all partitions; a failure lists what was tried for those that failed.

        Raises:
            Failure: a partition failed, or nothing could be started at all.
        """
        try:
            yield from super().execute()
        except dg.Failure as failure:
            failed = {one.partition for one in self._results.failures}
            tried = {key: one for key, one in self._reports.items() if key in failed}
            raise dg.Failure(
                failure.description,
                metadata={**failure.metadata, **_tried(tried)},
                allow_retries=failure.allow_retries,
            ) from failure

    def _new_log(
        self,
        code_versions: Mapping[dg.AssetKey, str],
        upstream: Mapping[dg.AssetKey, Mapping[dg.AssetKey, _compat.InputVersion | None]],
    ) -> MaterializationLog:
        return _LoopLog(self._context, code_versions, upstream, lambda: self._reports)

    def _new_runner(
        self,
        manager: StoreIOManager,
        ledger: Ledger,
        segment: SegmentWriter,
        providers: Mapping[str, Provider],
    ) -> AgentRunner:
        runner = AgentRunner(
            manager.store,
            ledger,
            factory=self._loop.factory,
            evaluator=self._loop.evaluator,
            limits=self._loop.limits,
            providers=providers,
            index=segment,
            embed=manager.embed_policy,
            budgets=self._budgets,
            on_ambiguous=self._settings.on_ambiguous,
        )
        self._reports = runner.reports
        return runner

    def _provider_names(self) -> AbstractSet[str]:
        keys = self._settings.provider_keys if self._steps else frozenset()
        return {name for key in keys for name in VENDORS.get(key, (key,))}


class _LoopLog(MaterializationLog):
    """Materializations that say which iterations led to them."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        code_versions: Mapping[dg.AssetKey, str],
        upstream: Mapping[dg.AssetKey, Mapping[dg.AssetKey, _compat.InputVersion | None]],
        reports: Callable[[], Mapping[str | None, LoopReport]],
    ) -> None:
        super().__init__(context, code_versions, upstream)
        self._reports = reports

    def _materialization(self, finished: Finished) -> dg.AssetMaterialization:
        event = super()._materialization(finished)
        report = self._reports()[finished.partition]
        # Those of the accepted run alone would hide what the others cost.
        amounts = {
            "cost_usd": report.paid_usd,
            "estimated_cost_usd": report.estimated_usd,
            "reserved_usd": report.reserved_usd,
        }
        metadata = {name: value for name, value in event.metadata.items() if name not in amounts}
        for name, usd in amounts.items():
            if usd is not None:
                metadata[name] = dg.MetadataValue.float(float(usd))
        accepted = report.iterations[-1]
        if accepted.score is not None:
            metadata["score"] = dg.MetadataValue.float(accepted.score)
        metadata["iteration_count"] = dg.MetadataValue.int(len(report.iterations))
        metadata["iterations"] = dg.MetadataValue.table(
            [_record(one) for one in report.iterations[-_LISTED_ITERATIONS:]]
        )
        return dg.AssetMaterialization(
            asset_key=event.asset_key,
            partition=event.partition,
            metadata=metadata,
            tags=event.tags,
        )


def _tried(reports: Mapping[str | None, LoopReport]) -> dict[str, dg.MetadataValue]:
    """Return what the loops that accepted nothing have tried, and the best score of each."""
    tried = [(key or "", one) for key, report in reports.items() for one in report.iterations]
    if not tried:
        return {}
    records = [_record(one, partition=key) for key, one in tried[:_LISTED_ITERATIONS]]
    best = {
        key or "unpartitioned": one.score
        for key, report in list(reports.items())[:_LISTED_ITERATIONS]
        for one in report.iterations
        if one.index == report.best
    }
    return {
        "iterations": dg.MetadataValue.table(records),
        "iteration_count": dg.MetadataValue.int(len(tried)),
        "best_scores": dg.MetadataValue.json(best),
    }


def _record(one: IterationReport, **named: str) -> dg.TableRecord:
    return dg.TableRecord(
        {
            **named,
            "iteration": one.index,
            "accepted": one.passed,
            "score": "" if one.score is None else f"{one.score:g}",
            "feedback": redact(one.feedback or "", max_chars=_FEEDBACK_CHARS),
            "cost_usd": "unknown" if one.cost_usd is None else f"{one.cost_usd:g}",
            "run_id": one.run_id,
            "sha256": one.sha256,
        }
    )


def _name(factory: PipelineFactory) -> str:
    function = written(factory)
    return getattr(function, "__name__", type(function).__name__)


def _description(factory: PipelineFactory, step: StepSpec, limits: Limits) -> str:
    made = f"{step.modality.value.capitalize()} that an evaluator accepts"
    return inspect.getdoc(written(factory)) or f"{made}, in {limits.max_iterations} tries at most."


def _code_version(factory: PipelineFactory, evaluator: Evaluator, limits: Limits) -> str:
    declared = [source_of(factory), evaluator.declared, limits.max_iterations, limits.max_cost_usd]
    return canonical_hash(declared)[:12]
