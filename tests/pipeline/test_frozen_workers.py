"""A worker that stands still for longer than its lease must not send what others may send."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.errors import HeldError, ProviderTimeoutError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import Intent, SubmissionState
from genblaze_dagster.pipeline.claims import Claims, Lease, Moment
from genblaze_dagster.pipeline.job import Job
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.protocol import FoundJobs, GenerationRequest
from tests.pipeline.frozen_worker import LEASE_SECONDS, Sending
from tests.pipeline.test_job import Record, Told, generation
from tests.providers.guide_style import Guide
from tests.support.raw_http import always, answer, raw_server
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, step, target


@dataclass
class Clocks:
    """Both clocks of a machine, as the test sets them."""

    steady: float = 100.0
    wall: float = 5000.0

    def __call__(self) -> Moment:
        return Moment(self.steady, self.wall)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def claims(ledger: Ledger, clocks: Clocks) -> Iterator[Claims]:
    made = Claims(ledger, lease_seconds=60, clock=clocks)
    yield made
    made.close()


def claimed(claims: Claims) -> Lease:
    intent = Intent("image", "fox", "run-1", "key", "scripted", "m")
    return asyncio.run(claims.claim(intent, patience_seconds=1))


@pytest.mark.parametrize(
    ("steady", "wall", "may_send"),
    [(0, 0, True), (59, 59, True), (61, 61, False), (0, 61, False), (61, 0, False), (0, -9, True)],
    ids=["at-once", "in-time", "stopped", "paused", "wall-put-back", "clock-corrected"],
)
def test_a_lease_covers_a_request_by_both_clocks(
    claims: Claims, clocks: Clocks, steady: float, wall: float, may_send: bool
) -> None:
    """A third of `lease_seconds` has to be left, by the clock that went further."""
    lease = claimed(claims)
    clocks.steady += steady
    clocks.wall += wall
    assert (lease.objection() is None) is may_send


def test_a_renewed_lease_covers_again(claims: Claims, clocks: Clocks) -> None:
    """Nobody else had it meanwhile, or it could not have been renewed."""

    async def body() -> tuple[str | None, str | None]:
        lease = await claims.claim(
            Intent("image", "fox", "run-1", "key", "scripted", "m"), patience_seconds=1
        )
        clocks.steady += 70
        before = lease.objection()
        claims.renewal_seconds = 0.01
        async with lease:
            async with asyncio.timeout(60):
                while claims.ledger.get(lease.row.id) == lease.row:
                    await asyncio.sleep(0.01)
        claims.renewal_seconds = 20
        return before, lease.objection()

    before, after = asyncio.run(body())
    assert "stood still" in (before or "")
    assert after is None


@dataclass
class Objecting:
    """Objects as often as it is told to."""

    times: int
    asked: list[str] = field(default_factory=list)

    def __call__(self) -> str | None:
        self.asked.append("may I?")
        return "the lease has ended" if len(self.asked) <= self.times else None


@pytest.mark.parametrize("kind", ["protocol", "guide-style"])
def test_what_is_objected_to_is_not_sent(kind: str) -> None:
    """The job goes on when the objection is over; else it fails as certainly unsent."""
    scripted, guide = ScriptedProvider(), Guide()
    provider: Any = scripted if kind == "protocol" else adapt(guide)

    async def run(objection: Objecting) -> None:
        job = Job(generation(provider), QUICK, Record(), Told(), objection=objection)
        await job.run()
        assert job.attempts == 2

    with pytest.raises(ProviderTimeoutError) as refused:
        asyncio.run(run(Objecting(99)))
    assert refused.value.sent is False
    assert (scripted.submits, len(guide.seen)) == (0, 0)
    asyncio.run(run(Objecting(1)))
    assert scripted.submits + len(guide.seen) == 1


class Sure(Sending):
    """The vendor is sure that it has no job."""

    async def find_jobs(self, request: GenerationRequest, *, since: datetime) -> FoundJobs:
        return FoundJobs((), True)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@asynccontextmanager
async def frozen(tmp_path: Path, url: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A worker that is stopped before its request, until the block is over."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.pipeline.frozen_worker",
        f"file://{tmp_path / 'store'}",
        str(tmp_path / "ledger.db"),
        url,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        async with asyncio.timeout(300):
            while not is_stopped(worker.pid):
                await asyncio.sleep(0.05)
        yield worker
    finally:
        if worker.returncode is None:
            worker.send_signal(signal.SIGCONT)
            await worker.wait()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc for the stop")
@pytest.mark.parametrize("is_sure", [True, False], ids=["absent", "held"])
def test_a_worker_that_was_stopped_for_longer_than_its_lease_sends_nothing(
    is_sure: bool, tmp_path: Path
) -> None:
    """Another was told that there is no job, or holds the row: one submit at the most arrives."""

    async def body() -> tuple[int, str]:
        async with raw_server(always(answer(200))) as server:
            async with frozen(tmp_path, server.url()) as worker:
                await asyncio.sleep(LEASE_SECONDS * 2)
                await take_over(server.url())
                sent = len(server.requests)
                worker.send_signal(signal.SIGCONT)
                told, _ = await worker.communicate()
            assert len(server.requests) == sent
            return sent, told.decode()

    async def take_over(url: str) -> None:
        provider = Sure() if is_sure else Sending()
        provider.url = url
        store = MediaStore(f"file://{tmp_path / 'store'}")
        with Ledger(tmp_path / "ledger.db") as ledger:
            async with Runner(store, ledger, retry=QUICK, look_after=(0.01,)) as runner:
                taking = runner.run_step(step(provider), target("run-2"), variables=ROW)
                if is_sure:
                    await taking
                    return
                with pytest.raises(HeldError):
                    await taking

    sent, told = asyncio.run(body())
    with Ledger(tmp_path / "ledger.db") as ledger:
        (row,) = ledger.rows()
    if is_sure:
        assert (sent, row.state) == (1, SubmissionState.STORED)
        assert "no longer" in told
    else:
        # It says what nobody else could know: nothing was sent, so it may be asked for again.
        assert (sent, row.state) == (0, SubmissionState.FAILED)
        assert told.startswith("ProviderTimeoutError: not sent: the lease on submission")


def test_runs_have_the_lease_that_they_are_given(store: MediaStore, ledger: Ledger) -> None:
    """A pipeline's run too: others stay away so long from what it has begun."""
    seen: list[float] = []

    class Looking(ScriptedProvider):
        async def submit(self, request: GenerationRequest) -> Any:
            *_, row = ledger.rows()
            assert row.lease_expires_at is not None
            seen.append((row.lease_expires_at - row.claimed_at).total_seconds())
            return await super().submit(request)

    pipeline = Pipeline("p").step(Looking(), model="m", prompt="a")
    pipeline.run(store=store, ledger=ledger, lease_seconds=7.5)
    pipeline.batch_run(["b"], store=store, ledger=ledger, lease_seconds=15)
    assert seen == [10.0, 20.0]
