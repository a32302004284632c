"""Several workers at once, and budgets, when something has been killed before."""

import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from tests.faults import library
from tests.faults.crashes import CRASHES, park_of, reached
from tests.faults.invariants import check
from tests.faults.order import Park
from tests.faults.parking import Point
from tests.faults.world import Harness, World

PRICE = 0.04
# Longer than a lease of the harness.
FROZEN = 3.5


def kill_at(world: World, crash: str) -> None:
    """Kill a worker at a point."""
    point = CRASHES[crash]
    if point.vendor is not None:
        world.vendor.faults(point.vendor)
    if point.store is not None:
        world.store_control.faults(point.store)
    worker = world.start(park=park_of(point))
    assert reached(world, point, worker)
    assert worker.kill() == -9
    world.quiet()


@pytest.mark.parametrize(
    "crash",
    [
        "after intent",
        "after send before answer",
        "polling",
        "mid-download",
        "after bytes before manifest",
        "after reference before ledger",
    ],
)
def test_several_workers_recover_at_once(simulators: Harness, crash: str) -> None:
    """Three machines take up what one left: each partition is done by one, and none is paid twice."""
    name = f"several-{list(CRASHES).index(crash)}"
    world = simulators.world(name, vendor={"lists": True, "polls": 4})
    kill_at(world, crash)
    workers = [world.start(machine=f"machine-{number}") for number in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert check(world).violations == ()
    assert len(world.bills()) == 2


@pytest.mark.parametrize(
    "point", [Point.AFTER_INTENT, Point.BEFORE_COMMIT, Point.BEFORE_STORED, Point.AFTER_STORED]
)
def test_a_worker_that_was_frozen_finds_its_place_taken(simulators: Harness, point: Point) -> None:
    """A process that stands still for longer than its lease does no harm when it wakes up."""
    world = simulators.world(f"frozen-{point}", partitions=("p0",), vendor={"lists": True})
    frozen = world.start(park=Park(point, "p0", seconds=FROZEN))
    assert frozen.until_parked_or_ended(30)
    assert world.start(machine="another-machine").wait(60) == 0
    assert frozen.wait(60) in (0, 1)
    assert check(world).violations == ()
    assert len(world.bills()) == 1


def test_a_worker_that_stood_still_frees_what_was_held(simulators: Harness) -> None:
    """The others hold what a frozen worker may have sent; awake, it sends nothing and says so."""
    world = simulators.world("late-worker", partitions=("p0",))
    awake = world.folder / "awake"
    frozen = world.start(park=Park(Point.BEFORE_SEND, "p0", until=str(awake)))
    assert frozen.until_parked_or_ended(30)
    assert world.start(machine="another-machine").wait(60) == 1
    awake.touch()
    assert frozen.wait(60) == 1
    assert world.bills() == []
    assert world.start().wait(60) == 0
    assert check(world).violations == ()
    assert len(world.bills()) == 1


def test_two_backfills_want_the_same_at_once(simulators: Harness) -> None:
    """What is open is shared by both wishes: one job each, and both wishes are served by it."""
    world = simulators.world("wishes", vendor={"polls": 20})
    workers = [world.start(scope=f"backfill-{number}") for number in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert check(world).violations == ()
    with world.ledger() as ledger:
        rows = list(ledger.rows())
    # The later one may come when the first has finished: then it is a wish of its own.
    assert 2 <= len(world.bills()) == len(rows) <= 4


def test_the_harness_sees_a_double_submit(simulators: Harness) -> None:
    """Who asks for a lost answer to be sent again is billed twice, and every count says so."""
    world = simulators.world("resubmitted", partitions=("p0",))
    kill_at(world, "after send before answer")
    assert world.start(on_ambiguous="resubmit").wait(60) == 0
    verdict = check(world)
    assert len(world.bills()) == 2
    assert (verdict.double_submits, verdict.lost_outputs) == (1, 1)
    assert any("the meter says 0.0800 USD, the ledger 0.0400" in v for v in verdict.violations)


@pytest.mark.parametrize("point", [Point.BEFORE_SEND, Point.BEFORE_COMMIT, Point.BEFORE_STORED])
def test_a_budget_holds_over_kills(simulators: Harness, point: Point) -> None:
    """What a killed worker reserved stays reserved: the meter never passes the budget."""
    partitions = tuple(f"p{number}" for number in range(6))
    budget = 3 * PRICE
    world = simulators.world(f"budget-{point}", partitions=partitions, budget_usd=budget)
    worker = world.start(park=Park(point))
    assert worker.until_parked_or_ended(30)
    assert worker.kill() == -9
    for _ in range(2):
        assert world.start().wait(60) == 1
        library.resolve_as_a_person(world)
    with world.ledger() as ledger:
        rows = list(ledger.rows())
    assert [row.state for row in rows] == [SubmissionState.STORED] * 3
    world.change(partitions=tuple(row.partition_key for row in rows))
    assert check(world).violations == ()
    assert len(world.bills()) == 3
