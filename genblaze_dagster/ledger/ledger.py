"""The ledger: what was intended, submitted, paid and stored, across processes and crashes."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import uuid_utils
from sqlalchemy import select

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.claiming import Claimant, decide
from genblaze_dagster.ledger.database import Database
from genblaze_dagster.ledger.failure import changes_after_failure, state_after_failure
from genblaze_dagster.ledger.rows import change, fetch, read_row
from genblaze_dagster.ledger.schema import MAX_ERROR_MESSAGE, past_attempts, submissions
from genblaze_dagster.ledger.submission import (
    Claim,
    ClaimKind,
    Intent,
    LedgerRow,
    PastAttempt,
    SubmissionState,
)
from genblaze_dagster.ledger.transitions import (
    RELEASE,
    RENEW,
    SEND,
    STORE,
    SUBMIT,
    SUCCEED,
    Transition,
    advance,
    refusal,
)

__all__ = [
    "Claim",
    "ClaimKind",
    "Intent",
    "Ledger",
    "LedgerRow",
    "PastAttempt",
    "SubmissionState",
]

_PAGE = 500

_ANSWERED: dict[str, Any] = {"answer_lost": False, "error_code": None, "error_message": None}


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid_utils.uuid7())


class Ledger:
    """Submissions in an SQL database, shared by every process that generates.

    A generation is claimed before it is sent, marked before the request leaves, and its job id is
    committed before anything else happens with it. Each call is one short transaction that
    survives a power cut; calls block, so use a thread from async code.

    Every call after `claim` names the owner that claimed. It fails with `LedgerError` when another
    owner took the submission over or when the state does not allow it: then stop, do not send.
    An owner must be unique to one generation in flight.

    Args:
        url: `sqlite:///path`, `sqlite://` (in memory, for one process) or the path of a file. Put
            the file on a local disk. It is created, with its folder, on first use.
        clock: returns the current time, with a zone. Leases of several machines compare their clocks.
        busy_timeout: seconds to wait for another process's transaction.

    Raises:
        ConfigError: the URL is broken or not of a supported database.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        clock: Callable[[], datetime] = _utc_now,
        busy_timeout: float = 30.0,
    ) -> None:
        self._database = Database(url, busy_timeout=busy_timeout)
        self._clock = clock

    def __repr__(self) -> str:
        return f"Ledger({self._database.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        self._database.close()

    def claim(
        self,
        intent: Intent,
        *,
        owner: str,
        lease_seconds: float = 60.0,
        new_run_id: Callable[[], str] = _new_id,
    ) -> Claim:
        """Take an intent: get a submission to work on, or one that is done.

        `NEW` and `RESUME` come with a lease. Renew it while working. A submission whose lease has
        ended is taken over, also across scopes; both intents are then served by it.

        Args:
            intent: what is wanted.
            owner: who works on it; unique to this generation in flight.
            lease_seconds: how long others stay away unless the lease is renewed.
            new_run_id: mints the run and step id of a new submission; time-ordered by default.

        Raises:
            LeaseHeldError: another owner works on the same asset, partition and generation.
            HeldError: an earlier submit got no answer and a person has to decide.
            LedgerError: the database cannot be used.
        """
        now = self._clock()
        claimant = Claimant(owner, now, now + timedelta(seconds=lease_seconds), new_run_id)
        with self._database.write() as connection:
            decision = decide(connection, intent, claimant)
        if isinstance(decision, LedgerError):
            raise decision
        return decision

    def mark_sending(self, id: str, owner: str) -> LedgerRow:
        """Record that the submit is about to leave; send only after this returned."""
        return self._advance(SEND, id, owner, {"sending_at": self._clock()})

    def submitted(
        self, id: str, owner: str, job_id: str, *, estimated_seconds: float | None = None
    ) -> LedgerRow:
        """Record the vendor's job. A late answer also frees a submission that is already held."""
        return self._advance(
            SUBMIT,
            id,
            owner,
            {
                **_ANSWERED,
                "state": SubmissionState.SUBMITTED.value,
                "job_id": job_id,
                "submitted_at": self._clock(),
                "estimated_seconds": estimated_seconds,
            },
        )

    def succeeded(
        self,
        id: str,
        owner: str,
        *,
        cost_usd: float | None,
        outputs_expire_at: datetime | None = None,
    ) -> LedgerRow:
        """Record that the job is done and what it cost (USD, None when unknown)."""
        return self._advance(
            SUCCEED,
            id,
            owner,
            {
                **_ANSWERED,
                "state": SubmissionState.SUCCEEDED.value,
                **_cost(cost_usd),
                "outputs_expire_at": outputs_expire_at,
            },
        )

    def stored(
        self,
        id: str,
        owner: str,
        result: Mapping[str, Any],
        cost_usd: float | None = None,
    ) -> LedgerRow:
        """Record that everything is durable; allowed right after `mark_sending` as well.

        Args:
            id: the submission.
            owner: who claimed it.
            result: JSON that later claims of the same intent get back.
            cost_usd: USD; None leaves what `succeeded` recorded.
        """
        return self._advance(
            STORE,
            id,
            owner,
            {
                **_ANSWERED,
                "state": SubmissionState.STORED.value,
                "result": dict(result),
                **_cost(cost_usd),
                "finished_at": self._clock(),
                "lease_expires_at": None,
            },
        )

    def failed(
        self,
        id: str,
        owner: str,
        *,
        code: str | None,
        message: str,
        sent: bool | None,
        cost_usd: float | None = None,
    ) -> LedgerRow:
        """Record a failure, and keep what may have been paid.

        Before acceptance: `sent` False (the request never left) and True (the vendor refused it)
        make the submission failed. None (no answer) makes it held; or, when the vendor
        deduplicates, leaves it open to be sent again under the same run id, which then no refusal
        gives up any more. After acceptance only True (the vendor says that the job failed) makes
        it failed; otherwise the job is kept and the lease given up, so that the next claim resumes
        it.

        Args:
            id: the submission.
            owner: who claimed it.
            code: the error code of the manifest format.
            message: redacted text; cut at 500 characters.
            sent: as `ProviderError.sent` of the failed call.
            cost_usd: what the vendor charges for the failure, None when unknown.
        """
        with self._database.write() as connection:
            row = fetch(connection, id)
            state = state_after_failure(row, sent)
            if row.owner != owner or state is None:
                raise refusal(row, owner, "failed")
            changes = changes_after_failure(row, state, now=self._clock(), cost_usd=cost_usd)
            changes |= {"error_code": code, "error_message": message[:MAX_ERROR_MESSAGE]}
            return change(connection, row, changes)

    def renew(self, id: str, owner: str, lease_seconds: float = 60.0) -> LedgerRow:
        """Extend the lease to `lease_seconds` from now."""
        return self._advance(
            RENEW, id, owner, {"lease_expires_at": self._clock() + timedelta(seconds=lease_seconds)}
        )

    def release(self, id: str, owner: str) -> LedgerRow:
        """Give up the lease without a verdict, as when cancelled; the next claim decides."""
        return self._advance(RELEASE, id, owner, {"owner": None, "lease_expires_at": None})

    def resolve(self, id: str, *, job_id: str | None = None) -> LedgerRow:
        """Decide a held submission after looking at the vendor.

        Args:
            id: the held submission.
            job_id: the job the vendor has for it, to be fetched by the next claim. None: there is
                none, or paying again is accepted; the next claim submits.
        """
        changes: dict[str, Any] = {"owner": None, "answer_lost": False}
        if job_id is None:
            changes |= {"state": SubmissionState.FAILED.value, "finished_at": self._clock()}
        else:
            changes |= {
                "state": SubmissionState.SUBMITTED.value,
                "job_id": job_id,
                "submitted_at": self._clock(),
            }
        with self._database.write() as connection:
            row = fetch(connection, id)
            if row.state is not SubmissionState.HELD:
                raise LedgerError(f"submission {id} is {row.state}; only a held one is resolved")
            return change(connection, row, changes)

    def get(self, id: str) -> LedgerRow:
        """Return one submission.

        Raises:
            LedgerError: there is none of that id.
        """
        with self._database.read() as connection:
            return fetch(connection, id)

    def find(
        self,
        *,
        state: SubmissionState | None = None,
        asset_key: str | None = None,
        partition_key: str | None = None,
        scope: str | None = None,
        generation_key: str | None = None,
        run_id: str | None = None,
        job_id: str | None = None,
        after_id: str | None = None,
        limit: int | None = None,
    ) -> list[LedgerRow]:
        """Return the submissions that match every filter given, oldest first.

        Args:
            state: how far they are.
            asset_key: of this asset.
            partition_key: of this partition; `""` for none.
            scope: created in this scope.
            generation_key: asking for this generation.
            run_id: with this run id.
            job_id: with this vendor job.
            after_id: younger than this submission; pages through a long list.
            limit: at most so many.
        """
        wanted = {
            "state": state,
            "asset_key": asset_key,
            "partition_key": partition_key,
            "scope": scope,
            "generation_key": generation_key,
            "run_id": run_id,
            "job_id": job_id,
        }
        query = select(submissions).order_by(submissions.c.id)
        for name, value in wanted.items():
            if value is not None:
                query = query.where(submissions.c[name] == value)
        if after_id is not None:
            query = query.where(submissions.c.id > after_id)
        if limit is not None:
            query = query.limit(limit)
        with self._database.read() as connection:
            return [read_row(found) for found in connection.execute(query).mappings()]

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

    def _advance(
        self, transition: Transition, id: str, owner: str, changes: Mapping[str, Any]
    ) -> LedgerRow:
        with self._database.write() as connection:
            return advance(connection, transition, id, owner, changes)


def _cost(cost_usd: float | None) -> dict[str, float]:
    """Return the new cost; an unknown one leaves what is stored."""
    return {} if cost_usd is None else {"cost_usd": cost_usd}
