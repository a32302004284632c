"""Outages that last longer than any retry."""

import asyncio

import pytest

from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.refs import read_ref
from tests.faults import library
from tests.faults.invariants import check
from tests.faults.order import ASSET_KEY
from tests.faults.provider import JOB_MODEL, ONE_CALL_MODEL
from tests.faults.simulator import Fault
from tests.faults.world import Harness

FOR_LONG = 10_000


@pytest.mark.parametrize("model", [ONE_CALL_MODEL, JOB_MODEL])
@pytest.mark.parametrize("at", ["put media", "put manifest", "put ref"])
def test_a_store_that_is_down_for_long_costs_nothing(
    simulators: Harness, model: str, at: str
) -> None:
    """What was answered while the store was down is stored when it is back, and not paid again."""
    world = simulators.world(f"down-{model}-{at.replace(' ', '-')}", model=model, private=True)
    world.store_control.faults(Fault(at, "status-before:503", FOR_LONG))
    assert world.start().wait(120) == 1
    world.quiet()
    assert world.start().wait(60) == 0
    assert check(world).violations == ()
    assert len(world.bills()) == 2


def test_a_vendor_that_is_down_for_long_is_billed_once(simulators: Harness) -> None:
    """Jobs that could not be polled are resumed when the vendor is back."""
    world = simulators.world("vendor-down")
    world.vendor.faults(Fault("poll", "status-before:503", FOR_LONG))
    assert world.start().wait(120) == 1
    world.quiet()
    assert world.start().wait(60) == 0
    assert check(world).violations == ()
    assert len(world.bills()) == 2


def test_a_run_that_failed_first_still_refines_the_one_before(simulators: Harness) -> None:
    """The chain of parents leads from the media of now to that of the earlier wish."""
    world = simulators.world("refining", partitions=("p0",))
    assert world.start().wait(60) == 0
    before = asyncio.run(read_ref(world.store, ASSET_KEY, "p0"))
    world.vendor.faults(Fault("submit", "error-in-200"))
    assert world.start(scope="later").wait(60) == 1
    assert world.start(scope="later").wait(60) == 0
    assert library.not_stored(world) == []

    async def ancestors() -> list[str]:
        ref = await read_ref(world.store, ASSET_KEY, "p0")
        assert ref is not None
        found = [ref.run_id]
        while (
            parent := (await read_manifest(world.store, found[-1])).run.parent_run_id
        ) is not None:
            found.append(parent)
        return found

    assert before is not None
    found = asyncio.run(ancestors())
    assert len(found) > 1
    assert found[-1] == before.run_id
