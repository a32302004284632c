"""Reading and changing single submissions inside a transaction."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.schema import submissions
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState

# Statements are built once: building them costs more than running them.
_BY_ID = select(submissions).where(submissions.c.id == bindparam("wanted_id"))
_CHANGE = (
    update(submissions).where(submissions.c.id == bindparam("wanted_id")).returning(submissions)
)


def read_row(stored: Mapping[Any, Any]) -> LedgerRow:
    """Turn a table row into what callers see."""
    values: dict[str, Any] = {**stored}
    values["partition_key"] = values["partition_key"] or None
    values["state"] = SubmissionState(values["state"])
    return LedgerRow(**values)


def fetch(connection: Connection, id: str) -> LedgerRow:
    """Return one submission.

    Raises:
        LedgerError: there is none of that id.
    """
    found = connection.execute(_BY_ID, {"wanted_id": id}).mappings().first()
    if found is None:
        raise LedgerError(
            f"submission {id} is not in this ledger; check which ledger is configured"
        )
    return read_row(found)


def change(connection: Connection, row: LedgerRow, changes: Mapping[str, Any]) -> LedgerRow:
    """Set columns of a submission that this transaction has read."""
    changed = connection.execute(_CHANGE, {"wanted_id": row.id, **changes})
    return read_row(changed.mappings().one())
