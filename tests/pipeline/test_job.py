import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.errors import ProviderTimeoutError, ProviderUnavailableError, RateLimitError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.events import StepEventType
from genblaze_dagster.pipeline.generation import Generation, render
from genblaze_dagster.pipeline.job import Job
from genblaze_dagster.pipeline.stream_events import StreamEvent
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.base import SyncProvider
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Provider,
    Submission,
)
from genblaze_dagster.providers.values import ProgressEvent
from tests.pipeline.conftest import SteadyClock
from tests.providers.guide_style import Jobs
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, everything, step


@dataclass
class Record:
    """A ledger row that only remembers what it was told."""

    told: list[str] = field(default_factory=list)

    async def sending(self) -> None:
        self.told.append("sending")

    async def submitted(self, job_id: str, estimated_seconds: float | None) -> None:
        self.told.append(job_id)


@dataclass
class Told:
    """What a job says while it runs."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, kind: StepEventType, **details: Any) -> None:
        self.events.append({"kind": kind, **details})

    @property
    def heartbeats(self) -> int:
        return sum(bool(event.get("is_heartbeat")) for event in self.events)


def generation(provider: Provider, *, timeout: float = 60.0) -> Generation:
    spec = step(provider, timeout=timeout)  # type: ignore[arg-type]
    return render(spec, provider, variables={"subject": "fox"}, inputs=())


def job(provider: Provider, told: Told, *, timeout: float = 60.0, **options: Any) -> Job:
    asked = generation(provider, timeout=timeout)
    return Job(generation=asked, policy=QUICK, record=Record(), notify=told, **options)


def ended(run: Callable[[], Awaitable[object]]) -> object:
    """Run to the end, and check that nothing goes on after it."""

    async def body() -> object:
        try:
            result: object = await run()
        except (ProviderTimeoutError, ProviderUnavailableError, asyncio.CancelledError) as exc:
            result = exc
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result

    return asyncio.run(body())


def test_a_long_submit_is_heard_of() -> None:
    """A one-call API that takes long shows heartbeats in the rhythm of polling, and no other sign."""
    told = Told()

    class Slow(ScriptedProvider):
        async def submit(self, request: GenerationRequest) -> Submission:
            while told.heartbeats < 3:
                await asyncio.sleep(0.01)
            return await super().submit(request)

    begun = time.monotonic()
    ended(job(Slow(), told, heartbeat_seconds=0.05).run)
    assert 3 <= told.heartbeats <= (time.monotonic() - begun) / 0.05
    statuses = [event["status"] for event in told.events]
    assert statuses == ["submitted", *["processing"] * told.heartbeats, "succeeded"]


def test_a_quick_submit_has_no_heartbeat() -> None:
    """What answers before the first heartbeat is due is told of as before."""
    told = Told()
    ended(job(ScriptedProvider(), told, heartbeat_seconds=60).run)
    assert told.heartbeats == 0


def test_a_long_blocking_call_of_a_guide_style_provider_is_heard_of() -> None:
    """A `generate` that blocks its thread does not silence the heartbeats."""
    told = Told()

    class Slow(SyncProvider):
        name = "slow"

        def generate(self, step: Any, config: Any = None) -> Any:
            deadline = time.monotonic() + 60
            while told.heartbeats < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            raise RateLimitError("busy", sent=None)

    with pytest.raises(RateLimitError):
        ended(job(adapt(Slow()), told, heartbeat_seconds=0.05).run)
    assert told.heartbeats >= 2


@pytest.mark.parametrize("is_late", [True, False], ids=["out-of-time", "cancelled"])
def test_heartbeats_end_with_the_step(is_late: bool, steady_clock: SteadyClock) -> None:
    """Neither a timeout nor a cancellation leaves anything running; the answer is waited for."""
    told = Told()

    class Slow(ScriptedProvider):
        async def submit(self, request: GenerationRequest) -> Submission:
            while not told.heartbeats:
                await asyncio.sleep(0.01)
            if is_late:
                steady_clock.skip(400)
            else:
                task.cancel()
            await asyncio.sleep(0.05)
            return await super().submit(request)

    slow = job(Slow(), told, timeout=300, heartbeat_seconds=0.05)
    task: asyncio.Future[object]

    async def run() -> object:
        nonlocal task
        task = asyncio.ensure_future(slow.run())
        return await task

    result = ended(run)
    # It was paid for, so it is returned to be stored.
    assert not isinstance(result, BaseException)
    assert slow.interrupted is not is_late
    assert told.heartbeats >= 1


def test_a_lost_answer_ends_the_heartbeats() -> None:
    """An error of the submit is raised as it is."""
    told = Told()
    lost = ScriptedProvider(submit_errors=[ProviderUnavailableError("reset", sent=None)])
    result = ended(job(lost, told, heartbeat_seconds=0.01).run)
    assert isinstance(result, ProviderUnavailableError)


def test_long_pauses_between_polls_keep_their_rhythm() -> None:
    """Polling sleeps in pieces of one heartbeat when it sleeps long."""
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    class Patient(ScriptedProvider):
        async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
            if naps:
                return JobStatus(JobState.SUCCEEDED)
            return JobStatus(JobState.RUNNING, poll_after=25.0)

    told = Told()
    ended(job(Patient(job=True), told, sleep=sleep).run)
    assert naps == [10.0, 10.0, 5.0]
    assert told.heartbeats == 2


def test_time_that_ends_before_anything_is_sent_holds_nothing() -> None:
    """A timeout while nothing is on the wire says that nothing was sent."""

    class Stuck(Record):
        async def sending(self) -> None:
            await asyncio.sleep(60)

    stuck = job(ScriptedProvider(), Told(), timeout=0.02)
    stuck.record = Stuck()
    error = ended(stuck.run)
    assert isinstance(error, ProviderTimeoutError)
    assert error.sent is False


PREVIEW = "https://cdn.example/preview/1.png?token=s3cr3t-grant"


class Previewing(ScriptedProvider):
    """Shows what there is so far."""

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        if (await super().poll(job_id, request)).state is JobState.SUCCEEDED:
            return JobStatus(JobState.SUCCEEDED)
        return JobStatus(JobState.RUNNING, 0.5, preview_url=PREVIEW, poll_after=0.001)


def test_a_preview_reaches_who_watches_and_nobody_else(
    store: MediaStore, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in progress events; not in the manifest, the ledger, a repr or a log."""
    caplog.set_level("DEBUG")
    heard: list[ProgressEvent] = []
    pipeline = Pipeline("p", structured_log=True).step(Previewing(job=True), model="m")
    events: list[StreamEvent] = list(
        pipeline.stream(store=store, ledger=ledger, on_progress=heard.append)
    )
    shown = [event for event in events if event.preview_url]
    assert [event.preview_url for event in shown] == [PREVIEW]
    assert shown[0].to_dict()["preview_url"] == PREVIEW
    assert [event.preview_url for event in heard if event.preview_url] == [PREVIEW]
    for text in (repr(events), repr(heard), repr(list(ledger.rows())), caplog.text):
        assert "s3cr3t" not in text
    assert b"s3cr3t" not in asyncio.run(everything(store))


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (PREVIEW, PREVIEW),
        ("javascript:alert(1)", None),
        ("file:///etc/passwd", None),
        (7, None),
        ("https://" + "a" * 9000, None),
    ],
    ids=["https", "script", "file", "number", "long"],
)
def test_a_preview_of_a_guide_style_provider_is_an_address(
    store: MediaStore, ledger: Ledger, said: object, shown: str | None
) -> None:
    """`poll_progress` says where it is; only what a browser may open is passed on."""

    class Watched(Jobs):
        def poll_progress(self, prediction_id: Any) -> dict[str, Any]:
            return {"preview_url": said, "progress_pct": 0.5}

    pipeline = Pipeline("p").step(Watched(), model="m", prompt="a fox")
    events = list(pipeline.stream(store=store, ledger=ledger))
    urls = {event.preview_url for event in events if event.progress_pct == 0.5}
    assert urls == {shown}
