"""May a new attempt begin: is there room in its budgets, and a free place in its account?

Part of the claim's transaction. What a claim takes is locked until the transaction ends, so that
claims at the same time do not add up to more than a limit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, or_, select

from genblaze_dagster.errors import AccountBusyError, BudgetExceededError, LedgerError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope, SpendKey, charged_to, nano, usd
from genblaze_dagster.ledger.database import lock
from genblaze_dagster.ledger.schema import submissions
from genblaze_dagster.ledger.spending import (
    FOLD_AT,
    Sums,
    enter,
    entry_keys,
    fold,
    sums_of,
)
from genblaze_dagster.ledger.statements import Statement
from genblaze_dagster.ledger.submission import Intent, LedgerRow, SubmissionState

# No vendor works on a job for so long: one that nobody came back for must not block its account.
_LONGEST_JOB = timedelta(hours=24)
_SHORTEST_WAIT_SECONDS = 0.5
_USUAL_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 10.0

_is_held = submissions.c.lease_expires_at > bindparam("now")
_is_recent = submissions.c.submitted_at > bindparam("longest_ago")
_OPEN_JOBS = Statement(
    select(*(submissions.c[name] for name in ("submitted_at", "estimated_seconds"))).where(
        submissions.c.account == bindparam("account"),
        submissions.c.id != bindparam("except_id"),
        or_(
            and_(submissions.c.state == SubmissionState.INTENDED, _is_held),
            and_(submissions.c.state == SubmissionState.SUBMITTED, or_(_is_held, _is_recent)),
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a new attempt has to fit in: budgets, and the jobs its account may have open."""

    budgets: Sequence[Budget] = ()
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """A new attempt may begin: what it counts as until its cost is known, and for whom."""

    charged: Mapping[str, str | None]
    reserved_usd: float | None
    should_fold: bool

    def record(self, connection: Connection, row: LedgerRow) -> None:
        """Charge the attempt that has begun."""
        enter(connection, self.charged, row.id, row.attempt)
        # Ids end randomly: without budgets, one claim in 256 tidies up.
        if self.should_fold or row.id.endswith("00"):
            fold(connection)


def admit(
    connection: Connection,
    intent: Intent,
    limits: Limits,
    *,
    now: datetime,
    replaced: LedgerRow | None = None,
) -> Admission | LedgerError:
    """Say what a new attempt counts as, or why it must not begin; writes nothing.

    Args:
        connection: the claim's transaction; keeps the locks until it ends.
        intent: what is wanted.
        limits: what the attempt has to fit in.
        now: the time of the claim.
        replaced: an open submission that the attempt takes over without a job; what that has
            reserved needs no room again.
    """
    charged = charged_to(intent, now.astimezone(UTC).date().isoformat())
    keyed = [(each, key) for each in limits.budgets if (key := each.key(charged)) is not None]
    request = intent.estimated_cost_usd
    if request is None:
        for budget, key in keyed:
            if budget.unknown_cost is None:
                return _unknown_price(budget, sums_of(connection, [key])[key], intent)
        request = max((each.unknown_cost or 0.0 for each, _ in keyed), default=None)
    is_free = not nano(request or 0.0)
    _lock(connection, intent, limits, () if is_free else (key for _, key in keyed))
    should_fold = False
    if request is not None and not is_free:
        sums = sums_of(connection, (key for _, key in keyed))
        should_fold = any(each.foldable >= FOLD_AT for each in sums.values())
        taken = _taken(connection, replaced)
        for budget, key in keyed:
            growth = nano(request) - taken.get(key, 0)
            if growth > 0 and sums[key].total + growth > nano(budget.limit_usd):
                return _no_room(budget, key, sums[key], intent, request)
    busy = _busy(connection, intent, limits, now, replaced)
    return busy or Admission(charged, request, should_fold)


def _lock(connection: Connection, intent: Intent, limits: Limits, keys: Iterable[SpendKey]) -> None:
    names = {f"budget:{key.scope.value}:{key.key!r}:{key.partition_key!r}" for key in keys}
    if limits.concurrency is not None and intent.account is not None:
        names.add(f"account:{intent.account}")
    lock(connection, *sorted(names))


def _taken(connection: Connection, replaced: LedgerRow | None) -> dict[SpendKey, int]:
    if replaced is None:
        return {}
    reserved = nano(replaced.reserved_usd or 0.0)
    return dict.fromkeys(entry_keys(connection, replaced.id, replaced.attempt), reserved)


def _busy(
    connection: Connection,
    intent: Intent,
    limits: Limits,
    now: datetime,
    replaced: LedgerRow | None,
) -> AccountBusyError | None:
    if limits.concurrency is None or intent.account is None:
        return None
    parameters = {
        "account": intent.account,
        "except_id": replaced.id if replaced else "",
        "now": now,
        "longest_ago": now - _LONGEST_JOB,
    }
    jobs = _OPEN_JOBS.run(connection, parameters)
    if len(jobs) < limits.concurrency:
        return None
    return AccountBusyError(
        f"account of {intent.provider} has {len(jobs)} open jobs and may have "
        f"{limits.concurrency}; {_request(intent)} has to wait for one to end, or resume or cancel "
        "those that nobody waits for (genblaze-dagster ledger list)",
        retry_after=_seconds_until_one_ends(jobs, now),
    )


def _seconds_until_one_ends(jobs: Iterable[Mapping[str, Any]], now: datetime) -> float:
    remaining = [
        job["estimated_seconds"] - (now - job["submitted_at"]).total_seconds()
        for job in jobs
        if job["submitted_at"] is not None and job["estimated_seconds"] is not None
    ]
    wait = min(remaining, default=_USUAL_WAIT_SECONDS)
    return min(max(wait, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)


def _unknown_price(budget: Budget, sums: Sums, intent: Intent) -> BudgetExceededError:
    return BudgetExceededError(
        f"budget {budget.label} does not let {_request(intent)} pass: what it costs is not known; "
        "set the budget's unknown_cost to what such a request counts as, or tell the price of the "
        "model",
        budget=budget.label,
        limit_usd=budget.limit_usd,
        spent_usd=usd(sums.total),
        request_usd=None,
    )


def _no_room(
    budget: Budget, key: SpendKey, sums: Sums, intent: Intent, request: float
) -> BudgetExceededError:
    estimated = (
        "costs" if intent.estimated_cost_usd is not None else "has no known price, counts as"
    )
    later = ", or wait for the next day (UTC)" if budget.scope is BudgetScope.DAY else ""
    settle = ", or wait until what is reserved is settled" if sums.reserved else ""
    return BudgetExceededError(
        f"budget {budget.label} has no room for {_request(intent)}: it {estimated} "
        f"{_dollars(nano(request))} USD, and of {_dollars(nano(budget.limit_usd))} USD for {key} "
        f"{_dollars(sums.paid)} are paid and {_dollars(sums.reserved)} reserved; raise its "
        f"limit_usd{later}{settle}",
        budget=budget.label,
        limit_usd=budget.limit_usd,
        spent_usd=usd(sums.total),
        request_usd=request,
    )


def _request(intent: Intent) -> str:
    return (
        f"{intent.asset_key}, partition {intent.partition_key or '-'} "
        f"({intent.provider} {intent.model})"
    )


def _dollars(amount_nano: int) -> str:
    whole, _, fraction = f"{usd(amount_nano):.9f}".partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
