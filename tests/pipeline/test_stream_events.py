import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry, Resource

from genblaze_dagster.core.enums import PromptVisibility, ProviderErrorCode, StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import SchemaError
from genblaze_dagster.pipeline.stream_events import (
    StreamEvent,
    StreamEventType,
    required_fields,
    shown_error,
)

SCHEMAS = Path(__file__).parent.parent / "data" / "schemas" / "events" / "v1"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
KEY = "sk-proj-" + "a1B2" * 8

# Every field an event can have, with a value that tells it from the default.
FULL = {
    "run_id": "r",
    "step_id": "s",
    "step_index": 1,
    "total_steps": 2,
    "provider": "p",
    "model": "m",
    "reason": "serial",
    "expected_duration_sec": 3.5,
    "request_id": "job",
    "progress_pct": 0.25,
    "elapsed_sec": 1.5,
    "preview_url": "https://example.com/p.png?sig=abc",
    "is_heartbeat": True,
    "data": {"status": "processing"},
    "phase": "poll",
    "attempt": 1,
    "max_attempts": 6,
    "delay_sec": 0.5,
    "error_code": "timeout",
    "error": "too slow",
    "step_status": "failed",
    "run_status": "failed",
    "manifest_hash": "a" * 64,
    "message": "note",
    "iteration": 0,
    "total": 3,
    "passed": False,
    "score": 0.5,
    "feedback": "more",
    "iterations": 2,
    "total_cost_usd": 0.25,
}
KINDS = sorted(StreamEventType)


def _schema(kind: StreamEventType) -> dict:
    return json.loads((SCHEMAS / f"{kind.replace('.', '-')}.schema.json").read_text())


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    resources = [
        (path.name, Resource.from_contents(json.loads(path.read_text())))
        for path in SCHEMAS.glob("*.json")
    ]
    base = json.loads((SCHEMAS / "stream-event.schema.json").read_text())
    root = base["$id"].rsplit("/", 1)[0]
    registry = Registry().with_resources([(f"{root}/{name}", one) for name, one in resources])
    return jsonschema.Draft202012Validator(
        base, registry=registry, format_checker=jsonschema.FormatChecker()
    )


def _event(kind: StreamEventType, *, full: bool) -> StreamEvent:
    names = set(_schema(kind)["properties"]) if full else set(required_fields(kind))
    fields = {name: FULL[name] for name in names - {"type", "timestamp"}}
    return StreamEvent(type=kind, timestamp=MOMENT, **fields)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_those_of_the_schema(kind: StreamEventType) -> None:
    """What a type requires, and what it may carry, is exactly what its closed schema says."""
    schema = _schema(kind)
    assert {"type", "timestamp", *required_fields(kind)} == set(schema["required"])
    assert set(_event(kind, full=True).to_dict()) == set(schema["properties"])


@pytest.mark.parametrize("full", [False, True], ids=["required", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_event_validates_and_comes_back(
    kind: StreamEventType, full: bool, validator: jsonschema.Draft202012Validator
) -> None:
    """With its required fields or all, an event fits the schema and survives JSON."""
    event = _event(kind, full=full)
    document = json.loads(json.dumps(event.to_dict()))
    validator.validate(document)
    assert StreamEvent.from_dict(document) == event
    assert document["timestamp"] == "2026-01-02T03:04:05.000678Z"


def test_recorded_streams_come_back_as_they_are(
    vectors: Path, validator: jsonschema.Draft202012Validator
) -> None:
    """Every event genblaze was seen to emit is read and written without a difference."""
    streams = json.loads((vectors / "genblaze" / "event_streams.json").read_text())
    volatile = {
        "timestamp": "2026-01-02T03:04:05.000678Z",
        "run_id": "r",
        "step_id": "s",
        "elapsed_sec": 0.5,
        "manifest_hash": "b" * 64,
    }
    count = 0
    for stream in streams.values():
        for recorded in stream:
            given = {k: volatile[k] if v == "<volatile>" else v for k, v in recorded.items()}
            written = StreamEvent.from_dict(given).to_dict()
            validator.validate(written)
            assert list(written.items()) == list(given.items())
            count += 1
    assert count == 60


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"type": "step.exploded"}, "type"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2026-01-02T03:04:05"}, "zone"),
        ({"timestamp": None}, "timestamp"),
        ({"step_id": None}, "step_id is missing"),
        ({"step_id": 7}, "step_id is not text"),
        ({"step_index": -1}, "step_index is below 0"),
        ({"step_index": True}, "step_index is not a whole number"),
        ({"step_index": 1.0}, "step_index is not a whole number"),
        ({"elapsed_sec": "1"}, "elapsed_sec is not a number"),
        ({"manifest_hash": "a" * 64}, "does not belong"),
        ({"is_heartbeat": True}, "does not belong"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({KEY: 1}, "REDACTED"),
    ],
    ids=lambda value: "-".join(value)[:20] if isinstance(value, dict) else None,
)
def test_what_is_no_event_is_refused(change: dict, fact: str) -> None:
    """A document with a missing, foreign or wrong field is a SchemaError that names the field."""
    document = _event(StreamEventType.STEP_COMPLETED, full=True).to_dict() | change
    with pytest.raises(SchemaError, match=fact) as caught:
        StreamEvent.from_dict(document)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("step.queued", "reason", "bored"),
        ("step.retried", "phase", "dance"),
        ("pipeline.completed", "manifest_hash", "A" * 64),
        ("pipeline.completed", "manifest_hash", "a" * 64 + "\n"),
    ],
)
def test_closed_value_sets_are_held(kind: str, field: str, value: str) -> None:
    """Reasons, phases and hashes outside what the schema allows are refused."""
    document = _event(StreamEventType(kind), full=True).to_dict()
    with pytest.raises(SchemaError, match=field):
        StreamEvent.from_dict(document | {field: value})


@pytest.mark.parametrize(
    ("given", "kept"),
    [(57, 1.0), (-0.1, 0.0), (math.nan, None), (math.inf, None), (10**400, 1.0), (0.5, 0.5)],
    ids=["percent", "negative", "nan", "inf", "huge", "fine"],
)
def test_progress_is_brought_into_range(given: float, kept: float | None) -> None:
    """A vendor's nonsense about progress never breaks a run, and never leaves as nonsense."""
    event = StreamEvent(
        type=StreamEventType.STEP_PROGRESS,
        step_id="s",
        provider="p",
        model="m",
        progress_pct=given,
    )
    assert event.progress_pct == kept
    assert event.to_dict().get("progress_pct") == kept


def test_times_are_utc_and_in_process_objects_stay() -> None:
    """Another zone becomes UTC, now is the default, and step and result are not on the wire."""
    local = MOMENT.astimezone(timezone(timedelta(hours=-7)))
    step = Step(model="m", provider="p", prompt="a secret garden")
    event = StreamEvent(
        type=StreamEventType.STEP_STARTED,
        timestamp=local,
        **{k: FULL[k] for k in required_fields(StreamEventType.STEP_STARTED)},
        step=step,
        result=object(),
    )
    assert event.to_dict()["timestamp"] == "2026-01-02T03:04:05.000678Z"
    assert not {"step", "result"} & event.to_dict().keys()
    assert "garden" not in repr(event)
    now = StreamEvent(type=StreamEventType.AGENT_COMPLETED, passed=True, iterations=1).timestamp
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)


def test_secrets_do_not_travel_in_events() -> None:
    """Free text loses what looks like a key, and the repr shows no preview URL."""
    failed = _event(StreamEventType.STEP_FAILED, full=True)
    event = StreamEvent.from_dict(failed.to_dict() | {"error": f"key {KEY} is wrong"})
    assert event.error == "key [REDACTED] is wrong"
    assert KEY not in json.dumps(event.to_dict())
    assert "sig=" not in repr(_event(StreamEventType.STEP_PROGRESS, full=True))


def test_shown_errors_quote_no_private_prompt() -> None:
    """The words of a vendor are shown only when the prompt may be read by anybody."""
    public = Step(
        model="m",
        provider="p",
        status=StepStatus.FAILED,
        error=f"no foxes; {KEY}",
        error_code=ProviderErrorCode.CONTENT_POLICY,
    )
    assert shown_error(public) == "no foxes; [REDACTED]"
    private = public.model_copy(update={"prompt_visibility": PromptVisibility.PRIVATE})
    shown = shown_error(private)
    assert shown is not None
    assert shown.startswith("content_policy")
    assert "foxes" not in shown
    assert shown_error(Step(model="m", provider="p")) is None
