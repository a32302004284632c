"""What a ledger answers without changing anything."""

from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import Any, TypedDict, Unpack

from sqlalchemy import ColumnElement, Connection, select, union

from genblaze_dagster.ledger.budgets import BudgetScope, Spend, SpendKey
from genblaze_dagster.ledger.database import Database, lock
from genblaze_dagster.ledger.rows import fetch, read_row
from genblaze_dagster.ledger.schema import past_attempts, submissions
from genblaze_dagster.ledger.spending import spend_of
from genblaze_dagster.ledger.submission import LedgerRow, PastAttempt, SubmissionState

# SQLite takes some thousand parameters in a statement.
_IDS_AT_ONCE = 500
_PAGE = 500


class Filters(TypedDict, total=False):
    """What `Ledger.find` looks for. Every filter that is given, and not None, has to match."""

    state: SubmissionState | None
    states: Collection[SubmissionState] | None
    """Any of these."""
    asset_key: str | None
    partition_key: str | None
    """`""` finds unpartitioned assets."""
    scope: str | None
    """That of the intent which created the submission."""
    generation_key: str | None
    run_id: str | None
    job_id: str | None
    """The vendor's job of the current attempt."""
    provider: str | None
    model: str | None
    lease_expired_before: datetime | None
    """It has a lease, which ended before this time."""
    outputs_expire_before: datetime | None
    """The vendor is known to delete the outputs before this time."""
    after_id: str | None
    """What follows this submission in the order asked for; pages through a long list."""


_COLUMNS = submissions.c
_CONDITIONS: dict[str, Callable[[Any], ColumnElement[bool]]] = {
    "states": lambda states: _COLUMNS.state.in_([SubmissionState(each).value for each in states]),
    "lease_expired_before": lambda time: _COLUMNS.lease_expires_at < time,
    "outputs_expire_before": lambda time: _COLUMNS.outputs_expire_at < time,
}


class Queries:
    """The questions a `Ledger` answers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, id: str) -> LedgerRow:
        """Return one submission.

        Raises:
            LedgerError: there is none of that id.
        """
        with self._database.read() as connection:
            return fetch(connection, id)

    def find(
        self, *, newest_first: bool = False, limit: int | None = None, **filters: Unpack[Filters]
    ) -> list[LedgerRow]:
        """Return the submissions that match every filter given, in the order of their creation.

        Args:
            newest_first: the other way round.
            limit: at most so many.
            filters: see `Filters`.
        """
        order = _COLUMNS.id.desc() if newest_first else _COLUMNS.id
        query = select(submissions).where(*_conditions(filters, newest_first)).order_by(order)
        with self._database.read() as connection:
            found = connection.execute(query.limit(limit)).mappings()
            return [read_row(each) for each in found]

    def rows(self) -> Iterator[LedgerRow]:
        """Iterate over every submission, oldest first, a page at a time."""
        last: str | None = None
        while page := self.find(after_id=last, limit=_PAGE):
            yield from page
            last = page[-1].id

    def past_attempts(self, id: str) -> list[PastAttempt]:
        """Return the failed attempts before the current one, oldest first."""
        query = (
            select(past_attempts)
            .where(past_attempts.c.submission_id == id)
            .order_by(past_attempts.c.attempt)
        )
        with self._database.read() as connection:
            return [PastAttempt(**found) for found in connection.execute(query).mappings()]

    def known_jobs(self, job_ids: Collection[str]) -> set[str]:
        """Return those of the vendor's job ids that any submission or past attempt has."""
        wanted = sorted(set(job_ids))
        known: set[str] = set()
        with self._database.read() as connection:
            for start in range(0, len(wanted), _IDS_AT_ONCE):
                some = wanted[start : start + _IDS_AT_ONCE]
                query = union(
                    select(submissions.c.job_id).where(submissions.c.job_id.in_(some)),
                    select(past_attempts.c.job_id).where(past_attempts.c.job_id.in_(some)),
                )
                known.update(connection.execute(query).scalars())
        return known

    def spend(self, scope: BudgetScope, key: str, *, partition_key: str = "") -> Spend:
        """Return what was paid and reserved by one run, asset, partition, tenant, provider or day.

        Args:
            scope: what `key` names.
            key: scope (run or backfill), asset key, tenant id, provider, or UTC day `2026-01-31`.
            partition_key: of the asset, for the scope `partition`.
        """
        with self._database.read() as connection:
            return spend_of(connection, SpendKey(BudgetScope(scope), key, partition_key))


def submission_of_job(connection: Connection, job_id: str, *, but: str | None = None) -> str | None:
    """Return the submission that has, or had, a vendor's job, other than the one named.

    Whoever gives out a job holds a lock on it until the transaction ends.
    """
    lock(connection, f"job:{job_id}")
    query = union(
        select(submissions.c.id).where(submissions.c.job_id == job_id),
        select(past_attempts.c.submission_id).where(past_attempts.c.job_id == job_id),
    )
    return next((id for id in connection.execute(query).scalars() if id != but), None)


def _conditions(filters: Filters, newest_first: bool) -> Iterator[ColumnElement[bool]]:
    for name, value in filters.items():
        if value is None:
            continue
        if name == "after_id":
            yield _COLUMNS.id < value if newest_first else _COLUMNS.id > value
        elif name in _CONDITIONS:
            yield _CONDITIONS[name](value)
        else:
            yield _COLUMNS[name] == str(value)
