import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import HeldError, PipelineError, ProviderError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.providers.adapter import AdaptedProvider, adapt
from genblaze_dagster.providers.base import BaseProvider, RunnableConfig
from genblaze_dagster.providers.mock import MockProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.storage.store import MediaStore
from tests.providers.guide_style import PNG, REQUEST, Guide, Jobs, input_media
from tests.support.steps import QUICK


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    book = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield book
    book.close()


def genblaze_threads() -> int:
    return sum(
        thread.name.startswith("genblaze-guide-counting") for thread in threading.enumerate()
    )


class Waiting(Guide):
    """Generates when the gate is opened; counts who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = 0
        self.lock = threading.Lock()

    def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
        with self.lock:
            self.entered += 1
        assert self.gate.wait(120)
        return super().generate(step, config)


async def leave(provider: Waiting, *requests: GenerationRequest) -> None:
    """Submit and stop waiting once the calls are on their threads."""
    adapted = adapt(provider)
    tasks = [asyncio.ensure_future(adapted.submit(request)) for request in requests]
    while provider.entered < len(requests):
        await asyncio.sleep(0.001)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)


def test_a_call_that_nobody_waits_for_is_taken_by_the_next() -> None:
    """A submit that outlives its caller is not sent again for the same idempotency key."""
    provider = Waiting()

    async def body() -> Any:
        await leave(provider, REQUEST)
        provider.gate.set()
        return await adapt(provider).submit(REQUEST)

    assert asyncio.run(body()).result.outputs[0].data == PNG
    assert len(provider.seen) == 1


@pytest.mark.parametrize(
    ("limit", "most", "calls"), [(None, 8, 8), (1, 1, 8), (3, 3, 9)], ids=["none", "1", "3"]
)
def test_calls_run_on_threads_of_their_own(limit: int | None, most: int, calls: int) -> None:
    """As many as max_concurrency run at once, none on the loop, and no thread stays behind."""

    class Counting(Guide):
        name = "guide-counting"
        now = 0
        highest = 0
        lock = threading.Lock()
        all_in = threading.Barrier(most)

        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            with self.lock:
                self.now += 1
                self.highest = max(self.highest, self.now)
            self.all_in.wait(60)
            if limit is not None:
                # Time for one too many to come in.
                time.sleep(0.01)
            with self.lock:
                self.now -= 1
            return super().generate(step, config)

    provider = Counting()

    async def body() -> None:
        adapted = adapt(provider, max_concurrency=limit)
        requests = [GenerationRequest(model="m", idempotency_key=str(n)) for n in range(calls)]
        await asyncio.gather(*map(adapted.submit, requests))

    asyncio.run(body())
    assert provider.highest == most
    ends_at = time.monotonic() + 60
    while genblaze_threads() and time.monotonic() < ends_at:
        time.sleep(0.001)
    assert genblaze_threads() == 0


def test_a_call_that_waits_for_its_turn_is_not_sent_after_all() -> None:
    """Whoever runs out of time in the queue has sent nothing, and leaves nothing behind."""
    provider = Waiting()
    second = GenerationRequest(model="m", idempotency_key="second")

    async def body() -> None:
        adapted = adapt(provider, max_concurrency=1)
        first = asyncio.ensure_future(adapted.submit(REQUEST))
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await adapted.submit(second)
        provider.gate.set()
        await first
        assert len(provider.seen) == 1
        await adapted.submit(second)

    asyncio.run(body())
    assert [step.step_id for step in provider.seen] == ["run-1", "second"]


def test_a_call_that_was_left_still_has_its_inputs() -> None:
    """The files of the inputs stay until the call is over, not until its caller is gone."""
    over = threading.Event()
    folders: list[Path] = []

    class Reading(Waiting):
        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            made = super().generate(step, config)
            path = Path(step.inputs[0].url.removeprefix("file://"))
            folders.append(path.parent)
            assert path.read_bytes() == PNG
            over.set()
            return made

    provider = Reading()
    asyncio.run(leave(provider, GenerationRequest(model="m", inputs=(input_media(None),))))
    provider.gate.set()
    assert over.wait(60)
    ends_at = time.monotonic() + 60
    while folders[0].exists() and time.monotonic() < ends_at:
        time.sleep(0.001)
    assert not folders[0].exists()


def test_a_late_answer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that an answer came that nobody waited for, and for which attempt it is kept."""
    provider = Waiting()
    asyncio.run(leave(provider, GenerationRequest(model="m", idempotency_key="told")))
    provider.gate.set()
    said = "kept in this process for the next attempt of told/"
    ends_at = time.monotonic() + 60
    while said not in caplog.text and time.monotonic() < ends_at:
        time.sleep(0.001)
    assert said in caplog.text


def test_no_thread_means_nothing_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no thread the call fails as certainly unsent, and the next may work."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    provider = Guide()
    adapted = adapt(provider, max_concurrency=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ProviderError, match="no thread") as refused:
            asyncio.run(adapted.submit(REQUEST))
    assert refused.value.sent is False
    assert asyncio.run(adapted.submit(REQUEST)).result is not None
    assert len(provider.seen) == 1


def test_endlessly_hanging_calls_stop_new_ones() -> None:
    """After 64 calls that never came back nothing more is sent, and that is certain."""
    provider = Waiting()
    many = [GenerationRequest(model="m", idempotency_key=f"key-{number}") for number in range(64)]

    async def body() -> None:
        await leave(provider, *many)
        with pytest.raises(ProviderError, match="still hang") as refused:
            await adapt(provider).submit(REQUEST)
        assert refused.value.sent is False

    try:
        asyncio.run(body())
    finally:
        provider.gate.set()


def run(provider: BaseProvider, ledger: Ledger, **options: Any) -> Any:
    store = MediaStore("memory://adapter-" + str(id(ledger)))
    pipeline = Pipeline("p").step(adapt(provider), model="m", prompt="a fox", **options)
    return pipeline.run(store=store, ledger=ledger, retry=QUICK, scope="run-1")


@pytest.mark.parametrize("kind", [Guide, Jobs], ids=["sync", "jobs"])
def test_a_pipeline_runs_guide_style_providers(kind: type[BaseProvider], ledger: Ledger) -> None:
    """Bytes are stored and recorded; the job id stands in the payload, not in the metadata."""
    provider = kind()
    outcome = next(iter(run(provider, ledger).outcomes.values()))
    step = outcome.manifest.run.steps[-1]
    assert (step.provider, step.metadata) == (provider.name, {})
    assert outcome.ref.media[0].media_type == "image/png"
    if isinstance(provider, Jobs):
        assert step.provider_payload["job_id"] == "job-1"


def test_an_unclear_failure_of_generate_is_held(ledger: Ledger) -> None:
    """A plain exception may hide a paid answer: the row is held and nothing is sent again."""

    class Buggy(Guide):
        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            super().generate(step, config)
            raise RuntimeError("cannot read the answer")

    provider = Buggy()
    for _ in range(2):
        with pytest.raises(PipelineError) as failed:
            run(provider, ledger)
        errors = failed.value.result.errors  # type: ignore[attr-defined]
        assert isinstance(next(iter(errors.values())), HeldError)
    assert len(provider.seen) == 1


@pytest.mark.parametrize("code", [ProviderErrorCode.SERVER_ERROR, ProviderErrorCode.TIMEOUT])
@pytest.mark.parametrize("kind", ["sync", "jobs", "mock"])
def test_a_vendor_that_fails_without_an_answer_is_not_asked_again(
    kind: str, code: ProviderErrorCode, ledger: Ledger
) -> None:
    """The adapter names no status, so nobody knows whether it was taken on: held, for good."""
    asked: list[str] = []

    class Failing(Guide):
        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            asked.append(step.step_id)
            raise ProviderError("the vendor is out of order", code=code)

    class FailingJobs(Jobs):
        def submit(self, step: Step, config: RunnableConfig | None = None) -> Any:
            asked.append(step.step_id)
            raise ProviderError("the vendor is out of order", code=code)

    class FailingMock(MockProvider):
        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            asked.append(step.step_id)
            return super().generate(step, config)

    mock = FailingMock(should_fail=True, error_code=code)
    provider = {"sync": Failing(), "jobs": FailingJobs(), "mock": mock}[kind]
    for _ in range(2):
        with pytest.raises(PipelineError) as failed:
            run(provider, ledger)
        errors = failed.value.result.errors  # type: ignore[attr-defined]
        assert isinstance(next(iter(errors.values())), HeldError)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(), ProviderError("429", code=ProviderErrorCode.RATE_LIMIT, sent=False)],
    ids=["refused", "turned-away"],
)
def test_a_failure_before_the_send_is_retried_by_the_runner(
    error: Exception, ledger: Ledger
) -> None:
    """Nothing was paid, so the Runner asks again by itself."""

    class Flaky(Guide):
        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            made = super().generate(step, config)
            if len(self.seen) == 1:
                raise error
            return made

    provider = Flaky()
    run(provider, ledger)
    assert len(provider.seen) == 2


def test_a_failed_job_is_over(ledger: Ledger) -> None:
    """A ProviderError of poll ends the job; the next run of it submits a new one."""

    class Failing(Jobs):
        fails = True

        def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
            if self.fails:
                raise ProviderError("the vendor gave up")
            return True

    provider = Failing()
    with pytest.raises(PipelineError):
        run(provider, ledger)
    provider.fails = False
    run(provider, ledger)
    assert provider.submits == 2


def test_a_bug_in_poll_leaves_the_job_open(ledger: Ledger) -> None:
    """An exception that says nothing of the job is no reason to pay for another."""

    class Buggy(Jobs):
        broken = True

        def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
            if self.broken:
                raise KeyError("state")
            return True

    provider = Buggy()
    with pytest.raises(PipelineError):
        run(provider, ledger)
    provider.broken = False
    run(provider, ledger)
    assert provider.submits == 1


def test_adapting_twice_shares_what_is_in_flight() -> None:
    """Two adapters of one instance know the same late answers; a limit of its own does not."""
    provider = Guide()
    first, second = adapt(provider), adapt(provider)
    assert isinstance(first, AdaptedProvider)
    assert isinstance(second, AdaptedProvider)
    assert first._calls is second._calls


GENBLAZE = """
import asyncio, logging
logging.disable(logging.CRITICAL)
from genblaze_core.models.enums import ProviderErrorCode
from genblaze_core.testing import MockAudioProvider, MockProvider
from genblaze_dagster.errors import RateLimitError
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.protocol import GenerationRequest

request = GenerationRequest(model="m", prompt="a fox", idempotency_key="k")
adapted = adapt(MockAudioProvider(cost_usd=0.5))
result = asyncio.run(adapted.submit(request)).result
print(adapted.name, result.cost_usd, result.outputs[0].url, result.outputs[0].facts["audio"]["codec"])
failing = adapt(MockProvider(should_fail=True, error_code=ProviderErrorCode.RATE_LIMIT))
try:
    asyncio.run(failing.submit(request))
except RateLimitError as exc:
    print(exc.code, exc.sent)
"""


def test_providers_of_genblaze_are_adapted_too() -> None:
    """Classes derived from genblaze's own base work: their steps and errors have the same fields."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GENBLAZE],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines() == [
        "mock-audio 0.5 https://mock.test/audio.mp3 mp3",
        "rate_limit True",
    ], done.stderr
