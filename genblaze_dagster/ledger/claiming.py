"""Who may do what about an intent: the decision that keeps a generation from being paid twice.

Everything here runs inside one transaction that holds the write lock. A refusal is returned, not
raised, because a row that becomes held must be committed as such.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import uuid_utils
from sqlalchemy import Connection, delete, insert

from genblaze_dagster.errors import HeldError, LeaseHeldError, LedgerError
from genblaze_dagster.ledger.admission import Admission, Limits, admit
from genblaze_dagster.ledger.database import lock
from genblaze_dagster.ledger.prospects import INTENT, NextStep, place_of, prospect
from genblaze_dagster.ledger.rows import change, read_row
from genblaze_dagster.ledger.schema import intents, past_attempts, submissions
from genblaze_dagster.ledger.statements import Statement
from genblaze_dagster.ledger.submission import (
    Claim,
    ClaimKind,
    Intent,
    LedgerRow,
    PastAttempt,
    SubmissionState,
)

_INSERT = Statement(insert(submissions).returning(submissions))
_ARCHIVE = Statement(insert(past_attempts))
_UNLINK = Statement(delete(intents).where(*INTENT))
_LINK = Statement(insert(intents))

NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, when, until when, and where new ids come from."""

    owner: str
    now: datetime
    lease_until: datetime
    new_id: Callable[[], str]


def decide(
    connection: Connection, intent: Intent, claimant: Claimant, limits: Limits = NO_LIMITS
) -> Claim | LedgerError:
    """Give the intent a submission and a lease, or say why it gets none.

    Only what may be paid anew has to fit in `limits`: a known job and what is stored never do.
    """
    lock(connection, f"place:{intent.generation_key}:{intent.asset_key}:{intent.partition_key}")
    found = prospect(connection, intent, owner=claimant.owner, now=claimant.now, locked=True)
    row = found.row
    if row is None:
        return _submit(connection, None, intent, claimant, limits)
    match found.step:
        case NextStep.FINISHED:
            return Claim(ClaimKind.FINISHED, row)
        case NextStep.REUSED:
            return Claim(ClaimKind.REUSED, row)
        case NextStep.WAIT:
            return _leased_error(row, claimant)
        case NextStep.RESUME:
            _serve(connection, intent, row.id)
            return Claim(ClaimKind.RESUME, change(connection, row, _lease(claimant)))
        case NextStep.HOLD:
            return _hold(connection, row, intent, claimant)
        case NextStep.HELD:
            # Should it turn out to be stored or accepted, that is for this intent as well.
            _serve(connection, intent, row.id)
            return _held_error(row)
        case NextStep.TAKE_OVER:
            return _take_over(connection, row, intent, claimant, limits)
        case NextStep.ANOTHER_ATTEMPT | NextStep.FIRST_ATTEMPT:
            return _submit(connection, row, intent, claimant, limits)


def _leased_error(row: LedgerRow, claimant: Claimant) -> LeaseHeldError:
    ends = row.lease_expires_at or claimant.now
    return LeaseHeldError(
        f"submission {row.id} ({row.asset_key}, partition {row.partition_key or '-'}) is being "
        "worked on by another worker; wait for it or for its lease to end",
        retry_after=(ends - claimant.now).total_seconds(),
    )


def _held_error(row: LedgerRow) -> HeldError:
    return HeldError(
        f"submission {row.id} ({row.asset_key}, partition {row.partition_key or '-'}) is held: "
        f"{row.provider}'s answer was lost and it may be paid, so it is not sent again; look it up "
        f"at the vendor, then run genblaze-dagster ledger resolve {row.id}",
        submission_id=row.id,
    )


def _take_over(
    connection: Connection, row: LedgerRow, intent: Intent, claimant: Claimant, limits: Limits
) -> Claim | LedgerError:
    admission = admit(connection, intent, limits, now=claimant.now, replaced=row)
    if isinstance(admission, LedgerError):
        return admission
    _serve(connection, intent, row.id)
    changes = {
        **_fresh_attempt(row, intent, claimant, admission),
        "answer_lost": row.is_unanswered,
    }
    taken = change(connection, row, changes)
    admission.record(connection, taken)
    return Claim(ClaimKind.NEW, taken)


def _hold(connection: Connection, row: LedgerRow, intent: Intent, claimant: Claimant) -> HeldError:
    _serve(connection, intent, row.id)
    changes = {
        "state": SubmissionState.HELD.value,
        # The owner stays: should it still be alive, its late answer settles the matter. If it has
        # given up, who claims may look into the store for it.
        "owner": row.owner or claimant.owner,
        "lease_expires_at": None,
        "answer_lost": True,
    }
    return _held_error(change(connection, row, changes))


def _submit(
    connection: Connection,
    row: LedgerRow | None,
    intent: Intent,
    claimant: Claimant,
    limits: Limits,
) -> Claim | LedgerError:
    """Begin an attempt that takes nothing over; `row` is the failed one before it."""
    admission = admit(connection, intent, limits, now=claimant.now)
    if isinstance(admission, LedgerError):
        return admission
    if row is not None:
        return _another_attempt(connection, row, intent, claimant, admission)
    return _first_attempt(connection, intent, claimant, admission)


def _another_attempt(
    connection: Connection,
    row: LedgerRow,
    intent: Intent,
    claimant: Claimant,
    admission: Admission,
) -> Claim:
    archived = {
        name: getattr(row, name) for name in PastAttempt.__slots__ if name != "submission_id"
    }
    _ARCHIVE.run(connection, {"submission_id": row.id, **archived})
    again = change(connection, row, _fresh_attempt(row, intent, claimant, admission))
    admission.record(connection, again)
    return Claim(ClaimKind.NEW, again)


def _first_attempt(
    connection: Connection, intent: Intent, claimant: Claimant, admission: Admission
) -> Claim:
    values = {
        **place_of(intent),
        **_lease(claimant),
        **_charge(intent, claimant, admission),
        "id": str(uuid_utils.uuid7()),
        "run_id": claimant.new_id(),
        "step_id": claimant.new_id(),
        "scope": intent.scope,
        "provider": intent.provider,
        "model": intent.model,
        "state": SubmissionState.INTENDED.value,
        "attempt": 1,
        "created_at": claimant.now,
        "deduplicates": intent.deduplicates,
        "answer_lost": False,
    }
    (inserted,) = _INSERT.run(connection, values)
    row = read_row(inserted)
    _LINK.run(connection, {**place_of(intent), "scope": intent.scope, "submission_id": row.id})
    admission.record(connection, row)
    return Claim(ClaimKind.NEW, row)


def _fresh_attempt(
    row: LedgerRow, intent: Intent, claimant: Claimant, admission: Admission
) -> dict[str, Any]:
    return {
        **_lease(claimant),
        **_charge(intent, claimant, admission),
        "state": SubmissionState.INTENDED.value,
        "attempt": row.attempt + 1,
        "job_id": None,
        "sending_at": None,
        "submitted_at": None,
        "finished_at": None,
        "cost_usd": None,
        "error_code": None,
        "error_message": None,
        "answer_lost": False,
        "estimated_seconds": None,
        "outputs_expire_at": None,
    }


def _lease(claimant: Claimant) -> dict[str, Any]:
    return {"owner": claimant.owner, "lease_expires_at": claimant.lease_until}


def _charge(intent: Intent, claimant: Claimant, admission: Admission) -> dict[str, Any]:
    return {
        "tenant_id": intent.tenant_id,
        "account": intent.account,
        "estimated_cost_usd": intent.estimated_cost_usd,
        "reserved_usd": admission.reserved_usd,
        "claimed_at": claimant.now,
    }


def _serve(connection: Connection, intent: Intent, submission_id: str) -> None:
    """Let the intent be served by this submission from now on, whichever served it before."""
    link = {**place_of(intent), "scope": intent.scope}
    _UNLINK.run(connection, link)
    _LINK.run(connection, {**link, "submission_id": submission_id})
