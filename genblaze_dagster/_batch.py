"""The body of every generated asset: one Dagster step over all partitions of its run."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import dagster as dg

from genblaze_dagster import _compat
from genblaze_dagster._background import Background
from genblaze_dagster._flows import BatchStep, Flows, Results, Surroundings
from genblaze_dagster.checks import PROVENANCE, Tally, tally_refs
from genblaze_dagster.errors import ConfigError, GenblazeError
from genblaze_dagster.events import (
    Finished,
    MaterializationLog,
    partitions_failure,
    step_failure,
)
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.io_manager import StoreIOManager
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import OPEN_STATES, UNSETTLED_STATES
from genblaze_dagster.partitions import PromptRows
from genblaze_dagster.pipeline.environment import default_ledger_url
from genblaze_dagster.pipeline.lost_answers import OnAmbiguous
from genblaze_dagster.pipeline.outcome import Target
from genblaze_dagster.pipeline.resuming import RESUME_ONLY_TAG, ResumeOnlyLedger
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.provider_resources import resource_key
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.resources import LedgerResource
from genblaze_dagster.storage.refs import list_refs
from genblaze_dagster.storage.store import MediaStore

_LOGGED_CHARS = 2000


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """What all partitions of a batch share."""

    rows: PromptRows
    max_concurrency: int
    reuse: bool
    media_key: str
    ledger_key: str
    provider_keys: frozenset[str]
    pipeline: str | None = None
    tenant_id: str | None = None
    project_id: str | None = None
    budgets: tuple[Budget, ...] = ()
    on_ambiguous: OnAmbiguous = OnAmbiguous.HOLD

    def target(self, key: dg.AssetKey, partition: str | None, scope: str) -> Target:
        """Return what a partition of an asset is run for."""
        return Target(
            asset_key=key.to_user_string(),
            partition_key=partition,
            scope=scope,
            reuse=self.reuse,
            tenant_id=self.tenant_id,
            project_id=self.project_id,
            pipeline=self.pipeline,
        )


class Batch:
    """One execution of a Dagster step: generation on a loop of its own, events on this thread."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        steps: Sequence[BatchStep],
        settings: BatchSettings,
    ) -> None:
        self._context = context
        self._settings = settings
        self._steps = [step for step in steps if step.key in context.selected_asset_keys]
        self._scope = _compat.intent_scope(context)
        self._budgets = settings.budgets
        checks = sorted(context.selected_asset_check_keys, key=str)
        self._results = Results({k.asset_key: Tally() for k in checks if k.name == PROVENANCE})

    def execute(self) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """Run everything and yield what releases downstream steps.

        Raises:
            Failure: a partition failed, or nothing could be started at all.
        """
        log = self._materialization_log()
        with Background[Finished](self._main) as work:
            try:
                work.each(log.write)
            except GenblazeError as exc:
                raise step_failure(exc) from exc
            finally:
                # Also on interrupt: what is durable is logged, whatever becomes of the run.
                work.stop()
                work.rest(log.write)
        if self._results.failures:
            self._log_checks()
            raise partitions_failure(self._results.failures, finished=self._results.finished)
        yield from self._released()

    def _materialization_log(self) -> MaterializationLog:
        versions = {step.key: step.code_version for step in self._steps}
        upstream = {
            key: {
                parent: _compat.input_version(self._context, parent)
                for parent in _compat.parent_keys(self._context, key)
                if parent not in versions
            }
            for key in versions
        }
        return self._new_log(versions, upstream)

    def _new_log(
        self,
        code_versions: Mapping[dg.AssetKey, str],
        upstream: Mapping[dg.AssetKey, Mapping[dg.AssetKey, _compat.InputVersion | None]],
    ) -> MaterializationLog:
        return MaterializationLog(self._context, code_versions, upstream)

    def _log_checks(self) -> None:
        for key, tally in self._results.tallies.items():
            if tally.checked:
                _compat.log_check(self._context, tally.evaluation(key))

    def _released(self) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        for step in self._steps:
            yield dg.MaterializeResult(
                asset_key=step.key, metadata=dict(_compat.RELEASED_WITHOUT_EVENT)
            )
        for key, tally in self._results.tallies.items():
            yield tally.result(key)

    async def _main(self, emit: Callable[[Finished], None]) -> None:
        async with AsyncExitStack() as opened:
            manager, ledger = self._open(opened)
            store, embed = manager.store, manager.embed_policy
            # Once, before anything is paid: a store nobody can write to fails the step as a whole.
            await store.check_access(write=bool(self._steps))
            segment = SegmentWriter(store)
            providers = self._open_providers(opened)
            runner = self._new_runner(manager, ledger, segment, providers)
            around = Surroundings(
                store=store,
                runner=await opened.enter_async_context(runner),
                embed=embed,
                providers=providers,
                rows=self._settings.rows,
                segment=segment,
                budgets=self._budgets,
                begun=lambda: asyncio.to_thread(self._begun, ledger),
                target=self._target,
                upstream_partitions=self._upstream_partitions,
                is_wanted=self._wanted(ledger),
                unexpected=self._report_bug,
                emit=emit,
            )
            limit = self._settings.max_concurrency
            try:
                flows = Flows(self._steps, around, self._results, max_concurrency=limit)
                await flows.run(self._partitions())
            finally:
                await segment.flush()
            await self._audit(store)

    def _new_runner(
        self,
        manager: StoreIOManager,
        ledger: Ledger,
        segment: SegmentWriter,
        providers: Mapping[str, Provider],
    ) -> Runner:
        return Runner(
            manager.store,
            ledger,
            embed=manager.embed_policy,
            budgets=self._budgets,
            on_ambiguous=self._settings.on_ambiguous,
        )

    def _begun(self, ledger: Ledger) -> set[tuple[str, str | None]]:
        """Return what the ledger has of this run, and what is open or held of any other."""
        rows = [*ledger.find(scope=self._scope), *ledger.find(states=UNSETTLED_STATES)]
        return {(row.asset_key, row.partition_key) for row in rows}

    def _wanted(self, ledger: Ledger) -> Callable[[dg.AssetKey, str | None], bool]:
        """Return what is run: everything, or what can be resumed in a run that submits nothing."""
        if not self._resumes_only:
            return lambda key, partition: True
        names = {step.key.to_user_string() for step in self._steps}
        rows = ledger.find(states=OPEN_STATES)
        jobs = {(r.asset_key, r.partition_key) for r in rows if r.job_id and r.asset_key in names}
        told = ", ".join(sorted(_place(*job) for job in jobs)) or "nothing"
        self._context.log.info(f"this run submits nothing; it can resume: {told}"[:_LOGGED_CHARS])
        return lambda key, partition: (key.to_user_string(), partition) in jobs

    @property
    def _resumes_only(self) -> bool:
        return RESUME_ONLY_TAG in self._context.run.tags

    def _open(self, opened: AsyncExitStack) -> tuple[StoreIOManager, Ledger]:
        manager = getattr(self._context.resources, self._settings.media_key)
        if not isinstance(manager, StoreIOManager):
            raise ConfigError(
                f"resource {self._settings.media_key!r} is a {type(manager).__name__}; generated "
                "assets need a media IO manager, such as S3MediaIOManager"
            )
        ledger = getattr(self._context.resources, self._settings.ledger_key)
        if not isinstance(ledger, LedgerResource):
            raise ConfigError(
                f"resource {self._settings.ledger_key!r} is a {type(ledger).__name__}; generated "
                "assets need a LedgerResource"
            )
        self._budgets = (*ledger.get_budgets(), *self._settings.budgets)
        if self._resumes_only:
            # Refuses what the look before the run let through, a job that ended in the meantime.
            return manager, opened.enter_context(
                ResumeOnlyLedger(ledger.url or default_ledger_url())
            )
        return manager, ledger.get_ledger()

    async def _audit(self, store: MediaStore) -> None:
        """Check assets whose check is selected without them: all that is stored of each.

        Dagster gives such a run no partitions.
        """
        for key in self._results.tallies.keys() - {step.key for step in self._steps}:
            refs = list_refs(store, key.to_user_string())
            self._results.tallies[key] = await tally_refs(store, refs)

    def _partitions(self) -> Sequence[str | None]:
        # An unpartitioned asset may be part of a partitioned run.
        if self._settings.rows.definition is None or not self._steps:
            return [None]
        return self._context.partition_keys

    def _open_providers(self, opened: AsyncExitStack) -> dict[str, Provider]:
        providers: dict[str, Provider] = {}
        for name in sorted(self._provider_names()):
            resource = getattr(self._context.resources, resource_key(name))
            provider: Provider = resource.provider_named(name)
            opened.push_async_callback(provider.aclose)
            providers[name] = provider
        return providers

    def _provider_names(self) -> AbstractSet[str]:
        names = {step.spec.provider_name for step in self._steps}
        return {name for name in names if resource_key(name) in self._settings.provider_keys}

    def _target(self, key: dg.AssetKey, partition: str | None) -> Target:
        return self._settings.target(key, partition, self._scope)

    def _upstream_partitions(
        self, key: dg.AssetKey, upstream: dg.AssetKey, partition: str | None
    ) -> list[str] | None:
        return _compat.upstream_partitions(self._context, key, upstream, partition)

    def _report_bug(self, key: dg.AssetKey, partition: str | None, error: Exception) -> None:
        where = _place(key.to_user_string(), partition)
        self._context.log.error(f"{where} raised an unexpected error", exc_info=error)


def _place(asset_key: str, partition: str | None) -> str:
    return asset_key if partition is None else f"{asset_key}[{partition}]"
