"""Tell a URL how runs go: from the events of a stream, from callbacks, or one event per run.

Bodies are genblaze's; deliveries carry an id, a timestamp and a signature besides. Prompts,
params, errors and media are not in them.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, Self

from genblaze_dagster.core.enums import RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.errors import WebhookError
from genblaze_dagster.net.webhooks import WebhookConfig, WebhookPoster
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.webhook_queue import WebhookQueue
from genblaze_dagster.providers.base import ProgressEvent

if TYPE_CHECKING:
    from genblaze_dagster.pipeline.result import PipelineResult

_SUBMITTED = "submitted"


class WebhookEvent(StrEnum):
    """What a webhook may be told."""

    PIPELINE_STARTED = "pipeline.started"
    PIPELINE_COMPLETED = "pipeline.completed"
    PIPELINE_FAILED = "pipeline.failed"
    STEP_STARTED = "step.started"
    STEP_COMPLETED = "step.completed"
    STEP_FAILED = "step.failed"


class FinishedStep(Protocol):
    """What `on_step_complete` is called with; `elapsed_sec` counts from the step's start."""

    @property
    def step_index(self) -> int:
        """Position of the step, from 0."""
        ...

    @property
    def total_steps(self) -> int:
        """How many steps the run has."""
        ...

    @property
    def step(self) -> Step:
        """The step as it ended."""
        ...

    @property
    def elapsed_sec(self) -> float:
        """Seconds it took."""
        ...


class WebhookNotifier:
    """Posts the events of runs to one URL, in the background.

    The events of one run arrive in their order, those of different runs side by side. Nothing it
    does can fail a run: see `dropped_count`, `failed_count` and `last_error`. Close it, or use it
    as a context manager, to wait for what is queued.

    Args:
        config: the receiver.
        queue_maxsize: events waiting at most; the newest is dropped when there are more.
        poster: makes what delivers; for tests.
        clock: current time, aware UTC.
    """

    def __init__(
        self,
        config: WebhookConfig,
        *,
        queue_maxsize: int = 10_000,
        poster: Callable[[WebhookConfig], WebhookPoster] = WebhookPoster,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._queue = WebhookQueue(config, maxsize=queue_maxsize, poster=poster)
        self._clock = clock
        self._run_id = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def delivered_count(self) -> int:
        """How many events the receiver took."""
        return self._queue.delivered_count

    @property
    def failed_count(self) -> int:
        """How many events were given up after their attempts."""
        return self._queue.failed_count

    @property
    def dropped_count(self) -> int:
        """How many events were not delivered because the queue was full or closed, or a 410."""
        return self._queue.dropped_count

    @property
    def last_error(self) -> WebhookError | None:
        """Why the last event that was given up was."""
        return self._queue.last_error

    def enqueue(self, payload: Mapping[str, object]) -> None:
        """Queue a payload of your own; `event` names it for `include_events`.

        Payloads without `run_id` queue behind those of the run that started last.

        Raises:
            ConfigError: it has no JSON form of at most 256 KiB.
        """
        run_id = payload.get("run_id")
        self._queue.put(payload, lane=run_id if isinstance(run_id, str) else self._run_id)

    def on_event(self, event: StreamEvent) -> None:
        """Queue an event of a stream; those no webhook is told of are passed over."""
        kind = _TOLD.get(event.type)
        if kind is None:
            return
        if kind is WebhookEvent.PIPELINE_STARTED:
            self._run_id = event.run_id or ""
        self._send(kind, _FIELDS[kind](event), moment=event.timestamp, run_id=event.run_id)

    def notify_pipeline_started(
        self, run_id: str, pipeline_name: str | None, step_count: int
    ) -> None:
        """Queue `pipeline.started`."""
        self._run_id = run_id
        fields = {"run_id": run_id, "pipeline_name": pipeline_name, "step_count": step_count}
        self._send(WebhookEvent.PIPELINE_STARTED, fields)

    def notify_pipeline_completed(
        self, result: "PipelineResult", *, canonical_hash: str | None = None
    ) -> None:
        """Queue `pipeline.completed` or, unless the run completed, `pipeline.failed`."""
        self.notify_run(result.run, canonical_hash)

    def notify_run(self, run: Run, canonical_hash: str | None) -> None:
        """Queue the end of a run; see `notify_pipeline_completed`."""
        completed = run.status is RunStatus.COMPLETED
        kind = WebhookEvent.PIPELINE_COMPLETED if completed else WebhookEvent.PIPELINE_FAILED
        fields: dict[str, object] = {
            "run_id": run.run_id,
            "status": run.status.value,
            "step_count": len(run.steps),
        }
        if canonical_hash is not None:
            fields["canonical_hash"] = canonical_hash
        self._send(kind, fields)

    def make_on_progress(self) -> Callable[[ProgressEvent], None]:
        """Return a callback for `on_progress` that queues `step.started` once per submit."""

        def on_progress(event: ProgressEvent) -> None:
            if event.status == _SUBMITTED:
                fields = {
                    "step_id": event.step_id,
                    "provider": event.provider,
                    "model": event.model,
                }
                self._send(WebhookEvent.STEP_STARTED, fields)

        return on_progress

    def make_on_step_complete(self) -> Callable[[FinishedStep], None]:
        """Return a callback for `on_step_complete` that queues `step.completed` or `.failed`."""

        def on_step_complete(event: FinishedStep) -> None:
            step = event.step
            succeeded = step.status is StepStatus.SUCCEEDED
            kind = WebhookEvent.STEP_COMPLETED if succeeded else WebhookEvent.STEP_FAILED
            fields = _step_end(
                (step.step_id, event.step_index, event.total_steps, step.provider, step.model),
                status=step.status.value,
                elapsed_sec=event.elapsed_sec,
            )
            self._send(kind, fields, run_id=step.run_id)

        return on_step_complete

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what is queued, for at most `timeout` seconds, and stop; safe to call twice."""
        self._queue.close(timeout)

    async def aclose(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - not of this call
        """Close in async code, without blocking the loop; see `close`."""
        await asyncio.to_thread(self.close, timeout)

    def _send(
        self,
        kind: WebhookEvent,
        fields: Mapping[str, object],
        *,
        moment: datetime | None = None,
        run_id: str | None = None,
    ) -> None:
        payload: dict[str, object] = {"event": kind.value, **fields}
        if run_id is not None:
            payload.setdefault("run_id", run_id)
        payload["timestamp"] = (moment or self._clock()).astimezone(UTC).isoformat()
        self.enqueue(payload)


class WebhookSink:
    """Posts one event per run, `pipeline.completed` or `pipeline.failed`, in the background.

    As a sink it is told of a run when everything about it is stored. It can be used for many runs;
    close it to wait for what is queued. A receiver that fails never fails a run.

    Args:
        config: the receiver.
        poster: makes what delivers; for tests.
    """

    def __init__(
        self,
        config: WebhookConfig,
        *,
        poster: Callable[[WebhookConfig], WebhookPoster] = WebhookPoster,
    ) -> None:
        self.notifier = WebhookNotifier(config, poster=poster)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write_run(self, run: Run, manifest: Manifest) -> None:
        """Queue the run's event; never waits and never raises for the receiver's sake."""
        self.notifier.notify_run(run, manifest.canonical_hash)

    async def awrite_run(self, run: Run, manifest: Manifest) -> None:
        """Queue the run's event in async code; see `write_run`."""
        self.write_run(run, manifest)

    def close(self) -> None:
        """Deliver what is queued, for at most 5 s, and stop."""
        self.notifier.close()

    async def aclose(self) -> None:
        """Close in async code, without blocking the loop; see `close`."""
        await self.notifier.aclose()


def _start_fields(event: StreamEvent) -> Mapping[str, object]:
    return {
        "run_id": event.run_id,
        "pipeline_name": event.message,
        "step_count": event.total_steps,
    }


def _end_fields(event: StreamEvent) -> Mapping[str, object]:
    fields: dict[str, object] = {"run_id": event.run_id, "status": event.run_status}
    run = getattr(event.result, "run", None)
    if isinstance(run, Run):
        fields["step_count"] = len(run.steps)
    if event.manifest_hash is not None:
        fields["canonical_hash"] = event.manifest_hash
    return fields


def _step_start_fields(event: StreamEvent) -> Mapping[str, object]:
    return {"step_id": event.step_id, "provider": event.provider, "model": event.model}


def _step_end_fields(event: StreamEvent) -> Mapping[str, object]:
    return _step_end(
        (event.step_id, event.step_index, event.total_steps, event.provider, event.model),
        status=event.step_status,
        elapsed_sec=event.elapsed_sec or 0.0,
    )


def _step_end(
    identity: tuple[object, ...], *, status: str | None, elapsed_sec: float
) -> Mapping[str, object]:
    names = ("step_id", "step_index", "total_steps", "provider", "model")
    return {
        **dict(zip(names, identity, strict=True)),
        "status": status,
        "elapsed_sec": round(elapsed_sec, 2),
    }


_TOLD: Final[Mapping[StreamEventType, WebhookEvent]] = {
    StreamEventType(kind.value): kind for kind in WebhookEvent
}
_FIELDS: Final[Mapping[WebhookEvent, Callable[[StreamEvent], Mapping[str, object]]]] = {
    WebhookEvent.PIPELINE_STARTED: _start_fields,
    WebhookEvent.PIPELINE_COMPLETED: _end_fields,
    WebhookEvent.PIPELINE_FAILED: _end_fields,
    WebhookEvent.STEP_STARTED: _step_start_fields,
    WebhookEvent.STEP_COMPLETED: _step_end_fields,
    WebhookEvent.STEP_FAILED: _step_end_fields,
}
