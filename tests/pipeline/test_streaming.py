import asyncio
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.core.enums import StepStatus
from genblaze_dagster.errors import (
    ContentPolicyError,
    ModelError,
    PipelineError,
    ProviderUnavailableError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.tracing import OTelTracer, Tracer
from genblaze_dagster.providers.mock import MockProvider
from genblaze_dagster.providers.protocol import GenerationRequest, Submission
from tests.pipeline.conftest import SteadyClock
from tests.support.providers import CountingProvider
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK

SCHEMAS = Path(__file__).parent.parent / "data" / "schemas" / "events" / "v1"
# What ours tells and genblaze's recording does not need to: nothing may be missing.
VOLATILE = ("timestamp", "run_id", "step_id", "elapsed_sec", "manifest_hash", "request_id")


def types(events: Sequence[StreamEvent]) -> list[str]:
    return [event.type.value for event in events]


def checked(events: Sequence[StreamEvent]) -> None:
    """Every event fits its closed schema, and all are of one run."""
    for event in events:
        schema = json.loads(
            (SCHEMAS / f"{event.type.value.replace('.', '-')}.schema.json").read_text()
        )
        document = event.to_dict()
        jsonschema.validate(document, schema)
        assert StreamEvent.from_dict(document).to_dict() == document
    assert len({event.run_id for event in events}) == 1


def shape(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in VOLATILE}


def collected(pipeline: Pipeline, **options: Any) -> tuple[list[StreamEvent], Exception | None]:
    events: list[StreamEvent] = []
    try:
        for event in pipeline.stream(**options):
            events.append(event)
    except PipelineError as exc:
        checked(events)
        return events, exc
    checked(events)
    return events, None


def declared(name: str) -> Pipeline:
    """The pipelines whose genblaze streams are recorded."""

    def vec(*, fails: bool = False) -> MockProvider:
        if not fails:
            return MockProvider(name="vec")
        return MockProvider(
            name="vec", should_fail=True, error_code="invalid_input", error_message="busy"
        )

    match name:
        case "single":
            return Pipeline("one").step(vec(), model="m", prompt="x")
        case "chain_two":
            return (
                Pipeline("two", chain=True)
                .step(vec(), model="m", prompt="x")
                .step(vec(), model="n", prompt="y", expected_duration_sec=3.0)
            )
        case "fail_fast":
            return (
                Pipeline("ff", chain=True)
                .step(vec(fails=True), model="down", prompt="x")
                .step(vec(), model="m", prompt="y")
            )
        case _:
            raise AssertionError(name)


@pytest.mark.parametrize("name", ["single", "chain_two", "fail_fast"])
def test_streams_are_those_that_genblaze_tells(
    name: str, vectors: Path, store: MediaStore, ledger: Ledger
) -> None:
    """Types, order and fields of the recorded streams, apart from ids, times and hashes."""
    recorded = json.loads((vectors / "genblaze" / "event_streams.json").read_text())[name]
    events, error = collected(declared(name).preflight(False), store=store, ledger=ledger)
    assert [shape(event.to_dict()) for event in events] == [shape(event) for event in recorded]
    assert (error is not None) is (name == "fail_fast")


def test_the_stream_ends_with_the_result_of_the_run(store: MediaStore, ledger: Ledger) -> None:
    """Run id, hash and step ids of the events are those of the stored manifest."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m", prompt="x")
    events, _ = collected(pipeline, store=store, ledger=ledger)
    result = events[-1].result
    assert isinstance(result, PipelineResult)
    assert events[-1].manifest_hash == result.manifest.canonical_hash
    assert {event.run_id for event in events} == {result.run.run_id}
    assert {e.step_id for e in events if e.step_id} == {result.run.steps[0].step_id}
    (done,) = [e for e in events if e.type is StreamEventType.STEP_COMPLETED]
    assert done.step == result.run.steps[0]


def test_completions_appear_when_they_happen(store: MediaStore, ledger: Ledger) -> None:
    """A quick step is told of while a slow one, started with it, still runs."""
    seen: list[str] = []
    # It is done when the quick one was told of; a stream that does so in the end fails by that.
    slow = CountingProvider(gate=lambda _: seen == ["quick"])
    pipeline = (
        Pipeline("p")
        .step(slow, model="m", name="slow", timeout=60)
        .step(ScriptedProvider(), model="m", name="quick")
    )
    for event in pipeline.stream(store=store, ledger=ledger):
        if event.type is StreamEventType.STEP_COMPLETED:
            seen.append(event.step.provider_payload["step_name"])
    assert seen == ["quick", "slow"]


def test_elapsed_counts_from_the_start_of_the_step(
    store: MediaStore, ledger: Ledger, steady_clock: SteadyClock
) -> None:
    """The second step of a chain does not take the time of the first."""

    class Slow(ScriptedProvider):
        async def submit(self, request: GenerationRequest) -> Submission:
            steady_clock.skip(300)
            return await super().submit(request)

    pipeline = Pipeline("p", chain=True).step(Slow(), model="m", timeout=3600)
    pipeline.step(ScriptedProvider(), model="m", prompt="y")
    events, _ = collected(pipeline, store=store, ledger=ledger)
    first, second = [e for e in events if e.type is StreamEventType.STEP_COMPLETED]
    assert first.elapsed_sec is not None
    assert second.elapsed_sec is not None
    assert second.elapsed_sec < 150 < first.elapsed_sec


def test_waiting_steps_say_what_they_wait_for(store: MediaStore, ledger: Ledger) -> None:
    """Serial for inputs, concurrency_limit for a free place."""
    provider = ScriptedProvider(delay=0.02)
    pipeline = Pipeline("p").step(provider, model="m", name="a")
    pipeline.step(provider, model="m", name="b", prompt="b")
    pipeline.step(provider, model="m", name="c", prompt="c", input_from="a")
    events, _ = collected(pipeline, store=store, ledger=ledger, max_concurrency=1)
    queued = {e.step_index: e.reason for e in events if e.type is StreamEventType.STEP_QUEUED}
    assert queued == {1: "concurrency_limit", 2: "serial"}


def test_every_retry_is_told(store: MediaStore, ledger: Ledger) -> None:
    """Retries of submit, poll and fetch, and those of max_retries, are all step.retried."""
    down = [ProviderUnavailableError("down", sent=False) for _ in range(4)]
    provider = ScriptedProvider(
        job=True,
        submit_errors=down[:1],
        poll_errors=down[1:2],
        fetch_errors=[*down[2:], ProviderUnavailableError("down")],
    )
    pipeline = Pipeline("p").step(provider, model="m", retry=QUICK)
    events, error = collected(pipeline, store=store, ledger=ledger, max_retries=1)
    assert error is None
    told = [(e.phase, e.attempt) for e in events if e.type is StreamEventType.STEP_RETRIED]
    assert told == [("submit", 1), ("poll", 1), ("fetch", 1), ("fetch", 2), ("poll", 1)]
    assert {e.error_code for e in events if e.type is StreamEventType.STEP_RETRIED} == {
        "server_error"
    }
    assert len(provider.billed) == 1


def test_a_fallback_ends_under_the_model_that_delivered(store: MediaStore, ledger: Ledger) -> None:
    """Both models are told of under one step id, and the record says who failed."""
    provider = ScriptedProvider(submit_errors=[ModelError("gone", sent=True)])
    pipeline = Pipeline("p").step(provider, model="bad", fallback_models=["good"])
    events, _ = collected(pipeline, store=store, ledger=ledger)
    progress = [(e.model, e.data["status"]) for e in events if e.data]
    assert progress[0] == ("bad", "submitted")
    assert ("bad", "failed") in progress
    assert progress[-1] == ("good", "succeeded")
    done = next(e for e in events if e.type is StreamEventType.STEP_COMPLETED)
    assert done.model == "good"
    assert done.step.metadata["fallback_attempts"] == [{"model": "bad", "code": "model_error"}]
    assert len({e.step_id for e in events if e.step_id}) == 1


def test_heartbeats_can_be_left_out(store: MediaStore, ledger: Ledger) -> None:
    """Only heartbeats are filtered."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    with_, _ = collected(pipeline, store=store, ledger=ledger)
    without, _ = collected(pipeline, store=store, ledger=ledger, heartbeats=False)
    assert types(with_) == types(without)


def test_an_error_is_raised_after_the_last_event(store: MediaStore, ledger: Ledger) -> None:
    """The stream tells all of it, pipeline.failed too, before it raises."""
    bad = ScriptedProvider(submit_errors=[ContentPolicyError("refused")])
    events, error = collected(Pipeline("p").step(bad, model="m"), store=store, ledger=ledger)
    assert types(events)[-2:] == ["step.failed", "pipeline.failed"]
    assert isinstance(error, PipelineError)
    assert events[-1].message == "Step 0 (scripted/m): refused"
    quiet = Pipeline("p").step(bad, model="m")
    bad.submit_errors = [ContentPolicyError("refused")]
    events, error = collected(quiet, store=store, ledger=ledger, raise_on_failure=False)
    assert error is None
    assert events[-1].run_status == "failed"


def test_leaving_a_stream_cancels_the_run(store: MediaStore, ledger: Ledger) -> None:
    """The job is cancelled at the vendor, and no thread is left."""
    provider = ScriptedProvider(job=True, polls=10_000)
    pipeline = Pipeline("p").step(provider, model="m")
    for event in pipeline.stream(store=store, ledger=ledger):
        if event.data.get("status") == "processing":
            break
    deadline = time.monotonic() + 60
    while _threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _threads() == []
    assert len(provider.cancelled) == 1


def _threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("genblaze-")]


def test_leaving_an_async_stream_cancels_the_run(store: MediaStore, ledger: Ledger) -> None:
    """After aclose() no task is left, and the job is cancelled at the vendor."""
    provider = ScriptedProvider(job=True, polls=10_000)

    async def body() -> int:
        events = Pipeline("p").step(provider, model="m").astream(store=store, ledger=ledger)
        async for event in events:
            if event.data.get("status") == "processing":
                break
        await events.aclose()
        return len(asyncio.all_tasks())

    assert asyncio.run(body()) == 1
    assert len(provider.cancelled) == 1


def test_two_streams_of_one_pipeline_do_not_mix(store: MediaStore, ledger: Ledger) -> None:
    """Each has a run id of its own."""
    pipeline = Pipeline("p").step(ScriptedProvider(delay=0.02), model="m")

    async def one() -> list[StreamEvent]:
        return [event async for event in pipeline.astream(store=store, ledger=ledger)]

    async def body() -> list[list[StreamEvent]]:
        return await asyncio.gather(one(), one())

    first, second = asyncio.run(body())
    checked(first)
    checked(second)
    assert first[0].run_id != second[0].run_id


def test_a_private_prompt_is_in_no_event(store: MediaStore, ledger: Ledger) -> None:
    """What the vendor says may repeat it, so its words are left out."""
    secret = "the heir is not his son"
    provider = ScriptedProvider(submit_errors=[ContentPolicyError(f"refused: {secret}")])
    pipeline = Pipeline("p").step(provider, model="m", prompt=secret, prompt_visibility="private")
    events, error = collected(pipeline, store=store, ledger=ledger)
    assert error is not None
    assert secret not in json.dumps([event.to_dict() for event in events])
    failed = events[-1].result.run.steps[0]
    assert failed.status is StepStatus.FAILED
    assert secret not in events[-1].result.manifest.model_dump_json()


def test_tracers_hear_of_everything_in_order(store: MediaStore, ledger: Ledger) -> None:
    """Hooks and events come in the order that the tracer's documentation says."""
    told: list[str] = []

    class Recording(Tracer):
        def on_run_start(self, run_id: str, name: str | None, **_: Any) -> None:
            told.append("run_start")

        def on_step_start(self, run_id: str, step: Any, **_: Any) -> None:
            told.append("step_start")

        def on_event(self, event: StreamEvent) -> None:
            if event.type is not StreamEventType.STEP_PROGRESS:
                told.append(event.type.value)

        def on_step_end(self, run_id: str, step: Any, **_: Any) -> None:
            told.append("step_end")

        def on_run_end(self, run_id: str, result: PipelineResult) -> None:
            told.append("run_end")
            raise RuntimeError("a tracer harms nothing")

    pipeline = Pipeline("p").step(ScriptedProvider(), model="m").tracer(Recording())
    pipeline.run(store=store, ledger=ledger)
    assert told == [
        *("run_start", "pipeline.started", "step.started", "step_start"),
        *("step_end", "step.completed", "pipeline.completed", "run_end"),
    ]


def test_the_spans_of_a_run_are_one_trace(store: MediaStore, ledger: Ledger) -> None:
    """What a provider traces belongs to its step's span, and that to the run's."""
    exporter = InMemorySpanExporter()
    spans_of = TracerProvider()
    spans_of.add_span_processor(SimpleSpanProcessor(exporter))

    class Traced(ScriptedProvider):
        async def submit(self, request: GenerationRequest) -> Submission:
            with spans_of.get_tracer("vendor").start_as_current_span("http"):
                return await super().submit(request)

    pipeline = Pipeline("p", tracer=OTelTracer(tracer_provider=spans_of))
    pipeline.step(Traced(), model="m", name="a", prompt="a")
    pipeline.step(Traced(), model="m", name="b", prompt="b", input_from="a")
    pipeline.run(store=store, ledger=ledger)
    spans = exporter.get_finished_spans()
    (run,) = [span for span in spans if span.name == "pipeline:p"]
    steps = [span for span in spans if span.name == "step:scripted/m"]
    calls = [span for span in spans if span.name == "http"]
    assert {span.context.trace_id for span in spans} == {run.context.trace_id}
    assert [span.parent.span_id for span in steps] == [run.context.span_id] * 2
    assert [span.parent.span_id for span in calls] == [span.context.span_id for span in steps]
