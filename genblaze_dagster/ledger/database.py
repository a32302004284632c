"""The ledger's database: one connection per process, short transactions, errors a person can use.

Every process keeps a single pooled connection. Threads queue for it in order, where several
connections would poll SQLite's write lock with growing sleeps.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from genblaze_dagster.errors import ConfigError, LedgerError
from genblaze_dagster.ledger.schema import prepare

_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_REMEDIES = {
    **dict.fromkeys(_LOCKED, "is locked by another process; stop what holds it open for long"),
    sqlite3.SQLITE_CANTOPEN: "cannot be opened; check that its folder exists and is writable",
    sqlite3.SQLITE_READONLY: "is read-only; make the file and its folder writable",
    sqlite3.SQLITE_PERM: "may not be opened; make the file and its folder writable",
    sqlite3.SQLITE_FULL: "has no room: the disk is full; free space and run again",
    sqlite3.SQLITE_IOERR: "cannot be read or written; check the disk's space and health",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup or move it away",
    sqlite3.SQLITE_NOTADB: "is not a ledger; move it away or give another path",
}


class Database:
    """Connections to one ledger database, created and migrated on first use.

    Args:
        url: SQLAlchemy URL, or the path of an SQLite file. `sqlite://` is private to this object.
        busy_timeout: seconds to wait for another process's or thread's transaction.

    Raises:
        ConfigError: the URL is broken or names a database that is not supported.
    """

    def __init__(self, url: str | Path, *, busy_timeout: float) -> None:
        self.url = _parse(url)
        self.path = _file_of(self.url)
        self._busy_timeout = busy_timeout
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._pid = 0

    @property
    def name(self) -> str:
        """How messages call this database; never holds a password."""
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Generator[Connection, None, None]:
        """Run one transaction that holds the write lock from its start; commits at the end.

        Raises:
            LedgerError: the database cannot be used; names it and the remedy.
        """
        with self._explained(), self._ready().begin() as connection:
            _lock(connection)
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection, None, None]:
        """Run a query, without the write lock.

        Raises:
            LedgerError: the database cannot be used; names it and the remedy.
        """
        with self._explained(), self._ready().connect() as connection:
            yield connection

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _ready(self) -> Engine:
        with self._opening:
            if self._engine is not None and self._pid != os.getpid():
                # SQLite connections must not be used, nor closed, in a forked child.
                self._engine.dispose(close=False)
                self._engine = None
            if self._engine is None:
                self._engine = self._opened()
                self._pid = os.getpid()
            return self._engine

    def _opened(self) -> Engine:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise LedgerError(
                    f"ledger folder {self.path.parent} cannot be created ({exc.strerror}); "
                    "create it, or give another path"
                ) from exc
        engine = create_engine(
            self.url,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=self._busy_timeout,
            # Parameters hold job ids and keys of partitions; they stay out of tracebacks.
            hide_parameters=True,
            connect_args={"timeout": self._busy_timeout, "check_same_thread": False},
        )
        event.listen(engine, "connect", _on_connect)
        try:
            if self.path is not None:
                self._use_write_ahead_log(engine)
            with engine.begin() as connection:
                _lock(connection)
                prepare(connection)
        except BaseException:
            engine.dispose()
            raise
        return engine

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

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        try:
            yield
        except PoolTimeoutError as exc:
            busy = LedgerError(
                f"ledger {self.name} is kept busy by other threads; run fewer at once"
            )
            busy.transient = True
            raise busy from exc
        except sqlite3.Error as exc:
            raise self._explanation(exc) from exc
        except DBAPIError as exc:
            raise self._explanation(exc.orig) from exc
        except StatementError as exc:
            raise LedgerError(f"ledger {self.name} cannot keep this value: {exc.orig}") from exc

    def _explanation(self, error: BaseException | None) -> LedgerError:
        code = _code(error)
        fact = _REMEDIES.get(code, "cannot be used")
        explained = LedgerError(f"ledger {self.name} {fact} ({error})")
        explained.transient = code in _LOCKED
        return explained


def _parse(url: str | Path) -> URL:
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite", database=str(Path(url).absolute()))
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"ledger URL is not a database URL: {exc}") from exc
    if parsed.get_backend_name() != "sqlite":
        raise ConfigError(
            f"ledger URL names {parsed.get_backend_name()!r}; this release keeps ledgers in SQLite "
            "files: give sqlite:///path"
        )
    database = parsed.database
    if database and database != ":memory:" and not database.startswith("file:"):
        return parsed.set(database=str(Path(database).absolute()))
    return parsed


def _file_of(url: URL) -> Path | None:
    database = url.database
    if not database or database == ":memory:":
        return None
    return Path(database.removeprefix("file:")).absolute()


def _on_connect(connection: Any, record: object) -> None:
    # The driver would begin a transaction only at the first change; `_lock` does it before.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    # A job id must outlive a power cut: FULL syncs the log at every commit.
    connection.execute("PRAGMA synchronous = FULL")


def _lock(connection: Connection) -> None:
    # The write lock comes before the first read: two claims never see the same free place.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _journal_mode(connection: Any) -> str:
    return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])


def _code(error: BaseException | None) -> int:
    # Extended result codes carry the primary one in their low byte.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
