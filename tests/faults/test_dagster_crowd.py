"""64 processes ask for one partition at the same moment; one of them asks the vendor."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from tests.faults.dagster_claimants import printed
from tests.faults.invariants import check
from tests.faults.simulator import Fault
from tests.faults.world import Harness, Nursery, Worker, World, process
from tests.support.postgres import find_programs, running_server

PROCESSES = 64
# Two cores have 64 processes to do.
IN_TIME = 240.0


@pytest.fixture(scope="module")
def claimants(simulators: Harness) -> Iterator[Nursery]:
    """The process that forks them, with everything imported."""
    folder = simulators.folder / "claimants"
    folder.mkdir()
    with process(folder, "tests.faults.dagster_claimants") as started:
        yield Nursery(started)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, simulators: Harness) -> Iterator[World]:
    """One partition, in a ledger of either kind."""
    name = f"crowd-{request.param}"
    if request.param == "sqlite":
        yield simulators.world(name, partitions=("p0",))
        return
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL (initdb and postgres) is not installed on this machine")
    with running_server(programs) as server, server.database() as url:
        yield simulators.world(name, partitions=("p0",), ledger_url=url)


def start(world: World, claimants: Nursery, number: int, begin: Path) -> Worker:
    options = {"start_file": str(begin)}
    order = replace(world.order, options=options, lease_seconds=60, timeout=IN_TIME)
    return claimants.start(order, world.folder / f"claimant-{number}.log")


def test_a_crowd_pays_once_and_everybody_gets_the_same(world: World, claimants: Nursery) -> None:
    """One submit, one row, and 64 references that are equal to the byte."""
    # Long enough for all of them to have asked before the first one is done.
    world.vendor.faults(Fault("submit", "slow:1"))
    begin = world.folder / "begin"
    crowd = [start(world, claimants, number, begin) for number in range(PROCESSES)]
    assert all(worker.until_parked_or_ended(IN_TIME) for worker in crowd)
    begin.touch()
    codes = Counter(worker.wait(IN_TIME) for worker in crowd)
    assert codes == {0: PROCESSES}
    got = [printed(worker) for worker in crowd]
    assert Counter(one["how"] for one in got) == {"generated": 1, "finished": PROCESSES - 1}
    assert all(one["ref"] == got[0]["ref"] for one in got)
    assert len(world.bills()) == 1
    with world.ledger() as ledger:
        (row,) = ledger.rows()
    assert (row.state, row.attempt) == (SubmissionState.STORED, 1)
    assert check(world).violations == ()
