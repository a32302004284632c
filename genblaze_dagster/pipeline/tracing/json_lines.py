"""Runs as JSON lines: one object per line, and nothing else on the channel."""

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import orjson

from genblaze_dagster.core.enums import RunStatus, StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.net.redact import redact, strip_url
from genblaze_dagster.pipeline.stream_events import (
    StreamEvent,
    StreamEventType,
    shown_error,
    wire_time,
)
from genblaze_dagster.pipeline.tracing.tracer import Tracer

if TYPE_CHECKING:
    from genblaze_dagster.pipeline.result import PipelineResult

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z
_IS_LINE: Final = "genblaze_json_line"

# The hooks tell these, with more to say.
_TOLD_BY_HOOKS: Final = frozenset(
    {
        StreamEventType.PIPELINE_STARTED,
        StreamEventType.PIPELINE_COMPLETED,
        StreamEventType.PIPELINE_FAILED,
        StreamEventType.STEP_COMPLETED,
        StreamEventType.STEP_FAILED,
    }
)


class StructuredLogger:
    """Writes JSON objects, one a line, to the logger of a name.

    Keys are `timestamp`, `level`, `event`, then the context, then the fields in their order. A
    logger that has no handler of its own gets one that writes to stderr; plain messages that others
    send to it become JSON too. It does not propagate, so that the lines are not printed again as
    text. To send them elsewhere, give the logger a handler first.

    Args:
        name: the logger's name.
        level: lowest level written, as in `logging`.
        context: fields of every line.
        clock: current time, aware.
    """

    def __init__(
        self,
        name: str = "genblaze",
        level: int = logging.INFO,
        *,
        context: Mapping[str, object] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._name = name
        self._level = level
        self._context = dict(context or {})
        self._clock = clock
        self._logger = logging.getLogger(name)
        self._logger.setLevel(level)
        self._logger.propagate = False
        if not self._logger.handlers:
            self._logger.addHandler(_StderrHandler())

    def with_context(self, **fields: object) -> "StructuredLogger":
        """Return a logger that adds these fields to every line."""
        return StructuredLogger(
            self._name, self._level, context={**self._context, **fields}, clock=self._clock
        )

    def debug(self, event: str, **fields: object) -> None:
        """Write a line of level debug."""
        self.write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write a line of level info."""
        self.write(logging.INFO, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write a line of level error."""
        self.write(logging.ERROR, event, fields)

    def write(self, level: int, event: str, fields: Mapping[str, object]) -> None:
        """Write a line; a field `timestamp` replaces the current time."""
        if not self._logger.isEnabledFor(level):
            return
        head = _head(wire_time(self._clock()), level, event)
        # What is at the head stays there; only the time may be another.
        given = {**self._context, **fields}
        body = {key: value for key, value in given.items() if key not in ("level", "event")}
        self._logger.log(level, _line({**head, **body}), extra={_IS_LINE: True})


class LoggingTracer(Tracer):
    """Writes every run as JSON lines to the logger `genblaze.pipeline`.

    `pipeline.start`, `step.completed` (of failed steps too, then of level error and with the
    error), `pipeline.complete`, and the events between them under their own type; progress is of
    level debug. Prompts, params and media are not in the lines, and URLs without their query.

    Args:
        logger: where to write instead.
    """

    def __init__(self, logger: StructuredLogger | None = None) -> None:
        self._logger = logger or StructuredLogger("genblaze.pipeline")

    def on_run_start(
        self,
        run_id: str,
        name: str | None,
        *,
        tenant_id: str | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Write `pipeline.start`; metadata may hold anything and is left out."""
        self._logger.info(
            "pipeline.start", run_id=run_id, name=name, tenant_id=tenant_id, total_steps=total_steps
        )

    def on_event(self, event: StreamEvent) -> None:
        """Write an event that no hook tells of."""
        if event.type in _TOLD_BY_HOOKS:
            return
        fields = event.to_dict()
        if event.preview_url is not None:
            fields["preview_url"] = strip_url(event.preview_url)
        is_progress = event.type is StreamEventType.STEP_PROGRESS
        self._logger.write(logging.DEBUG if is_progress else logging.INFO, event.type, fields)

    def on_step_end(self, run_id: str, step: Step, *, duration_ms: float, step_index: int) -> None:
        """Write `step.completed`."""
        failed = step.status is not StepStatus.SUCCEEDED
        fields: dict[str, object] = {
            "run_id": run_id,
            "step_id": step.step_id,
            "step_index": step_index,
            "provider": step.provider,
            "model": step.model,
            "status": step.status.value,
            "duration_ms": round(duration_ms, 1),
            "cost_usd": step.cost_usd,
        }
        if failed:
            fields |= {"error_code": step.error_code, "error": shown_error(step)}
        self._logger.write(logging.ERROR if failed else logging.INFO, "step.completed", fields)

    def on_run_end(self, run_id: str, result: "PipelineResult") -> None:
        """Write `pipeline.complete`."""
        failed = result.run.status is not RunStatus.COMPLETED
        fields = {
            "run_id": run_id,
            "status": result.run.status.value,
            "manifest_hash": result.manifest.canonical_hash,
        }
        self._logger.write(logging.ERROR if failed else logging.INFO, "pipeline.complete", fields)


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is at the moment: notebooks and tests replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{_record_line(record)}\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _record_line(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if getattr(record, _IS_LINE, False):
        return message
    moment = wire_time(datetime.fromtimestamp(record.created, UTC))
    return _line({**_head(moment, record.levelno, "log"), "message": redact(message)})


def _head(moment: str, level: int, event: str) -> dict[str, object]:
    return {
        "timestamp": moment,
        "level": logging.getLevelName(level).lower(),
        "event": str(event),
    }


def _line(record: Mapping[str, object]) -> str:
    try:
        return _dumps(record)
    except TypeError:
        return _dumps({_text(key): _writable(value) for key, value in record.items()})


def _dumps(value: object) -> str:
    return orjson.dumps(value, default=str, option=_OPTIONS).decode()


def _writable(value: object) -> object:
    """Return the value, or what can be said of one that JSON has no form for."""
    try:
        _dumps(value)
    except TypeError:
        return _text(value) if isinstance(value, str) else f"<{type(value).__name__}>"
    return value


def _text(value: str) -> str:
    # Half a surrogate pair cannot be encoded.
    return value.encode("utf-8", "replace").decode()
