"""One run: every step as soon as its inputs are there, and the record of it all."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from genblaze_dagster.core.enums import RunStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.errors import (
    ConflictError,
    GenblazeError,
    NotReachedError,
    ProviderError,
    ProviderTimeoutError,
    UnusableInputError,
)
from genblaze_dagster.pipeline.announcing import Announcer
from genblaze_dagster.pipeline.claims import new_run_id
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec
from genblaze_dagster.pipeline.events import StepEvent, StepEventType, StepPhase
from genblaze_dagster.pipeline.failed_steps import failed_step
from genblaze_dagster.pipeline.lineage import steps_before
from genblaze_dagster.pipeline.moderating import let_outputs_pass
from genblaze_dagster.pipeline.outcome import StepOutcome, Target
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.run_options import RunOptions
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.manifests import write_manifest


class Graph:
    """The steps of one run; `run` and then `result` are called once."""

    def __init__(
        self, pipeline: Pipeline, runner: Runner, options: RunOptions, announcer: Announcer
    ) -> None:
        self._pipeline = pipeline
        self._runner = runner
        self._options = options
        self._announcer = announcer
        self._slots = asyncio.Semaphore(options.max_concurrency)
        self._started_at = datetime.now(UTC)
        self._running: dict[str, float] = {}
        self._outcomes: dict[str, StepOutcome] = {}
        self._errors: dict[str, GenblazeError] = {}
        # Made and stored, but not let through by moderation.
        self._refused: dict[str, StepOutcome] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        users = {name for spec in pipeline.steps for name in spec.inputs}
        self._leaves = [spec.name for spec in pipeline.steps if spec.name not in users]

    async def run(self) -> bool:
        """Run the steps; return False when `pipeline_timeout` was over before they were."""
        for spec in self._pipeline.steps:
            if spec.inputs:
                self._announcer.queued(spec, "serial")
        limit = asyncio.timeout(self._options.pipeline_timeout)
        try:
            async with limit, asyncio.TaskGroup() as group:
                for spec in self._pipeline.steps:
                    self._tasks[spec.name] = group.create_task(self._step(spec))
        except TimeoutError:
            if not limit.expired():
                raise
            self._break_off()
            return False
        return True

    def _break_off(self) -> None:
        """Record what did not end in time."""
        seconds = self._options.pipeline_timeout
        for spec in self._pipeline.steps:
            if spec.name in self._outcomes or spec.name in self._errors:
                continue
            if spec.name in self._running:
                late = ProviderTimeoutError(
                    f"step {spec.name!r} was broken off: pipeline_timeout of {seconds:g} s is over"
                )
                self._fail(spec, late)
            else:
                self._errors[spec.name] = NotReachedError(
                    f"step {spec.name!r} was not run: pipeline_timeout of {seconds:g} s was over "
                    "before it started"
                )

    async def _step(self, spec: StepSpec) -> None:
        if spec.inputs:
            # Waiting must not own the inputs' tasks: a cancellation would reach them twice.
            await asyncio.wait([self._tasks[name] for name in spec.inputs])
        if self._slots.locked():
            self._announcer.queued(spec, "concurrency_limit")
        async with self._slots:
            missing = [name for name in spec.inputs if name not in self._outcomes]
            if missing:
                refusal = UnusableInputError(
                    f"step {spec.name!r} was not run: its input {missing[0]!r} failed"
                )
                if self._options.fail_fast:
                    self._errors[spec.name] = refusal
                else:
                    self._fail(spec, refusal)
                return
            if self._options.fail_fast and self._errors:
                failed = next(iter(self._errors))
                self._errors[spec.name] = NotReachedError(
                    f"step {spec.name!r} was not run: {failed!r} failed before it started"
                )
                return
            await self._started(spec)

    async def _started(self, spec: StepSpec) -> None:
        self._running[spec.name] = time.monotonic()
        self._announcer.step_started(spec)
        with self._announcer.tracer.span(self._announcer.run_id, self._announcer.step_id(spec)):
            try:
                outcome = await self._attempts(spec)
                await self._moderate(spec, outcome)
            except GenblazeError as exc:
                self._fail(spec, exc)
                return
        self._outcomes[spec.name] = outcome
        elapsed = time.monotonic() - self._running[spec.name]
        self._announcer.step_ended(spec, outcome.manifest.run.steps[-1], elapsed)
        if self._options.on_outcome is not None:
            await self._options.on_outcome(spec, outcome)

    def _fail(self, spec: StepSpec, error: GenblazeError) -> None:
        self._errors[spec.name] = error
        now = time.monotonic()
        elapsed = now - self._running.get(spec.name, now)
        self._announcer.step_ended(spec, self._failed_step(spec), elapsed)

    async def _attempts(self, spec: StepSpec) -> StepOutcome:
        """Run a step, and run it again as often as `max_retries` allows.

        It meets the same submission in the ledger: an accepted job is resumed, and one whose
        answer is lost is held, which is no ProviderError.
        """
        asked = (
            spec if self._options.timeout is None else replace(spec, timeout=self._options.timeout)
        )
        policy = spec.retry or RetryPolicy()
        retries = 0
        while True:
            try:
                return await self._runner.run_step(
                    asked,
                    self._target(spec),
                    variables=self._options.variables,
                    inputs=[self._outcomes[name].ref for name in spec.inputs],
                    on_event=self._announcer.on_step_event,
                )
            except ProviderError as exc:
                if retries >= self._options.max_retries or not policy.retries(exc):
                    raise
                retries += 1
                delay = policy.delay(retries, exc)
                self._announcer.on_step_event(self._retried(spec, exc, retries, delay))
                await asyncio.sleep(delay)

    def _retried(
        self, spec: StepSpec, error: ProviderError, retries: int, delay: float
    ) -> StepEvent:
        return StepEvent(
            type=StepEventType.RETRIED,
            step=spec.name,
            asset_key=self._target(spec).asset_key,
            partition_key=self._options.partition_key,
            provider=spec.provider_name,
            model=spec.model,
            elapsed_seconds=time.monotonic() - self._running[spec.name],
            attempt=retries + 1,
            phase=StepPhase.POLL if self._announcer.has_job(spec) else StepPhase.SUBMIT,
            max_attempts=self._options.max_retries + 1,
            delay_seconds=delay,
            error_code=error.code.value,
            error=str(error),
        )

    async def _moderate(self, spec: StepSpec, outcome: StepOutcome) -> None:
        hook = self._options.moderation
        if hook is None:
            return
        try:
            await let_outputs_pass(hook, spec, outcome.manifest.run.steps[-1].assets)
        except GenblazeError:
            self._refused[spec.name] = outcome
            raise

    def _target(self, spec: StepSpec) -> Target:
        name, options = self._pipeline.name, self._options
        refines = options.refines
        own_key = f"{name or 'pipeline'}/{spec.name}"
        # The record of the last step is that of the run, if nothing else belongs into it. What
        # moderation may still refuse is no record of a completed run.
        is_whole = (
            self._leaves == [spec.name] and not options.is_refining and not options.moderation
        )
        return Target(
            asset_key=own_key if refines is None else refines.asset_key(name, spec.name),
            partition_key=options.partition_key if refines is None else refines.run_id or None,
            scope=options.scope,
            reuse=options.reuse,
            tenant_id=self._pipeline.tenant_id,
            project_id=self._pipeline.project_id,
            pipeline=self._pipeline.name,
            run_id=options.run_id if is_whole else None,
            step_id=self._announcer.step_id(spec),
        )

    async def result(self) -> tuple[PipelineResult, str | None]:
        """Return the result, and the key of its manifest when that is one of its own.

        Raises:
            StorageError: the manifest of the run could not be written.
        """
        if not self._errors and len(self._leaves) == 1 and not self._options.is_refining:
            last = self._outcomes[self._leaves[0]].manifest
            if last.run.run_id == self._options.run_id:
                return self._of(last), None
        whole = self._whole(RunStatus.FAILED if self._errors else RunStatus.COMPLETED)
        try:
            key = await write_manifest(self._runner.store, whole)
        except ConflictError:
            # The last step had been recorded under this id before it was broken off.
            run = whole.run
            run.parent_run_id, run.run_id = run.run_id, new_run_id()
            whole = Manifest.from_run(run)
            key = await write_manifest(self._runner.store, whole)
        return self._of(whole), key

    def unstored_result(self, status: RunStatus) -> PipelineResult:
        """Return what there is of a run that was broken off, as nobody stores it."""
        return self._of(self._whole(status))

    def _of(self, manifest: Manifest) -> PipelineResult:
        # As declared, whichever was finished first.
        outcomes = {
            spec.name: self._outcomes[spec.name]
            for spec in self._pipeline.steps
            if spec.name in self._outcomes
        }
        return PipelineResult(manifest.run, manifest, self._runner.store, outcomes, self._errors)

    def _whole(self, status: RunStatus) -> Manifest:
        done = steps_before(
            self._outcomes[spec.name].manifest
            for spec in self._pipeline.steps
            if spec.name in self._outcomes
        )
        failed = [self._failed_step(s) for s in self._pipeline.steps if s.name in self._errors]
        now, options = datetime.now(UTC), self._options
        refines = options.refines
        kept: Mapping[str, object] = {} if refines is None else refines.metadata
        run = Run(
            run_id=options.run_id,
            parent_run_id=options.parent_run_id if refines is None else refines.run_id,
            metadata={**kept, **options.metadata},
            tenant_id=self._pipeline.tenant_id,
            project_id=self._pipeline.project_id,
            name=self._pipeline.name,
            status=status,
            steps=[*done, *failed],
            created_at=now,
            started_at=self._started_at,
            completed_at=now,
        )
        return Manifest.from_run(run)

    def _failed_step(self, spec: StepSpec) -> Step:
        step = failed_step(spec, self._errors[spec.name], self._announcer.step_id(spec))
        refused = self._refused.get(spec.name)
        if refused is None:
            return step
        made = refused.manifest.run.steps[-1]
        update = {
            name: getattr(step, name) for name in ("status", "error", "error_code", "step_index")
        }
        return made.model_copy(update={**update, "metadata": {**made.metadata, **step.metadata}})
