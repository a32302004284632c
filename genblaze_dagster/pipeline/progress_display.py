"""Running steps on a terminal or in a notebook, drawn from the events of a stream."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self, TextIO, cast

from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

_SHOWN_CHARS = 160
# A batch has hundreds of steps at once; the rest is in the line of the run.
_MOST_ROWS = 12


def wants_progress(progress: bool | None) -> bool:
    """Whether to draw: as asked, and when not asked, if somebody looks at a terminal or notebook.

    None draws when stderr is a terminal, or inside Jupyter.
    """
    if progress is not None:
        return progress
    # A program without a console, such as pythonw, has no stderr.
    stderr = cast("TextIO | None", sys.stderr)
    return "ipykernel" in sys.modules or (stderr is not None and stderr.isatty())


@dataclass(slots=True)
class _RunLine:
    task: "TaskID | None"
    name: str
    total: int
    done: int = 0


@dataclass(frozen=True, slots=True)
class _StepLine:
    task: "TaskID"
    run_id: str | None
    step_index: int | None


class ProgressDisplay:
    """Draws a line per run and, below, one per running step; feed it every event of a stream.

    On a terminal and in a notebook the lines move. Anywhere else one line is printed when a step
    or a run ends. Of many runs at once some are drawn, and a line counts them all; of those that
    went well nothing is printed then. Use it as a context manager around the stream. Prompts and
    URLs are not shown, and what vendors say cannot move the cursor.

    Args:
        console: where to draw; stderr when None.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._is_live = self._console.is_terminal or (
            # Without widgets a notebook cannot redraw.
            self._console.is_jupyter and find_spec("ipywidgets") is not None
        )
        self._runs: dict[str | None, _RunLine] = {}
        self._steps: dict[str | None, _StepLine] = {}
        self._started = self._ended = self._failed = 0
        self._all: TaskID | None = None
        self._progress = _new_progress(self._console, redirect=self._is_live)

    def __enter__(self) -> Self:
        if self._is_live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._progress.stop()

    def __call__(self, event: StreamEvent) -> None:
        """Draw an event; those there is nothing to draw for are passed over."""
        kind = event.type
        if kind is StreamEventType.PIPELINE_STARTED:
            self._start_run(event)
        elif kind is StreamEventType.STEP_STARTED:
            self._start_step(event)
        elif kind is StreamEventType.STEP_PROGRESS:
            self._move_step(event)
        elif kind is StreamEventType.STEP_RETRIED:
            self._retry_step(event)
        elif kind in (StreamEventType.STEP_COMPLETED, StreamEventType.STEP_FAILED):
            self._end_step(event)
        elif kind in (StreamEventType.PIPELINE_COMPLETED, StreamEventType.PIPELINE_FAILED):
            self._end_run(event)

    def __rich__(self) -> "RenderableType":
        """Return the lines as they are now, for a layout of your own."""
        return self._progress.get_renderable()

    def _start_run(self, event: StreamEvent) -> None:
        self._started += 1
        if self._started > 1:
            self._count_runs()
        name = _plain(event.message or "pipeline")
        total = event.total_steps or 0
        task = None
        if len(self._runs) < _MOST_ROWS:
            task = self._progress.add_task(name, total=total, note=f"0/{total}")
        self._runs[event.run_id] = _RunLine(task, name, total)

    def _count_runs(self) -> None:
        note = f"{self._ended}/{self._started}, {self._failed} failed"
        if self._all is None:
            self._all = self._progress.add_task("runs", note=note)
        self._progress.update(self._all, total=self._started, completed=self._ended, note=note)

    def _start_step(self, event: StreamEvent) -> None:
        if len(self._steps) < _MOST_ROWS:
            task = self._progress.add_task(f"  {_name(event)}", total=None, note="started")
            self._steps[event.step_id] = _StepLine(task, event.run_id, event.step_index)

    def _move_step(self, event: StreamEvent) -> None:
        line = self._steps.get(event.step_id)
        if line is None:
            return
        status = event.data.get("status")
        note = event.message or (status if isinstance(status, str) else "")
        if event.progress_pct is not None:
            self._progress.update(line.task, total=1.0, completed=event.progress_pct)
        if note:
            self._progress.update(line.task, note=_plain(note))

    def _retry_step(self, event: StreamEvent) -> None:
        line = self._steps.get(event.step_id)
        if line is not None:
            again = f"{event.attempt}/{event.max_attempts} failed ({event.error_code or 'unknown'})"
            self._progress.update(
                line.task, note=_plain(f"{event.phase} {again}, again in {event.delay_sec:.0f} s")
            )

    def _end_step(self, event: StreamEvent) -> None:
        # By index too: a step that fell back to another model may end under another id.
        self._remove(
            lambda key, line: (
                key == event.step_id
                or (line.run_id, line.step_index) == (event.run_id, event.step_index)
            )
        )
        run = self._runs.get(event.run_id)
        if run is not None:
            run.done += 1
        if run is not None and run.task is not None:
            self._progress.update(run.task, completed=run.done, note=f"{run.done}/{run.total}")
        failed = event.type is StreamEventType.STEP_FAILED
        if failed or not self._is_live:
            self._print_step(event, failed)

    def _print_step(self, event: StreamEvent, failed: bool) -> None:
        outcome = f"failed: {event.error or 'no reason given'}" if failed else "done"
        position = f"{(event.step_index or 0) + 1}/{event.total_steps}"
        text = f"step {position} {_name(event)} {outcome} ({event.elapsed_sec or 0:.1f} s)"
        self._print(text, "red" if failed else "")

    def _end_run(self, event: StreamEvent) -> None:
        self._remove(lambda _, line: line.run_id == event.run_id)
        run = self._runs.pop(event.run_id, None)
        if run is not None and run.task is not None:
            self._progress.remove_task(run.task)
        failed = event.type is StreamEventType.PIPELINE_FAILED
        self._ended += 1
        self._failed += failed
        name = run.name if run is not None else "pipeline"
        if failed:
            self._print(f"{name} failed", "red")
        elif self._all is None or not self._is_live:
            self._print(f"{name} completed", "green")
        if self._all is not None:
            self._count_runs()

    def _remove(self, is_over: Callable[[str | None, _StepLine], bool]) -> None:
        for key in [key for key, line in self._steps.items() if is_over(key, line)]:
            self._progress.remove_task(self._steps.pop(key).task)

    def _print(self, text: str, style: str) -> None:
        from rich.text import Text

        self._console.print(Text(_plain(text), style=style), soft_wrap=True)


def _new_progress(console: "Console", *, redirect: bool) -> "Progress":
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    class Calm(Progress):
        """Drawn ten times a second by its thread, not for every new line on the caller's time."""

        def refresh(self) -> None:
            """Leave it to the thread."""

    return Calm(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=console,
        # What the user prints stays above the lines.
        redirect_stdout=redirect,
        redirect_stderr=redirect,
    )


def _name(event: StreamEvent) -> str:
    return _plain(f"{event.provider}/{event.model}")


def _plain(text: str) -> str:
    """Return a vendor's text as one line without control characters."""
    cut = redact(text, max_chars=_SHOWN_CHARS)
    return "".join(char if char.isprintable() else " " for char in cut)
