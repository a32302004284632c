"""Reading and changing single submissions inside a transaction."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.schema import submissions
from genblaze_dagster.ledger.statements import Statement
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState

_BY_ID = Statement(select(submissions).where(submissions.c.id == bindparam("wanted_id")))
_BY_ID_LOCKED = Statement(
    select(submissions).where(submissions.c.id == bindparam("wanted_id")).with_for_update()
)
_CHANGE = Statement(
    update(submissions).where(submissions.c.id == bindparam("wanted_id")).returning(submissions)
)


def read_row(stored: Mapping[Any, Any]) -> LedgerRow:
    """Turn a table row into what callers see."""
    values: dict[str, Any] = {**stored}
    values["partition_key"] = values["partition_key"] or None
    values["state"] = SubmissionState(values["state"])
    return LedgerRow(**values)


def fetch(connection: Connection, id: str, *, for_update: bool = False) -> LedgerRow:
    """Return one submission.

    Args:
        connection: where to look.
        id: the submission.
        for_update: nobody else changes it before this transaction ends.

    Raises:
        LedgerError: there is none of that id.
    """
    found = (_BY_ID_LOCKED if for_update else _BY_ID).first(connection, {"wanted_id": id})
    if found is None:
        raise LedgerError(
            f"submission {id} is not in this ledger; check which ledger is configured"
        )
    return read_row(found)


def change(connection: Connection, row: LedgerRow, changes: Mapping[str, Any]) -> LedgerRow:
    """Set columns of a submission that this transaction has read."""
    (changed,) = _CHANGE.run(connection, {"wanted_id": row.id, **changes})
    return read_row(changed)


def matches(row: LedgerRow, changes: Mapping[str, Any]) -> bool:
    """Say whether the submission is as these changes would make it."""
    return all(getattr(row, name) == value for name, value in changes.items())
