"""The same scenarios with the ledger in PostgreSQL, shared by machines that share nothing else."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults import library
from tests.faults.scenarios import Scenario, scenario
from tests.faults.world import Harness
from tests.support.postgres import PASSWORD, PostgresServer, find_programs, running_server

CRASHES = (
    "before intent",
    "after intent before send",
    "after send before answer",
    "after answer before commit",
    "mid-download",
    "after bytes before manifest",
    "after reference before ledger",
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server process; tests are skipped where PostgreSQL is not installed."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL (initdb and postgres) is not installed on this machine")
    with running_server(programs) as server:
        yield server


@pytest.mark.parametrize(
    "wanted",
    [scenario(900 + number, crash=crash) for number, crash in enumerate(CRASHES)],
    ids=lambda wanted: wanted.name,
)
def test_a_ledger_in_postgres_keeps_the_same_promises(
    simulators: Harness, postgres: PostgresServer, wanted: Scenario
) -> None:
    """Every invariant holds, and the password of the database is nowhere."""
    with ExitStack() as opened:
        url = opened.enter_context(postgres.database())
        world = simulators.world(f"{wanted.name}-pg", ledger_url=url, **wanted.world())
        world.secrets["database password"] = PASSWORD
        outcome = library.run(wanted, world)
    assert not outcome.problems, wanted.describe()
