from collections.abc import Iterator
from pathlib import Path

import pytest

from genblaze_dagster.ledger.budgets import BudgetScope
from genblaze_dagster.ledger.ledger import SubmissionState
from tests.cli.conftest import Call
from tests.support.postgres import PASSWORD, PostgresServer, find_programs, running_server
from tests.support.submissions import Book, book


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this module's own."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL (initdb and postgres) is not installed on this machine")
    with running_server(programs) as started:
        yield started


@pytest.fixture
def kept(server: PostgresServer) -> Iterator[Book]:
    """An empty ledger on the server."""
    with server.database() as url, book(url) as opened:
        yield opened


def test_lists_filters_and_sums_are_the_same_as_on_sqlite(kept: Book, invoke: Call) -> None:
    """Also times, prefixes and job ids of past attempts."""
    kept.stored("a", 0.1)
    kept.failed("b", job="job-1", cost=0.2)
    stuck = kept.stuck("b", job="job-2")
    kept.held("c")
    ended = invoke("ledger", "list", "--ledger", kept.url, "--since", "1h", "--json")
    assert ended.status == 0
    assert ended.document["totals"] == {
        "count": 3,
        "by_state": {"submitted": 1, "stored": 1, "held": 1},
        "paid_usd": 0.3,
        "reserved_usd": 0.08,
        "unknown": 0,
    }
    assert kept.ledger.spend(BudgetScope.PROVIDER, "vendor").paid_usd == 0.3
    listed = invoke("ledger", "list", "--stuck", "--ledger", kept.url, "--json")
    assert [row["id"] for row in listed.document["submissions"]] == [stuck.id]
    for name in (stuck.id[:-1], stuck.id[-12:], stuck.run_id, "job-1", "job-2"):
        shown = invoke("ledger", "show", name, "--ledger", kept.url, "--json")
        assert shown.document["id"] == stuck.id


def test_a_password_is_shown_by_no_command(
    kept: Book, invoke: Call, launch: Call, tmp_path: Path
) -> None:
    """Not in what is listed, nor in what goes wrong, nor in a file that is written."""
    kept.held("a")
    env = {"GENBLAZE_LEDGER": kept.url}
    out = tmp_path / "out.jsonl"
    ends = [
        launch("ledger", "list", "--json", env=env),
        invoke("ledger", "show", "nothing-like-it", env=env),
        invoke("ledger", "export", "--format", "jsonl", "-o", out, env=env),
    ]
    assert [end.status for end in ends] == [0, 4, 0]
    told = "".join(end.stdout + end.stderr for end in ends) + out.read_text()
    assert "127.0.0.1" in told
    assert PASSWORD not in told
    assert kept.url.split(":")[2].split("@")[0] not in told


def test_submissions_are_decided_and_given_up(kept: Book, invoke: Call) -> None:
    """The commands that change something work on a server as well."""
    held, stuck = kept.held("a"), kept.stuck("b")
    resolved = invoke("ledger", "resolve", held.id, "--job", "j", "--yes", "--ledger", kept.url)
    assert resolved.status == 0
    given_up = invoke("ledger", "cancel", stuck.id, "--local", "--yes", "--ledger", kept.url)
    assert given_up.status == 0
    assert kept.ledger.get(held.id).job_id == "j"
    assert kept.ledger.get(stuck.id).state is SubmissionState.FAILED
