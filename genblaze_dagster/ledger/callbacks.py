"""What vendors call back with: which submission it is about, and whether that was waited for.

A callback is a hint and never decides what a worker is about to decide. It is recorded, whatever it
is about. It changes a submission in one case: its address, which only the vendor was told, names
the submission's present attempt, nobody waits for the answer to that attempt any more, and the job
is nobody else's. Then the answer that was lost has arrived after all, and the submission gets its
job as `Ledger.resolve` would give it.

Recording and deciding are one transaction, which locks the submission's row between them. So

* a callback before its submit's answer finds a live lease, and is recorded only. The worker that
  then loses the answer writes that into the row after this transaction ended, and whoever looks at
  the row later sees the callback (`Ledger.callbacks_for`);
* when the worker was first, the row says that the answer is lost, and the job is taken here;
* a worker that was killed in between leaves a lease, which ends: the next claim, or
  `Ledger.take_callbacks`, finds what was recorded meanwhile;
* an attempt that failed has a key of its own, so what is said of it resolves no later one;
* a second delivery meets the row that the first has written, and finds nothing left to do;
* two submissions cannot be given one job: whoever gives a job to a submission locks the job.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, or_, select

from genblaze_dagster.ledger.database import Database, lock
from genblaze_dagster.ledger.failure import found_changes
from genblaze_dagster.ledger.queries import submission_of_job
from genblaze_dagster.ledger.rows import change, matches, read_row
from genblaze_dagster.ledger.schema import callbacks, past_attempts, submissions
from genblaze_dagster.ledger.submission import (
    UNSETTLED_STATES,
    LedgerRow,
    submit_key,
)
from genblaze_dagster.ledger.transactions import Transactions
from genblaze_dagster.providers.protocol import JobState

ENDED_STATES = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
"""States of a job in which waiting for it is over."""

# SQLite takes some thousand parameters in a statement.
_ROWS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class StoredCallback:
    """One delivery of a vendor, as it is kept. `received_at` is UTC.

    `state` is None when the vendor did not say one that is known. `submission_key` is the
    idempotency key of the submit whose address was called, None for an address without one.
    """

    vendor: str
    delivery_id: str
    job_id: str
    state: JobState | None
    submission_key: str | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class CalledBack:
    """What a delivery was good for.

    `submission` is what it is about, None when the ledger knows neither submit nor job; it may be
    about an attempt before the present one. `is_found` says that it gave the submission its job.
    """

    is_new: bool
    submission: LedgerRow | None
    is_found: bool


class Callbacks(Transactions):
    """What a `Ledger` does with callbacks."""

    def __init__(self, database: Database, clock: Callable[[], datetime] | None) -> None:
        super().__init__(database)
        self._clock = clock or self._database.now

    def called_back(
        self,
        vendor: str,
        delivery_id: str,
        job_id: str,
        *,
        state: JobState | None,
        submission_key: str | None,
    ) -> CalledBack:
        """Record a delivery, once, and take the job that it names for a submit without an answer.

        Call it only with what is verified: a submission key is believed.

        Args:
            vendor: who called.
            delivery_id: what the vendor calls the delivery; the same when it is repeated.
            job_id: the vendor's job.
            state: of that job, None when unknown.
            submission_key: idempotency key of the submit, None when the address named none.

        Raises:
            LedgerError: the ledger cannot be used; nothing is recorded then, so let the vendor
                call again.
        """
        now = self._clock()
        given = StoredCallback(vendor, delivery_id, job_id, state, submission_key, now)
        return self._database.transact(
            lambda connection, is_repeated: _receive(connection, given, is_repeated)
        )

    def callbacks_for(self, row: LedgerRow) -> Sequence[StoredCallback]:
        """Return what was called back about a submission's present attempt, oldest first.

        It is named by the address that was called or, once the job is known, by that.
        """
        with self._database.read() as connection:
            return callbacks_of(connection, [row]).get(row.id, ())

    def ended_at_vendor(self, rows: Sequence[LedgerRow]) -> set[str]:
        """Return the ids of those submissions whose vendor has called that their job is over."""
        with self._database.read() as connection:
            found = callbacks_of(connection, rows)
        return {id for id, told in found.items() if any(one.state in ENDED_STATES for one in told)}

    def take_callbacks(self) -> list[LedgerRow]:
        """Give submissions without an answer the jobs that were called back with meanwhile.

        What a vendor tells while a worker's lease is live is only recorded. When that worker was
        killed, nobody has looked since.

        Returns:
            Those that have a job now; the next claim fetches it.
        """
        now = self._clock()
        unsettled = self.find(states=UNSETTLED_STATES)
        undecided = [row for row in unsettled if row.is_undecided(now)]
        with self._database.read() as connection:
            told = sorted(callbacks_of(connection, undecided))
        if not told:
            return []
        return self._database.transact(lambda connection, _: _take(connection, told, now))


def callbacks_of(
    connection: Connection, rows: Sequence[LedgerRow], *, past_too: bool = False
) -> dict[str, list[StoredCallback]]:
    """Return what was called back about the present attempt of each submission, oldest first.

    Submissions of which nothing was said are left out.

    Args:
        connection: where to look.
        rows: the submissions.
        past_too: also about their attempts before, of which nothing follows.
    """
    found: dict[str, list[StoredCallback]] = {}
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        some = rows[start : start + _ROWS_AT_ONCE]
        keys = _keys(connection, some, past_too=past_too)
        jobs = _past_jobs(connection, [row.id for row in some]) if past_too else {}
        jobs |= {row.job_id: row.id for row in some if row.job_id is not None}
        about = or_(callbacks.c.submission_key.in_(keys), callbacks.c.job_id.in_(jobs))
        for callback in _stored(connection, about):
            id = keys.get(callback.submission_key or "") or jobs[callback.job_id]
            found.setdefault(id, []).append(callback)
    return found


def _past_jobs(connection: Connection, submission_ids: Sequence[str]) -> dict[str, str]:
    """Return the jobs that earlier attempts had, with the submission's id."""
    past = past_attempts.c
    query = select(past.job_id, past.submission_id).where(
        past.submission_id.in_(submission_ids), past.job_id.is_not(None)
    )
    return {job_id: id for job_id, id in connection.execute(query)}


def _keys(connection: Connection, rows: Sequence[LedgerRow], *, past_too: bool) -> dict[str, str]:
    """Return the keys of each submission's present attempt, or of all, with the submission's id."""
    failures = _failures(connection, [row.id for row in rows if row.attempt > 1])
    found: dict[str, LedgerRow] = {}
    for row in rows:
        so_far = failures.get(row.id, 0)
        for number in range(0 if past_too else so_far, so_far + 1):
            found[submit_key(row.run_id, number)] = row
    others = {
        run_id: key
        for key, row in found.items()
        for run_id, _ in _readings(key)
        if run_id != row.run_id
    }
    if others:
        query = select(submissions.c.run_id).where(submissions.c.run_id.in_(others))
        for ambiguous in connection.execute(query).scalars():
            # As in `_named`.
            found.pop(others[ambiguous], None)
    return {key: row.id for key, row in found.items()}


def _receive(connection: Connection, given: StoredCallback, is_repeated: bool) -> CalledBack:
    # Not only the primary key: the second of two deliveries at once waits, and is then a repetition.
    lock(connection, f"callback:{given.vendor}:{given.delivery_id}")
    same = (
        callbacks.c.vendor == given.vendor,
        callbacks.c.delivery_id == given.delivery_id,
    )
    known = _stored(connection, *same)
    if not known:
        connection.execute(insert(callbacks).values(asdict(given)))
    callback = known[0] if known else given
    # After a connection that was lost on commit, what is stored may be of this very delivery.
    is_new = not known or (is_repeated and callback == given)
    row, is_present = _named(connection, callback)
    if row is None or not is_present:
        return CalledBack(is_new, row or _of_job(connection, callback.job_id), False)
    found = found_changes(callback.job_id, given.received_at)
    if is_repeated and matches(row, found):
        return CalledBack(is_new, row, True)
    if not _may_take(connection, row, callback.job_id, given.received_at):
        return CalledBack(is_new, row, False)
    return CalledBack(is_new, change(connection, row, found), True)


def _take(connection: Connection, told: Iterable[str], now: datetime) -> list[LedgerRow]:
    taken: list[LedgerRow] = []
    for row in _locked(connection, submissions.c.id.in_(told)):
        for callback in callbacks_of(connection, [row]).get(row.id, ()):
            if _may_take(connection, row, callback.job_id, now):
                taken.append(change(connection, row, found_changes(callback.job_id, now)))
                break
    return taken


def _may_take(connection: Connection, row: LedgerRow, job_id: str, now: datetime) -> bool:
    """Whether a submission, whose row is locked, has to get this job for its present attempt."""
    return row.is_undecided(now) and submission_of_job(connection, job_id) is None


def _named(connection: Connection, callback: StoredCallback) -> tuple[LedgerRow | None, bool]:
    """Return the submission whose submit was told the address, and whether that is the present one.

    Its row is locked, as a claim would do it.
    """
    key = callback.submission_key
    if key is None:
        return None, False
    failures = dict(_readings(key))
    found: list[tuple[LedgerRow, bool]] = []
    for row in _locked(connection, submissions.c.run_id.in_(failures)):
        so_far = _failures(connection, [row.id]).get(row.id, 0)
        if failures[row.run_id] <= so_far:
            found.append((row, failures[row.run_id] == so_far))
    # Run ids that callers make up may read as another's key. Then nobody can say which is meant.
    return found[0] if len(found) == 1 else (None, False)


def _readings(key: str) -> Iterable[tuple[str, int]]:
    """Yield the run ids that a key may be made of, each with the number of failed attempts."""
    yield key, 0
    run_id, _, digits = key.rpartition("-")
    # Longer numbers are parts of run ids.
    if digits.isdecimal() and len(digits) <= 6 and submit_key(run_id, int(digits)) == key:
        yield run_id, int(digits)


def _failures(connection: Connection, submission_ids: Sequence[str]) -> dict[str, int]:
    """Return how many attempts of each failed before the present one; left out: none."""
    if not submission_ids:
        return {}
    id = past_attempts.c.submission_id
    query = select(id, func.count()).where(id.in_(submission_ids)).group_by(id)
    return {submission_id: count for submission_id, count in connection.execute(query)}


def _locked(connection: Connection, condition: ColumnElement[bool]) -> list[LedgerRow]:
    query = select(submissions).where(condition).order_by(submissions.c.id).with_for_update()
    return [read_row(found) for found in connection.execute(query).mappings()]


def _of_job(connection: Connection, job_id: str) -> LedgerRow | None:
    past = select(past_attempts.c.submission_id).where(past_attempts.c.job_id == job_id)
    query = select(submissions).where(
        or_(submissions.c.job_id == job_id, submissions.c.id.in_(past))
    )
    found = connection.execute(query.limit(1)).mappings().first()
    return None if found is None else read_row(found)


def _stored(connection: Connection, *conditions: ColumnElement[bool]) -> list[StoredCallback]:
    order = (callbacks.c.received_at, callbacks.c.delivery_id)
    query = select(callbacks).where(*conditions).order_by(*order)
    return [_read(found) for found in connection.execute(query).mappings()]


def _read(stored: Mapping[Any, Any]) -> StoredCallback:
    values: dict[str, Any] = {**stored}
    values["state"] = None if values["state"] is None else JobState(values["state"])
    return StoredCallback(**values)
