import asyncio
import json
import logging
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from genblaze_dagster.core.enums import (
    PromptVisibility,
    ProviderErrorCode,
    StepStatus,
)
from genblaze_dagster.core.models import Step
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.tracing import (
    CompositeTracer,
    LoggingTracer,
    NoOpTracer,
    StructuredLogger,
    Tracer,
    safe,
)
from genblaze_dagster.storage.store import MediaStore
from tests.pipeline.traced_run import KEY, MOMENT, a_result, a_step, play


@pytest.fixture
def channel() -> Iterator[str]:
    """The name of a logger nobody else has; its handler is taken off afterwards."""
    name = f"test.{uuid.uuid4().hex}"
    yield name
    logging.getLogger(name).handlers.clear()


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_as_json_lines(
    store: MediaStore, channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every line is one JSON object with its keys in order, and each moment is told once."""
    tracer = LoggingTracer(StructuredLogger(channel, clock=lambda: MOMENT))
    result = a_result(store, "r", [a_step("r")])
    play(tracer, result)
    output = capsys.readouterr()
    assert output.out == ""
    lines = lines_of(output.err)
    assert [line["event"] for line in lines] == [
        "pipeline.start",
        "step.queued",
        "step.started",
        "step.completed",
        "pipeline.complete",
    ]
    assert all(list(line)[:3] == ["timestamp", "level", "event"] for line in lines)
    assert {line["timestamp"] for line in lines} == {"2026-01-02T03:04:05Z"}
    assert list(lines[0])[3:] == ["run_id", "name", "tenant_id", "total_steps"]
    assert lines[3] == {
        "timestamp": "2026-01-02T03:04:05Z",
        "level": "info",
        "event": "step.completed",
        "run_id": "r",
        "step_id": result.run.steps[0].step_id,
        "step_index": 0,
        "provider": "openai-dalle",
        "model": "m",
        "status": "succeeded",
        "duration_ms": 12.3,
        "cost_usd": 0.25,
    }
    assert lines[4]["manifest_hash"] == result.manifest.canonical_hash


def test_failures_are_lines_of_level_error_without_secrets(
    store: MediaStore, channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed step tells its code and error, of a private prompt only the code."""
    fields = {
        "status": StepStatus.FAILED,
        "error": f"no foxes; {KEY}",
        "error_code": ProviderErrorCode.CONTENT_POLICY,
    }
    hidden = fields | {"prompt_visibility": PromptVisibility.PRIVATE}
    result = a_result(store, "r", [a_step("r", **fields), a_step("r", 1, **hidden)])
    play(LoggingTracer(StructuredLogger(channel)), result)
    text = capsys.readouterr().err
    ended = [line for line in lines_of(text) if line["event"] == "step.completed"]
    assert [line["level"] for line in ended] == ["error", "error"]
    assert [line["error_code"] for line in ended] == ["content_policy"] * 2
    assert ended[0]["error"] == "no foxes; [REDACTED]"
    assert "foxes" not in ended[1]["error"]
    assert KEY not in text
    assert lines_of(text)[-1]["level"] == "error"


def test_progress_is_of_level_debug_and_shows_no_signed_url(
    store: MediaStore, channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With level debug progress is written, previews without what grants access."""
    tracer = LoggingTracer(StructuredLogger(channel, logging.DEBUG))
    play(tracer, a_result(store, "r", [a_step("r")]))
    progress = [
        line
        for line in lines_of(capsys.readouterr().err)
        if line["event"] == line.get("type") == "step.progress"
    ]
    assert [line["level"] for line in progress] == ["debug", "debug"]
    assert progress[0]["preview_url"] == "https://example.com/p.png"


class Odd:
    """A value that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("two\nlines", "two\nlines"),
        (float("nan"), None),
        ("half \ud83d", "half ?"),
        (2**80, "<int>"),
        (Odd(), "<Odd>"),
        ({1: MOMENT}, {"1": "2026-01-02T03:04:05Z"}),
    ],
    ids=["newline", "nan", "surrogate", "huge", "odd", "nested"],
)
def test_whatever_is_logged_stays_one_json_line(
    value: object, written: object, channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values JSON has no form for neither break the line nor raise."""
    StructuredLogger(channel).info("it", value=value, after=1)
    (line,) = lines_of(capsys.readouterr().err)
    assert (line["value"], line["after"]) == (written, 1)


def test_the_channel_is_json_and_only_json(
    channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain messages of others become JSON, and no handler above prints a line again."""
    root = logging.getLogger()
    above = logging.StreamHandler(sys.stderr)
    root.addHandler(above)
    try:
        logger = StructuredLogger(channel, context={"app": "x"}).with_context(job=1)
        logger.error("boom", level="none", event_id=2)
        logging.getLogger(channel).warning("Starting %s with %s", "pipeline", KEY)
    finally:
        root.removeHandler(above)
    first, second = lines_of(capsys.readouterr().err)
    assert list(first) == ["timestamp", "level", "event", "app", "job", "event_id"]
    assert (first["level"], first["event"]) == ("error", "boom")
    assert (second["level"], second["event"]) == ("warning", "log")
    assert second["message"] == "Starting pipeline with [REDACTED]"


def test_a_logger_with_a_handler_keeps_to_it(
    channel: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever gave the logger a handler gets the same lines there, and none on stderr."""
    seen: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(self.format(record))

    logging.getLogger(channel).addHandler(Keeping())
    StructuredLogger(channel).info("it", done="50%")
    assert json.loads(seen[0])["done"] == "50%"
    assert capsys.readouterr().err == ""


class Raising(Tracer):
    """Raises in every hook, and around the block of `span`."""

    def __getattribute__(self, name: str) -> object:
        if name.startswith("on_"):
            raise RuntimeError(f"{name} broke with {KEY}")
        return super().__getattribute__(name)

    @contextmanager
    def span(self, run_id: str, step_id: str | None = None) -> Iterator[None]:
        try:
            yield
        finally:
            raise RuntimeError("span broke")


class Remembering(Tracer):
    """Keeps the events it gets, and whether it is inside a span."""

    def __init__(self) -> None:
        self.events: list[StreamEventType] = []
        self.hooks: list[str] = []
        self.inside = 0

    def on_step_start(self, run_id: str, step: Step, **_: int) -> None:
        self.hooks.append("step_start")

    def on_step_end(self, run_id: str, step: Step, **_: float) -> None:
        self.hooks.append("step_end")

    def on_event(self, event: StreamEvent) -> None:
        self.events.append(event.type)
        if event.type is StreamEventType.STEP_PROGRESS:
            assert self.inside == 1

    @contextmanager
    def span(self, run_id: str, step_id: str | None = None) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


def test_a_raising_tracer_harms_nobody(store: MediaStore, caplog: pytest.LogCaptureFixture) -> None:
    """The others get everything, each failing hook is logged once, and no secret with it."""
    before, after = Remembering(), Remembering()
    play(CompositeTracer([before, Raising(), after]), a_result(store, "r", [a_step("r")] * 2))
    for tracer in (before, after):
        assert StreamEventType.STEP_COMPLETED in tracer.events
        assert len(tracer.events) == 12
        assert tracer.hooks == ["step_start", "step_end"] * 2
        assert tracer.inside == 0
    hooks = ["on_run_start", "on_event", "on_step_start", "span", "on_step_end", "on_run_end"]
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == [
        f"Raising.{hook}" for hook in hooks
    ]
    assert KEY not in caplog.text


def test_what_the_block_raises_passes_through() -> None:
    """A span neither swallows nor replaces what its block raises, even when it breaks itself."""
    for tracer in (safe(Raising()), CompositeTracer([Remembering(), Raising()])):
        with pytest.raises(KeyError, match="mine"), tracer.span("r"):
            raise KeyError("mine")
        with pytest.raises(asyncio.CancelledError), tracer.span("r"):
            raise asyncio.CancelledError


def test_safe_wraps_once_and_none_does_nothing() -> None:
    """No tracer is one that does nothing, and a safe one is not wrapped again."""
    assert isinstance(safe(None), NoOpTracer)
    once = safe(Remembering())
    assert safe(once) is once
    with safe(None).span("r"):
        pass
