"""Workers whose clocks are wrong by hours, or jump: none of them pays what another has paid."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from tests.faults.dagster_claimants import printed
from tests.faults.invariants import check
from tests.faults.library import resolve_as_a_person
from tests.faults.simulator import Fault
from tests.faults.world import Harness, Nursery, Worker, World, process

HOURS = 3600.0
WRONG = {"behind": -6 * HOURS, "ahead": 6 * HOURS}
VENDORS = {"plain": {}, "listing": {"lists": True}, "deduplicating": {"deduplicates": True}}
HELD_AT = {
    "submit not yet there": Fault("submit", "hold-before"),
    "submit accepted": Fault("submit", "hold-after"),
    "polling": Fault("poll", "hold-before"),
}
IN_TIME = 120.0


@pytest.fixture(scope="module")
def claimants(simulators: Harness) -> Iterator[Nursery]:
    """The process that forks workers, with everything imported."""
    folder = simulators.folder / "clocks"
    folder.mkdir()
    with process(folder, "tests.faults.dagster_claimants") as started:
        yield Nursery(started)


@pytest.fixture
def world(request: pytest.FixtureRequest, simulators: Harness) -> World:
    """One partition of a vendor."""
    drawn = getattr(request.node, "callspec", None)
    vendor = drawn.params.get("vendor", "plain") if drawn is not None else "plain"
    name = f"clock-{re.sub(r'[^a-z]+', '-', request.node.name).strip('-')}"
    return simulators.world(name, partitions=("p0",), vendor=VENDORS[vendor])


class Clocks:
    """Starts workers of one world, each with a clock that can be set."""

    def __init__(self, world: World, claimants: Nursery) -> None:
        self._world = world
        self._claimants = claimants

    def start(self, name: str, *, wrong_by: float = 0.0) -> Worker:
        self.set(name, wrong_by)
        # Renewed every ten seconds: only a clock can end the lease of a live worker here.
        options = {"clock_file": str(self._file(name))}
        order = replace(self._world.order, options=options, lease_seconds=30, timeout=IN_TIME)
        return self._claimants.start(order, self._world.folder / f"{name}.log")

    def set(self, name: str, wrong_by: float) -> None:
        new = self._file(f"{name}-new")
        new.write_text(str(wrong_by))
        new.rename(self._file(name))

    def _file(self, name: str) -> Path:
        return self._world.folder / f"{name}.clock"


@pytest.fixture
def clocks(world: World, claimants: Nursery) -> Clocks:
    return Clocks(world, claimants)


def settle(world: World, clocks: Clocks) -> None:
    """Do what is left to do: a person looks at the vendor, and it is run once more."""
    world.quiet()
    with world.ledger() as ledger:
        (row,) = ledger.rows()
    if row.state is SubmissionState.HELD:
        assert resolve_as_a_person(world) == 1
    last = clocks.start("last")
    assert last.wait(IN_TIME) == 0, last.log.read_text()[-2000:]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("held_at", HELD_AT)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_worker_whose_clock_is_wrong_pays_nothing_again(
    world: World, clocks: Clocks, wrong: str, held_at: str, vendor: str
) -> None:
    """It takes the lease of a live worker for one that has ended: one bill all the same."""
    world.vendor.faults(HELD_AT[held_at])
    right = clocks.start("right")
    assert world.vendor.held(wait=IN_TIME)
    other = clocks.start("wrong", wrong_by=WRONG[wrong])
    other_ended = other.wait(5.0)
    world.vendor.release(go=True)
    codes = [right.wait(IN_TIME), other.wait(IN_TIME) if other_ended is None else other_ended]
    assert None not in codes
    settle(world, clocks)
    assert len(world.bills()) == 1, [printed(worker) for worker in (right, other)]
    assert check(world).violations == ()


@pytest.mark.parametrize("wrong", WRONG)
def test_a_clock_that_jumps_while_a_job_is_polled_costs_nothing(
    world: World, clocks: Clocks, wrong: str
) -> None:
    """The worker's own lease looks ended to it, or endless: it finishes what it began."""
    world.vendor.faults(Fault("poll", "hold-before"))
    worker = clocks.start("jumping")
    assert world.vendor.held(wait=IN_TIME)
    clocks.set("jumping", WRONG[wrong])
    world.vendor.release(go=True)
    assert worker.wait(IN_TIME) == 0
    assert printed(worker)["how"] == "generated"
    assert len(world.bills()) == 1
    assert check(world).violations == ()


def test_a_lease_of_a_clock_that_was_ahead_does_not_lock_a_partition_for_hours(
    world: World, clocks: Clocks
) -> None:
    """The worker is killed; the next one, whose clock is right, resumes its job at once."""
    world.vendor.faults(Fault("poll", "hold-before"))
    dead = clocks.start("dead", wrong_by=WRONG["ahead"])
    assert world.vendor.held(wait=IN_TIME)
    dead.kill()
    world.quiet()
    worker = clocks.start("next")
    assert worker.wait(IN_TIME) == 0
    assert printed(worker)["how"] == "resumed"
    assert len(world.bills()) == 1
    assert check(world).violations == ()
