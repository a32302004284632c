"""What the ledger needs of a kind of database."""

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Engine


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an error of the driver means.

    Attributes:
        fact: what is the matter and what to do, to be read after the ledger's name.
        is_transient: the same call may succeed later.
        is_conflict: another transaction was in the way; run this one again.
        is_lost: the connection is gone, and whether the transaction took place is not known.
    """

    fact: str
    is_transient: bool = False
    is_conflict: bool = False
    is_lost: bool = False


class Backend(Protocol):
    """A kind of database, seen by `Database`."""

    @property
    def name(self) -> str:
        """How messages call this database; never holds a password."""
        ...

    @property
    def begin(self) -> str:
        """The statement that begins a transaction that writes."""
        ...

    @property
    def clock(self) -> str | None:
        """The query for the server's own time; None where this machine's is the only one."""
        ...

    @property
    def at_once(self) -> int:
        """How many transactions of one process make progress together."""
        ...

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """The driver's errors."""
        ...

    def engine(self) -> Engine:
        """Return an engine whose connections commit each statement outside a transaction.

        Raises:
            LedgerError: the database cannot be used; says why.
        """
        ...

    def explain(self, error: BaseException) -> Trouble:
        """Say what one of `errors` means."""
        ...
