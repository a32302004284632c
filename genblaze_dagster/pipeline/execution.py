"""Run a whole pipeline in this process: every step as soon as its inputs are there."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from uuid_utils import compat as uuid_utils

from genblaze_dagster.core.enums import ProviderErrorCode, RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import (
    ConfigError,
    GenblazeError,
    InvalidRequestError,
    PipelineError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec
from genblaze_dagster.pipeline.environment import default_ledger_url, default_store_url
from genblaze_dagster.pipeline.events import EventHandler
from genblaze_dagster.pipeline.lineage import steps_before
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome, Target
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.retry import RetryPolicy
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.store import MediaStore

DEFAULT_CONCURRENCY = 16


class Sink(Protocol):
    """A destination that owns a store, such as `ObjectStorageSink`."""

    @property
    def store(self) -> MediaStore:
        """Where everything goes."""
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


_NOT_IN_KEY = re.compile(r"[^A-Za-z0-9_]+")
_MOST_NAME_CHARS = 60

OnOutcome = Callable[[StepSpec, StepOutcome], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Refinement:
    """The run that a new one repeats or refines: its id, and the run metadata to keep.

    The steps are kept under `replay/<pipeline>/<step>` with the old run's id as partition, so the
    current media of no asset changes. One manifest of the whole run has the old id as its parent.
    """

    run_id: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def asset_key(self, pipeline: str | None, step: str) -> str:
        """Return the key under which a step's media is referenced."""
        name = _NOT_IN_KEY.sub("_", pipeline or "pipeline")[:_MOST_NAME_CHARS]
        return f"replay/{name}/{step}"


async def execute(
    pipeline: Pipeline,
    *,
    sink: Sink | None = None,
    store: MediaStore | str | None = None,
    ledger: Ledger | str | None = None,
    index: Indexer | None = None,
    variables: Mapping[str, object] | None = None,
    reuse: bool = False,
    fail_fast: bool = True,
    raise_on_failure: bool = True,
    retry: RetryPolicy | None = None,
    on_event: EventHandler | None = None,
    max_concurrency: int | None = None,
    scope: str | None = None,
    refines: Refinement | None = None,
    on_outcome: OnOutcome | None = None,
    input_roots: Sequence[Path] | None = None,
) -> PipelineResult:
    """Run every step of a pipeline; independent steps run at the same time.

    Args:
        pipeline: what to run.
        sink: where media and manifests go, as in the genblaze guides.
        store: the same as a `MediaStore` or its URL; GENBLAZE_STORE or `.genblaze/store` when
            neither is given.
        ledger: a `Ledger` or its URL; GENBLAZE_LEDGER or `.genblaze/ledger.db` when left out.
        index: collects the manifests; flushed at the end.
        variables: fills templates and columns, like a partition's row.
        reuse: take stored media of an equal earlier generation instead of paying again.
        fail_fast: start nothing more after a step has failed; running steps finish, since they
            are paid for.
        raise_on_failure: raise when a step failed; False returns the result with its errors.
        retry: policy of steps that have none of their own.
        on_event: called with every `StepEvent`.
        max_concurrency: steps at once.
        scope: in which nothing is paid twice; a new one when left out.
        refines: the run this one repeats or refines.
        on_outcome: awaited with every step that has become durable.
        input_roots: folders whose files may be external inputs, besides the temporary one; those
            of GENBLAZE_INPUT_ROOTS when left out.

    Raises:
        ConfigError: the pipeline is empty, or sink and store are both given.
        PipelineError: a step failed; `result` holds the rest, which is stored.
    """
    if not pipeline.steps:
        raise ConfigError("pipeline has no steps; add one with .step(...)")
    if sink is not None and store is not None:
        raise ConfigError("sink and store both say where media goes; give one of them")
    destination = sink.store if sink is not None else _store(store)
    async with AsyncExitStack() as opened:
        if not isinstance(ledger, Ledger):
            ledger = Ledger(ledger or default_ledger_url())
            opened.callback(ledger.close)
        runner = await opened.enter_async_context(
            Runner(destination, ledger, retry=retry, on_event=on_event, input_roots=input_roots)
        )
        limit = max_concurrency or pipeline.max_concurrency or DEFAULT_CONCURRENCY
        graph = _Graph(
            pipeline,
            runner,
            variables=variables or {},
            reuse=reuse,
            fail_fast=fail_fast,
            limit=limit,
            scope=scope or str(uuid_utils.uuid7()),
            refines=refines,
            on_outcome=on_outcome,
        )
        await graph.run()
        result = await graph.result(index)
    if result.errors and raise_on_failure:
        raise PipelineError(
            f"{len(result.errors)} of {len(pipeline.steps)} steps failed:\n"
            f"{result.error_summary()}",
            result=result,
        )
    return result


def _store(store: MediaStore | str | None) -> MediaStore:
    return store if isinstance(store, MediaStore) else MediaStore(store or default_store_url())


class _Graph:
    def __init__(
        self,
        pipeline: Pipeline,
        runner: Runner,
        *,
        variables: Mapping[str, object],
        reuse: bool,
        fail_fast: bool,
        limit: int,
        scope: str,
        refines: Refinement | None,
        on_outcome: OnOutcome | None,
    ) -> None:
        self._pipeline = pipeline
        self._runner = runner
        self._variables = variables
        self._reuse = reuse
        self._fail_fast = fail_fast
        self._slots = asyncio.Semaphore(limit)
        self._scope = scope
        self._refines = refines
        self._on_outcome = on_outcome
        self._started_at = datetime.now(UTC)
        self._outcomes: dict[str, StepOutcome] = {}
        self._errors: dict[str, GenblazeError] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for spec in self._pipeline.steps:
                self._tasks[spec.name] = group.create_task(self._step(spec))

    async def _step(self, spec: StepSpec) -> None:
        if spec.inputs:
            # Waiting must not own the inputs' tasks: a cancellation would reach them twice.
            await asyncio.wait([self._tasks[name] for name in spec.inputs])
        missing = [name for name in spec.inputs if name not in self._outcomes]
        if missing:
            self._errors[spec.name] = InvalidRequestError(
                f"step {spec.name!r} was not run: its input {missing[0]!r} failed", sent=False
            )
            return
        async with self._slots:
            if self._fail_fast and self._errors:
                failed = next(iter(self._errors))
                self._errors[spec.name] = InvalidRequestError(
                    f"step {spec.name!r} was not run: {failed!r} failed before it started",
                    sent=False,
                )
                return
            try:
                outcome = await self._runner.run_step(
                    spec,
                    self._target(spec),
                    variables=self._variables,
                    inputs=[self._ref(name) for name in spec.inputs],
                )
            except GenblazeError as exc:
                self._errors[spec.name] = exc
                return
            self._outcomes[spec.name] = outcome
            if self._on_outcome is not None:
                await self._on_outcome(spec, outcome)

    def _target(self, spec: StepSpec) -> Target:
        name, refines = self._pipeline.name, self._refines
        own_key = f"{name or 'pipeline'}/{spec.name}"
        return Target(
            asset_key=own_key if refines is None else refines.asset_key(name, spec.name),
            partition_key=None if refines is None else refines.run_id or None,
            scope=self._scope,
            reuse=self._reuse,
            tenant_id=self._pipeline.tenant_id,
            project_id=self._pipeline.project_id,
            pipeline=self._pipeline.name,
        )

    def _ref(self, name: str) -> MediaRef:
        return self._outcomes[name].ref

    async def result(self, index: Indexer | None) -> PipelineResult:
        """Build the result: the last step's manifest when it covers the run, else one that does."""
        store = self._runner.store
        leaves = self._leaves()
        manifest_key = None
        if not self._errors and len(leaves) == 1 and self._refines is None:
            manifest = self._outcomes[leaves[0]].manifest
        else:
            manifest = self._whole()
            manifest_key = await write_manifest(store, manifest)
        if index is not None:
            if self._refines is not None:
                # The link to the run before is in this manifest only.
                index.add(manifest, manifest_key=manifest_key)
            for outcome in self._outcomes.values():
                if outcome.origin is Origin.REUSED:
                    # Its run is indexed as what it was made for.
                    continue
                index.add(
                    outcome.manifest,
                    asset_key=outcome.ref.asset_key,
                    partition_key=outcome.ref.partition_key,
                    manifest_key=outcome.ref.manifest_key,
                )
            await index.flush()
        return PipelineResult(manifest.run, manifest, store, self._outcomes, self._errors)

    def _leaves(self) -> list[str]:
        used = {name for spec in self._pipeline.steps for name in spec.inputs}
        return [spec.name for spec in self._pipeline.steps if spec.name not in used]

    def _whole(self) -> Manifest:
        done = steps_before(
            self._outcomes[spec.name].manifest
            for spec in self._pipeline.steps
            if spec.name in self._outcomes
        )
        failed = [
            _failed_step(spec, self._errors[spec.name])
            for spec in self._pipeline.steps
            if spec.name in self._errors
        ]
        completed_at = datetime.now(UTC)
        refines = self._refines
        run = Run(
            run_id=str(uuid_utils.uuid7()),
            parent_run_id=None if refines is None else refines.run_id,
            metadata={} if refines is None else dict(refines.metadata),
            tenant_id=self._pipeline.tenant_id,
            project_id=self._pipeline.project_id,
            name=self._pipeline.name,
            status=RunStatus.FAILED if failed else RunStatus.COMPLETED,
            steps=[*done, *failed],
            created_at=completed_at,
            started_at=self._started_at,
            completed_at=completed_at,
        )
        return Manifest.from_run(run)


def _failed_step(spec: StepSpec, error: GenblazeError) -> Step:
    return Step(
        provider=spec.provider_name,
        model=spec.model,
        step_type=spec.step_type,
        modality=spec.modality,
        prompt_visibility=spec.prompt_visibility,
        status=StepStatus.FAILED,
        error=redact(str(error)),
        error_code=getattr(error, "code", ProviderErrorCode.UNKNOWN),
        step_index=None,
        metadata={"name": spec.name},
    )
