"""Ledgers of older releases: every row comes along, once, whoever opens them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect, text

from genblaze_dagster.errors import HeldError, LedgerError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope, Spend
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, SubmissionState
from genblaze_dagster.ledger.migrations import MIGRATIONS
from genblaze_dagster.ledger.schema import metadata, prepare
from genblaze_dagster.providers.protocol import JobState

# The tables of version 1 as that release created them.
VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE submissions (id VARCHAR NOT NULL, run_id VARCHAR NOT NULL, step_id VARCHAR NOT NULL,
    asset_key VARCHAR NOT NULL, partition_key VARCHAR NOT NULL, scope VARCHAR NOT NULL,
    generation_key VARCHAR NOT NULL, provider VARCHAR NOT NULL, model VARCHAR NOT NULL,
    state VARCHAR NOT NULL, job_id VARCHAR, attempt INTEGER NOT NULL, owner VARCHAR,
    lease_expires_at {time}, created_at {time} NOT NULL, sending_at {time}, submitted_at {time},
    finished_at {time}, cost_usd FLOAT, error_code VARCHAR, error_message VARCHAR(500),
    result JSON, deduplicates BOOLEAN NOT NULL, answer_lost BOOLEAN NOT NULL,
    estimated_seconds FLOAT, outputs_expire_at {time}, PRIMARY KEY (id), UNIQUE (run_id));
CREATE INDEX submissions_generation ON submissions (generation_key, asset_key, partition_key);
CREATE UNIQUE INDEX submissions_one_unsettled
    ON submissions (generation_key, asset_key, partition_key)
    WHERE state IN ('intended', 'submitted', 'succeeded', 'held');
CREATE TABLE intents (generation_key VARCHAR NOT NULL, asset_key VARCHAR NOT NULL,
    partition_key VARCHAR NOT NULL, scope VARCHAR NOT NULL, submission_id VARCHAR NOT NULL,
    PRIMARY KEY (generation_key, asset_key, partition_key, scope),
    FOREIGN KEY(submission_id) REFERENCES submissions (id)) {compact};
CREATE TABLE past_attempts (submission_id VARCHAR NOT NULL, attempt INTEGER NOT NULL,
    job_id VARCHAR, sending_at {time}, submitted_at {time}, finished_at {time}, cost_usd FLOAT,
    error_code VARCHAR, error_message VARCHAR(500), PRIMARY KEY (submission_id, attempt),
    FOREIGN KEY(submission_id) REFERENCES submissions (id));
INSERT INTO schema_version VALUES (1)
"""
WORDS = {
    "sqlite": {"time": "DATETIME", "compact": "WITHOUT ROWID"},
    "postgresql": {"time": "TIMESTAMP WITH TIME ZONE", "compact": ""},
}
NEWEST = len(MIGRATIONS) + 1
STATES = ("intended", "submitted", "succeeded", "stored", "failed", "held")
CREATED = datetime(2026, 1, 2, 23, 0, tzinfo=UTC)
SENT = datetime(2026, 1, 3, 1, 0, tzinfo=UTC)


def intent(state: str) -> Intent:
    return Intent("media/image", state, "run-1", "g" * 64, "vendor", "model-1")


@pytest.fixture
def connect(ledger_url: str) -> Iterator[Callable[[], Any]]:
    engine = create_engine(ledger_url.replace("postgresql:", "postgresql+psycopg:"))
    yield engine.begin
    engine.dispose()


@pytest.fixture
def old_url(ledger_url: str, connect: Callable[[], Any]) -> str:
    """A ledger of version 1 with a submission in every state, one of them tried twice before."""
    with connect() as connection:
        fill(connection)
    return ledger_url


def fill(connection: Connection, *, version: int = 1) -> None:
    """Create the tables of a version and a submission in every state."""
    fill_first(connection)
    for migrate in MIGRATIONS[: version - 1]:
        migrate(connection)
    connection.execute(text("UPDATE schema_version SET version = :found"), {"found": version})


def fill_first(connection: Connection) -> None:
    name = connection.dialect.name
    for statement in VERSION_1.format_map(WORDS[name]).split(";"):
        connection.execute(text(statement))
    # SQLite's times are text without a zone.
    created, sent = (
        each if name == "postgresql" else f"{each:%Y-%m-%d %H:%M:%S.%f}" for each in (CREATED, SENT)
    )
    for number, state in enumerate(STATES):
        accepted = state in ("submitted", "succeeded", "stored", "failed")
        connection.execute(
            text(
                "INSERT INTO submissions (id, run_id, step_id, asset_key, partition_key, scope, "
                "generation_key, provider, model, state, job_id, attempt, owner, created_at, "
                "sending_at, cost_usd, result, deduplicates, answer_lost) VALUES (:id, :id, :id, "
                "'media/image', :state, :scope, :key, 'vendor', 'model-1', :state, :job, 3, 'a', "
                ":created, :sent, :cost, :result, false, :lost)"
            ),
            {
                "id": f"id-{number}",
                "state": state,
                # Agents and media made anew have scopes of their own within the run's.
                "scope": "run-1#2" if state in ("stored", "failed") else "run-1",
                "key": "g" * 64,
                "job": f"job-{state}" if accepted else None,
                "created": created,
                "sent": None if state == "intended" else sent,
                "cost": 0.5 if state in ("succeeded", "stored") else None,
                "result": '{"old": true}' if state == "stored" else None,
                "lost": state == "held",
            },
        )
        connection.execute(
            text("INSERT INTO intents VALUES (:key, 'media/image', :state, 'run-1', :id)"),
            {"key": "g" * 64, "state": state, "id": f"id-{number}"},
        )
    for attempt, job, cost, at in ((1, "job-1", 0.25, sent), (2, None, None, None)):
        connection.execute(
            text(
                "INSERT INTO past_attempts (submission_id, attempt, job_id, cost_usd, sending_at) "
                "VALUES ('id-4', :attempt, :job, :cost, :at)"
            ),
            {"attempt": attempt, "job": job, "cost": cost, "at": at},
        )


def version(connect: Callable[[], Any]) -> int:
    with connect() as connection:
        return connection.execute(text("SELECT version FROM schema_version")).scalar_one()


def shape(connection: Connection) -> dict[str, Any]:
    """Everything about the tables that a statement can notice, the order of columns apart."""
    found = inspect(connection)
    tables = found.get_table_names()
    return {
        table: (
            {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(table)},
            found.get_pk_constraint(table)["constrained_columns"],
            [key["constrained_columns"] for key in found.get_foreign_keys(table)],
            sorted(
                (i["name"], i["column_names"], sorted(map(str, i["dialect_options"].values())))
                for i in found.get_indexes(table)
            ),
        )
        for table in sorted(tables)
    }


def test_rows_of_every_state_come_along(old_url, connect):
    """Each goes on as it would have: resumed, used, retried or held; nothing is sent again."""
    with Ledger(old_url) as ledger:
        rows = {row.partition_key: row for row in ledger.rows()}
        assert [rows[state].state for state in STATES] == [SubmissionState(s) for s in STATES]
        for state, row in rows.items():
            assert row.claimed_at == (CREATED if state == "intended" else SENT)
            unknown = (row.tenant_id, row.account, row.estimated_cost_usd, row.reserved_usd)
            assert unknown == (None,) * 4
        first, second = ledger.past_attempts("id-4")
        assert (first.claimed_at, first.cost_usd, first.answer_lost) == (SENT, 0.25, False)
        assert (second.claimed_at, second.job_id, second.reserved_usd) == (CREATED, None, None)
        kinds = {
            state: ledger.claim(intent(state), owner="b").kind
            for state in STATES
            if state != "held"
        }
        with pytest.raises(HeldError):
            ledger.claim(intent("held"), owner="b")
    assert kinds == {
        "intended": ClaimKind.NEW,
        "submitted": ClaimKind.RESUME,
        "succeeded": ClaimKind.RESUME,
        "stored": ClaimKind.FINISHED,
        "failed": ClaimKind.NEW,
    }
    assert version(connect) == NEWEST


def test_a_submission_of_version_2_is_called_back(ledger_url, connect):
    """Its row is all that is needed; the job of a held one is taken."""
    with connect() as connection:
        fill(connection, version=2)
    with Ledger(ledger_url) as ledger:
        state = JobState.SUCCEEDED
        told = ledger.called_back("vendor", "d-1", "job-x", state=state, submission_key="id-5")
        assert (told.is_new, told.is_found) == (True, True)
        assert ledger.claim(intent("held"), owner="b").kind is ClaimKind.RESUME
        old = ledger.called_back("vendor", "d-2", "job-1", state=state, submission_key=None)
        assert old.submission is not None
        assert old.submission.id == "id-4"
    assert version(connect) == NEWEST


def test_old_money_counts(old_url):
    """What was paid before, past attempts included, is spent; what is unknown is counted."""
    with Ledger(old_url) as ledger:
        assert ledger.spend(BudgetScope.RUN, "run-1") == Spend(1.25, 0.0, 4)
        assert ledger.spend(BudgetScope.ASSET, "media/image") == Spend(1.25, 0.0, 4)
        assert ledger.spend(BudgetScope.PROVIDER, "vendor") == Spend(1.25, 0.0, 4)
        assert ledger.spend(BudgetScope.DAY, "2026-01-02") == Spend(0.0, 0.0, 1)
        assert ledger.spend(BudgetScope.DAY, "2026-01-03") == Spend(1.25, 0.0, 3)
        failed = ledger.spend(BudgetScope.PARTITION, "media/image", partition_key="failed")
        assert failed == Spend(0.25, 0.0, 1)
        new = Intent("b", None, "run-1", "h" * 64, "v", "m", estimated_cost_usd=0.1)
        with pytest.raises(LedgerError, match=r"1\.25 are paid"):
            ledger.claim(new, owner="b", budgets=[Budget(BudgetScope.RUN, 1.3)])
        ledger.claim(new, owner="b", budgets=[Budget(BudgetScope.RUN, 1.35)])


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_a_migrated_ledger_is_like_a_new_one(ledger_url, connect, version):
    """Tables, columns, keys and indexes are the same, so one release means one schema."""
    with connect() as connection:
        prepare(connection)
        new = shape(connection)
        for table in reversed(metadata.sorted_tables):
            table.drop(connection)
        fill(connection, version=version)
        prepare(connection)
        assert shape(connection) == new


def test_migrating_twice_is_harmless(old_url, connect):
    """Opening again changes nothing."""
    contents = []
    for _ in range(2):
        with Ledger(old_url) as ledger:
            contents.append((list(ledger.rows()), ledger.spend(BudgetScope.RUN, "run-1")))
    assert contents[0] == contents[1]
    with connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM spend_entries")).scalar_one() == 8


OPEN = """
import os, sys
import psycopg  # Loaded once, for all.
from genblaze_dagster.ledger.ledger import Ledger

waiting, starting = os.pipe()
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        os.close(starting)
        os.read(waiting, 1)
        with Ledger(sys.argv[1], busy_timeout=60) as ledger:
            os.write(1, b"%d\\n" % len(list(ledger.rows())))
        os._exit(0)
    children.append(child)
os.close(starting)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""


def test_many_processes_meet_an_old_ledger_at_once(old_url, connect):
    """One of them migrates it, the others wait; every one finds all rows."""
    ended = subprocess.run(
        [sys.executable, "-c", OPEN, old_url],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    assert ended.stdout.splitlines() == ["6"] * 8
    assert version(connect) == NEWEST


def test_a_newer_ledger_is_refused_and_left_alone(ledger_url, connect):
    """The message names both versions and what to do."""
    with Ledger(ledger_url) as ledger:
        ledger.claim(intent("x"), owner="a")
    with connect() as connection:
        connection.execute(text("UPDATE schema_version SET version = 99"))
    with (
        Ledger(ledger_url) as ledger,
        pytest.raises(LedgerError, match=f"version 99 and this release knows up to {NEWEST};"),
    ):
        list(ledger.rows())
    assert version(connect) == 99


def test_tables_without_a_version_are_no_ledger(ledger_url, connect):
    """Another program's, or a copy that is not whole; what to do is said."""
    with Ledger(ledger_url) as ledger:
        list(ledger.rows())
    with connect() as connection:
        connection.execute(text("DELETE FROM schema_version"))
    with Ledger(ledger_url) as ledger, pytest.raises(LedgerError, match="give another ledger"):
        list(ledger.rows())


def stop_halfway(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE submissions ADD COLUMN colour VARCHAR"))
    raise LedgerError("stop")


def migrate_as_a_ledger_does(connect: Callable[[], Any]) -> None:
    with connect() as connection:
        if connection.dialect.name == "sqlite":
            # The driver would begin at the first row that changes.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        prepare(connection, (stop_halfway,))


def test_a_migration_that_fails_leaves_the_old_ledger(old_url, connect):
    """All of it happens in one transaction, or nothing."""
    with connect() as connection:
        before = shape(connection)
    with pytest.raises(LedgerError, match="stop"):
        migrate_as_a_ledger_does(connect)
    with connect() as connection:
        assert shape(connection) == before
    assert version(connect) == 1


def test_missing_migrations_run_in_order(old_url, connect):
    """A ledger that is two versions behind takes both steps, then none."""
    taken: list[str] = []
    steps = (lambda _: taken.append("to 2"), lambda _: taken.append("to 3"))
    for _ in range(2):
        with connect() as connection:
            prepare(connection, steps)
    assert (taken, version(connect)) == (["to 2", "to 3"], 3)
