"""Vendors and stores that lie: what is noticed at once, and what only a later look finds."""

import asyncio

import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.storage.refs import read_ref
from tests.faults import invariants
from tests.faults.order import ASSET_KEY
from tests.faults.scenarios import STORES
from tests.faults.simulator import Fault
from tests.faults.world import Harness, World

LARGE = 150_000


def play(world: World, runs: int = 3) -> None:
    """Run until nothing fails any more."""
    for _ in range(runs):
        if world.start().wait(60) == 0:
            return


@pytest.mark.parametrize(
    "fault",
    [
        Fault("media", "missing"),
        Fault("media", "expired"),
        Fault("media", "long"),
        Fault("output", "expired"),
        Fault("poll", "flapping", 4),
        Fault("submit", "error-in-200"),
    ],
    ids=lambda fault: f"{fault.at}-{fault.what}",
)
def test_a_vendor_that_lies_for_a_moment_is_not_paid_again(
    simulators: Harness, fault: Fault
) -> None:
    """The job is asked once more, and nothing is submitted twice."""
    world = simulators.world(f"lie-{fault.at}-{fault.what}")
    world.vendor.faults(fault)
    play(world)
    assert invariants.check(world).violations == ()
    assert len(world.bills()) == 2


def test_a_job_said_to_have_failed_is_submitted_again(simulators: Harness) -> None:
    """A vendor's word that a job failed is taken: if it was a lie, both are on the bill."""
    world = simulators.world("said-failed")
    world.vendor.faults(Fault("poll", "said-failed"))
    play(world)
    assert invariants.check(world).violations == ()
    assert sorted(bill["said_failed"] for bill in world.bills()) == [False, False, True]


@pytest.mark.parametrize("at", ["put media", "put manifest", "put ref"])
def test_a_store_that_keeps_nothing_is_found_out_and_repaired(simulators: Harness, at: str) -> None:
    """After a 200 for an object that is not there, verification finds it; the next run mends it."""
    world = simulators.world(f"lost-{at.split()[1]}", partitions=("p0",))
    world.store_control.faults(Fault(at, "lost"))
    play(world, runs=1)
    assert invariants.check(world).violations
    play(world, runs=1)
    assert asyncio.run(invariants.verified(world.store)) == []
    assert asyncio.run(read_ref(world.store, ASSET_KEY, "p0")) is not None


@pytest.mark.parametrize("at", ["put media", "put manifest", "part"])
def test_a_store_that_changes_bytes_is_found_out(simulators: Harness, at: str) -> None:
    """A service that accepts a signed hash and keeps other bytes is found by verification."""
    size = LARGE if at == "part" else 0
    name = f"damaged-{at.replace(' ', '-')}"
    world = simulators.world(name, partitions=("p0",), vendor={"media_bytes": size})
    world.store_control.faults(Fault(at, "damaged"))
    play(world)
    found = asyncio.run(invariants.verified(world.store))
    assert found


def test_a_lost_part_is_noticed(simulators: Harness) -> None:
    """The size of media that goes up in parts is confirmed before anything refers to it."""
    world = simulators.world("lost-part", vendor={"media_bytes": LARGE})
    world.store_control.faults(Fault("part", "lost"))
    play(world)
    assert invariants.check(world).violations == ()


def test_a_store_that_hides_what_is_missing_can_be_used(simulators: Harness) -> None:
    """With a key that may not list, 403 means missing: a first generation is stored."""
    world = simulators.world("hiding", store=dict(STORES["hiding"]))
    play(world)
    assert invariants.check(world).violations == ()


def test_media_that_ends_early_is_not_taken_for_whole(simulators: Harness) -> None:
    """A Content-Length that is too small must not store half of a picture."""
    world = simulators.world("short")
    world.vendor.faults(Fault("media", "short"))
    play(world)
    assert invariants.check(world).violations == ()


def test_media_that_ends_early_for_long_keeps_its_job_open(simulators: Harness) -> None:
    """The vendor is asked again for what is paid for, in later runs too; nothing is paid twice."""
    world = simulators.world("short-for-long", partitions=("p0",))
    world.vendor.faults(Fault("media", "short", 10_000))
    assert world.start().wait(60) == 1
    with world.ledger() as ledger:
        assert [row.state for row in ledger.rows()] == [SubmissionState.SUCCEEDED]
    world.quiet()
    play(world, runs=1)
    assert invariants.check(world).violations == ()
    assert len(world.bills()) == 1
