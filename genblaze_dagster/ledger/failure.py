"""What a failure means for a submission: whether something may have been paid decides."""

import math
from datetime import datetime
from typing import Any

from genblaze_dagster.errors import ConfigError, LedgerError
from genblaze_dagster.ledger.schema import MAX_ERROR_MESSAGE
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState

LOST = "given up, paid or not; asked for anew"
"""The error message of a submission that was resolved as lost."""

_FREE: dict[str, Any] = {"owner": None, "lease_expires_at": None}


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


def check_decision(job_id: str | None, lost: bool, cost_usd: float | None) -> None:
    """Refuse what says two things about one submission.

    Raises:
        ConfigError: it does, the job has no name, or the cost is no amount of money.
    """
    if job_id is not None and lost:
        raise ConfigError(
            f"job {job_id} was found and is lost; give job_id or lost, whichever is true"
        )
    if job_id is not None and not job_id.strip():
        raise ConfigError("job_id is empty; give the vendor's job id, or leave it out")
    if cost_usd is None:
        return
    if not lost:
        raise ConfigError(
            "cost_usd is what was paid and lost; give lost=True with it, or leave it out"
        )
    if not 0 <= cost_usd < math.inf:
        raise ConfigError(
            f"cost_usd is {cost_usd}; give a number of USD from 0 on, or leave it out"
        )


def undecidable(row: LedgerRow) -> LedgerError:
    """Say why nobody has to decide about a submission."""
    if row.is_unanswered:
        return LedgerError(
            f"submission {row.id} is {row.state}, and a worker waits for its answer; wait until its "
            "lease ends"
        )
    return LedgerError(
        f"submission {row.id} is {row.state}; only a held one, or one whose worker is gone without "
        "an answer, is resolved"
    )


def found_changes(job_id: str, now: datetime) -> dict[str, Any]:
    """Return the columns of an unanswered submission whose job was found at the vendor."""
    return {
        **_FREE,
        "state": SubmissionState.SUBMITTED.value,
        "answer_lost": False,
        "job_id": job_id,
        "submitted_at": now,
    }


def given_up_changes(
    now: datetime, *, may_be_paid: bool, reason: str | None = None, cost_usd: float | None = None
) -> dict[str, Any]:
    """Return the columns of a submission for which nobody waits any more.

    Args:
        now: the time.
        may_be_paid: it goes on counting although no job of it is known.
        reason: its error message; None leaves that of its failure.
        cost_usd: what it cost; None leaves what is known.
    """
    changes: dict[str, Any] = {
        **_FREE,
        "state": SubmissionState.FAILED.value,
        "answer_lost": may_be_paid,
        "finished_at": now,
    }
    if reason is not None:
        changes["error_message"] = error_text(reason)
    return changes if cost_usd is None else {**changes, "cost_usd": cost_usd}


def error_text(message: str) -> str:
    """Return a message as every database keeps it: short, without NUL and lone surrogates."""
    text = message.encode("utf-8", "replace").decode()
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_ERROR_MESSAGE]
