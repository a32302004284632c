"""A submission in words and as JSON: one vocabulary for every `ledger` command."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from genblaze_dagster.cli.ledger_records import Totals
from genblaze_dagster.ledger.callbacks import StoredCallback
from genblaze_dagster.ledger.submission import OPEN_STATES, LedgerRow, PastAttempt, SubmissionState

_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_STATE_STYLES: Final = {
    SubmissionState.STORED: "green",
    SubmissionState.HELD: "bold yellow",
    SubmissionState.FAILED: "red",
}


def short_id(row: LedgerRow) -> str:
    """Return the last group of an id, by which it is found again."""
    return row.id.rsplit("-", 1)[-1]


def where(row: LedgerRow) -> str:
    """Return asset and partition."""
    return row.asset_key if row.partition_key is None else f"{row.asset_key}[{row.partition_key}]"


def style_of(state: SubmissionState) -> str:
    """Return how a state is coloured."""
    return _STATE_STYLES.get(state, "cyan")


def is_idle(row: LedgerRow, now: datetime) -> bool:
    """Whether it is open and nobody works on it."""
    return row.state in OPEN_STATES and not row.is_leased(now)


def spool_host(row: LedgerRow) -> str | None:
    """Return the machine that keeps a paid result which could not be stored, None mostly."""
    # Brings the download client, which listing needs for nothing else.
    from genblaze_dagster.pipeline.spool import is_spooled

    return row.job_id.partition(":")[2] if row.job_id and is_spooled(row.job_id) else None


def usd(amount: float) -> str:
    """Return an amount with as many digits as prices of single images need."""
    return f"${amount:,.4f}"


def is_refused(attempt: LedgerRow | PastAttempt) -> bool:
    """Whether it failed without the vendor having taken it on, so that nothing was paid."""
    failed = isinstance(attempt, PastAttempt) or attempt.state is SubmissionState.FAILED
    return failed and attempt.job_id is None and not attempt.answer_lost


def reserved_usd(attempt: LedgerRow | PastAttempt) -> float | None:
    """Return what an attempt of unknown cost counts as in budgets."""
    is_settled = attempt.cost_usd is not None or is_refused(attempt)
    return None if is_settled else attempt.reserved_usd


def cost(attempt: LedgerRow | PastAttempt) -> str:
    """Return what an attempt cost, or what it counts as until that is known."""
    if attempt.cost_usd is not None:
        return usd(attempt.cost_usd)
    if (reserved := reserved_usd(attempt)) is not None:
        return f"{usd(reserved)} reserved"
    return "-" if attempt.sending_at is None or is_refused(attempt) else "unknown"


def span(delta: timedelta) -> str:
    """Return a length of time in its largest unit, such as `3 h`."""
    seconds = max(int(delta.total_seconds()), 0)
    # Two of the next smaller unit say more than one of the larger.
    unit, size = next(((u, s) for u, s in _UNITS if seconds >= 2 * s), _UNITS[-1])
    return f"{seconds // size} {unit}"


def moment(when: datetime | None, now: datetime) -> str:
    """Return a time and how far away it is."""
    if when is None:
        return "-"
    distance = f"{span(now - when)} ago" if when <= now else f"in {span(when - now)}"
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z ({distance})"


def totals_line(totals: Totals) -> str:
    """Return counts by state and sums, on one line."""
    states = ", ".join(f"{count:,} {state}" for state, count in totals.by_state.items())
    plural = "" if totals.count == 1 else "s"
    counted = f"{totals.count:,} submission{plural}" + (f": {states}" if states else "")
    return (
        f"{counted}; paid {usd(totals.paid_usd)}, reserved {usd(totals.reserved_usd)}, "
        f"{totals.unknown:,} of unknown cost"
    )


def totals_document(totals: Totals) -> dict[str, Any]:
    """Return the JSON form of counts and sums."""
    return {
        "count": totals.count,
        "by_state": {state.value: count for state, count in totals.by_state.items()},
        "paid_usd": totals.paid_usd,
        "reserved_usd": totals.reserved_usd,
        "unknown": totals.unknown,
    }


def document(row: LedgerRow, now: datetime) -> dict[str, Any]:
    """Return the JSON form of a submission; its fields are those of docs/cli.md."""
    return {
        "id": row.id,
        "run_id": row.run_id,
        "step_id": row.step_id,
        "asset_key": row.asset_key,
        "partition_key": row.partition_key,
        "scope": row.scope,
        "tenant_id": row.tenant_id,
        "generation_key": row.generation_key,
        "provider": row.provider,
        "model": row.model,
        "account": row.account,
        "state": row.state.value,
        "attempt": row.attempt,
        "job_id": row.job_id,
        "cost_usd": row.cost_usd,
        "reserved_usd": reserved_usd(row),
        "estimated_cost_usd": row.estimated_cost_usd,
        "created_at": row.created_at,
        "claimed_at": row.claimed_at,
        "sending_at": row.sending_at,
        "submitted_at": row.submitted_at,
        "finished_at": row.finished_at,
        "outputs_expire_at": row.outputs_expire_at,
        "owner": row.owner,
        "lease_expires_at": row.lease_expires_at,
        "stuck": is_idle(row, now),
        "error_code": row.error_code,
        "error_message": row.error_message,
        "next": next_step(row, now),
    }


def past_document(attempt: PastAttempt) -> dict[str, Any]:
    """Return the JSON form of an attempt that failed and was followed by another."""
    return {
        "attempt": attempt.attempt,
        "job_id": attempt.job_id,
        "cost_usd": attempt.cost_usd,
        "reserved_usd": reserved_usd(attempt),
        "claimed_at": attempt.claimed_at,
        "sending_at": attempt.sending_at,
        "submitted_at": attempt.submitted_at,
        "finished_at": attempt.finished_at,
        "error_code": attempt.error_code,
        "error_message": attempt.error_message,
    }


def callback_document(callback: StoredCallback) -> dict[str, Any]:
    """Return the JSON form of what a vendor called back with."""
    return {
        "vendor": callback.vendor,
        "delivery_id": callback.delivery_id,
        "job_id": callback.job_id,
        "state": callback.state,
        "received_at": callback.received_at,
    }


def result_keys(result: Mapping[str, Any] | None) -> list[str]:
    """Return the object keys of what was stored: the manifest, then the media."""
    if result is None:
        return []
    media = result.get("media")
    objects = [one.get("key") for one in media] if isinstance(media, list | tuple) else []
    return [str(key) for key in (result.get("manifest_key"), *objects) if key is not None]


def next_step(row: LedgerRow, now: datetime) -> str:
    """Return what happens next, and what a person has to do for it."""
    match row.state:
        case SubmissionState.STORED:
            return "nothing: it is stored, and later retries of its run or backfill take it"
        case SubmissionState.FAILED:
            return (
                "nothing: it failed; a retry of its run or backfill asks again as attempt "
                f"{row.attempt + 1}, any other run as a new submission"
            )
        case SubmissionState.HELD:
            return f"nothing until a person decides: {_decide(row)}"
        case _ if not is_idle(row, now):
            lease = f"until {row.lease_expires_at:%H:%M:%S}Z" if row.lease_expires_at else ""
            return f"{row.owner or 'a worker'} works on it; its lease is renewed {lease}".rstrip()
        case _ if row.is_unanswered:
            return _next_of_unanswered(row)
        case SubmissionState.INTENDED:
            return "nothing was sent: the next run of this asset submits it"
        case _:
            return _next_of_job(row, now)


def _decide(row: LedgerRow) -> str:
    return (
        f"look it up at {row.provider}, then genblaze-dagster ledger resolve {short_id(row)} "
        "--job JOB_ID, --not-submitted or --paid-lost"
    )


def _next_of_unanswered(row: LedgerRow) -> str:
    if row.deduplicates:
        return (
            "the answer to its submit was lost: the next run of this asset sends it again under "
            f"the same key, which {row.provider} bills once"
        )
    return (
        "the answer to its submit was not recorded, and it may be paid: the next run of this asset "
        f"holds it for a person to decide; {_decide(row)}"
    )


def _next_of_job(row: LedgerRow, now: datetime) -> str:
    if (host := spool_host(row)) is not None:
        return (
            f"the next run of this asset on {host} stores its result, which is paid and "
            "kept there, and pays nothing more"
        )
    verb = "fetches the outputs of" if row.state is SubmissionState.SUCCEEDED else "polls"
    expires = row.outputs_expire_at
    deadline = ""
    if expires is not None:
        told = "deleted them" if expires <= now else "deletes them"
        deadline = f"; {row.provider} {told} {moment(expires, now)}"
    return (
        f"the next run of this asset with the same request {verb} job {row.job_id} and pays "
        f"nothing more{deadline}; genblaze-dagster ledger resume {short_id(row)} starts one"
    )
