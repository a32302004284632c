"""A PostgreSQL server that refuses, restarts, kills, fills up or knows another time."""

import signal
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from genblaze_dagster.errors import HeldError, LeaseHeldError, LedgerError
from genblaze_dagster.ledger.database import Database
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, SubmissionState
from genblaze_dagster.ledger.transitions import SEND, advance
from tests.support.postgres import PASSWORD, free_port, running_server

INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")

KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)


def execute(url: str, query: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(query)


@pytest.fixture
def ledger(postgres_url):
    with Ledger(postgres_url, busy_timeout=60) as opened:
        yield opened


def message_of(url: str, **settings) -> tuple[str, bool]:
    with Ledger(url, **settings) as ledger, pytest.raises(LedgerError) as failed:
        ledger.claim(INTENT, owner="a")
    shown = "".join(traceback.format_exception(failed.value)) + repr(ledger)
    assert PASSWORD not in shown
    assert "p%40ss" not in shown
    return str(failed.value), failed.value.transient


def test_a_wrong_password_says_what_to_correct(postgres_url):
    """The message names the database, and neither the right nor the wrong password."""
    message, transient = message_of(postgres_url.replace("%40ss", "%40sssss"))
    assert "refuses the user or password of its URL" in message
    assert "sssss" not in message
    assert not transient


def test_an_unknown_database_is_named(postgres_url):
    """Nothing is created by itself: a typing error must not make a second ledger."""
    message, transient = message_of(postgres_url + "x")
    assert "is not on that server; create the database" in message
    assert not transient


def test_a_refused_connection_is_worth_trying_again(postgres_url):
    """A server that is down comes back."""
    port = postgres_url.rpartition(":")[2].partition("/")[0]
    message, transient = message_of(postgres_url.replace(f":{port}/", f":{free_port()}/"))
    assert "is not running, or host and port of its URL are wrong" in message
    assert transient


def test_passwords_in_parameters_are_hidden_too(postgres_url):
    """libpq takes a password as a parameter as well."""
    with Ledger("postgresql://u@127.0.0.1:1/d?password=hidden&sslmode=disable") as ledger:
        assert repr(ledger) == "Ledger('postgresql://u@127.0.0.1:1/d')"


def test_without_psycopg_the_extra_is_named():
    """The one command that helps is in the message."""
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from genblaze_dagster.ledger.ledger import Ledger\n"
        "Ledger('postgresql://u:pw@host/db')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = ended.stderr.splitlines()[-1]
    assert "MissingExtraError: psycopg is not installed" in last
    assert "genblaze-dagster[postgres]" in last


def test_a_read_only_database_says_so(ledger, postgres_url):
    """A standby takes no claims, but is still read from."""
    row = ledger.claim(INTENT, owner="a").submission
    execute(postgres_url, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET "
            "default_transaction_read_only = on', current_database()); END $$")  # fmt: skip
    with Ledger(postgres_url) as reader:
        with pytest.raises(LedgerError, match=r"is read-only \(a standby\?\); give the URL"):
            reader.mark_sending(row.id, "a")
        assert reader.get(row.id).state is SubmissionState.INTENDED


def test_missing_rights_are_named(ledger, postgres_url):
    """The message says what to grant."""
    row = ledger.claim(INTENT, owner="a").submission
    role = postgres_url.rpartition("/")[2]
    execute(postgres_url, f"CREATE ROLE {role} LOGIN PASSWORD 'other'")
    try:
        execute(postgres_url, f"GRANT SELECT ON schema_version TO {role}")
        address = postgres_url.partition("@")[2]
        with (
            Ledger(f"postgresql://{role}:other@{address}") as stranger,
            pytest.raises(LedgerError, match="grant the rights on schema and tables"),
        ):
            stranger.mark_sending(row.id, "a")
    finally:
        execute(postgres_url, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_connection_killed_while_idle_is_not_noticed(ledger, postgres_url):
    """The next call opens another connection."""
    row = ledger.claim(INTENT, owner="a").submission
    execute(postgres_url, KILL)
    assert ledger.mark_sending(row.id, "a").sending_at is not None


def test_a_connection_killed_in_a_transaction_is_replaced_once(ledger, postgres_url):
    """The claim is made all the same, with the ids it had minted, and only once."""
    minted = iter(["run-id", "step-id", "never", "never"])

    def mint() -> str:
        execute(postgres_url, KILL)
        return next(minted)

    claim = ledger.claim(INTENT, owner="a", new_run_id=mint)
    assert claim.kind is ClaimKind.NEW
    assert claim.submission.run_id == "run-id"
    assert len(list(ledger.rows())) == 1


def test_a_server_that_kills_every_connection_is_a_transient_error(ledger, postgres_url):
    """One reconnect is silent; then the caller hears of it, and nothing is left behind."""
    ledger.claim(replace(INTENT, partition_key="owl"), owner="a")
    execute(postgres_url, "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM "
            "pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'; CREATE TRIGGER die BEFORE "
            "INSERT ON submissions EXECUTE FUNCTION die()")  # fmt: skip
    with pytest.raises(LedgerError, match="lost its connection") as lost:
        ledger.claim(INTENT, owner="a")
    assert lost.value.transient
    assert [row.partition_key for row in ledger.rows()] == ["owl"]


def test_a_step_whose_answer_was_lost_is_not_refused_when_repeated(ledger):
    """A repeated step finds what it wrote itself; anybody else's is still refused."""
    row = ledger.claim(INTENT, owner="a").submission
    now = datetime.now(UTC)
    for is_repeated in (False, True):
        with ledger._database.write() as connection:
            sent = advance(
                connection, SEND, row.id, "a", {"sending_at": now}, is_repeated=is_repeated
            )
        assert sent == ledger.get(row.id)
    with ledger._database.write() as connection:
        later = {"sending_at": now + timedelta(seconds=1)}
        refused = advance(connection, SEND, row.id, "a", later, is_repeated=True)
    assert isinstance(refused, LedgerError)


def test_a_restarted_server_goes_on_where_it_was(postgres):
    """While it is down the error is transient; afterwards the same ledger works."""
    with (
        running_server(postgres.programs) as server,
        server.database() as url,
        Ledger(url, busy_timeout=60) as ledger,
    ):
        row = ledger.claim(INTENT, owner="a").submission
        server.stop()
        with pytest.raises(LedgerError) as down:
            ledger.mark_sending(row.id, "a")
        assert down.value.transient
        server.start()
        assert ledger.mark_sending(row.id, "a").sending_at is not None


def test_what_was_acknowledged_survives_a_crash_of_the_server(postgres):
    """With the server's own default settings a commit is on the disk when a call returns."""
    with (
        running_server(postgres.programs, fsync=True) as server,
        server.database() as url,
        Ledger(url, busy_timeout=60) as ledger,
    ):
        row = ledger.claim(INTENT, owner="a").submission
        sent = ledger.mark_sending(row.id, "a")
        server.stop(signal.SIGQUIT)
        server.start()
        assert ledger.get(row.id) == sent


def test_a_takeover_waits_for_the_step_its_owner_is_taking(ledger, postgres_url):
    """Between a claim's look and its takeover the owner may send: then nobody else does."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=0.001).submission
    with closing(psycopg.connect(postgres_url)) as owner, ThreadPoolExecutor(1) as thread:
        owner.execute("UPDATE submissions SET sending_at = now() WHERE owner = 'a'")
        claiming = thread.submit(ledger.claim, INTENT, owner="b")
        with pytest.raises(TimeoutError):
            claiming.result(timeout=0.3)
        owner.commit()
        with pytest.raises(HeldError):
            claiming.result(timeout=60)
    assert ledger.get(row.id).owner == "a"


def test_a_place_that_stays_locked_is_a_transient_error(ledger, postgres_url):
    """Waiting ends after `busy_timeout`, and the message says what to look for."""
    row = ledger.claim(INTENT, owner="a").submission
    # On a busy machine connecting may take longer than the shorter ones.
    for busy_timeout in (0.2, 2.0, 20.0):
        with (
            Ledger(postgres_url, busy_timeout=busy_timeout) as hasty,
            closing(psycopg.connect(postgres_url)) as other,
        ):
            other.execute("SELECT 1 FROM submissions FOR UPDATE")
            with pytest.raises(LedgerError) as busy:
                hasty.mark_sending(row.id, "a")
        if "is locked by another transaction" in str(busy.value):
            break
    assert "is locked by another transaction" in str(busy.value)
    assert busy.value.transient


def test_claims_of_other_places_do_not_wait(ledger, postgres_url):
    """Only what two claims have in common makes one wait for the other."""
    with closing(psycopg.connect(postgres_url)) as other:
        ledger.claim(INTENT, owner="a")
        other.execute("SELECT 1 FROM submissions FOR UPDATE")
        assert ledger.claim(replace(INTENT, partition_key="owl"), owner="b").kind is ClaimKind.NEW


def test_the_servers_clock_tells_leases(postgres_url):
    """A server that is two days ahead is right: machines need not agree on the time."""
    execute(postgres_url, "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE "
            "sql AS 'SELECT now() + interval ''2 days'''; DO $$ BEGIN EXECUTE format('ALTER "
            "DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$")  # fmt: skip
    ahead = datetime.now(UTC) + timedelta(days=2)
    with Ledger(postgres_url) as ledger:
        row = ledger.claim(INTENT, owner="a").submission
        assert abs((row.created_at - ahead).total_seconds()) < 600
        with pytest.raises(LeaseHeldError):
            ledger.claim(INTENT, owner="b")


def test_a_stall_while_the_clock_is_asked_does_not_set_it_wrong(postgres_url):
    """The server told its time four seconds before that was heard: it is asked once more."""
    execute(postgres_url, "CREATE SEQUENCE public.asked; CREATE FUNCTION public.clock_timestamp() "
            "RETURNS timestamptz LANGUAGE plpgsql AS $$ DECLARE told timestamptz := "
            "pg_catalog.clock_timestamp(); BEGIN IF nextval('public.asked') = 1 THEN PERFORM "
            "pg_sleep(4); END IF; RETURN told; END $$; DO $$ BEGIN EXECUTE format('ALTER "
            "DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$")  # fmt: skip
    with (
        closing(psycopg.connect(postgres_url)) as server,
        closing(Database(postgres_url, busy_timeout=60)) as database,
    ):
        asked = "SELECT pg_catalog.clock_timestamp()"
        database.now()
        (before,) = server.execute(asked).fetchone()
        now = database.now()
        (after,) = server.execute(asked).fetchone()
    assert before - timedelta(seconds=1) < now < after + timedelta(seconds=1)


def test_text_that_postgresql_cannot_keep(ledger):
    """A vendor's message may hold anything and must not keep a failure from being recorded."""
    row = ledger.claim(INTENT, owner="a").submission
    message = "bad \0 byte \udc80 here"
    failed = ledger.failed(row.id, "a", code="unknown", message=message, sent=False)
    assert failed.state is SubmissionState.FAILED
    assert "byte" in failed.error_message
    with pytest.raises(LedgerError, match="cannot keep this value"):
        ledger.claim(replace(INTENT, partition_key="\0"), owner="a")
