"""Opening, sharing, upgrading and breaking the ledger's file."""

import os
import sqlite3
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, text

from genblaze_dagster.errors import ConfigError, LedgerError
from genblaze_dagster.ledger.database import Database
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger
from genblaze_dagster.ledger.migrations import MIGRATIONS
from genblaze_dagster.ledger.schema import prepare

INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")


def pragma(path: Path, name: str) -> object:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
    finally:
        connection.close()


def test_the_file_and_its_folders_appear_on_first_use(tmp_path):
    """Constructing opens nothing; the first call creates a write-ahead-logged file."""
    path = tmp_path / "new" / "folder" / "ledger.db"
    with Ledger(path) as ledger:
        assert not path.parent.exists()
        ledger.claim(INTENT, owner="a")
        assert pragma(path, "journal_mode") == "wal"


def test_commits_are_synced_and_references_enforced(tmp_path):
    """A job id must outlive a power cut: every commit reaches the disk (synchronous = FULL)."""
    database = Database(tmp_path / "ledger.db", busy_timeout=5)
    with database.write() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.close()


@pytest.mark.parametrize("form", ["path", "text", "url"])
def test_a_path_and_a_url_mean_the_same_file(tmp_path, form):
    """`Path`, its text and the `sqlite:///` URL open one ledger."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as first:
        row = first.claim(INTENT, owner="a").submission
    given = {"path": path, "text": str(path), "url": f"sqlite:///{path}"}[form]
    with Ledger(given) as second:
        assert second.get(row.id) == row


def test_a_relative_url_is_bound_to_the_folder_it_was_given_in(tmp_path, monkeypatch):
    """Changing the working directory later does not split a ledger in two."""
    monkeypatch.chdir(tmp_path)
    with Ledger("sqlite:///sub/ledger.db") as ledger:
        monkeypatch.chdir("/")
        ledger.claim(INTENT, owner="a")
    assert (tmp_path / "sub" / "ledger.db").is_file()


def test_a_closed_ledger_opens_again(ledger):
    """Closing is not the end; the next call finds everything."""
    row = ledger.claim(INTENT, owner="a").submission
    ledger.close()
    assert ledger.get(row.id) == row


@pytest.mark.parametrize("url", ["mysql://u:pw@host/db", "postgresql+asyncpg://u:pw@host/db"])
def test_other_databases_are_refused_by_name(url):
    """What is not supported says so at once, without the password."""
    with pytest.raises(ConfigError, match="SQLite") as refused:
        Ledger(url)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["://nothing", "postgresql://u:pw@host:port/db", "postgresql:/u:pw@host/db", "sqlite:x"]
)
def test_a_broken_url_is_a_configuration_error(url):
    """Text that is no URL is named as such, without repeating what may hold a password."""
    with pytest.raises(ConfigError, match="not a database URL") as refused:
        Ledger(url)
    assert "pw" not in "".join(traceback.format_exception(refused.value))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    """The message holds the folder and the operating system's reason."""
    (tmp_path / "file").write_text("in the way")
    ledger = Ledger(tmp_path / "file" / "ledger.db")
    with pytest.raises(LedgerError, match=r"file cannot be created \(File exists\)"):
        ledger.claim(INTENT, owner="a")


def test_a_path_that_is_a_folder_cannot_be_opened(tmp_path):
    """The message names the path and what to check."""
    with pytest.raises(LedgerError, match=r"cannot be opened; check that its folder"):
        Ledger(tmp_path).claim(INTENT, owner="a")


def test_a_read_only_ledger_says_so(tmp_path):
    """Writing to a database opened read-only names the file and the remedy."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        row = ledger.claim(INTENT, owner="a").submission
    with (
        Ledger(f"sqlite:///file:{path}?mode=ro&uri=true") as ledger,
        pytest.raises(LedgerError, match=rf"ledger {path} is read-only; make"),
    ):
        ledger.mark_sending(row.id, "a")


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    """A foreign file is refused and keeps its content."""
    path = tmp_path / "notes.txt"
    path.write_text("dear diary " * 1000)
    with pytest.raises(LedgerError, match=r"notes.txt is not a ledger; move it away"):
        Ledger(path).claim(INTENT, owner="a")
    assert path.read_text().startswith("dear diary")


def test_a_damaged_ledger_says_so(tmp_path):
    """Overwritten pages are reported as damage, with the remedy."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        for n in range(300):
            ledger.claim(replace(INTENT, partition_key=str(n)), owner="a")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with Ledger(path) as ledger, pytest.raises(LedgerError, match="is damaged; restore it"):
        list(ledger.rows())


FILL = """
import resource, signal, sys
from dataclasses import replace
from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.ledger import Intent, Ledger

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
intent = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")
with Ledger(sys.argv[1]) as ledger:
    ledger.claim(intent, owner="a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    done = 0
    try:
        while True:
            ledger.claim(replace(intent, partition_key=str(done)), owner="a")
            done += 1
    except LedgerError as exc:
        print(done)
        print(exc)
"""


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path):
    """A write that does not fit names the file and the disk; every earlier claim is still there."""
    path = tmp_path / "ledger.db"
    ended = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True
    )
    done, message = ended.stdout.splitlines()
    assert "disk" in message
    assert str(path) in message
    with Ledger(path) as ledger:
        assert len(list(ledger.rows())) == int(done) + 1
        assert ledger.claim(replace(INTENT, scope="x"), owner="a").kind is ClaimKind.NEW


def test_a_result_that_is_not_json_is_refused_and_nothing_changes(ledger):
    """The row stays as it was, so that the result can be stored properly."""
    row = ledger.claim(INTENT, owner="a").submission
    sent = ledger.mark_sending(row.id, "a")
    with pytest.raises(LedgerError, match="cannot keep this value"):
        ledger.stored(row.id, "a", {"bytes": b"raw"})
    assert ledger.get(row.id) == sent


def test_a_newer_ledger_is_refused(tmp_path):
    """A file from a newer release is not touched; the message names both versions."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.claim(INTENT, owner="a")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerError, match=r"version 99 and this release knows up to \d+; upgrade"):
        Ledger(path).claim(INTENT, owner="a")


def add_colour(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE submissions ADD COLUMN colour TEXT"))


def add_shape(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE submissions ADD COLUMN shape TEXT DEFAULT 'round'"))


def test_an_older_ledger_is_migrated_step_by_step_and_once(tmp_path):
    """Missing migrations run in order inside one transaction; rows stay."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.claim(INTENT, owner="a")
    engine = create_engine(f"sqlite:///{path}")
    for added in ((add_colour,), (add_colour, add_shape), (add_colour, add_shape)):
        with engine.begin() as connection:
            prepare(connection, (*MIGRATIONS, *added))
    with engine.begin() as connection:
        row = connection.execute(text("SELECT asset_key, colour, shape FROM submissions")).one()
        version = connection.execute(text("SELECT version FROM schema_version")).scalar_one()
    engine.dispose()
    assert tuple(row) == ("media/image", None, "round")
    assert version == len(MIGRATIONS) + 3


def test_threads_share_one_ledger(ledger):
    """32 threads on 200 partitions: each partition is claimed once, nothing is lost or locked."""

    def work(number: int) -> bool:
        intent = replace(INTENT, partition_key=str(number % 200))
        try:
            claim = ledger.claim(intent, owner=f"t{number}")
        except LedgerError:
            return False
        ledger.mark_sending(claim.submission.id, f"t{number}")
        return claim.kind is ClaimKind.NEW

    with ThreadPoolExecutor(32) as pool:
        new = list(pool.map(work, range(400)))
    assert sum(new) == 200
    assert len(list(ledger.rows())) == 200


def test_another_process_holding_the_file_is_waited_for_and_then_named(tmp_path):
    """A foreign write lock delays; when it stays, the error is transient and says what to do."""
    path = tmp_path / "ledger.db"
    with Ledger(path, busy_timeout=0.05) as ledger:
        ledger.claim(INTENT, owner="a")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked by another process") as busy:
            ledger.claim(INTENT, owner="a")
        assert busy.value.transient
        other.execute("ROLLBACK")
        other.close()
        assert ledger.claim(INTENT, owner="a").kind is ClaimKind.NEW


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer Python warns about fork itself")
def test_a_forked_child_opens_its_own_connection(ledger):
    """SQLite connections do not survive a fork; the child gets a fresh one and both go on."""
    row = ledger.claim(INTENT, owner="a").submission
    child = os.fork()
    if child == 0:
        ledger.mark_sending(row.id, "a")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert ledger.submitted(row.id, "a", "job").sending_at is not None
