"""What runs share: one store, one ledger, one Runner, for a single run or ten thousand."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from genblaze_dagster.core.enums import RunStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.errors import ConfigError, PipelineTimeoutError
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.announcing import Announcer
from genblaze_dagster.pipeline.claims import DEFAULT_LEASE_SECONDS
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.environment import default_ledger_url, default_store_url
from genblaze_dagster.pipeline.events import EventHandler
from genblaze_dagster.pipeline.graph import Graph
from genblaze_dagster.pipeline.lost_answers import OnAmbiguous
from genblaze_dagster.pipeline.moderation import ModerationHook
from genblaze_dagster.pipeline.outcome import Origin
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.run_options import RunOptions
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.pipeline.step_cache import StepCache
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.store import MediaStore

_FLUSH_EVERY_RUNS = 500


@runtime_checkable
class Sink(Protocol):
    """A destination that owns a store, such as `ObjectStorageSink`."""

    @property
    def store(self) -> MediaStore:
        """Where everything goes."""
        ...


@runtime_checkable
class RunSink(Protocol):
    """A sink that is told of a run when all of it is stored: `ParquetSink`, `WebhookSink`."""

    def write_run(self, run: Run, manifest: Manifest) -> None:
        """Take a run."""
        ...


class Indexer(Protocol):
    """What collects manifests for the index, such as `index.SegmentWriter`."""

    def add(
        self,
        manifest: Manifest,
        *,
        asset_key: str | None = None,
        partition_key: str | None = None,
        manifest_key: str | None = None,
    ) -> None:
        """Collect one manifest."""
        ...

    async def flush(self) -> list[str]:
        """Write what was collected; return the keys."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where runs go and what they go through; `execution.execute` says what each is."""

    sink: Sink | RunSink | None = None
    store: MediaStore | str | None = None
    ledger: Ledger | str | None = None
    index: Indexer | None = None
    retry: RetryPolicy | None = None
    on_event: EventHandler | None = None
    input_roots: Sequence[Path] | None = None
    budgets: Sequence[Budget] = ()
    on_ambiguous: OnAmbiguous | str = OnAmbiguous.HOLD
    lease_seconds: float = DEFAULT_LEASE_SECONDS

    def destination(self) -> MediaStore:
        """Return the store.

        Raises:
            ConfigError: sink and store both have one, or the sink is none.
        """
        sink = cast(object, self.sink)
        if isinstance(sink, Sink):
            if self.store is not None:
                raise ConfigError("sink and store both say where media goes; give one of them")
            return sink.store
        if sink is not None and not isinstance(sink, RunSink):
            raise ConfigError(
                f"sink is a {type(sink).__name__}, which has neither a store nor write_run; "
                "give an ObjectStorageSink, a ParquetSink or a WebhookSink"
            )
        if isinstance(self.store, MediaStore):
            return self.store
        return MediaStore(self.store or default_store_url())


@asynccontextmanager
async def session(
    places: Places, *, moderation: ModerationHook | None = None, cache: StepCache | None = None
) -> AsyncGenerator["Session"]:
    """Open what runs share; all of it that was opened here is closed at the end."""
    destination = places.destination()
    async with AsyncExitStack() as opened:
        ledger = places.ledger
        if not isinstance(ledger, Ledger):
            ledger = Ledger(ledger or default_ledger_url())
            opened.callback(ledger.close)
        runner = await opened.enter_async_context(
            Runner(
                destination,
                ledger,
                retry=places.retry,
                on_event=places.on_event,
                input_roots=places.input_roots,
                moderation=moderation,
                cache=cache,
                budgets=places.budgets,
                on_ambiguous=places.on_ambiguous,
                lease_seconds=places.lease_seconds,
            )
        )
        runs = Session(runner, places)
        opened.push_async_callback(runs.flush)
        yield runs


class Session:
    """Runs pipelines, as many at once as there are calls."""

    def __init__(self, runner: Runner, places: Places) -> None:
        self._runner = runner
        self._places = places
        # What has a store has everything in it already.
        self._listener = None if isinstance(places.sink, Sink) else places.sink
        self._unflushed = 0

    async def flush(self) -> None:
        """Write what the index has collected.

        Raises:
            StorageError: it cannot be written.
        """
        if self._places.index is not None and self._unflushed:
            self._unflushed = 0
            await self._places.index.flush()

    async def run(self, pipeline: Pipeline, options: RunOptions) -> PipelineResult:
        """Run every step and return what came of it, failed steps included.

        Raises:
            PipelineTimeoutError: `pipeline_timeout` was over; `result` holds what was done by then.
            StorageError: the record of the run, or what the sink keeps, could not be written.
        """
        announcer = Announcer(pipeline, options.run_id, options.listeners)
        graph = Graph(pipeline, self._runner, options, announcer)
        announcer.run_started(options.metadata)
        try:
            with announcer.tracer.span(options.run_id):
                in_time = await graph.run()
                result, manifest_key = await graph.result()
                await self._index(result, manifest_key, options)
                await self._tell_sink(result)
        except asyncio.CancelledError:
            announcer.run_ended(graph.unstored_result(RunStatus.CANCELLED), "cancelled")
            raise
        except Exception as exc:
            announcer.run_ended(
                graph.unstored_result(RunStatus.FAILED), f"{type(exc).__name__}: {exc}"
            )
            raise
        late = f"pipeline_timeout of {options.pipeline_timeout} s is over"
        announcer.run_ended(result, None if in_time else late)
        if not in_time:
            done, total = len(result.outcomes), len(pipeline.steps)
            raise PipelineTimeoutError(
                f"{late}: {done} of {total} steps are done and stored; they are in the result, and "
                "submitted jobs that could not be cancelled are resumed by a run in the same scope",
                result=result,
            )
        return result

    async def _index(
        self, result: PipelineResult, manifest_key: str | None, options: RunOptions
    ) -> None:
        index = self._places.index
        if index is None:
            return
        if options.is_refining:
            # The link to the run before, and what is said of the run, is in this manifest only.
            index.add(result.manifest, manifest_key=manifest_key)
        for outcome in result.outcomes.values():
            if outcome.origin is Origin.REUSED:
                # Its run is indexed as what it was made for.
                continue
            index.add(
                outcome.manifest,
                asset_key=outcome.ref.asset_key,
                partition_key=outcome.ref.partition_key,
                manifest_key=outcome.ref.manifest_key,
            )
        # A file per run would make the index slow, and one for all would keep all in memory.
        self._unflushed += 1
        if self._unflushed >= _FLUSH_EVERY_RUNS:
            await self.flush()

    async def _tell_sink(self, result: PipelineResult) -> None:
        if self._listener is not None:
            await asyncio.to_thread(self._listener.write_run, result.run, result.manifest)
