"""A run made of given steps, told to a tracer."""

from datetime import UTC, datetime

from genblaze_dagster.core.enums import RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.tracing import Tracer
from genblaze_dagster.storage.store import MediaStore

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = "sk-proj-" + "a1B2" * 8


def a_step(run_id: str, index: int = 0, **fields: object) -> Step:
    given = {"status": StepStatus.SUCCEEDED, "provider": "openai-dalle", "cost_usd": 0.25} | fields
    return Step(model="m", run_id=run_id, step_index=index, prompt="foxes", **given)


def a_result(store: MediaStore, run_id: str, steps: list[Step]) -> PipelineResult:
    failed = any(step.status is not StepStatus.SUCCEEDED for step in steps)
    status = RunStatus.FAILED if failed else RunStatus.COMPLETED
    run = Run(run_id=run_id, name="two", steps=steps, status=status)
    return PipelineResult(run, Manifest.from_run(run), store)


def an_event(kind: StreamEventType, **fields: object) -> StreamEvent:
    return StreamEvent(type=kind, timestamp=MOMENT, **fields)


def play(tracer: Tracer, result: PipelineResult) -> None:
    """Call the hooks as a run of these steps does, each step's work within its span."""
    run_id, steps = result.run.run_id, result.run.steps
    count = len(steps)
    tracer.on_run_start(run_id, "two", tenant_id="acme", total_steps=count)
    tracer.on_event(
        an_event(StreamEventType.PIPELINE_STARTED, run_id=run_id, total_steps=count, message="two")
    )
    for index, step in enumerate(steps):
        who = {"run_id": run_id, "step_id": step.step_id, "provider": "p", "model": "m"}
        where = who | {"step_index": index, "total_steps": count}
        tracer.on_event(an_event(StreamEventType.STEP_QUEUED, **where, reason="serial"))
        tracer.on_event(an_event(StreamEventType.STEP_STARTED, **where))
        tracer.on_step_start(run_id, step, step_index=index, total_steps=count)
        with tracer.span(run_id, step.step_id):
            url = "https://example.com/p.png?sig=abc"
            tracer.on_event(
                an_event(StreamEventType.STEP_PROGRESS, **who, progress_pct=0.5, preview_url=url)
            )
            tracer.on_event(an_event(StreamEventType.STEP_PROGRESS, **who, is_heartbeat=True))
        tracer.on_step_end(run_id, step, duration_ms=12.345, step_index=index)
        failed = step.status is StepStatus.FAILED
        kind = StreamEventType.STEP_FAILED if failed else StreamEventType.STEP_COMPLETED
        tracer.on_event(an_event(kind, **where, elapsed_sec=0.1))
    tracer.on_event(an_event(StreamEventType.PIPELINE_COMPLETED, run_id=run_id))
    tracer.on_run_end(run_id, result)
