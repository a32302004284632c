"""The life of a ledger, its transactions, and groups of them that are committed together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.database import Work
from genblaze_dagster.ledger.peeking import Peeks
from genblaze_dagster.ledger.rows import change, fetch, matches
from genblaze_dagster.ledger.submission import LedgerRow
from genblaze_dagster.ledger.transitions import Transition, advance

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one operation of a group ended: with a value, or with an error."""

    value: Any = None
    error: BaseException | None = None


class Transactions(Peeks):
    """What every operation of a `Ledger` is made of."""

    def __repr__(self) -> str:
        return f"Ledger({self._database.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        self._database.close()

    @property
    def folder(self) -> Path | None:
        """Where its file is; None when it is kept elsewhere."""
        path = Path(self._database.name)
        return path.parent if path.is_absolute() else None

    @property
    def at_once(self) -> int:
        """How many calls of one process make progress together."""
        return self._database.at_once

    def together(self, operations: Sequence[Callable[[], Any]]) -> list[Outcome]:
        """Do several calls of this ledger in one transaction, and say how each ended.

        None is known to anybody before all are durable. Should one fail halfway, or the commit
        fail, each is done again in a transaction of its own: it must do nothing but call the
        ledger.
        """
        if len(operations) == 1:
            return [_outcome(operations[0])]
        outcomes: list[Outcome] = []
        try:
            with self._database.group() as group:
                for operation in operations:
                    # SQLite may have ended the transaction of a spoilt group already.
                    if not group.is_spoilt:
                        outcomes.append(_outcome(operation))
        except Exception as exc:
            if not outcomes:
                # The database let nobody begin; asking it again for each would take as long each.
                return [Outcome(error=exc) for _ in operations]
            return [_outcome(operation) for operation in operations]
        return outcomes

    def _advance(
        self, transition: Transition, id: str, owner: str, changes: Mapping[str, Any]
    ) -> LedgerRow:
        return self._write(
            lambda connection, is_repeated: advance(
                connection, transition, id, owner, changes, is_repeated=is_repeated
            ),
            is_lone_statement=True,
        )

    def _decide(
        self, id: str, decide: Callable[[Connection, LedgerRow], dict[str, Any] | LedgerError]
    ) -> LedgerRow:
        decided: dict[str, Any] | None = None

        def work(connection: Connection, is_repeated: bool) -> LedgerRow | LedgerError:
            nonlocal decided
            row = fetch(connection, id, for_update=True)
            if is_repeated and decided is not None and matches(row, decided):
                return row
            answer = decide(connection, row)
            if isinstance(answer, LedgerError):
                return answer
            decided = answer
            return change(connection, row, answer)

        return self._write(work)

    def _write(self, work: Work[T | LedgerError], *, is_lone_statement: bool = False) -> T:
        # A refusal is returned, so that what led to it is committed, and a group goes on.
        answer = self._database.transact(work, is_lone_statement=is_lone_statement)
        if isinstance(answer, LedgerError):
            raise answer
        return answer


def _outcome(operation: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(value=operation())
    except BaseException as exc:
        # Whoever waits for it hears it.
        return Outcome(error=exc)
