"""The hooks through which a run is watched."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from genblaze_dagster.core.models import Step
from genblaze_dagster.pipeline.stream_events import StreamEvent

if TYPE_CHECKING:
    from genblaze_dagster.pipeline.result import PipelineResult


class Tracer:
    """Base of tracers: every hook does nothing; override those you need.

    Hooks are called on the run's event loop and must be quick. What they raise is logged and
    never reaches the run. Order: `on_run_start`, then per step `on_step_start` and `on_step_end`,
    at last `on_run_end`. `on_event` gets every event of the run's stream when it happens, those
    of the start and end of runs and steps too.
    """

    def on_run_start(
        self,
        run_id: str,
        name: str | None,
        *,
        tenant_id: str | None = None,
        total_steps: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """A run begins; `name` is the pipeline's."""

    def on_step_start(self, run_id: str, step: Step, *, step_index: int, total_steps: int) -> None:
        """A step begins to run; it was only queued before."""

    def on_event(self, event: StreamEvent) -> None:
        """Something happened."""

    def on_step_end(self, run_id: str, step: Step, *, duration_ms: float, step_index: int) -> None:
        """A step ended, well or badly: see `step.status`. `duration_ms` counts from its start."""

    def on_run_end(self, run_id: str, result: "PipelineResult") -> None:
        """A run ended, well or badly: see `result.run.status`."""

    def span(self, run_id: str, step_id: str | None = None) -> AbstractContextManager[object]:
        """Make a started run, or a started step of it, current for the code of a block.

        Whatever traces itself in there, such as an instrumented HTTP client, becomes part of
        the run's trace. It neither starts nor ends anything. Threads need the context variables
        of the block, which `asyncio.to_thread` hands over.
        """
        return nullcontext()


class NoOpTracer(Tracer):
    """Watches nothing."""
