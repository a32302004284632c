import io
import threading

import pytest
from rich.console import Console

from genblaze_dagster.pipeline.progress_display import ProgressDisplay, wants_progress
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType

T = StreamEventType
KEY = "sk-proj-" + "a1B2" * 8


def a_console(*, terminal: bool) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        force_interactive=terminal,
        force_jupyter=False,
        width=100,
        color_system=None,
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines_of(display: ProgressDisplay) -> str:
    """What the moving lines show now."""
    console = a_console(terminal=False)
    console.print(display)
    return written(console)


def a_stream(run_id: str = "r", *, total: int = 2, fail: str | None = None) -> list[StreamEvent]:
    events = [
        StreamEvent(type=T.PIPELINE_STARTED, run_id=run_id, total_steps=total, message="film")
    ]
    for index in range(total):
        who = {"run_id": run_id, "step_id": f"{run_id}-{index}", "provider": "p", "model": "m"}
        where = who | {"step_index": index, "total_steps": total}
        events.append(StreamEvent(type=T.STEP_STARTED, **where))
        events.append(
            StreamEvent(
                type=T.STEP_PROGRESS, **who, progress_pct=0.5, data={"status": "processing"}
            )
        )
        last = fail is not None and index == total - 1
        kind = T.STEP_FAILED if last else T.STEP_COMPLETED
        fields = {"error": fail} if last else {}
        events.append(StreamEvent(type=kind, **where, elapsed_sec=1.5, **fields))
    kind = T.PIPELINE_FAILED if fail else T.PIPELINE_COMPLETED
    return [*events, StreamEvent(type=kind, run_id=run_id)]


def test_a_terminal_shows_runs_and_running_steps() -> None:
    """Lines appear with their run and steps, move with progress, and go when these end."""
    console = a_console(terminal=True)
    with ProgressDisplay(console) as display:
        for event in a_stream()[:3]:
            display(event)
        shown = lines_of(display)
        assert "film" in shown
        assert "0/2" in shown
        assert "p/m" in shown
        assert "processing" in shown
        for event in a_stream()[3:-1]:
            display(event)
        shown = lines_of(display)
        assert "2/2" in shown
        assert "p/m" not in shown
        display(a_stream()[-1])
        assert "film" not in lines_of(display)
    assert "film completed" in written(console)


def test_without_a_terminal_every_end_is_one_line() -> None:
    """In a log file there is a line per finished step and run, and no cursor movement."""
    console = a_console(terminal=False)
    with ProgressDisplay(console) as display:
        for event in a_stream(fail="too many foxes"):
            display(event)
    assert written(console).splitlines() == [
        "step 1/2 p/m done (1.5 s)",
        "step 2/2 p/m failed: too many foxes (1.5 s)",
        "film failed",
    ]


def test_vendors_words_cannot_reach_the_terminal() -> None:
    """Escape sequences, line breaks, markup and keys in texts of others are made harmless."""
    console = a_console(terminal=False)
    with ProgressDisplay(console) as display:
        for event in a_stream(fail=f"\x1b[2J[red]\r\nrm \x9b5A {KEY}" + "x" * 500):
            display(event)
    text = written(console)
    assert not set(text) & {"\x1b", "\r", "\x9b"}
    assert "[red]" in text
    assert KEY not in text
    assert len(text.splitlines()) == 3
    assert len(text) < 500


def test_retries_are_told() -> None:
    """While a step waits for its next attempt, its line says why and how long."""
    console = a_console(terminal=True)
    with ProgressDisplay(console) as display:
        for event in a_stream()[:2]:
            display(event)
        display(
            StreamEvent(
                type=T.STEP_RETRIED,
                run_id="r",
                step_id="r-0",
                provider="p",
                model="m",
                phase="poll",
                attempt=2,
                max_attempts=6,
                delay_sec=4.0,
                error_code="rate_limit",
            )
        )
        assert "poll 2/6 failed (rate_limit), again in 4 s" in lines_of(display)


class Screen(io.StringIO):
    """Knows which threads have drawn on it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn_by: set[int] = set()

    def write(self, text: str) -> int:
        self.drawn_by.add(threading.get_ident())
        return super().write(text)


def test_a_batch_stays_on_the_screen_and_costs_little() -> None:
    """Of a hundred runs a dozen are drawn, a line counts all, and drawing does not hold them up."""
    console = a_console(terminal=True)
    console.file = screen = Screen()
    streams = [a_stream(f"r{index}", total=1) for index in range(99)]
    streams.append(a_stream("last", total=1, fail="no"))
    with ProgressDisplay(console) as display:
        screen.drawn_by.clear()
        for stream in streams:
            for event in stream[:2]:
                display(event)
        assert threading.get_ident() not in screen.drawn_by
        shown = lines_of(display)
        assert (shown.count("p/m"), shown.count("film")) == (12, 12)
        assert "0/100, 0 failed" in shown
        for stream in streams:
            # Broken off: the steps never end.
            display(stream[-1])
        assert len(lines_of(display).strip().splitlines()) == 1
        assert "100/100, 1 failed" in lines_of(display)
    assert "film completed" not in written(console)
    assert "film failed" in written(console)


def test_a_step_that_ends_under_another_id_leaves_no_line() -> None:
    """After a fallback the line of the first attempt goes with the step."""
    console = a_console(terminal=True)
    with ProgressDisplay(console) as display:
        for event in a_stream(total=1)[:2]:
            display(event)
        ended = a_stream(total=1)[3].to_dict() | {"step_id": "another"}
        display(StreamEvent.from_dict(ended))
        assert "p/m" not in lines_of(display)


def test_drawing_is_as_asked_and_else_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit wish wins; without one only a terminal gets lines."""
    assert wants_progress(True)
    assert not wants_progress(False)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not wants_progress(None)
    monkeypatch.setattr("sys.stderr", None)
    assert not wants_progress(None)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert wants_progress(None)
