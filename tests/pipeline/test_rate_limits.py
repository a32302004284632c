import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.errors import (
    HeldError,
    LeaseHeldError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import Intent, LedgerRow, SubmissionState
from genblaze_dagster.pipeline.events import StepEvent
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.protocol import GenerationRequest, HasAccount, JobStatus, RateLimit
from genblaze_dagster.providers.retry import RetryPolicy
from tests.pipeline.conftest import SteadyClock
from tests.providers.guide_style import Guide
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, run, step, target


@dataclass
class Limited(ScriptedProvider):
    """A provider of an account, which remembers when it was asked."""

    account: str = "fingerprint"
    rate_limit: RateLimit | None = None
    times: list[float] = field(default_factory=list)

    async def submit(self, request: GenerationRequest):
        self.times.append(time.monotonic())
        return await super().submit(request)


def limited(requests: float, seconds: float, burst: int = 1, **options: Any) -> Limited:
    return Limited(rate_limit=RateLimit(requests, seconds, burst), **options)


def test_submits_of_an_account_keep_their_distance(store: MediaStore, ledger: Ledger) -> None:
    """Three steps of two processes leave one after the other, and each says that it waits."""
    provider = limited(1, 0.5)
    events: list[StepEvent] = []
    asked_at = datetime.now(UTC)
    begun = time.monotonic()

    async def body() -> None:
        async with (
            Runner(store, ledger, retry=QUICK, on_event=events.append) as one,
            Runner(store, ledger, retry=QUICK, on_event=events.append) as two,
        ):
            await asyncio.gather(
                *(
                    runner.run_step(step(provider), target(partition=str(index)), variables=ROW)
                    for index, runner in enumerate([one, two, one])
                )
            )

    # They ask in the same moment, however long they take for it.
    with Ledger(ledger.folder / "ledger.db", clock=lambda: asked_at) as ledger:  # type: ignore[operator]
        asyncio.run(body())
    for sent, due in zip(sorted(provider.times), (0.0, 0.5, 1.0), strict=True):
        # Timers go by a clock of milliseconds.
        assert sent - begun > due - 0.01
    waiting = [event for event in events if event.detail == "rate limited"]
    assert len(waiting) >= 2
    assert all(event.is_heartbeat and event.job_id is None for event in waiting)


def test_waiting_for_a_turn_is_not_the_vendors_time(
    store: MediaStore, ledger: Ledger, steady_clock: SteadyClock
) -> None:
    """The step's timeout does not run while the account waits, and does afterwards."""

    class Slow(Limited):
        async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
            steady_clock.skip(100)
            return await super().poll(job_id, request)

    provider = Slow(rate_limit=RateLimit(1, 600))
    waits: list[float] = []

    async def waiting(partition: str) -> None:
        def hurry(event: StepEvent) -> None:
            if event.detail == "rate limited":
                # As long as it sleeps between two of these.
                asyncio.get_running_loop().call_soon(steady_clock.skip, 10.0)
                waits.append(10.0)

        async with Runner(store, ledger, retry=QUICK, on_event=hurry) as runner:
            await runner.run_step(
                step(provider, timeout=300), target(partition=partition), variables=ROW
            )

    run(store, ledger, step(provider), target(partition="first"))
    asyncio.run(waiting("second"))
    assert sum(waits) > 500
    provider.job, provider.polls = True, 10_000
    with pytest.raises(ProviderTimeoutError):
        asyncio.run(waiting("third"))
    assert provider.submits == 3


def test_nothing_is_marked_as_sent_before_its_turn(store: MediaStore, ledger: Ledger) -> None:
    """A cancellation while a step waits leaves a submission that was certainly not sent."""
    provider = limited(1, 60)
    run(store, ledger, step(provider), target(partition="first"))
    events: list[StepEvent] = []

    async def body() -> None:
        async with Runner(store, ledger, on_event=events.append) as runner:
            task = asyncio.create_task(runner.run_step(step(provider), target(), variables=ROW))
            while not any(event.detail == "rate limited" for event in events):
                await asyncio.sleep(0.005)
            (row,) = ledger.find(partition_key="fox")
            assert row.sending_at is None
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(body())
    (row,) = ledger.find(partition_key="fox")
    assert (row.state, row.error_code) == (SubmissionState.FAILED, "cancelled")
    assert provider.submits == 1


@pytest.mark.parametrize("phase", ["submit", "poll", "fetch"])
def test_too_many_requests_stop_the_whole_account(
    phase: str, store: MediaStore, ledger: Ledger
) -> None:
    """Retry-After of any call is waited for by every process that uses the ledger."""
    busy = RateLimitError("slow down", http_status=429, retry_after=0.3)
    provider = Limited(job=True, polls=0, **{f"{phase}_errors": [busy]})
    begun = time.monotonic()
    once = step(provider, retry=RetryPolicy(max_attempts=1))
    with pytest.raises(RateLimitError):
        run(store, ledger, once, target(partition="first"))
    other = Limited(account="fingerprint")
    with Ledger(ledger.folder / "ledger.db") as elsewhere:  # type: ignore[operator]
        run(store, elsewhere, step(other), target(partition="second"))
    assert other.times[0] - begun > 0.3


def test_a_retry_after_reaches_the_ledger(store: MediaStore, ledger: Ledger) -> None:
    """The account is blocked for as long as the vendor asks, two minutes at most."""
    provider = Limited(submit_errors=[RateLimitError("429", http_status=429, retry_after=4000)])
    spec = step(provider, timeout=100)
    with pytest.raises(RateLimitError):
        run(store, ledger, spec)
    wait = ledger.take("fingerprint", RateLimit())
    assert 60 < wait <= 120


@pytest.mark.parametrize(
    "error",
    [
        QuotaError("used up", http_status=429),
        ProviderUnavailableError("500", http_status=500),
    ],
    ids=["quota", "500"],
)
def test_other_errors_block_nobody(store: MediaStore, ledger: Ledger, error: Exception) -> None:
    """A used-up quota does not pass by waiting, and a broken server asks for nothing."""
    with pytest.raises((QuotaError, HeldError)):
        run(store, ledger, step(Limited(submit_errors=[error])))
    assert ledger.take("fingerprint", RateLimit()) == 0.0


def test_a_batch_keeps_the_limit_and_the_places(store: MediaStore, ledger: Ledger) -> None:
    """At most so many jobs of an account are open at once, whatever the run's own limit."""
    open_now, most = 0, 0

    @dataclass
    class Narrow(Limited):
        async def submit(self, request: GenerationRequest):
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)
            async with asyncio.timeout(60):
                while most < 2:
                    await asyncio.sleep(0.001)
            # Time for one too many.
            await asyncio.sleep(0.02)
            open_now -= 1
            return await super().submit(request)

    provider = Narrow(rate_limit=RateLimit(concurrency=2))
    Pipeline("p").step(provider, model="m").batch_run(
        [str(index) for index in range(6)], store=store, ledger=ledger, max_concurrency=6
    )
    assert provider.submits == 6
    assert most == 2


def occupied(ledger: Ledger) -> LedgerRow:
    """A submission of another process that the vendor works on, the only one of the account."""
    place = Intent("other", None, "r", "g" * 64, "scripted", "m", account="fingerprint")
    row = ledger.claim(place, owner="other", lease_seconds=600).submission
    ledger.mark_sending(row.id, "other")
    return ledger.submitted(row.id, "other", "job-other")


def test_a_busy_account_is_waited_for_beyond_the_steps_timeout(
    store: MediaStore, ledger: Ledger, steady_clock: SteadyClock
) -> None:
    """The timeout is the vendor's time; whoever waits for a place is told of it."""
    row = occupied(ledger)
    provider = limited_places(1)
    events: list[StepEvent] = []

    async def body() -> None:
        async with Runner(store, ledger, on_event=events.append) as runner:
            spec = step(provider, timeout=60)
            task = asyncio.create_task(runner.run_step(spec, target(), variables=ROW))
            # It is told after a second, and then every ten.
            while len(told()) < 10:
                await asyncio.sleep(0.01)
                steady_clock.skip(10)
            assert provider.submits == 0
            ledger.stored(row.id, "other", {})
            await task

    def told() -> list[StepEvent]:
        return [event for event in events if event.detail == "account busy"]

    asyncio.run(body())
    assert provider.submits == 1
    assert all(event.is_heartbeat for event in told())
    assert "has 1 open jobs and may have 1" in (told()[0].message or "")


def test_another_worker_is_waited_for_as_long_as_before(store: MediaStore, ledger: Ledger) -> None:
    """A lease that does not end is given up after the step's timeout, busy accounts or not."""
    answers = asyncio.Event()

    @dataclass
    class Silent(Limited):
        async def submit(self, request: GenerationRequest):
            submission = await super().submit(request)
            await answers.wait()
            return submission

    provider = Silent(rate_limit=RateLimit(concurrency=1))
    spec = step(provider, timeout=0.4)

    async def body() -> None:
        async with Runner(store, ledger) as one, Runner(store, ledger) as two:
            first = asyncio.create_task(one.run_step(step(provider), target(), variables=ROW))
            while not provider.submits:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(60):
                with pytest.raises(LeaseHeldError):
                    await two.run_step(spec, target(), variables=ROW)
            answers.set()
            await first

    asyncio.run(body())


def test_waiting_for_a_place_can_be_cancelled(store: MediaStore, ledger: Ledger) -> None:
    """Nothing of it is left in the ledger."""
    occupied(ledger)

    async def body() -> None:
        async with Runner(store, ledger) as runner:
            waiting = runner.run_step(step(limited_places(1)), target(), variables=ROW)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.4)

    asyncio.run(body())
    assert len(ledger.find()) == 1


def limited_places(concurrency: int) -> Limited:
    return Limited(rate_limit=RateLimit(concurrency=concurrency))


def test_a_guide_style_provider_may_have_an_account() -> None:
    """`account` and `rate_limit` of the class are those of the adapted provider."""

    class OfAccount(Guide):
        account = "fingerprint"
        rate_limit = RateLimit(5)

    adapted = adapt(OfAccount())
    assert isinstance(adapted, HasAccount)
    assert (adapted.account, adapted.rate_limit) == ("fingerprint", RateLimit(5))
    assert not isinstance(adapt(Guide()), HasAccount)
