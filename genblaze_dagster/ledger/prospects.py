"""What a claim meets in the ledger, and what follows from it; nothing is changed here.

Claims act on it, and quotes tell it: so that what is quoted is what will be done.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, and_, bindparam, or_, select

from genblaze_dagster.ledger.rows import read_row
from genblaze_dagster.ledger.schema import intents, submissions
from genblaze_dagster.ledger.statements import Statement
from genblaze_dagster.ledger.submission import (
    OPEN_STATES,
    UNSETTLED_STATES,
    Intent,
    LedgerRow,
    SubmissionState,
)

_SERVES = "serves_scope"
_IN_PLACE = tuple(
    submissions.c[name] == bindparam(name)
    for name in ("generation_key", "asset_key", "partition_key")
)
INTENT = tuple(intents.c[column.name] == bindparam(column.name) for column in intents.primary_key)
"""Finds an intent by `place_of` and its scope."""

_QUERY = (
    select(submissions, intents.c.scope.label(_SERVES))
    .outerjoin_from(
        submissions, intents, and_(intents.c.submission_id == submissions.c.id, *INTENT)
    )
    .where(*_IN_PLACE, or_(submissions.c.state.in_(UNSETTLED_STATES), intents.c.scope.is_not(None)))
)
_RELEVANT = Statement(_QUERY)
# PostgreSQL: an owner's next step must not fall between this look and a takeover.
_RELEVANT_LOCKED = Statement(_QUERY.with_for_update(of=submissions))
_REUSABLE = Statement(
    select(submissions)
    .where(
        submissions.c.generation_key == bindparam("generation_key"),
        submissions.c.state == SubmissionState.STORED,
    )
    .order_by(submissions.c.id.desc())
    .limit(1)
)


class NextStep(StrEnum):
    """What becomes of an intent that is claimed."""

    FINISHED = "finished"
    """Nothing: this very intent is stored."""
    REUSED = "reused"
    """Nothing: an equal generation is stored."""
    RESUME = "resume"
    """The vendor's job is fetched."""
    WAIT = "wait"
    """Another worker holds a lease."""
    HOLD = "hold"
    """Nobody waits for the answer to an earlier submit, and it may be paid: it becomes held."""
    HELD = "held"
    """An earlier submit is held."""
    TAKE_OVER = "take_over"
    """Submitted in place of an open submission, whose reservation it takes over."""
    ANOTHER_ATTEMPT = "another_attempt"
    """Submitted, after an attempt that failed."""
    FIRST_ATTEMPT = "first_attempt"
    """Submitted; there was nothing before."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A step, and the submission that it is taken with; None of a first attempt."""

    step: NextStep
    row: LedgerRow | None = None


def prospect(
    connection: Connection, intent: Intent, *, owner: str | None, now: datetime, locked: bool
) -> Prospect:
    """Return what becomes of an intent.

    Args:
        connection: where to look.
        intent: what is wanted.
        owner: who claims it; a lease of its own keeps nobody away.
        now: the time of the claim.
        locked: nobody else changes what was found before the transaction ends.
    """
    own, unsettled = _relevant(connection, intent, _RELEVANT_LOCKED if locked else _RELEVANT)
    if own is not None and own.state is SubmissionState.STORED:
        return Prospect(NextStep.FINISHED, own)
    if unsettled is not None and unsettled.state in OPEN_STATES:
        return Prospect(_of_open(unsettled, owner, now), unsettled)
    if intent.reuse and (stored := _reusable(connection, intent)) is not None:
        return Prospect(NextStep.REUSED, stored)
    if unsettled is not None:
        return Prospect(NextStep.HELD, unsettled)
    if own is not None:
        return Prospect(NextStep.ANOTHER_ATTEMPT, own)
    return Prospect(NextStep.FIRST_ATTEMPT)


def place_of(intent: Intent) -> dict[str, str]:
    """Return the columns of which there is one unsettled submission at the most."""
    return {
        "generation_key": intent.generation_key,
        "asset_key": intent.asset_key,
        "partition_key": intent.partition_key or "",
    }


def _of_open(row: LedgerRow, owner: str | None, now: datetime) -> NextStep:
    if row.owner != owner and row.is_leased(now):
        return NextStep.WAIT
    if row.job_id is not None:
        return NextStep.RESUME
    if row.is_unanswered and not row.deduplicates:
        return NextStep.HOLD
    return NextStep.TAKE_OVER


def _relevant(
    connection: Connection, intent: Intent, statement: Statement
) -> tuple[LedgerRow | None, LedgerRow | None]:
    """Return the submission that serves the intent, and the unsettled one of its place."""
    own: LedgerRow | None = None
    unsettled: LedgerRow | None = None
    for found in statement.run(connection, {**place_of(intent), "scope": intent.scope}):
        serves = found.pop(_SERVES) is not None
        row = read_row(found)
        own = row if serves else own
        unsettled = row if row.state in UNSETTLED_STATES else unsettled
    return own, unsettled


def _reusable(connection: Connection, intent: Intent) -> LedgerRow | None:
    found = _REUSABLE.first(connection, {"generation_key": intent.generation_key})
    return None if found is None else read_row(found)
