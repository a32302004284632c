"""Random histories of claims, failures, settlements and cancellations against a model of the money."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, note, settings

from genblaze_dagster.errors import BudgetExceededError, HeldError, LeaseHeldError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope, Spend
from genblaze_dagster.ledger.database import Database
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, LedgerRow
from genblaze_dagster.ledger.spending import fold

LEASE = 10
# Cents: limit, and what a request of unknown price counts as.
LIMITS = {
    BudgetScope.RUN: (80, 15),
    BudgetScope.ASSET: (120, 10),
    BudgetScope.PARTITION: (60, 20),
    BudgetScope.TENANT: (70, 5),
    BudgetScope.PROVIDER: (100, 10),
    BudgetScope.DAY: (90, 10),
}
BUDGETS = [Budget(scope, limit / 100, unknown / 100) for scope, (limit, unknown) in LIMITS.items()]
UNKNOWN = max(unknown for _, unknown in LIMITS.values())
OPEN = ("claimed", "sent", "submitted", "succeeded")

Key = tuple[BudgetScope, str, str]
Move = tuple[str, Callable[[], None]]
numbers = itertools.count(1)


@dataclass
class Attempt:
    """One attempt as the model sees it; money in cents."""

    keys: set[Key]
    reserved: int
    is_priced: bool
    cost: int | None = None
    is_refused: bool = False

    def paid(self) -> int:
        return self.cost or 0

    def is_unsettled(self) -> bool:
        return self.cost is None and not self.is_refused


@dataclass
class Job:
    """One submission: how far its last attempt is, and who works on it."""

    id: str
    state: str
    owner: str | None
    lease_until: datetime
    has_job: bool = False
    attempts: list[Attempt] = field(default_factory=list)


class World:
    """Two partitions, two scopes, two tenants and a few prices, all in the same six budgets."""

    def __init__(self, url: str) -> None:
        # Every world has names and days of its own, so that one database serves them all.
        self.name = f"w{next(numbers)}"
        self.now = datetime(2026, 1, 1, 12, tzinfo=UTC) + timedelta(days=10 * next(numbers))
        self.ledger = Ledger(url, clock=lambda: self.now)
        self.database = Database(url, busy_timeout=60)
        self.jobs: dict[str, Job] = {}
        self.served: dict[tuple[str, str], str] = {}
        self.touched: set[Key] = set()

    def close(self) -> None:
        self.ledger.close()
        self.database.close()

    def moves(self, choice: int) -> list[Move]:
        """What can happen next; half of the choices go on with what was claimed."""
        kinds = (self.moves_of_time, self.claims, self.moves_of_jobs, self.moves_of_jobs)
        return list(kinds[choice % 4]()) or list(self.claims())

    def moves_of_time(self) -> Iterator[Move]:
        yield "time +4", partial(self.pass_time, 4)
        yield "time +11", partial(self.pass_time, 11)
        yield "time +9 h", partial(self.pass_time, 9 * 3600)
        yield "folding", self.fold

    def claims(self) -> Iterator[Move]:
        for place, scope, (tenant, price) in itertools.product(
            ("fox", "owl"), ("r1", "r2"), (("acme", 30), ("acme", None), (None, 7), ("b", 0))
        ):
            yield (
                f"claim of {place} in {scope} for {tenant} at {price}",
                partial(self.claim, place, scope, tenant, price),
            )

    def moves_of_jobs(self) -> Iterator[Move]:
        for job in self.jobs.values():
            for name, move in self.moves_of(job):
                yield f"{job.id[-4:]} {name}", move

    def moves_of(self, job: Job) -> Iterator[Move]:
        if job.state in (*OPEN, "held"):
            yield "is cancelled", partial(self.cancel, job)
        if self.is_undecided(job):
            yield "is denied by the vendor", partial(self.resolve, job, None)
            yield "is found at the vendor", partial(self.resolve, job, "job")
            yield "is lost", partial(self.lost, job, None)
            yield "is paid with 20 and lost", partial(self.lost, job, 20)
        if job.owner is None or job.state not in OPEN:
            return
        if job.state == "claimed":
            for _ in range(3):
                yield "is sent", partial(self.send, job)
            yield "fails before it is sent", partial(self.fail, job, None, False)
            return
        for cost in (None, 3, 45):
            yield f"is stored for {cost}", partial(self.store, job, cost)
            yield f"fails for {cost}", partial(self.fail, job, cost, True)
        yield "succeeds for 33", partial(self.succeed, job, 33)
        if job.state == "sent":
            # Likelier than its ends, so that there are jobs to go on with.
            for _ in range(6):
                yield "is accepted", partial(self.accept, job)
            yield "gets no answer", partial(self.lose, job)

    def is_undecided(self, job: Job) -> bool:
        is_sent = job.state in ("sent", "succeeded") and not job.has_job
        return job.state == "held" or (is_sent and job.lease_until <= self.now)

    def claim(self, place: str, scope: str, tenant: str | None, price: int | None) -> None:
        intent = Intent(
            f"{self.name}/image", place, self.name + scope, "g" * 64, f"{self.name}/v", "model",
            tenant_id=tenant and self.name + tenant,
            estimated_cost_usd=None if price is None else price / 100,
        )  # fmt: skip
        attempt = Attempt(self.keys(intent), UNKNOWN if price is None else price, price is not None)
        expected, replaced = self.expected(place, scope, attempt)
        owner = f"o{next(numbers)}"
        outcome, row = self.outcome(intent, owner)
        assert outcome is expected
        if outcome is HeldError:
            self.held(place, scope)
        if row is None or outcome is ClaimKind.FINISHED:
            return
        self.served[place, scope] = row.id
        job = self.jobs.setdefault(row.id, Job(row.id, "claimed", owner, self.now))
        job.owner, job.lease_until = owner, self.now + timedelta(seconds=LEASE)
        if outcome is ClaimKind.NEW:
            if replaced is not None:
                self.touched |= job.attempts.pop().keys
            job.state, job.has_job = "claimed", False
            job.attempts.append(attempt)
        self.touch(job)

    def outcome(self, intent: Intent, owner: str) -> tuple[object, LedgerRow | None]:
        try:
            claim = self.ledger.claim(intent, owner=owner, lease_seconds=LEASE, budgets=BUDGETS)
        except (LeaseHeldError, HeldError, BudgetExceededError) as exc:
            return type(exc), None
        return claim.kind, claim.submission

    def expected(self, place: str, scope: str, attempt: Attempt) -> tuple[object, Attempt | None]:
        """What a claim gives, and the attempt whose reservation it takes over."""
        own = self.jobs.get(self.served.get((place, scope), ""))
        if own is not None and own.state == "stored":
            return ClaimKind.FINISHED, None
        open_ = self.unsettled(place)
        replaced: Attempt | None = None
        if open_ is not None and open_.state != "held":
            if open_.owner is not None and open_.lease_until > self.now:
                return LeaseHeldError, None
            if open_.has_job:
                return ClaimKind.RESUME, None
            if open_.state != "claimed":
                return HeldError, None
            replaced = open_.attempts[-1]
        elif open_ is not None:
            return HeldError, None
        return (
            ClaimKind.NEW if self.has_room(attempt, replaced) else BudgetExceededError
        ), replaced

    def has_room(self, attempt: Attempt, replaced: Attempt | None) -> bool:
        for key in attempt.keys if attempt.reserved else ():
            freed = replaced.reserved if replaced and key in replaced.keys else 0
            growth = attempt.reserved - freed
            paid, reserved, _ = self.money(key)
            if growth > 0 and paid + reserved + growth > LIMITS[key[0]][0]:
                return False
        return True

    def keys(self, intent: Intent) -> set[Key]:
        keys = {
            (BudgetScope.RUN, intent.scope, ""),
            (BudgetScope.ASSET, intent.asset_key, ""),
            (BudgetScope.PARTITION, intent.asset_key, intent.partition_key or ""),
            (BudgetScope.PROVIDER, intent.provider, ""),
            (BudgetScope.DAY, f"{self.now:%Y-%m-%d}", ""),
        }
        tenant = intent.tenant_id
        return keys if tenant is None else keys | {(BudgetScope.TENANT, tenant, "")}

    def unsettled(self, place: str) -> Job | None:
        ids = {id for (served, _), id in self.served.items() if served == place}
        return next((self.jobs[id] for id in ids if self.jobs[id].state in (*OPEN, "held")), None)

    def held(self, place: str, scope: str) -> None:
        job = self.unsettled(place)
        if job.state != "held":
            self.served[place, scope] = job.id
            job.state = "held"
        self.touch(job)

    def send(self, job: Job) -> None:
        self.ledger.mark_sending(job.id, job.owner)
        job.state = "sent"

    def accept(self, job: Job) -> None:
        self.ledger.submitted(job.id, job.owner, f"job-{job.id}")
        job.state, job.has_job = "submitted", True

    def succeed(self, job: Job, cost: int) -> None:
        self.ledger.succeeded(job.id, job.owner, cost_usd=cost / 100)
        self.settle(job, "succeeded", cost)

    def store(self, job: Job, cost: int | None) -> None:
        self.ledger.stored(job.id, job.owner, {}, None if cost is None else cost / 100)
        self.settle(job, "stored", cost)

    def fail(self, job: Job, cost: int | None, sent: bool) -> None:
        usd = None if cost is None else cost / 100
        self.ledger.failed(job.id, job.owner, code="x", message="x", sent=sent, cost_usd=usd)
        job.attempts[-1].is_refused = not job.has_job
        self.settle(job, "failed", cost)

    def lose(self, job: Job) -> None:
        self.ledger.failed(job.id, job.owner, code="x", message="x", sent=None)
        job.state = "held"

    def resolve(self, job: Job, job_id: str | None) -> None:
        self.ledger.resolve(job.id, job_id=job_id and f"job-{job.id}")
        job.owner, job.has_job = None, job_id is not None
        job.attempts[-1].is_refused = job_id is None
        job.state = "failed" if job_id is None else "submitted"
        self.touch(job)

    def lost(self, job: Job, cost: int | None) -> None:
        usd = None if cost is None else cost / 100
        self.ledger.resolve(job.id, lost=True, cost_usd=usd)
        job.owner = None
        self.settle(job, "failed", cost)

    def cancel(self, job: Job) -> None:
        self.ledger.cancelled(job.id, "not wanted")
        job.owner = None
        job.attempts[-1].is_refused = job.state == "claimed"
        self.settle(job, "failed", None)

    def settle(self, job: Job, state: str, cost: int | None) -> None:
        job.state = state
        if cost is not None:
            job.attempts[-1].cost = cost
        self.touch(job)

    def touch(self, job: Job) -> None:
        for attempt in job.attempts:
            self.touched |= attempt.keys

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def fold(self) -> None:
        with self.database.write() as connection:
            fold(connection)
        for job in self.jobs.values():
            self.touch(job)

    def charged(self, key: Key) -> list[Attempt]:
        return [each for job in self.jobs.values() for each in job.attempts if key in each.keys]

    def money(self, key: Key) -> tuple[int, int, int]:
        charged = self.charged(key)
        open_ = [each for each in charged if each.is_unsettled()]
        paid = sum(each.paid() for each in charged)
        return paid, sum(e.reserved for e in open_), sum(not e.is_priced for e in open_)

    def check(self) -> None:
        """The ledger's sums are the model's, and no limit is passed but by settling for more."""
        for key in self.touched:
            paid, reserved, unknown = self.money(key)
            spend = self.ledger.spend(key[0], key[1], partition_key=key[2])
            assert spend == Spend(paid / 100, reserved / 100, unknown), key
            excess = sum(max(0, each.paid() - each.reserved) for each in self.charged(key))
            assert paid + reserved <= LIMITS[key[0]][0] + excess, key
        self.touched.clear()


def play(url: str, choices: bytes) -> None:
    world = World(url)
    try:
        for choice in choices:
            moves = world.moves(choice)
            name, move = moves[choice // 4 % len(moves)]
            note(name)
            move()
            world.check()
        world.fold()
        world.check()
    finally:
        world.close()


SETTINGS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)


@settings(SETTINGS, max_examples=10)
@given(choices=st.binary(min_size=30, max_size=50))
def test_no_history_spends_more_than_its_budgets(ledger_url, choices):
    """Spend is the model's to the cent, and at most the limit plus what was settled above estimates."""
    play(ledger_url, choices)


@pytest.mark.slow
@settings(SETTINGS, max_examples=400, derandomize=False)
@given(choices=st.binary(min_size=80, max_size=150))
def test_no_long_history_spends_more_than_its_budgets(ledger_url, choices):
    """The same over longer histories and fresh random ones."""
    play(ledger_url, choices)
