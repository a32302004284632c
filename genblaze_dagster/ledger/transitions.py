"""Steps a submission takes on its owner's word: compare owner and state and set, in one statement."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, update

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.rows import fetch, matches, read_row
from genblaze_dagster.ledger.schema import submissions
from genblaze_dagster.ledger.statements import Statement
from genblaze_dagster.ledger.submission import OPEN_STATES, Intent, LedgerRow, SubmissionState


@dataclass(frozen=True, slots=True)
class Transition:
    """A step: how messages call it, and the statement that takes it."""

    action: str
    statement: Statement


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
    return Transition(action, Statement(statement))


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

# A lease that reaches further than this was written by a clock that has been put back since.
_ABSURD_LEASES = 10
_SHORTEST_ABSURD = timedelta(hours=1)
_END_ABSURD_LEASE = Statement(
    update(submissions)
    .where(
        submissions.c.generation_key == bindparam("of_generation"),
        submissions.c.asset_key == bindparam("of_asset"),
        submissions.c.partition_key == bindparam("of_partition"),
        _OPEN,
        submissions.c.lease_expires_at > bindparam("latest", type_=submissions.c.created_at.type),
    )
    .returning(submissions.c.id)
)


def advance(
    connection: Connection,
    transition: Transition,
    id: str,
    owner: str,
    changes: Mapping[str, Any],
    *,
    is_repeated: bool = False,
) -> LedgerRow | LedgerError:
    """Take the step, or say why it is not taken; then nothing has changed.

    Args:
        connection: runs the one statement.
        transition: the step.
        id: the submission.
        owner: who has to have it.
        changes: the columns it sets.
        is_repeated: the step was tried before and may have been taken then.

    Raises:
        LedgerError: there is no such submission.
    """
    parameters = {"wanted_id": id, "wanted_owner": owner, **changes}
    changed = transition.statement.first(connection, parameters)
    if changed is not None:
        return read_row(changed)
    row = fetch(connection, id)
    if is_repeated and matches(row, {"owner": owner, **changes}):
        return row
    return refusal(row, owner, transition.action)


def end_absurd_lease(
    connection: Connection, intent: Intent, now: datetime, lease: timedelta
) -> bool:
    """End the lease on what is wanted if no clock that is right can have written it.

    Args:
        connection: the transaction of a claim that met the lease.
        intent: what is wanted.
        now: the time of the claim.
        lease: the length of the claim's own leases.

    Returns:
        Whether there was such a lease.
    """
    parameters = {
        "of_generation": intent.generation_key,
        "of_asset": intent.asset_key,
        "of_partition": intent.partition_key or "",
        "latest": now + max(_ABSURD_LEASES * lease, _SHORTEST_ABSURD),
        "lease_expires_at": None,
    }
    return bool(_END_ABSURD_LEASE.run(connection, parameters))


def refusal(row: LedgerRow, owner: str, action: str) -> LedgerError:
    """Say why a step is not taken."""
    if row.owner != owner:
        return LedgerError(
            f"submission {row.id} cannot be {action}: it is no longer {owner}'s (state {row.state}"
            f", attempt {row.attempt}); stop, another worker goes on with it"
        )
    already = ", sending" if row.state is SubmissionState.INTENDED and row.sending_at else ""
    return LedgerError(f"submission {row.id} cannot be {action} in state {row.state}{already}")
