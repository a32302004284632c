import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from genblaze_dagster.core.enums import ProviderErrorCode, StepStatus
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.tracing import OTelTracer
from genblaze_dagster.storage.store import MediaStore
from tests.pipeline.traced_run import KEY, a_result, a_step, an_event, play


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def test_one_trace_per_run_below_the_current_span(
    store: MediaStore, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """Run and steps hang below the caller's span, and instrumented work below its step."""
    provider, exporter = spans
    other = provider.get_tracer("http")

    class Working(OTelTracer):
        def on_event(self, event: StreamEvent) -> None:
            super().on_event(event)
            if event.progress_pct is not None:
                other.start_span("POST").end()

    tracer = Working(tracer_provider=provider)
    with other.start_as_current_span("dagster step") as caller:
        play(tracer, a_result(store, "r", [a_step("r")]))
        assert trace.get_current_span() is caller
    found = named(exporter)
    run, step, post = found["pipeline:two"], found["step:openai-dalle/m"], found["POST"]
    assert {span.context.trace_id for span in found.values()} == {caller.context.trace_id}
    assert run.parent.span_id == caller.context.span_id
    assert step.parent.span_id == run.context.span_id
    assert post.parent.span_id == step.context.span_id
    assert [event.name for event in step.events] == ["progress"]
    assert step.events[0].attributes == {
        "progress_pct": 0.5,
        "preview_url": "https://example.com/p.png",
    }


def test_attributes_follow_the_conventions(
    store: MediaStore, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """Spans carry genblaze's attributes, those of the GenAI conventions, and the caller's."""
    provider, exporter = spans
    tracer = OTelTracer(
        tracer_provider=provider,
        attributes=lambda run_id, step: {"dagster.run_id": f"d-{run_id}", "is_step": bool(step)},
    )
    payload = {"job_id": "j1", "usage": {"input_tokens": 3, "output_tokens": 40}}
    step = a_step("r", seed=7, model_version="m-2", retries=1, provider_payload=payload)
    result = a_result(store, "r", [step])
    play(tracer, result)
    found = named(exporter)
    run, span = found["pipeline:two"], found["step:openai-dalle/m"]
    assert span.kind is SpanKind.CLIENT
    assert span.attributes == {
        "genblaze.run_id": "r",
        "genblaze.step_id": step.step_id,
        "genblaze.step_index": 0,
        "genblaze.provider": "openai-dalle",
        "genblaze.model": "m",
        "genblaze.duration_ms": 12.345,
        "genblaze.status": "succeeded",
        "genblaze.cost_usd": 0.25,
        "genblaze.retries": 1,
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "openai",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.request.seed": 7,
        "gen_ai.output.type": "image",
        "gen_ai.response.model": "m-2",
        "gen_ai.response.id": "j1",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 40,
        "dagster.run_id": "d-r",
        "is_step": True,
    }
    assert run.attributes == {
        "genblaze.run_id": "r",
        "genblaze.tenant_id": "acme",
        "genblaze.total_steps": 1,
        "genblaze.status": "completed",
        "genblaze.manifest_hash": result.manifest.canonical_hash,
        "genblaze.cost_usd": 0.25,
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "two",
        "dagster.run_id": "d-r",
        "is_step": False,
    }
    assert {run.status.status_code, span.status.status_code} == {StatusCode.UNSET}


def test_errors_are_set_on_step_and_run(
    store: MediaStore, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """A failed step and its run have status ERROR, with the message but not its secrets."""
    provider, exporter = spans
    failed = a_step(
        "r",
        1,
        model_version=None,
        status=StepStatus.FAILED,
        error=f"refused; {KEY}",
        error_code=ProviderErrorCode.AUTH_FAILURE,
        provider="luma",
    )
    play(OTelTracer(tracer_provider=provider), a_result(store, "r", [a_step("r"), failed]))
    found = named(exporter)
    step, run = found["step:luma/m"], found["pipeline:two"]
    assert step.status.status_code is StatusCode.ERROR
    assert step.status.description == "refused; [REDACTED]"
    assert step.attributes["error.type"] == "auth_failure"
    assert run.status.status_code is StatusCode.ERROR
    assert run.status.description == "1 of 2 steps failed"
    assert found["step:openai-dalle/m"].status.status_code is StatusCode.UNSET


def test_broken_off_steps_and_fallbacks_leave_no_open_span(
    store: MediaStore, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """A step that ends under another id is the same span; one that never ends ends with its run."""
    provider, exporter = spans
    tracer = OTelTracer(tracer_provider=provider)
    first, second = a_step("r"), a_step("r", 1, provider="luma")
    tracer.on_run_start("r", None)
    for index, step in enumerate((first, second)):
        tracer.on_step_start("r", step, step_index=index, total_steps=2)
    tracer.on_step_end("r", a_step("r", model_version="m-b"), duration_ms=1, step_index=0)
    tracer.on_run_end("r", a_result(store, "r", [first]))
    found = named(exporter)
    assert found["step:openai-dalle/m"].attributes["gen_ai.response.model"] == "m-b"
    assert found["step:luma/m"].attributes["genblaze.status"] == "cancelled"
    assert found.keys() == {"pipeline:anonymous", "step:openai-dalle/m", "step:luma/m"}


def test_concurrent_runs_do_not_mix(
    store: MediaStore, spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """Runs side by side on one loop, through one tracer, are traces of their own."""
    provider, exporter = spans
    tracer = OTelTracer(tracer_provider=provider)
    work = provider.get_tracer("work")

    async def run(run_id: str) -> None:
        step = a_step(run_id)
        tracer.on_run_start(run_id, run_id)
        tracer.on_step_start(run_id, step, step_index=0, total_steps=1)
        with tracer.span(run_id, step.step_id):
            await asyncio.sleep(0)
            await asyncio.to_thread(lambda: work.start_span(f"work:{run_id}").end())
        tracer.on_step_end(run_id, step, duration_ms=1, step_index=0)
        tracer.on_run_end(run_id, a_result(store, run_id, [step]))

    async def both() -> None:
        await asyncio.gather(run("a"), run("b"))

    asyncio.run(both())
    found = named(exporter)
    for run_id in ("a", "b"):
        mine = found[f"pipeline:{run_id}"].context.trace_id
        assert found[f"work:{run_id}"].context.trace_id == mine
    assert found["work:a"].context.trace_id != found["work:b"].context.trace_id


def test_agent_events_stand_on_the_callers_span_without_words(
    spans: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    """What an agent loop does is noted on the span around it; feedback may quote prompts."""
    provider, exporter = spans
    tracer = OTelTracer(tracer_provider=provider)
    with provider.get_tracer("x").start_as_current_span("loop"):
        tracer.on_event(
            an_event(
                StreamEventType.AGENT_ITERATION_EVALUATED,
                iteration=0,
                passed=False,
                score=0.5,
                feedback="less foxes",
            )
        )
    (event,) = named(exporter)["loop"].events
    assert event.name == "agent.iteration.evaluated"
    assert event.attributes == {"iteration": 0, "passed": False, "score": 0.5}


def test_without_the_package_nothing_is_traced_and_nothing_breaks() -> None:
    """Where opentelemetry is not installed the tracer is a silent one that does nothing."""
    program = """
import sys
sys.modules["opentelemetry"] = None
from genblaze_dagster.pipeline.tracing import OTelTracer
from genblaze_dagster.pipeline.stream_events import StreamEvent
tracer = OTelTracer(attributes=lambda run_id, step: 1 / 0)
assert not tracer.is_enabled
tracer.on_run_start("r", "n")
with tracer.span("r", "s"):
    tracer.on_event(StreamEvent(type="agent.completed", passed=True, iterations=1))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
