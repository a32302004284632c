"""Random interleavings of workers, crashes, lost answers and clocks: nothing is paid twice."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, note, settings

from genblaze_dagster.errors import HeldError, LeaseHeldError, LedgerError
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, LedgerRow, SubmissionState

LEASE = 10.0
SCOPES = ("run-1", "run-2")
SETTLED = (SubmissionState.STORED, SubmissionState.FAILED)

Move = tuple[str, Callable[[], None]]


@dataclass
class Job:
    """What the vendor knows: a job it accepted and bills unless it failed."""

    id: str
    submission_id: str
    failed: bool = False


@dataclass
class Vendor:
    """Accepts jobs; one that deduplicates knows those it accepted under the same key."""

    deduplicates: bool
    jobs: list[Job] = field(default_factory=list)
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    def accept(self, row: LedgerRow) -> Job:
        known = self.live_jobs({row.id})
        if self.deduplicates and known:
            return known[-1]
        self.jobs.append(Job(f"{self.name}-{len(self.jobs)}", row.id))
        return self.jobs[-1]

    def live_jobs(self, submission_ids: set[str]) -> list[Job]:
        return [j for j in self.jobs if j.submission_id in submission_ids and not j.failed]


@dataclass
class Worker:
    """One worker's own memory; a crash empties it."""

    owner: str
    scope: str = ""
    row: LedgerRow | None = None
    sent: bool = False
    answer: Job | None = None
    reported: bool = False


class World:
    """Three workers, two scopes and a person, all after the same asset, partition and generation."""

    def __init__(self, url: str, deduplicates: bool) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.asset = f"media/{uuid.uuid4().hex}"
        self.ledger = Ledger(url, clock=lambda: self.now)
        self.vendor = Vendor(deduplicates)
        self.lives = 0
        self.workers = [self.born() for _ in range(3)]
        # Which submissions were sent on behalf of which scope.
        self.sent_for: dict[str, set[str]] = {scope: set() for scope in SCOPES}

    def born(self) -> Worker:
        self.lives += 1
        return Worker(f"w{self.lives}")

    def moves(self) -> Iterator[Move]:
        """Everything that can happen next."""
        yield "time +4", partial(self.pass_time, 4)
        yield "time +11", partial(self.pass_time, 11)
        yield "clock -3", partial(self.pass_time, -3)
        yield "person looks", self.person_looks
        for worker in self.workers:
            for name, move in self.moves_of(worker):
                yield f"{worker.owner} {name}", move

    def moves_of(self, worker: Worker) -> Iterator[Move]:
        failed = partial(self.end, worker, self.ledger.failed, code="x", message="x")
        if worker.row is None:
            for scope in SCOPES:
                yield f"claims in {scope}", partial(self.claim, worker, scope)
            return
        yield "crashes", partial(self.forget, worker)
        yield "is cancelled", partial(self.end, worker, self.ledger.release)
        yield "renews", partial(self.attempt, worker, self.ledger.renew, LEASE)
        if worker.answer is not None and not worker.reported:
            yield "reports job", partial(self.report, worker)
            yield "finishes", partial(self.finish, worker)
        elif worker.answer is not None:
            yield "finishes", partial(self.finish, worker)
            yield "hears that the job failed", partial(self.job_fails, worker)
            yield "cannot reach the vendor", partial(failed, sent=False)
            yield "loses an answer to a poll", partial(failed, sent=None)
        elif worker.sent:
            yield "gives up waiting", partial(failed, sent=None)
        else:
            yield "fails before sending", partial(failed, sent=False)
            for answer in ("job", "lost job", "lost", "refusal"):
                yield f"sends, {answer}", partial(self.send, worker, answer)

    def claim(self, worker: Worker, scope: str) -> None:
        place = (self.asset, "fox", scope, "g" * 64, "vendor", "model-1")
        intent = Intent(*place, deduplicates=self.vendor.deduplicates)
        try:
            claim = self.ledger.claim(intent, owner=worker.owner, lease_seconds=LEASE)
        except (LeaseHeldError, HeldError):
            return
        if claim.kind is ClaimKind.FINISHED:
            assert claim.submission.result == {"stored": True}
            return
        worker.scope, worker.row = scope, claim.submission
        if claim.kind is ClaimKind.RESUME:
            worker.sent = worker.reported = True
            worker.answer = next(j for j in self.vendor.jobs if j.id == claim.submission.job_id)

    def send(self, worker: Worker, answer: str) -> None:
        if not self.attempt(worker, self.ledger.mark_sending):
            return
        worker.sent = True
        self.sent_for[worker.scope].add(worker.row.id)
        if answer == "refusal":
            self.end(worker, self.ledger.failed, code="x", message="x", sent=True)
        elif answer != "lost":
            job = self.vendor.accept(worker.row)
            worker.answer = job if answer == "job" else None

    def report(self, worker: Worker) -> None:
        worker.reported = self.attempt(worker, self.ledger.submitted, worker.answer.id)

    def finish(self, worker: Worker) -> None:
        if not worker.answer.failed:
            self.end(worker, self.ledger.stored, {"stored": True}, 0.5)

    def job_fails(self, worker: Worker) -> None:
        if self.ledger.get(worker.row.id).state is not SubmissionState.STORED:
            worker.answer.failed = True
            self.end(worker, self.ledger.failed, code="x", message="x", sent=True)

    def person_looks(self) -> None:
        """A person resolves what is held by looking at the vendor's list of jobs."""
        for row in self.ledger.find(state=SubmissionState.HELD, asset_key=self.asset):
            live = self.vendor.live_jobs({row.id})
            self.ledger.resolve(row.id, job_id=live[-1].id if live else None)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def forget(self, worker: Worker) -> None:
        self.workers[self.workers.index(worker)] = self.born()

    def attempt(self, worker: Worker, step: Callable[..., object], *args: Any, **kw: Any) -> bool:
        """Take a step; False when the submission is another's by now, which ends the work."""
        try:
            step(worker.row.id, worker.owner, *args, **kw)
        except LedgerError:
            self.forget(worker)
            return False
        return True

    def end(self, worker: Worker, step: Callable[..., object], *args: Any, **kw: Any) -> None:
        if self.attempt(worker, step, *args, **kw):
            self.forget(worker)

    def check(self) -> None:
        """At most one accepted, unfailed job per intent, and one unsettled submission per place."""
        for sent in self.sent_for.values():
            assert len(self.vendor.live_jobs(sent)) <= 1, "paid twice"
        unsettled = [
            row for row in self.ledger.find(asset_key=self.asset) if row.state not in SETTLED
        ]
        assert len(unsettled) <= 1


def play(url: str, deduplicates: bool, choices: bytes) -> None:
    world = World(url, deduplicates)
    try:
        for choice in choices:
            moves = list(world.moves())
            name, move = moves[choice % len(moves)]
            note(name)
            move()
            world.check()
    finally:
        world.ledger.close()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(deduplicates=st.booleans(), choices=st.binary(min_size=40, max_size=60))
def test_nothing_is_paid_twice(deduplicates, choices):
    """Whatever happens in whatever order, an intent has at most one accepted submit to pay."""
    play("sqlite://", deduplicates, choices)


def test_nothing_is_paid_twice_on_postgresql(postgres):
    """The same on PostgreSQL, over fewer histories: each step is a trip to the server."""

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(deduplicates=st.booleans(), choices=st.binary(min_size=40, max_size=60))
    def histories(deduplicates: bool, choices: bytes) -> None:
        play(url, deduplicates, choices)

    with postgres.database() as url:
        histories()


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(deduplicates=st.booleans(), choices=st.binary(min_size=80, max_size=120))
def test_nothing_is_paid_twice_in_long_histories(deduplicates, choices):
    """The same over longer histories and fresh random ones."""
    play("sqlite://", deduplicates, choices)
