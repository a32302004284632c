"""Steps a submission takes on its owner's word: compare owner and state and set, in one statement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, update
from sqlalchemy.sql.dml import ReturningUpdate

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.rows import fetch, read_row
from genblaze_dagster.ledger.schema import submissions
from genblaze_dagster.ledger.submission import OPEN_STATES, LedgerRow, SubmissionState


@dataclass(frozen=True, slots=True)
class Transition:
    """A step: how messages call it, and the statement that takes it."""

    action: str
    statement: ReturningUpdate[Any]


def _transition(action: str, *allowed: ColumnElement[bool]) -> Transition:
    statement = (
        update(submissions)
        .where(
            submissions.c.id == bindparam("wanted_id"),
            submissions.c.owner == bindparam("wanted_owner"),
            or_(*allowed),
        )
        .returning(submissions)
    )
    return Transition(action, statement)


_INTENDED = submissions.c.state == SubmissionState.INTENDED
_SENT = and_(_INTENDED, submissions.c.sending_at.is_not(None))
_HELD = submissions.c.state == SubmissionState.HELD
_ACCEPTED = submissions.c.state.in_([SubmissionState.SUBMITTED, SubmissionState.SUCCEEDED])

_OPEN = submissions.c.state.in_(OPEN_STATES)

SEND = _transition("sent", and_(_INTENDED, submissions.c.sending_at.is_(None)))
SUBMIT = _transition("submitted", _SENT, _HELD)
SUCCEED = _transition("succeeded", _SENT, _HELD, _ACCEPTED)
STORE = _transition("stored", _SENT, _HELD, _ACCEPTED)
RENEW = _transition("renewed", _OPEN)
RELEASE = _transition("released", _OPEN)


def advance(
    connection: Connection,
    transition: Transition,
    id: str,
    owner: str,
    changes: Mapping[str, Any],
) -> LedgerRow:
    """Take the step.

    Raises:
        LedgerError: another owner has the submission, or its state does not allow the step.
    """
    parameters = {"wanted_id": id, "wanted_owner": owner, **changes}
    changed = connection.execute(transition.statement, parameters).mappings().first()
    if changed is None:
        raise refusal(fetch(connection, id), owner, transition.action)
    return read_row(changed)


def refusal(row: LedgerRow, owner: str, action: str) -> LedgerError:
    """Say why a step is not taken."""
    if row.owner != owner:
        return LedgerError(
            f"submission {row.id} cannot be {action}: it is no longer {owner}'s (state {row.state}"
            f", attempt {row.attempt}); stop, another worker goes on with it"
        )
    already = ", sending" if row.state is SubmissionState.INTENDED and row.sending_at else ""
    return LedgerError(f"submission {row.id} cannot be {action} in state {row.state}{already}")
