"""Ledgers in an SQLite file: one writer, one connection per process, a synced log.

Threads queue for the one connection in order, where several connections would poll SQLite's write
lock with growing sleeps.
"""

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import QueuePool

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.backend import Trouble

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_FACTS = {
    **dict.fromkeys(_LOCKED, "is locked by another process; stop what holds it open for long"),
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its folder exists and is writable",
    sqlite3.SQLITE_READONLY: "is read-only; make the file and its folder writable",
    sqlite3.SQLITE_PERM: "may not be opened; make the file and its folder writable",
    sqlite3.SQLITE_FULL: "has no room: the disk is full; free space and run again",
    sqlite3.SQLITE_IOERR: "cannot be read or written; check the disk's space and health",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup or move it away",
    sqlite3.SQLITE_NOTADB: "is not a ledger; move it away or give another path",
}


class Sqlite:
    """An SQLite file, or a database in the memory of this process.

    Args:
        url: its path is made absolute.
        busy_timeout: seconds to wait for another process's or thread's transaction.
    """

    # The write lock comes before the first read: two claims never see the same free place.
    begin = "BEGIN IMMEDIATE"
    clock = None
    at_once = 1
    errors = (sqlite3.Error,)

    def __init__(self, url: URL, *, busy_timeout: float) -> None:
        database = url.database
        self.path: Path | None = None
        if database and database != ":memory:":
            self.path = Path(database.removeprefix("file:")).absolute()
            if not database.startswith("file:"):
                url = url.set(database=str(self.path))
        self._url = url
        self._busy_timeout = busy_timeout
        self.name = str(self.path) if self.path else str(url)

    def engine(self) -> Engine:
        """Return an engine of one connection to a file with a write-ahead log.

        Raises:
            LedgerError: the folder cannot be created, or is on a network share.
        """
        self._make_folder()
        engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=self._busy_timeout,
            # Parameters hold job ids and keys of partitions; they stay out of tracebacks.
            hide_parameters=True,
            connect_args={"timeout": self._busy_timeout, "check_same_thread": False},
        )
        event.listen(engine, "connect", _on_connect)
        if self.path is not None:
            try:
                self._use_write_ahead_log(engine)
            except BaseException:
                engine.dispose()
                raise
        return engine

    def explain(self, error: BaseException) -> Trouble:
        """Say what an error of SQLite means."""
        code = _code(error)
        fact = _FACTS.get(code, "cannot be used")
        return Trouble(f"{fact} ({error})", is_transient=code in _LOCKED)

    def _make_folder(self) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise LedgerError(
                f"ledger folder {self.path.parent} cannot be created ({exc.strerror}); "
                "create it, or give another path"
            ) from exc

    def _use_write_ahead_log(self, engine: Engine) -> None:
        # Changing the mode does not wait for other connections as other statements do, and many
        # processes may meet a new file at once.
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                with engine.connect() as connection:
                    raw = connection.connection.driver_connection
                    mode = _journal_mode(raw)
            except sqlite3.OperationalError as exc:
                if _code(exc) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
                continue
            if mode != "wal":
                raise LedgerError(
                    f"ledger {self.name} is on a file system without shared memory (a network "
                    "share?), where SQLite cannot lock safely; give a path on a local disk"
                )
            return


def _on_connect(connection: Any, record: object) -> None:
    # The driver would begin a transaction only at the first change; `Sqlite.begin` does it before.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    # A job id must outlive a power cut: FULL syncs the log at every commit.
    connection.execute("PRAGMA synchronous = FULL")


def _journal_mode(connection: Any) -> str:
    return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])


def _code(error: BaseException) -> int:
    # Extended result codes carry the primary one in their low byte.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
