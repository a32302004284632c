import asyncio
import gc
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.agent import (
    AgentLoop,
    AgentResult,
    CallableEvaluator,
    EvaluationResult,
)
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.tracing import Tracer
from genblaze_dagster.providers.mock import MockProvider
from tests.pipeline.test_agent import drawing, places, scores
from tests.support.scripted import ScriptedProvider


def shape(events: Sequence[StreamEvent]) -> list[tuple[Any, ...]]:
    """What of a stream does not depend on when and where it was recorded."""
    kept = ("iteration", "total", "message", "passed", "score", "feedback", "iterations")
    return [
        (event.type, *(getattr(event, name) for name in kept))
        for event in events
        if event.type is not StreamEventType.STEP_PROGRESS
    ]


def guide_loop(provider: Any) -> AgentLoop:
    def judge(result: PipelineResult) -> EvaluationResult:
        return EvaluationResult(result.run.name == "i1", score=0.5, feedback="more")

    return AgentLoop(drawing(provider), CallableEvaluator(judge))


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_stream_is_that_of_the_recorded_loop(
    way: str, store: MediaStore, ledger: Ledger, vectors: Path
) -> None:
    """The same events in the same order as genblaze's, and the result at the end."""
    recorded = json.loads((vectors / "genblaze" / "event_streams.json").read_text())
    zeroed = [
        {name: value for name, value in one.items() if value != "<volatile>"}
        for one in recorded["agent_two_iterations"]
    ]
    loop = guide_loop(MockProvider(name="vec", cost_usd=0.1))

    async def collected() -> list[StreamEvent]:
        return [event async for event in loop.astream(**places(store, ledger))]

    events = list(loop.stream(**places(store, ledger))) if way == "sync" else run_sync(collected())
    expected = [
        (one["type"], *(one.get(n) for n in ("iteration", "total", "message", "passed", "score")))
        for one in zeroed
        if one["type"] != "step.progress"
    ]
    assert [one[:6] for one in shape(events)] == expected
    assert [StreamEvent.from_dict(event.to_dict()) for event in events] == events
    result = events[-1].result
    assert isinstance(result, AgentResult)
    assert (result.passed, events[-1].total_cost_usd) == (True, pytest.approx(0.2))


def test_events_come_when_they_happen(store: MediaStore, ledger: Ledger) -> None:
    """An iteration is told of before it has run, and its evaluation before the next one."""
    provider = ScriptedProvider()
    told: list[tuple[str, int]] = []
    for event in guide_loop(provider).stream(**places(store, ledger)):
        if event.type.startswith("agent"):
            told.append((event.type.value, provider.submits))
    assert told == [
        ("agent.iteration.started", 0),
        ("agent.iteration.evaluated", 1),
        ("agent.iteration.started", 1),
        ("agent.iteration.evaluated", 2),
        ("agent.completed", 2),
    ]


def test_leaving_a_stream_cancels_the_job(store: MediaStore, ledger: Ledger) -> None:
    """The vendor is told, no next iteration starts, and no thread stays."""
    before = threading.active_count()
    provider = ScriptedProvider(job=True, polls=10_000)
    for event in guide_loop(provider).stream(**places(store, ledger)):
        if event.type is StreamEventType.STEP_PROGRESS:
            break
    gc.collect()
    assert (provider.submits, len(provider.cancelled)) == (1, 1)
    deadline = time.monotonic() + 60
    while threading.active_count() > before:
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.01)


def test_leaving_an_async_stream_cancels_the_job(store: MediaStore, ledger: Ledger) -> None:
    """Closing the generator waits until everything is cleaned up."""
    provider = ScriptedProvider(job=True, polls=10_000)

    async def left() -> set[asyncio.Task[Any]]:
        stream = guide_loop(provider).astream(**places(store, ledger))
        async for event in stream:
            if event.type is StreamEventType.STEP_PROGRESS:
                break
        await stream.aclose()
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert run_sync(left()) == set()
    assert (provider.submits, len(provider.cancelled)) == (1, 1)


def test_cancelling_the_loop_cancels_the_job(store: MediaStore, ledger: Ledger) -> None:
    """A task that is cancelled leaves nothing running."""
    provider = ScriptedProvider(job=True, polls=10_000)

    async def cancelled() -> None:
        task = asyncio.ensure_future(guide_loop(provider).arun(**places(store, ledger)))
        while not provider.submits:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_sync(cancelled())
    assert len(provider.cancelled) == 1


class Watching(Tracer):
    def __init__(self) -> None:
        self.events: list[StreamEvent] = []
        self.runs: list[str] = []

    def on_event(self, event: StreamEvent) -> None:
        self.events.append(event)

    def on_run_end(self, run_id: str, result: PipelineResult) -> None:
        self.runs.append(run_id)


def test_a_tracer_sees_the_runs_and_the_loop(store: MediaStore, ledger: Ledger) -> None:
    """The loop's tracer gets what the stream tells, and does not replace the pipeline's own."""
    own, of_loop = Watching(), Watching()
    pipeline = Pipeline("p", tracer=own).step(ScriptedProvider(), model="m")
    loop = AgentLoop(lambda _: pipeline, scores(0.1, 1.0), tracer=of_loop)
    events = list(loop.stream(**places(store, ledger)))
    assert shape(of_loop.events) == shape(events)
    assert (
        own.runs
        == of_loop.runs
        == [
            one.result.run.run_id
            for one in events[-1].result.iterations  # type: ignore[union-attr]
        ]
    )
    assert not any(event.type.startswith("agent") for event in own.events)
    # The factory's pipeline is its own: nothing was set on it.
    assert (pipeline.run_tracer, pipeline.parent_run_id) == (own, None)


def test_a_tracer_that_raises_harms_nothing(store: MediaStore, ledger: Ledger) -> None:
    """What it raises is logged."""

    class Broken(Tracer):
        def on_event(self, event: StreamEvent) -> None:
            raise RuntimeError("no")

    loop = AgentLoop(drawing(ScriptedProvider()), scores(1.0), tracer=Broken())
    assert loop.run(**places(store, ledger)).passed


def test_every_kind_of_run_gives_the_same(store: MediaStore, ledger: Ledger) -> None:
    """run in a running loop, arun and stream end with equal results."""

    async def in_loop() -> list[AgentResult]:
        first = guide_loop(ScriptedProvider()).run(**places(store, ledger))
        second = await guide_loop(ScriptedProvider()).arun(**places(store, ledger))
        return [first, second]

    results = run_sync(in_loop())
    assert [len(one.iterations) for one in results] == [2, 2]
    hashes = [[it.result.manifest.canonical_hash for it in one.iterations] for one in results]
    assert hashes[0] == hashes[1]
