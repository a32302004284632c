"""Reading a ledger that is there: lists, sums, one submission by any of its names, every attempt.

Questions that the commands ask and no run does. Nothing here changes a submission, and no ledger
comes into being by being read.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    case,
    func,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.engine import make_url

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.budgets import usd
from genblaze_dagster.ledger.callbacks import StoredCallback, callbacks_of
from genblaze_dagster.ledger.database import Database
from genblaze_dagster.ledger.rows import read_row
from genblaze_dagster.ledger.schema import (
    intents,
    past_attempts,
    schema_version,
    submissions,
)
from genblaze_dagster.ledger.spending import nano_of
from genblaze_dagster.ledger.submission import (
    OPEN_STATES,
    LedgerRow,
    PastAttempt,
    SubmissionState,
)
from genblaze_dagster.pipeline.environment import LEDGER_VARIABLE, default_ledger_url

_BUSY_SECONDS: Final = 30.0
_PAGE: Final = 500
SHORTEST_PREFIX: Final = 4
MOST_CANDIDATES: Final = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which submissions: those that meet everything that is not None.

    `since` and `until` bound when they were created, `expires_before` when the vendor deletes
    outputs that are not fetched; `idle_at` wants open ones on which nobody works at that time.
    """

    states: tuple[SubmissionState, ...] = ()
    asset_key: str | None = None
    partition_key: str | None = None
    scope: str | None = None
    provider: str | None = None
    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    expires_before: datetime | None = None
    idle_at: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return them as SQL."""
        columns = submissions.c
        equal = (
            (columns.asset_key, self.asset_key),
            (columns.partition_key, self.partition_key),
            (columns.scope, self.scope),
            (columns.provider, self.provider),
            (columns.model, self.model),
        )
        found: list[ColumnElement[bool]] = [
            column == value for column, value in equal if value is not None
        ]
        if self.states:
            found.append(columns.state.in_(self.states))
        if self.since is not None:
            found.append(columns.created_at >= self.since)
        if self.until is not None:
            found.append(columns.created_at < self.until)
        if self.expires_before is not None:
            found += [
                columns.state.in_(OPEN_STATES),
                columns.outputs_expire_at < self.expires_before,
            ]
        if self.idle_at is not None:
            ended = columns.lease_expires_at <= self.idle_at
            found += [
                columns.state.in_(OPEN_STATES),
                or_(columns.lease_expires_at.is_(None), ended),
            ]
        return found


@dataclass(frozen=True, slots=True)
class Totals:
    """How many submissions there are by state, and what all their attempts cost.

    `reserved_usd` is what attempts of unknown cost count as that may have been paid; `unknown`
    counts those of them whose price was never known.
    """

    by_state: dict[SubmissionState, int]
    paid_usd: float
    reserved_usd: float
    unknown: int

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.by_state.values())


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a submission: the current one, or one that failed before it."""

    submission: LedgerRow
    past: PastAttempt | None = None


_SAME = past_attempts.c.submission_id == submissions.c.id


class Records:
    """One ledger, for reading.

    Args:
        url: of the ledger; GENBLAZE_LEDGER, else `.genblaze/ledger.db`, when left out.

    Raises:
        ConfigError: the URL is broken or not of a supported database.
        LedgerError: it names a file that does not exist.
    """

    def __init__(self, url: str | None) -> None:
        self.url = url or default_ledger_url()
        # Before anything else looks at the URL: this refuses what no ledger can be.
        self._database = Database(self.url, busy_timeout=_BUSY_SECONDS)
        _check_file(self.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._database.close()

    @property
    def name(self) -> str:
        """How messages call it; without a password."""
        return self._database.name

    def now(self) -> datetime:
        """Return the time by which leases are told; the server's where there is one."""
        return self._database.now()

    def newest(self, wanted: Wanted, *, limit: int | None) -> list[LedgerRow]:
        """Return matching submissions, newest first."""
        query = select(submissions).where(*wanted.conditions()).order_by(submissions.c.id.desc())
        return self._rows(query if limit is None else query.limit(limit))

    def totals(self, wanted: Wanted) -> Totals:
        """Count and add up matching submissions with their past attempts."""
        conditions = wanted.conditions()
        of_current = (
            select(
                submissions.c.state,
                func.count().label("count"),
                *_sums(submissions.c, submissions.c.state == SubmissionState.FAILED),
            )
            .where(*conditions)
            .group_by(submissions.c.state)
        )
        of_past = (
            select(*_sums(past_attempts.c, true()))
            .join_from(past_attempts, submissions, _SAME)
            .where(*conditions)
        )
        with self._database.read() as connection:
            current = connection.execute(of_current).mappings().all()
            past = connection.execute(of_past).mappings().all()
        counts = {found["state"]: found["count"] for found in current}
        sums = [*current, *past]
        return Totals(
            {state: counts[state] for state in SubmissionState if state in counts},
            usd(sum(int(found["paid"] or 0) for found in sums)),
            usd(sum(int(found["reserved"] or 0) for found in sums)),
            sum(int(found["unknown"] or 0) for found in sums),
        )

    def one(self, name: str) -> LedgerRow:
        """Return the submission somebody means.

        Args:
            name: its id or run id, the start of either, the last group of its id, or the vendor's
                job id of any of its attempts.

        Raises:
            LedgerError: there is none, or more than one.
        """
        # What is written out is found by its index; the rest takes a look at every row.
        found = self.these([name]) or self._rows(_called(name))
        if len(found) == 1:
            return found[0]
        if not found:
            raise LedgerError(
                f"{name}: no submission in {self.name} has this id, run id or job id; "
                "genblaze-dagster ledger list shows what there is"
            )
        listed = ", ".join(row.id for row in found[:MOST_CANDIDATES])
        more = ", ..." if len(found) > MOST_CANDIDATES else ""
        raise LedgerError(f"{name} is not unique, give more of the id: {listed}{more}")

    def these(self, ids: Sequence[str]) -> list[LedgerRow]:
        """Return the submissions with these ids or run ids, oldest first."""
        columns = submissions.c
        found: list[LedgerRow] = []
        for start in range(0, len(ids), _PAGE):
            some = ids[start : start + _PAGE]
            query = select(submissions).where(or_(columns.id.in_(some), columns.run_id.in_(some)))
            found += self._rows(query.order_by(columns.id))
        return found

    def past_attempts(self, submission_id: str) -> list[PastAttempt]:
        """Return the failed attempts before the current one, oldest first."""
        return self._past(past_attempts.c.submission_id == submission_id)

    def scopes(self, submission_id: str) -> list[str]:
        """Return the runs and backfills whose intents the submission serves."""
        query = (
            select(intents.c.scope)
            .where(intents.c.submission_id == submission_id)
            .order_by(intents.c.scope)
        )
        with self._database.read() as connection:
            return [*connection.execute(query).scalars()]

    def callbacks(self, row: LedgerRow) -> list[StoredCallback]:
        """Return what the vendor has called back about any of its attempts, oldest first."""
        with self._database.read() as connection:
            return callbacks_of(connection, [row], past_too=True).get(row.id, [])

    def attempts(self, wanted: Wanted) -> Iterator[Attempt]:
        """Iterate over every attempt of matching submissions, oldest first, a page at a time."""
        query = select(submissions).where(*wanted.conditions()).order_by(submissions.c.id)
        last = ""
        while page := self._rows(query.where(submissions.c.id > last).limit(_PAGE)):
            past: dict[str, list[PastAttempt]] = {}
            of_page = past_attempts.c.submission_id.in_([row.id for row in page])
            for attempt in self._past(of_page):
                past.setdefault(attempt.submission_id, []).append(attempt)
            for row in page:
                yield from (Attempt(row, attempt) for attempt in past.get(row.id, ()))
                yield Attempt(row)
            last = page[-1].id

    def _rows(self, query: Select[Any]) -> list[LedgerRow]:
        with self._database.read() as connection:
            return [read_row(found) for found in connection.execute(query).mappings()]

    def _past(self, condition: ColumnElement[bool]) -> list[PastAttempt]:
        query = (
            select(past_attempts)
            .where(condition)
            .order_by(past_attempts.c.submission_id, past_attempts.c.attempt)
        )
        with self._database.read() as connection:
            return [PastAttempt(**found) for found in connection.execute(query).mappings()]


def _check_file(url: str) -> None:
    """Refuse a file that is not there, which opening would create."""
    name = make_url(url).database if "://" in url else url
    if "://" in url and make_url(url).get_backend_name() != "sqlite":
        return
    path = Path((name or "").removeprefix("file:")).absolute()
    if not path.is_file() or not path.stat().st_size or _is_of_others(path):
        raise LedgerError(
            f"{path}: no ledger there; give --ledger URL or set {LEDGER_VARIABLE} to the one that "
            "the runs use"
        )


def _is_of_others(path: Path) -> bool:
    """Whether it is a database without our tables, which opening would put into it."""
    query = "SELECT count(*) FROM sqlite_master WHERE name = ?"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as found:
            return not found.execute(query, [schema_version.name]).fetchone()[0]
    except sqlite3.Error:
        # No database, or one that cannot be read: whoever opens it says so.
        return False


def _sums(columns: Any, failed: ColumnElement[bool]) -> Sequence[ColumnElement[Any]]:
    """Add attempts up as budgets do: what the vendor refused counts as nothing."""
    refused = and_(failed, columns.job_id.is_(None), not_(columns.answer_lost))
    counts = and_(columns.cost_usd.is_(None), not_(refused))
    reserved = case((counts, columns.reserved_usd))
    unknown = case((and_(counts, columns.estimated_cost_usd.is_(None)), 1), else_=0)
    return (
        func.sum(nano_of(columns.cost_usd)).label("paid"),
        func.sum(nano_of(reserved)).label("reserved"),
        func.sum(unknown).label("unknown"),
    )


def _called(name: str) -> Select[Any]:
    columns = submissions.c
    of_job = select(past_attempts.c.submission_id).where(past_attempts.c.job_id == name)
    means = [columns.job_id == name, columns.id.in_(of_job)]
    if len(name) >= SHORTEST_PREFIX:
        means += [
            columns.id.startswith(name, autoescape=True),
            columns.run_id.startswith(name, autoescape=True),
            columns.id.endswith(f"-{name}", autoescape=True),
        ]
    return select(submissions).where(or_(*means)).order_by(columns.id).limit(MOST_CANDIDATES + 1)
