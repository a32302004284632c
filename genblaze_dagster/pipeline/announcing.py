"""The story of one run: everything that is told of it is told from here, in one order.

What the Runner tells of a step becomes an event of the run's stream. Callbacks, tracers, the
progress display and streams all hear of that one event.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from genblaze_dagster.core.enums import PromptVisibility, RunStatus, StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.claims import new_run_id
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec
from genblaze_dagster.pipeline.events import StepEvent, StepEventType
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType, shown_error
from genblaze_dagster.pipeline.tracing import NoOpTracer, Tracer, safe
from genblaze_dagster.providers.values import ProgressEvent, StepRetriedEvent

StreamListener = Callable[[StreamEvent], None]

_SHOWN_CHARS = 200
_DEFAULT_STATUS = "processing"
_ENDS = {
    StepStatus.SUCCEEDED: StreamEventType.STEP_COMPLETED,
    StepStatus.FAILED: StreamEventType.STEP_FAILED,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepCompleteEvent:
    """A step ended, well or badly: see `step.status`. `elapsed_sec` counts from its start."""

    step_index: int
    total_steps: int
    step: Step
    elapsed_sec: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Listeners:
    """Who is told of a run. What they raise is logged once per run, and harms nothing."""

    on_progress: Callable[[ProgressEvent], object] | None = None
    on_step_complete: Callable[[StepCompleteEvent], object] | None = None
    on_retry: Callable[[StepRetriedEvent], object] | None = None
    on_submit: Callable[[str, str], object] | None = None
    on_stream: Sequence[StreamListener] = ()
    tracer: Tracer = field(default_factory=NoOpTracer)


class Announcer:
    """Tells the listeners of one run, in order.

    Every event of a step carries the same id, which is that of its record unless the step's media
    was there before; `StreamEvent.step` is the record.
    """

    def __init__(self, pipeline: Pipeline, run_id: str, listeners: Listeners) -> None:
        self.run_id = run_id
        self._pipeline = pipeline
        self._listeners = listeners
        self.tracer = safe(listeners.tracer)
        # In a large batch that nobody watches, events need not be made.
        self._is_heard = bool(listeners.on_stream) or type(listeners.tracer) is not NoOpTracer
        self._total = len(pipeline.steps)
        self._specs = {spec.name: spec for spec in pipeline.steps}
        self._index = {name: index for index, name in enumerate(self._specs)}
        self._ids = {name: new_run_id() for name in self._specs}
        self._jobs: dict[str, str] = {}
        self._queued: set[str] = set()
        self._complained: set[str] = set()

    def step_id(self, spec: StepSpec) -> str:
        """Return the id under which a step is told of."""
        return self._ids[spec.name]

    def has_job(self, spec: StepSpec) -> bool:
        """Whether the vendor has accepted a job of a step."""
        return spec.name in self._jobs

    def run_started(self, metadata: Mapping[str, object]) -> None:
        """The run begins."""
        self.tracer.on_run_start(
            self.run_id,
            self._pipeline.name,
            tenant_id=self._pipeline.tenant_id,
            total_steps=self._total,
            metadata=metadata,
        )
        self._tell(
            StreamEventType.PIPELINE_STARTED,
            total_steps=self._total,
            message=self._pipeline.name,
        )

    def queued(self, spec: StepSpec, reason: str) -> None:
        """A step waits: for its inputs (`serial`) or for a free place (`concurrency_limit`)."""
        if spec.name not in self._queued:
            self._queued.add(spec.name)
            self._tell(StreamEventType.STEP_QUEUED, **self._place(spec), reason=reason)

    def step_started(self, spec: StepSpec) -> None:
        """A step begins."""
        step = self._pending(spec)
        self._tell(
            StreamEventType.STEP_STARTED,
            **self._place(spec),
            expected_duration_sec=spec.expected_duration_sec,
            step=step,
        )
        self.tracer.on_step_start(
            self.run_id, step, step_index=self._index[spec.name], total_steps=self._total
        )

    def on_step_event(self, event: StepEvent) -> None:
        """The Runner tells of a step."""
        if event.type is StepEventType.PROGRESS:
            self._progress(event)
        elif event.type is StepEventType.RETRIED:
            self._retried(event)

    def step_ended(self, spec: StepSpec, step: Step, elapsed_seconds: float) -> None:
        """A step is durable, or has failed."""
        index = self._index[spec.name]
        self.tracer.on_step_end(
            self.run_id, step, duration_ms=elapsed_seconds * 1000, step_index=index
        )
        self._tell(
            _ENDS[step.status],
            **{**self._place(spec), "model": step.model},
            request_id=self._jobs.get(spec.name),
            elapsed_sec=elapsed_seconds,
            step_status=step.status.value,
            error=shown_error(step) if step.status is StepStatus.FAILED else None,
            step=step,
        )
        self._call(
            "on_step_complete",
            self._listeners.on_step_complete,
            StepCompleteEvent(index, self._total, step, elapsed_seconds),
        )

    def run_ended(self, result: PipelineResult, message: str | None = None) -> None:
        """The run is over; `message` says why when the steps do not."""
        is_completed = result.run.status is RunStatus.COMPLETED
        kind = (
            StreamEventType.PIPELINE_COMPLETED if is_completed else StreamEventType.PIPELINE_FAILED
        )
        self._tell(
            kind,
            run_status=result.run.status.value,
            manifest_hash=result.manifest.canonical_hash,
            message=None if is_completed else message or self._first_failure(result),
            result=result,
        )
        self.tracer.on_run_end(self.run_id, result)

    def _progress(self, event: StepEvent) -> None:
        if event.job_id is not None and self._jobs.get(event.step) != event.job_id:
            self._jobs[event.step] = event.job_id
            self._call("on_submit", self._listeners.on_submit, self._ids[event.step], event.job_id)
        told = ProgressEvent(
            step_id=self._ids[event.step],
            provider=event.provider,
            model=event.model,
            status=event.status or _DEFAULT_STATUS,
            progress_pct=event.progress,
            elapsed_sec=event.elapsed_seconds,
            message=self._words(event.step, event.message),
            preview_url=event.preview_url,
            request_id=self._jobs.get(event.step),
            is_heartbeat=event.is_heartbeat,
        )
        self._tell(
            StreamEventType.STEP_PROGRESS,
            step_id=told.step_id,
            provider=told.provider,
            model=told.model,
            request_id=told.request_id,
            progress_pct=told.progress_pct,
            elapsed_sec=told.elapsed_sec,
            message=told.message,
            preview_url=told.preview_url,
            is_heartbeat=told.is_heartbeat,
            data={"status": told.status},
        )
        self._call("on_progress", self._listeners.on_progress, told)

    def _retried(self, event: StepEvent) -> None:
        if event.phase is None or event.max_attempts is None or event.delay_seconds is None:
            # Not one of the job's calls: the next model is asked, or the store again.
            self._progress(replace(event, status=_DEFAULT_STATUS, message=event.detail))
            return
        told = StepRetriedEvent(
            step_id=self._ids[event.step],
            provider=event.provider,
            model=event.model,
            phase=event.phase.value,
            # Events of streams count the attempt that failed.
            attempt=max(event.attempt - 1, 1),
            max_attempts=event.max_attempts,
            delay_sec=event.delay_seconds,
            error_code=event.error_code,
            error=self._words(event.step, event.error),
            run_id=self.run_id,
        )
        self._tell(
            StreamEventType.STEP_RETRIED,
            step_id=told.step_id,
            provider=told.provider,
            model=told.model,
            phase=told.phase,
            attempt=told.attempt,
            max_attempts=told.max_attempts,
            delay_sec=told.delay_sec,
            error_code=told.error_code,
            error=told.error,
        )
        self._call("on_retry", self._listeners.on_retry, told)

    def _words(self, step: str, words: str | None) -> str | None:
        """Return a vendor's words; they may repeat a prompt, so only under a public one."""
        is_public = self._specs[step].prompt_visibility is PromptVisibility.PUBLIC
        return words if is_public else None

    def _place(self, spec: StepSpec) -> dict[str, Any]:
        return {
            "step_id": self._ids[spec.name],
            "step_index": self._index[spec.name],
            "total_steps": self._total,
            "provider": spec.provider_name,
            "model": spec.model,
        }

    def _pending(self, spec: StepSpec) -> Step:
        return Step(
            step_id=self._ids[spec.name],
            run_id=self.run_id,
            provider=spec.provider_name,
            model=spec.model,
            step_type=spec.step_type,
            modality=spec.modality,
            prompt_visibility=spec.prompt_visibility,
            seed=spec.seed if isinstance(spec.seed, int) else None,
            step_index=self._index[spec.name],
        )

    def _first_failure(self, result: PipelineResult) -> str | None:
        failed = result.failed_steps()
        names = [name for name in self._specs if name in result.errors]
        if not failed or not names:
            return None
        step = failed[0]
        return f"Step {self._index[names[0]]} ({step.provider}/{step.model}): {shown_error(step)}"

    def _tell(self, kind: StreamEventType, **fields: Any) -> None:
        if not self._is_heard:
            return
        event = StreamEvent(type=kind, run_id=self.run_id, **fields)
        self.tracer.on_event(event)
        for listener in self._listeners.on_stream:
            self._call("on_stream", listener, event)

    def _call(self, name: str, callback: Callable[..., object] | None, *arguments: object) -> None:
        if callback is None:
            return
        try:
            callback(*arguments)
        except Exception as exc:
            if name not in self._complained:
                self._complained.add(name)
                _log.warning(
                    "%s raised %s; the run goes on",
                    name,
                    redact(repr(exc), max_chars=_SHOWN_CHARS),
                )
