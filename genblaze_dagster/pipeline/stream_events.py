"""What a pipeline or an agent loop tells while it runs: one flat event type, twelve kinds.

The wire form is genblaze's, whose schemas are closed: a kind has the fields listed here and no
others. Events are checked when they are made, so that no stream carries one nobody can read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self, cast

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import SchemaError
from genblaze_dagster.net.redact import redact

if TYPE_CHECKING:
    from genblaze_dagster.pipeline.result import PipelineResult


class StreamEventType(StrEnum):
    """Moments in the life of a run, its steps, and the agent loop around runs."""

    PIPELINE_STARTED = "pipeline.started"
    PIPELINE_COMPLETED = "pipeline.completed"
    PIPELINE_FAILED = "pipeline.failed"
    STEP_QUEUED = "step.queued"
    STEP_STARTED = "step.started"
    STEP_PROGRESS = "step.progress"
    STEP_RETRIED = "step.retried"
    STEP_COMPLETED = "step.completed"
    STEP_FAILED = "step.failed"
    AGENT_ITERATION_STARTED = "agent.iteration.started"
    AGENT_ITERATION_EVALUATED = "agent.iteration.evaluated"
    AGENT_COMPLETED = "agent.completed"


def _now() -> datetime:
    return datetime.now(UTC)


def _nothing() -> Mapping[str, object]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEvent:
    """One moment of a whole run in genblaze's wire form, for who watches it.

    Which fields are set depends on `type`, as `required_fields` and the schemas say.

    Times are seconds: `elapsed_sec` from the start of the step, `delay_sec` until the next attempt,
    `expected_duration_sec` as the caller guessed. `progress_pct` is 0 to 1. `step_index` and
    `iteration` count from 0, `attempt` from 1. A cost of None is unknown.

    `message`, `error` and `feedback` lose what looks like a secret. `preview_url` may grant access
    for a while: it is in `to_dict()`, because that is what it is for, and not in the repr.
    `step` and `result` are objects of this process and never leave it. Numbers that are not finite
    are left out; progress and times beyond their range are brought back into it.

    Raises:
        SchemaError: a field is missing, foreign to the type, or of the wrong kind.
    """

    type: StreamEventType
    timestamp: datetime = field(default_factory=_now)
    run_id: str | None = None
    step_id: str | None = None
    step_index: int | None = None
    total_steps: int | None = None
    provider: str | None = None
    model: str | None = None
    reason: str | None = None
    expected_duration_sec: float | None = None
    request_id: str | None = None
    progress_pct: float | None = None
    elapsed_sec: float | None = None
    preview_url: str | None = field(default=None, repr=False)
    is_heartbeat: bool = False
    data: Mapping[str, object] = field(default_factory=_nothing, repr=False, hash=False)
    phase: str | None = None
    attempt: int | None = None
    max_attempts: int | None = None
    delay_sec: float | None = None
    error_code: str | None = None
    error: str | None = None
    step_status: str | None = None
    run_status: str | None = None
    manifest_hash: str | None = None
    message: str | None = None
    iteration: int | None = None
    total: int | None = None
    passed: bool | None = None
    score: float | None = None
    feedback: str | None = None
    iterations: int | None = None
    total_cost_usd: float | None = None
    step: Step | None = field(default=None, repr=False, compare=False)
    result: "PipelineResult | object | None" = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            self._set("type", StreamEventType(self.type))
        except ValueError as exc:
            raise SchemaError("event: type is none of the known ones") from exc
        if self.timestamp.tzinfo is None:
            raise self._wrong("timestamp", "has no zone; use UTC")
        self._set("timestamp", self.timestamp.astimezone(UTC))
        allowed = _WIRE_FIELDS[self.type]
        for name in _CHECKED:
            value = getattr(self, name)
            if value is None or (name not in allowed and name in _NEVER_NONE and not value):
                continue
            if name not in allowed:
                raise self._wrong(name, "does not belong to it; leave it out")
            self._set(name, self._checked(name, value))
        for name in required_fields(self.type):
            if getattr(self, name) is None:
                raise self._wrong(name, "is missing")

    def to_dict(self) -> dict[str, object]:
        """Return the wire form: plain JSON values, without nulls and in-process objects."""
        document: dict[str, object] = {
            "type": self.type.value,
            "timestamp": wire_time(self.timestamp),
        }
        for name in _WIRE_FIELDS[self.type]:
            value = getattr(self, name)
            if value is not None:
                document[name] = dict(self.data) if name == "data" else value
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, object]) -> Self:
        """Read the wire form; a null is the same as nothing.

        Raises:
            SchemaError: the document is not one of the twelve kinds.
        """
        given = {name: value for name, value in document.items() if value is not None}
        unknown = given.keys() - _CHECKED.keys() - {"type", "timestamp"}
        if unknown:
            raise SchemaError(
                f"event: unknown field {redact(min(map(str, unknown)), max_chars=80)!r}"
            )
        moment = given.get("timestamp")
        if not isinstance(given.get("type"), str) or not isinstance(moment, str):
            raise SchemaError("event: type and timestamp are required, both as text")
        try:
            given["timestamp"] = datetime.fromisoformat(moment)
        except ValueError as exc:
            raise SchemaError("event: timestamp is not an ISO 8601 date and time") from exc
        return cls(**cast("dict[str, Any]", given))

    def _checked(self, name: str, value: object) -> object:
        kind, least, most = _CHECKED[name]
        if kind is float:
            return self._checked_number(name, value, least, most)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(name, f"is not {_NAMES[kind]}")
        if kind is int and least is not None and cast("int", value) < least:
            raise self._wrong(name, f"is below {least:.0f}")
        choices = _CHOICES.get(name)
        if choices is not None and choices.fullmatch(cast("str", value)) is None:
            raise self._wrong(name, "is none of the values allowed")
        return redact(cast("str", value)) if name in _FREE_TEXT else value

    def _checked_number(
        self, name: str, value: object, least: float | None, most: float | None
    ) -> float | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._wrong(name, "is not a number")
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if least is not None and value < least:
            return least
        return most if most is not None and value > most else value

    def _wrong(self, name: str, fact: str) -> SchemaError:
        return SchemaError(f"{self.type} event: {name} {fact}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


def required_fields(kind: StreamEventType) -> tuple[str, ...]:
    """Return the fields an event of this type must have, besides type and timestamp."""
    return tuple(name for name in _WIRE_FIELDS[kind] if name not in _OPTIONAL[kind])


def wire_time(moment: datetime) -> str:
    """Return an aware time as events and log lines write it: UTC, ISO 8601, `Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def shown_error(step: Step) -> str | None:
    """Return a step's error as others may read it, None when it has none.

    Secrets are taken out. When the prompt is not public only the error code is left, because
    vendors like to quote the prompt they refuse.
    """
    if step.error is None:
        return None
    if step.prompt_visibility is PromptVisibility.PUBLIC:
        return redact(step.error)
    code = step.error_code.value if step.error_code is not None else "unknown"
    return f"{code} (the prompt is not public, so the vendor's words are not shown)"


# Fields of each type in the order they are written; the optional ones are those listed below it.
_POSITION = ("step_index", "total_steps", "provider", "model")
_FINISHED = ("run_id", "step_id", *_POSITION, "request_id", "elapsed_sec")
_T = StreamEventType
_WIRE_FIELDS: Final[Mapping[StreamEventType, tuple[str, ...]]] = {
    _T.PIPELINE_STARTED: ("run_id", "total_steps", "message"),
    _T.PIPELINE_COMPLETED: ("run_id", "run_status", "manifest_hash"),
    _T.PIPELINE_FAILED: ("run_id", "message", "run_status", "manifest_hash"),
    _T.STEP_QUEUED: ("run_id", "step_id", *_POSITION, "reason"),
    _T.STEP_STARTED: ("run_id", "step_id", *_POSITION, "expected_duration_sec"),
    _T.STEP_PROGRESS: (
        *("run_id", "step_id", "provider", "model", "request_id", "progress_pct", "elapsed_sec"),
        *("preview_url", "message", "is_heartbeat", "data"),
    ),
    _T.STEP_RETRIED: (
        *("run_id", "step_id", "provider", "model", "phase", "attempt", "max_attempts"),
        *("delay_sec", "error_code", "error"),
    ),
    _T.STEP_COMPLETED: (*_FINISHED, "step_status"),
    _T.STEP_FAILED: (*_FINISHED, "error", "step_status"),
    _T.AGENT_ITERATION_STARTED: ("iteration", "total", "message"),
    _T.AGENT_ITERATION_EVALUATED: ("iteration", "passed", "score", "feedback"),
    _T.AGENT_COMPLETED: ("passed", "iterations", "total_cost_usd"),
}
_ENDING = frozenset({"message", "run_status", "manifest_hash"})
_PROGRESS = frozenset(
    {
        *("run_id", "request_id", "progress_pct", "elapsed_sec", "preview_url", "message"),
        *("is_heartbeat", "data"),
    }
)
_OPTIONAL: Final[Mapping[StreamEventType, frozenset[str]]] = {
    _T.PIPELINE_STARTED: frozenset({"message"}),
    _T.PIPELINE_COMPLETED: _ENDING,
    _T.PIPELINE_FAILED: _ENDING,
    _T.STEP_QUEUED: frozenset(),
    _T.STEP_STARTED: frozenset({"expected_duration_sec"}),
    _T.STEP_PROGRESS: _PROGRESS,
    _T.STEP_RETRIED: frozenset({"run_id", "error_code", "error"}),
    _T.STEP_COMPLETED: frozenset({"run_id", "request_id", "step_status"}),
    _T.STEP_FAILED: frozenset({"run_id", "request_id", "error", "step_status"}),
    _T.AGENT_ITERATION_STARTED: frozenset({"message"}),
    _T.AGENT_ITERATION_EVALUATED: frozenset({"score", "feedback"}),
    _T.AGENT_COMPLETED: frozenset({"total_cost_usd"}),
}

_LEAST: Final[Mapping[str, float]] = {
    **dict.fromkeys(("step_index", "total_steps", "iteration", "iterations"), 0),
    **dict.fromkeys(("total", "attempt", "max_attempts"), 1),
    **dict.fromkeys(("expected_duration_sec", "elapsed_sec", "delay_sec", "progress_pct"), 0.0),
}
_NUMBERS = ("expected_duration_sec", "elapsed_sec", "delay_sec", "progress_pct", "score")
_KINDS: Final[Mapping[str, type]] = {
    **dict.fromkeys((*_NUMBERS, "total_cost_usd"), float),
    **dict.fromkeys(("step_index", "total_steps", "iteration", "iterations"), int),
    **dict.fromkeys(("total", "attempt", "max_attempts"), int),
    **dict.fromkeys(("is_heartbeat", "passed"), bool),
    "data": Mapping,
}
_NEVER_NONE: Final = frozenset({"is_heartbeat", "data"})
_FREE_TEXT: Final = frozenset({"message", "error", "feedback"})
_CHOICES: Final = {
    "reason": re.compile("serial|concurrency_limit"),
    "phase": re.compile("submit|poll|fetch"),
    "manifest_hash": re.compile("[a-f0-9]{64}"),
}
_NAMES: Final[Mapping[type, str]] = {
    str: "text",
    int: "a whole number",
    bool: "true or false",
    Mapping: "a mapping",
}
_IN_PROCESS = frozenset({"type", "timestamp", "step", "result"})
# Field name -> what it holds, and the least and the most it may be.
_CHECKED: Final[Mapping[str, tuple[type, float | None, float | None]]] = {
    one.name: (
        _KINDS.get(one.name, str),
        _LEAST.get(one.name),
        1.0 if one.name == "progress_pct" else None,
    )
    for one in fields(StreamEvent)
    if one.name not in _IN_PROCESS
}
