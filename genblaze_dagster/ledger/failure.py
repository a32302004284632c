"""What a failure means for a submission: whether something may have been paid decides."""

from datetime import datetime
from typing import Any

from genblaze_dagster.ledger.schema import MAX_ERROR_MESSAGE
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState


def state_after_failure(row: LedgerRow, sent: bool | None) -> SubmissionState | None:
    """Return the state that follows, None when the submission cannot fail any more.

    `sent` is False when the failed request never left, True when the vendor answered, None when
    that is unknown.
    """
    match row.state:
        case SubmissionState.INTENDED:
            return _before_acceptance(row, sent)
        case SubmissionState.SUBMITTED | SubmissionState.SUCCEEDED:
            # The job exists: only the vendor's word that it failed may lead to another submit.
            return SubmissionState.FAILED if sent else row.state
        case SubmissionState.HELD:
            return SubmissionState.HELD if sent is None else SubmissionState.FAILED
        case SubmissionState.STORED | SubmissionState.FAILED:
            return None


def _before_acceptance(row: LedgerRow, sent: bool | None) -> SubmissionState:
    if row.answer_lost:
        # An earlier submit under this key may have been accepted. A refusal of this one (a rate
        # limit, a revoked key) does not deny that, so the key is kept until a job answers to it.
        return SubmissionState.INTENDED
    if row.sending_at is None or sent is not None:
        return SubmissionState.FAILED
    return SubmissionState.INTENDED if row.deduplicates else SubmissionState.HELD


def changes_after_failure(
    row: LedgerRow, state: SubmissionState, *, now: datetime, cost_usd: float | None
) -> dict[str, Any]:
    """Return the columns that bring the submission into that state, its error apart."""
    changes: dict[str, Any] = {"state": state.value, "lease_expires_at": None}
    match state:
        case SubmissionState.FAILED:
            cost = row.cost_usd if cost_usd is None else cost_usd
            return {**changes, "finished_at": now, "cost_usd": cost, "answer_lost": False}
        case SubmissionState.HELD:
            # The owner stays: should the answer arrive after all, it settles the matter.
            return {**changes, "answer_lost": True}
        case SubmissionState.INTENDED:
            return {**changes, "owner": None, "sending_at": None, "answer_lost": True}
        case _:
            return {**changes, "owner": None}


def resolved_changes(job_id: str | None, now: datetime) -> dict[str, Any]:
    """Return the columns of a held submission whose job a person has, or has not, found."""
    changes: dict[str, Any] = {"owner": None, "answer_lost": False}
    if job_id is None:
        return {**changes, "state": SubmissionState.FAILED.value, "finished_at": now}
    return {
        **changes,
        "state": SubmissionState.SUBMITTED.value,
        "job_id": job_id,
        "submitted_at": now,
    }


def cancelled_changes(reason: str, cost_usd: float | None, now: datetime) -> dict[str, Any]:
    """Return the columns of a submission that is given up, whatever became of its job."""
    changes: dict[str, Any] = {
        "state": SubmissionState.FAILED.value,
        "owner": None,
        "lease_expires_at": None,
        "finished_at": now,
        "error_message": error_text(reason),
    }
    return changes if cost_usd is None else {**changes, "cost_usd": cost_usd}


def error_text(message: str) -> str:
    """Return a message as every database keeps it: short, without NUL and lone surrogates."""
    text = message.encode("utf-8", "replace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_ERROR_MESSAGE]
