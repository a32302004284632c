"""Ledgers in PostgreSQL: several machines, a few connections per process, the server's own clock."""

import re
import select
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from genblaze_dagster.errors import LedgerError, MissingExtraError
from genblaze_dagster.ledger.backend import Trouble

if TYPE_CHECKING:
    import psycopg

_CONNECTIONS = 4
_DEADLOCK, _SERIALIZATION, _TAKEN = "40P01", "40001", "23505"

# By SQLSTATE, or its class of two characters.
_TROUBLES = {
    _DEADLOCK: Trouble("is busy with other transactions", is_transient=True, is_conflict=True),
    _SERIALIZATION: Trouble("is busy with other transactions", is_transient=True, is_conflict=True),
    _TAKEN: Trouble("has such a row already", is_transient=True, is_conflict=True),
    "55P03": Trouble("is locked by another transaction; end what is open for long", True),
    "57014": Trouble("did not answer in time; see what keeps the server busy", True),
    "53100": Trouble("has no room: the server's disk is full; free space and run again"),
    "53": Trouble("is short of resources; see the server's log", True),
    # After a failover the address leads to another server: connecting anew may help.
    "25006": Trouble(
        "is read-only (a standby?); give the URL of the primary server", True, is_lost=True
    ),
    "42501": Trouble("may not be used by its user; grant the rights on schema and tables"),
    "3F000": Trouble("has no schema to hold its tables; create it or correct the search_path"),
    "22": Trouble("cannot keep this value"),
    "XX": Trouble("has an internal or disk error; see the server's log"),
    "58": Trouble("cannot read or write its files; see the server's log"),
}
_LOST = Trouble(
    "lost its connection; the server was restarted or the network failed", True, is_lost=True
)
_LOST_CLASSES = ("08", "57P", "25P03")
_UNKNOWN = Trouble("cannot be used")

# libpq gives no SQLSTATE for a connection that failed, only the server's or its own words.
_CONNECTING = (
    (r"authentication failed|no password supplied|role .* does not exist",
     "refuses the user or password of its URL; correct them", False),
    (r"database .* does not exist",
     "is not on that server; create the database, or correct its name in the URL", False),
    (r"no pg_hba.conf entry", "does not admit this user from here; see the server's pg_hba.conf",
     False),
    (r"permission denied for database", "may not be used by its user; grant CONNECT", False),
    (r"too many clients|connection slots|too many connections",
     "has no connection left; raise max_connections, or run fewer processes", True),
    (r"starting up|shutting down|recovery", "is starting or stopping; try again", True),
    (r"refused|No such file", "is not running, or host and port of its URL are wrong", True),
    (r"resolve|translate host name|not known", "is on a host whose name is not known", True),
    (r"timeout|timed out", "does not answer; check the host of its URL and the network", True),
)  # fmt: skip


class Postgres:
    """A PostgreSQL database, through psycopg 3.

    Waits for locks end after `busy_timeout`; statements, and transactions whose process stands
    still, after twice that. How durable a commit is, is the server's setting.

    Args:
        url: `postgresql://` or `postgresql+psycopg://`; parameters of libpq may follow.
        busy_timeout: seconds to wait for other transactions.

    Raises:
        MissingExtraError: psycopg is not installed.
    """

    # Every statement sees what was committed before it, so also what a lock was waited for.
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    clock = "SELECT clock_timestamp()"
    at_once = _CONNECTIONS

    def __init__(self, url: URL, *, busy_timeout: float) -> None:
        try:
            import psycopg
        except ImportError as exc:
            raise MissingExtraError("psycopg", "postgres") from exc
        self.errors: tuple[type[BaseException], ...] = (psycopg.Error,)
        self._url = url.set(drivername="postgresql+psycopg")
        self._busy_timeout = busy_timeout
        # Parameters of libpq may hold a password too.
        shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database)
        self.name = str(shown)

    def engine(self) -> Engine:
        """Return an engine of a few connections, opened when they are needed."""
        engine = create_engine(
            self._url,
            poolclass=QueuePool,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=self._busy_timeout,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            use_native_hstore=False,
        )
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "checkout", _check_alive)
        return engine

    def explain(self, error: BaseException) -> Trouble:
        """Say what an error of psycopg means."""
        code: str | None = getattr(error, "sqlstate", None)
        if code is None:
            import psycopg

            if isinstance(error, psycopg.OperationalError):
                return _LOST
            unfit = isinstance(error, psycopg.DataError)
            return _detailed(_TROUBLES["22"] if unfit else _UNKNOWN, str(error))
        if code.startswith(_LOST_CLASSES) and code != "57P04":
            return _LOST
        trouble = _TROUBLES.get(code) or _TROUBLES.get(code[:2]) or _UNKNOWN
        # The primary message only: details quote rows.
        diagnosis: Any = getattr(error, "diag", None)
        return _detailed(trouble, f"{diagnosis.message_primary}, SQLSTATE {code}")

    def _connect(
        self, dialect: object, record: object, arguments: list[Any], options: dict[str, Any]
    ) -> "psycopg.Connection[Any]":
        import psycopg

        wait = max(2, round(self._busy_timeout))
        defaults: dict[str, Any] = {
            "fallback_application_name": "genblaze-dagster ledger",
            "connect_timeout": min(wait, 30),
            # A server that vanished is noticed, where TCP alone would wait a quarter of an hour.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": wait * 1000,
        }
        try:
            connection = psycopg.connect(*arguments, autocommit=True, **{**defaults, **options})
            connection.execute(self._settings())
        except psycopg.Error as exc:
            # Not chained: the driver's error keeps the parameters of the connection.
            raise self._unreachable(str(exc)) from None
        return connection

    def _settings(self) -> Any:
        milliseconds = max(1, round(self._busy_timeout * 1000))
        # A wait for a lock is to end as such, not as a statement that took too long.
        limits = {
            "lock_timeout": milliseconds,
            "statement_timeout": 2 * milliseconds,
            "idle_in_transaction_session_timeout": 2 * milliseconds,
        }
        return "; ".join(
            (
                *(f"SET {limit} = {value}" for limit, value in limits.items()),
                "SET default_transaction_isolation = 'read committed'",
                "SET timezone = 'UTC'",
            )
        )

    def _unreachable(self, words: str) -> LedgerError:
        reason = " ".join(words.split())
        known = (each[1:] for each in _CONNECTING if re.search(each[0], words))
        fact, is_transient = next(known, ("cannot be reached", True))
        error = LedgerError(f"ledger {self.name} {fact} ({reason})")
        error.transient = is_transient
        return error


def _detailed(trouble: Trouble, detail: str) -> Trouble:
    return Trouble(
        f"{trouble.fact} ({detail})", trouble.is_transient, trouble.is_conflict, trouble.is_lost
    )


def _check_alive(connection: Any, record: object, proxy: object) -> None:
    # A server says hardly anything unasked but goodbye. Looking for it costs next to nothing, where
    # `pool_pre_ping` would ask the server each time.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        import psycopg

        try:
            connection.execute("SELECT 1")
        except psycopg.Error as exc:
            raise DisconnectionError("the server closed the connection") from exc
