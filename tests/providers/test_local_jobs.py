import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality, ProviderErrorCode
from genblaze_dagster.errors import OutputError, ProviderError, RateLimitError
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.local.video import Mp4Writer
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    Provider,
    Submission,
)

REQUEST = GenerationRequest(
    model="local-image",
    prompt="a job",
    params={"width": 32, "height": 32},
    idempotency_key="run-1/step-1",
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_is_a_provider() -> None:
    """The class has everything the protocol asks for."""
    provider = LocalProvider()
    assert isinstance(provider, Provider)
    assert (provider.name, provider.deduplicates) == ("local", True)
    assert provider.models == ("local-image", "local-video", "local-audio")


def test_without_latency_a_submit_answers_with_the_result() -> None:
    """No latency is the one-call shape: no job id, a free result."""
    submission = asyncio.run(LocalProvider().submit(REQUEST))
    assert submission.job_id is None
    assert submission.result is not None
    assert submission.result.cost_usd == 0.0
    assert submission.result.outputs[0].media_type == "image/png"
    assert submission.result.model_version == LocalProvider.version


def test_with_latency_a_job_is_queued_then_runs_then_is_done() -> None:
    """The job walks through its states by the clock and gives what the one call gives."""

    async def scenario() -> None:
        clock = Clock()
        provider = LocalProvider(latency=10, clock=clock)
        submission = await provider.submit(REQUEST)
        assert submission.result is None
        assert submission.estimated_seconds == 10
        job_id = submission.job_id
        assert job_id is not None
        seen = []
        for clock.now in (100.0, 101.0, 103.0, 109.9, 110.0):
            status = await provider.poll(job_id, REQUEST)
            seen.append((status.state, status.progress, status.poll_after))
        assert [state for state, _, _ in seen] == [
            JobState.QUEUED,
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.RUNNING,
            JobState.SUCCEEDED,
        ]
        assert [progress for _, progress, _ in seen] == pytest.approx([0, 0.1, 0.3, 0.99, 1])
        assert seen[1][2] == pytest.approx(9)
        result = await provider.fetch_output(job_id, REQUEST)
        at_once = await LocalProvider().submit(REQUEST)
        assert result == at_once.result

    asyncio.run(scenario())


def test_same_idempotency_key_is_the_same_job() -> None:
    """A repeated submit joins the running job; another key is another job."""

    async def scenario() -> None:
        clock = Clock()
        provider = LocalProvider(latency=10, clock=clock)
        first = await provider.submit(REQUEST)
        clock.now += 9
        second = await provider.submit(REQUEST)
        assert second.job_id == first.job_id is not None
        assert (await provider.poll(first.job_id, REQUEST)).progress == pytest.approx(0.9)
        other = GenerationRequest(
            model="local-image", prompt="a job", idempotency_key="run-1/step-2"
        )
        assert (await provider.submit(other)).job_id != first.job_id

    asyncio.run(scenario())


def test_without_a_key_the_request_itself_names_the_job() -> None:
    """Equal requests share a job, and every field that matters makes another one."""

    async def job_id(**fields: object) -> str | None:
        provider = LocalProvider(latency=1)
        request = GenerationRequest(model="local-image", **fields)  # type: ignore[arg-type]
        return (await provider.submit(request)).job_id

    async def scenario() -> list[str | None]:
        return [
            await job_id(prompt="a"),
            await job_id(prompt="a"),
            await job_id(prompt="b"),
            await job_id(prompt="a", seed=1),
            await job_id(prompt="a", negative_prompt="c"),
            await job_id(prompt="a", params={"width": 64}),
        ]

    ids = asyncio.run(scenario())
    assert ids[0] == ids[1]
    assert len(set(ids)) == 5


def test_job_of_another_process_is_done_and_can_be_fetched() -> None:
    """A job this instance never saw counts as finished: its output follows from the request."""

    async def scenario() -> None:
        provider = LocalProvider(latency=3600)
        assert (await provider.poll("local-unknown", REQUEST)).state == JobState.SUCCEEDED
        result = await provider.fetch_output("local-unknown", REQUEST)
        assert result.outputs[0].data

    asyncio.run(scenario())


def test_output_of_a_running_job_is_an_error() -> None:
    """Fetching before the end raises OutputError that names job and state."""

    async def scenario() -> None:
        provider = LocalProvider(latency=10, clock=Clock())
        job_id = (await provider.submit(REQUEST)).job_id
        assert job_id is not None
        with pytest.raises(OutputError, match=f"{job_id} has no output, it is queued"):
            await provider.fetch_output(job_id, REQUEST)

    asyncio.run(scenario())


def test_cancel_stops_a_running_job_only() -> None:
    """A running job is cancelled once; a finished or unknown one cannot be; a new submit restarts."""

    async def scenario() -> None:
        clock = Clock()
        provider = LocalProvider(latency=10, clock=clock)
        assert await provider.cancel("local-unknown") is False
        job_id = (await provider.submit(REQUEST)).job_id
        assert job_id is not None
        assert await provider.cancel(job_id) is True
        clock.now += 20
        assert (await provider.poll(job_id, REQUEST)).state == JobState.CANCELLED
        with pytest.raises(OutputError, match="cancelled"):
            await provider.fetch_output(job_id, REQUEST)
        assert (await provider.submit(REQUEST)).job_id == job_id
        assert (await provider.poll(job_id, REQUEST)).state == JobState.QUEUED
        clock.now += 20
        assert await provider.cancel(job_id) is False

    asyncio.run(scenario())


def test_fail_on_raises_what_it_returns() -> None:
    """The fault hook sees the request and its error comes out of submit unchanged."""
    fault = RateLimitError("busy", retry_after=2.0)
    provider = LocalProvider(fail_on=lambda request: fault if request.seed == 13 else None)

    async def scenario() -> ProviderError:
        assert (await provider.submit(REQUEST)).result is not None
        with pytest.raises(RateLimitError) as caught:
            await provider.submit(GenerationRequest(model="local-image", seed=13))
        return caught.value

    error = asyncio.run(scenario())
    assert error is fault
    assert error.code == ProviderErrorCode.RATE_LIMIT


class Frames:
    """Holds every frame of a video until it is let go; `written` lists those that were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.written: list[int] = []
        write = Mp4Writer.write

        def held(writer: Mp4Writer, picture: Any, number: int) -> None:
            self.begun.set()
            assert self.let_go.wait(60)
            self.written.append(number)
            write(writer, picture, number)

        monkeypatch.setattr(Mp4Writer, "write", held)

    async def begin(self, **params: object) -> asyncio.Task[Submission]:
        """Start a video and return once its first frame is held."""
        request = GenerationRequest(model="local-video", modality=Modality.VIDEO, params=params)
        task = asyncio.create_task(LocalProvider().submit(request))
        while not self.begun.is_set():
            await asyncio.sleep(0.005)
        return task


def test_event_loop_stays_free_while_media_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other coroutines run while a frame is under way."""
    frames = Frames(monkeypatch)

    async def scenario() -> Submission:
        task = await frames.begin(duration=1, fps=10)
        assert frames.written == []
        frames.let_go.set()
        return await task

    assert asyncio.run(scenario()).result is not None
    assert frames.written == list(range(10))


def test_cancelling_the_task_stops_a_long_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled generation ends within a frame, not after a minute of video."""
    frames = Frames(monkeypatch)

    async def scenario() -> None:
        task = await frames.begin(duration=60, fps=60, width=640, height=480)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        frames.let_go.set()

    # asyncio.run waits for the worker thread.
    asyncio.run(scenario())
    assert frames.written == [0]


IMPORTS = """
import sys
from genblaze_dagster.providers.local import LocalProvider
LocalProvider()
print(*sorted({"numpy", "PIL", "av"} & set(sys.modules)))
"""


def test_importing_the_provider_does_not_import_its_libraries() -> None:
    """numpy, Pillow and PyAV are loaded by the first generation, not by the import."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


WITHOUT_EXTRA = """
import importlib.machinery, sys

class WithoutPyAv(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "av" else super().find_spec(name, path, target)

sys.meta_path.remove(importlib.machinery.PathFinder)
sys.meta_path.append(WithoutPyAv)

from genblaze_dagster.errors import MissingExtraError
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest
try:
    LocalProvider().validate(GenerationRequest(model="local-image"))
except MissingExtraError as exc:
    print(exc)
"""


def test_missing_library_names_the_extra() -> None:
    """Without PyAV a request is refused with the command that installs it."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRA], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "av is not installed; run: pip install 'genblaze-dagster[local]'"
