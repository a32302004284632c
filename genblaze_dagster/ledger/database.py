"""The ledger's database: short transactions, errors a person can use, reconnecting, clocks."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from genblaze_dagster.errors import ConfigError, LedgerError
from genblaze_dagster.ledger.backend import Backend, Trouble
from genblaze_dagster.ledger.postgres import Postgres
from genblaze_dagster.ledger.schema import prepare
from genblaze_dagster.ledger.sqlite import Sqlite

T = TypeVar("T")

Work = Callable[[Connection, bool], T]
"""What a transaction does; told whether an earlier try may have been committed."""

_CONFLICTS = 5
_CLOCK_SECONDS = 60.0
# The server's time is known to half of the time that asking took.
_CLOCK_TOLERANCE = 0.5
_CLOCK_TRIES = 5
_SCHEMA = "schema"
# A URL with a slash too few: as a path it would make a ledger that no other process uses.
_SLIPPED = re.compile(r"(sqlite|postgres(ql)?)(\+\w+)?:")

# One statement for all keys; `unnest` yields them in the order given.
_ADVISORY_LOCKS = text(
    "SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key"
)


class Group(threading.local):
    """The transaction that this thread's operations share, while there is one.

    It is spoilt once an operation failed halfway: go no further, nothing of it will be kept.
    """

    connection: Connection | None = None
    is_spoilt: bool = False


class GroupSpoiltError(Exception):
    """An operation of a group failed halfway, so the whole group was rolled back."""


class Database:
    """Connections to one ledger database, created and migrated on first use.

    Args:
        url: SQLAlchemy URL, or the path of an SQLite file. `sqlite://` is private to this object.
        busy_timeout: seconds to wait for another process's or thread's transaction.

    Raises:
        ConfigError: the URL is broken or names a database that is not supported.
        MissingExtraError: the database's driver is not installed.
    """

    def __init__(self, url: str | Path, *, busy_timeout: float) -> None:
        self._backend = _backend(_parse(url), busy_timeout)
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._pid = 0
        self._group = Group()
        self._clock: tuple[datetime, float] | None = None

    @property
    def name(self) -> str:
        """How messages call this database; never holds a password."""
        return self._backend.name

    @property
    def at_once(self) -> int:
        """How many transactions of one process make progress together."""
        return self._backend.at_once

    def transact(self, work: Work[T], *, is_lone_statement: bool = False) -> T:
        """Do the work in one transaction that is committed when this returns.

        The work is done again when another transaction was in the way, and once when the
        connection was lost: then it may have been committed already, and is told so.

        Args:
            work: gets the connection and whether an earlier try may have been committed.
            is_lone_statement: it runs one statement, which needs no transaction around it.

        Raises:
            LedgerError: the database cannot be used; names it and the remedy.
        """
        is_repeated = False
        for left in reversed(range(_CONFLICTS)):
            try:
                with self._transaction(is_lone_statement) as connection:
                    return work(connection, is_repeated)
            except (*self._backend.errors, DBAPIError) as exc:
                trouble = self._trouble(exc)
                can_repeat = trouble.is_conflict or (trouble.is_lost and not is_repeated)
                if self._group.connection is not None or not (left and can_repeat):
                    raise self._explanation(trouble) from exc
                is_repeated = is_repeated or trouble.is_lost
            except (PoolTimeoutError, StatementError) as exc:
                raise self._misuse(exc) from exc
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def write(self) -> Generator[Connection, None, None]:
        """Run one transaction, once; commits at the end.

        Raises:
            LedgerError: the database cannot be used; names it and the remedy.
        """
        with self._explained(), self._transaction() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection, None, None]:
        """Run queries, without the write lock.

        Raises:
            LedgerError: the database cannot be used; names it and the remedy.
        """
        if self._group.connection is not None:
            yield self._group.connection
            return
        with self._explained(), self._ready().connect() as connection:
            yield connection

    @contextmanager
    def group(self) -> Generator[Group, None, None]:
        """Let every transaction of this thread be a part of one, committed at the end.

        Raises:
            GroupSpoiltError: a part was left by an exception, so nothing of the group was kept.
            LedgerError: the group could not be begun or committed.
        """
        with self._explained(), self._transaction() as connection:
            self._group.connection = connection
            self._group.is_spoilt = False
            try:
                yield self._group
            finally:
                self._group.connection = None
            if self._group.is_spoilt:
                raise GroupSpoiltError

    def now(self) -> datetime:
        """Return the time by which leases are told: the server's, or else this machine's.

        A server is asked once a minute; in between its time is counted on, so that setting the
        clock of this machine changes nothing.

        Raises:
            LedgerError: the server cannot be asked.
        """
        query = self._backend.clock
        if query is None:
            return datetime.now(UTC)
        known = self._clock
        if known is None or time.monotonic() - known[1] > _CLOCK_SECONDS:
            known = self._clock = self.transact(partial(_told, query), is_lone_statement=True)
        return known[0] + timedelta(seconds=time.monotonic() - known[1])

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    @contextmanager
    def _transaction(self, is_lone_statement: bool = False) -> Generator[Connection, None, None]:
        if self._group.connection is not None:
            with self._part(self._group.connection) as connection:
                yield connection
            return
        with self._ready().begin() as connection:
            try:
                if not is_lone_statement:
                    connection.exec_driver_sql(self._backend.begin)
                yield connection
            except (*self._backend.errors, DBAPIError) as exc:
                if self._trouble(exc).is_lost:
                    connection.invalidate(exc)
                raise

    @contextmanager
    def _part(self, connection: Connection) -> Generator[Connection, None, None]:
        try:
            yield connection
        except BaseException:
            self._group.is_spoilt = True
            raise

    def _ready(self) -> Engine:
        with self._opening:
            if self._engine is not None and self._pid != os.getpid():
                # Connections must not be used, nor closed, in a forked child.
                self._engine.dispose(close=False)
                self._engine = None
            if self._engine is None:
                self._engine = self._opened()
                self._pid = os.getpid()
            return self._engine

    def _opened(self) -> Engine:
        engine = self._backend.engine()
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql(self._backend.begin)
                lock(connection, _SCHEMA)
                prepare(connection)
        except BaseException:
            engine.dispose()
            raise
        return engine

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        try:
            yield
        except (*self._backend.errors, DBAPIError) as exc:
            raise self._explanation(self._trouble(exc)) from exc
        except (PoolTimeoutError, StatementError) as exc:
            raise self._misuse(exc) from exc

    def _trouble(self, error: BaseException) -> Trouble:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return self._backend.explain(cause or error)

    def _explanation(self, trouble: Trouble) -> LedgerError:
        explained = LedgerError(f"ledger {self.name} {trouble.fact}")
        explained.transient = trouble.is_transient
        return explained

    def _misuse(self, error: PoolTimeoutError | StatementError) -> LedgerError:
        if isinstance(error, StatementError):
            return LedgerError(f"ledger {self.name} cannot keep this value: {error.orig}")
        busy = LedgerError(f"ledger {self.name} is kept busy by other threads; run fewer at once")
        busy.transient = True
        return busy


def _told(query: str, connection: Connection, _: bool) -> tuple[datetime, float]:
    """Return the server's time, and the moment of the steady clock at which it was so."""
    found: list[tuple[float, float, datetime]] = []
    while len(found) < _CLOCK_TRIES:
        before = time.monotonic()
        told: datetime = connection.exec_driver_sql(query).scalar_one()
        took = time.monotonic() - before
        found.append((took, before + took / 2, told))
        if took < _CLOCK_TOLERANCE:
            break
    # This process, or the way to the server, stood still meanwhile: the quickest answer is nearest.
    nearest = min(found)
    return nearest[2], nearest[1]


def lock(connection: Connection, *keys: str) -> None:
    """Let no other transaction pass that locks one of these keys, until this one ends.

    SQLite's one writer is alone already. On PostgreSQL the keys are locked in one fixed order; a
    transaction that locks twice must do it in the same order everywhere: what is claimed first,
    then budgets and accounts together.

    Args:
        connection: a connection that `Database` gave for writing.
        keys: any text, such as `"budget:..."`; equal text is the same lock in the whole database.
    """
    if connection.dialect.name == "postgresql" and keys:
        connection.execute(_ADVISORY_LOCKS, {"keys": sorted({_lock_number(key) for key in keys})})


def _lock_number(key: str) -> int:
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"genblaze-ledger").digest()
    return int.from_bytes(digest, signed=True)


def _parse(url: str | Path) -> URL:
    if isinstance(url, Path) or not ("://" in url or _SLIPPED.match(url)):
        return URL.create("sqlite", database=str(Path(url).absolute()))
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # Neither the text nor the parser's complaint, which quotes it: it may hold a password.
        raise ConfigError(
            "ledger URL is not a database URL; give sqlite:///path or "
            "postgresql://user:password@host/database, with special characters of the password "
            "percent-encoded"
        ) from None


def _backend(url: URL, busy_timeout: float) -> Backend:
    kind = url.drivername
    if kind in ("sqlite", "sqlite+pysqlite"):
        return Sqlite(url, busy_timeout=busy_timeout)
    if kind in ("postgresql", "postgresql+psycopg", "postgres"):
        return Postgres(url, busy_timeout=busy_timeout)
    raise ConfigError(
        f"ledger URL names {kind!r}; ledgers are kept in SQLite (sqlite:///path) or PostgreSQL "
        "(postgresql://user:password@host/database)"
    )
