"""What was spent: an entry for every attempt, and totals of the attempts that have ended.

An entry says whose money an attempt is; how much is read from the attempt itself, so no other
code has to keep sums. Entries of ended attempts are folded into the totals now and then: a sum
then takes the same time however long the history is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    String,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    union_all,
)

from genblaze_dagster.ledger.budgets import (
    KEY_COLUMNS,
    BudgetScope,
    Spend,
    SpendKey,
    spend_key,
    usd,
)
from genblaze_dagster.ledger.schema import (
    past_attempts,
    spend_entries,
    spend_totals,
    submissions,
)
from genblaze_dagster.ledger.statements import Statement
from genblaze_dagster.ledger.submission import SubmissionState

FOLD_AT = 64
"""So many ended attempts are summed up anew by each claim before they are folded."""

# Bounds how long a claim takes that meets a long history: the next claims go on with it.
_LARGEST_FOLD = 5_000
_MOST_USD = 1_000_000.0
_FOLD_LOCK = 0x67656E626C617A65

# An entry's attempt is the current one of its submission, or a past one. One that was taken over
# before the vendor had a job is neither and counts nothing: the attempt after it stands for both.
_NOW = and_(
    submissions.c.id == spend_entries.c.submission_id,
    submissions.c.attempt == spend_entries.c.attempt,
)
_PAST = and_(
    past_attempts.c.submission_id == spend_entries.c.submission_id,
    past_attempts.c.attempt == spend_entries.c.attempt,
)
_ATTEMPTS = spend_entries.outerjoin(submissions, _NOW).outerjoin(past_attempts, _PAST)


def _of_attempt(name: str) -> ColumnElement[Any]:
    return func.coalesce(submissions.c[name], past_attempts.c[name])


_cost = _of_attempt("cost_usd")
_failed = or_(submissions.c.id.is_(None), submissions.c.state == SubmissionState.FAILED)
_settled = or_(_failed, submissions.c.state == SubmissionState.STORED)
# The vendor took nothing on: no job, and nobody doubts that.
_refused = and_(_failed, _of_attempt("job_id").is_(None), ~_of_attempt("answer_lost"))
_counts_unpaid = and_(_cost.is_(None), ~_refused)
_reserved = case((_counts_unpaid, _of_attempt("reserved_usd")), else_=None)
_unknown = case((and_(_counts_unpaid, _of_attempt("estimated_cost_usd").is_(None)), 1), else_=0)


def nano_of(amount: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return billionths of a dollar of a column, of which sums stay in range.

    A vendor's answer that is no sum of money counts as more than any limit.
    """
    return case(
        (or_(amount.is_(None), amount < 0), 0),
        (amount < _MOST_USD, cast(func.round(amount * 1e9), BigInteger)),
        else_=int(_MOST_USD * 1e9),
    )


class Sums(NamedTuple):
    """Spending in billionths of a dollar, and how many entries can be folded."""

    paid: int = 0
    reserved: int = 0
    unknown: int = 0
    foldable: int = 0

    def plus(self, *, paid: int, reserved: int, unknown: int, foldable: int) -> "Sums":
        """Add more of the same key; PostgreSQL gives sums as decimals."""
        more = (int(each) for each in (paid, reserved, unknown, foldable))
        return Sums(*(own + other for own, other in zip(self, more, strict=True)))

    @property
    def total(self) -> int:
        """What counts against a limit."""
        return self.paid + self.reserved

    @property
    def spend(self) -> Spend:
        """The same in dollars."""
        return Spend(usd(self.paid), usd(self.reserved), self.unknown)


def _summing() -> Statement:
    """Sum up for one key of each scope at once; a key that is NULL is not asked for."""
    wanted = union_all(*(_wanted(scope) for scope in BudgetScope)).cte("wanted")
    entry_key = case(
        {scope.value: spend_entries.c[KEY_COLUMNS[scope]] for scope in BudgetScope},
        value=wanted.c.scope,
    )
    is_wanted = and_(
        entry_key == wanted.c.key,
        or_(
            wanted.c.scope != BudgetScope.PARTITION.value,
            spend_entries.c.partition_key == wanted.c.partition_key,
        ),
    )
    sums = (nano_of(_cost), nano_of(_reserved), _unknown, case((_settled, 1), else_=0))
    columns = (func.sum(each).label(name) for each, name in zip(sums, Sums._fields, strict=True))
    entries = (
        select(wanted.c.scope, *columns)
        .select_from(_ATTEMPTS.join(wanted, is_wanted))
        .group_by(wanted.c.scope)
    )
    totals = select(
        wanted.c.scope,
        spend_totals.c.paid_nano,
        spend_totals.c.reserved_nano,
        spend_totals.c.unknown,
        literal(0),
    ).join_from(
        wanted,
        spend_totals,
        and_(
            spend_totals.c.scope == wanted.c.scope,
            spend_totals.c.key == wanted.c.key,
            spend_totals.c.partition_key == wanted.c.partition_key,
        ),
    )
    # One statement sees one state: an attempt is never in both sums, nor in none.
    both: Any = union_all(entries, totals)
    return Statement(both)


def _wanted(scope: BudgetScope) -> Any:
    return select(
        literal(scope.value, String, literal_execute=True).label("scope"),
        bindparam(scope.value, type_=String).label("key"),
        bindparam(f"{scope.value}_partition", type_=String).label("partition_key"),
    )


_SUMS = _summing()
_OWN_ENTRY = and_(
    spend_entries.c.submission_id == bindparam("id"),
    spend_entries.c.attempt == bindparam("of_attempt"),
)
_ENTRY = Statement(select(spend_entries).where(_OWN_ENTRY))
_ENTER = Statement(insert(spend_entries))
_DELETE = delete(spend_entries).where(_OWN_ENTRY)
_FOLDABLE = Statement(
    select(
        spend_entries,
        nano_of(_cost).label("paid"),
        nano_of(_reserved).label("reserved"),
        _unknown.label("unknown"),
    )
    .select_from(_ATTEMPTS)
    .where(_settled)
    .limit(_LARGEST_FOLD)
)
_ADD = text(
    "INSERT INTO spend_totals (scope, key, partition_key, paid_nano, reserved_nano, unknown) "
    "VALUES (:scope, :key, :partition_key, :paid, :reserved, :unknown) "
    "ON CONFLICT (scope, key, partition_key) DO UPDATE SET "
    "paid_nano = spend_totals.paid_nano + excluded.paid_nano, "
    "reserved_nano = spend_totals.reserved_nano + excluded.reserved_nano, "
    "unknown = spend_totals.unknown + excluded.unknown"
)
_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")


def sums_of(connection: Connection, keys: Iterable[SpendKey]) -> dict[SpendKey, Sums]:
    """Add up what was spent by a run, an asset, ..., past attempts included; one key of a scope."""
    by_scope = {key.scope: key for key in keys}
    parameters: dict[str, str | None] = {}
    for scope in BudgetScope:
        key = by_scope.get(scope)
        parameters[scope.value] = key.key if key else None
        parameters[f"{scope.value}_partition"] = key.partition_key if key else None
    sums = dict.fromkeys(by_scope.values(), Sums())
    for found in _SUMS.run(connection, parameters):
        key = by_scope[found.pop("scope")]
        sums[key] = sums[key].plus(**found)
    return sums


def spend_of(connection: Connection, key: SpendKey) -> Spend:
    """Return what was paid and reserved by one run, asset, partition, tenant, provider or day."""
    return sums_of(connection, [key])[key].spend


def entry_keys(connection: Connection, id: str, attempt: int) -> set[SpendKey]:
    """Return whose money an attempt is that has not ended."""
    found = _ENTRY.first(connection, {"id": id, "of_attempt": attempt})
    return set() if found is None else set(_keys(found))


def enter(connection: Connection, charged: Mapping[str, str | None], id: str, attempt: int) -> None:
    """Charge a new attempt to those who asked for it."""
    _ENTER.run(connection, {**charged, "submission_id": id, "attempt": attempt})


def fold(connection: Connection) -> None:
    """Move the money of ended attempts from their entries into the totals.

    Waits for no other transaction: while another folds, nothing happens here.
    """
    if connection.dialect.name == "postgresql":
        is_alone = connection.execute(_TRY_LOCK, {"key": _FOLD_LOCK}).scalar_one()
        if not is_alone:
            return
    totals: defaultdict[SpendKey, list[int]] = defaultdict(lambda: [0, 0, 0])
    folded: list[dict[str, Any]] = []
    for entry in _FOLDABLE.run(connection, {}):
        folded.append({"id": entry["submission_id"], "of_attempt": entry["attempt"]})
        for key in _keys(entry):
            sums = totals[key]
            sums[0] += int(entry["paid"])
            sums[1] += int(entry["reserved"])
            sums[2] += int(entry["unknown"])
    if not folded:
        return
    connection.execute(
        _ADD,
        [
            {
                "scope": key.scope.value,
                "key": key.key,
                "partition_key": key.partition_key,
                "paid": paid,
                "reserved": reserved,
                "unknown": unknown,
            }
            for key, (paid, reserved, unknown) in totals.items()
        ],
    )
    connection.execute(_DELETE, folded)


def _keys(entry: Mapping[Any, Any]) -> Iterator[SpendKey]:
    keys = (spend_key(scope, entry) for scope in BudgetScope)
    return (key for key in keys if key is not None)
