"""The ledger: what was intended, submitted, paid and stored, across processes and crashes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import uuid_utils
from sqlalchemy import Connection

from genblaze_dagster.errors import ConfigError, LeaseHeldError, LedgerError
from genblaze_dagster.ledger import rates
from genblaze_dagster.ledger.admission import Limits
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.callbacks import Callbacks, CalledBack, StoredCallback
from genblaze_dagster.ledger.claiming import Claimant, decide
from genblaze_dagster.ledger.database import Database
from genblaze_dagster.ledger.failure import (
    LOST,
    changes_after_failure,
    check_decision,
    error_text,
    found_changes,
    given_up_changes,
    state_after_failure,
    undecidable,
)
from genblaze_dagster.ledger.minting import Minted
from genblaze_dagster.ledger.queries import submission_of_job
from genblaze_dagster.ledger.submission import (
    UNSETTLED_STATES,
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
    end_absurd_lease,
    refusal,
)
from genblaze_dagster.providers.protocol import RateLimit

__all__ = [
    "CalledBack",
    "Claim",
    "ClaimKind",
    "Intent",
    "Ledger",
    "LedgerRow",
    "PastAttempt",
    "StoredCallback",
    "SubmissionState",
]

_ANSWERED: dict[str, Any] = {"answer_lost": False, "error_code": None, "error_message": None}


def _new_id() -> str:
    return str(uuid_utils.uuid7())


class Ledger(Callbacks):
    """Submissions in an SQL database, shared by every process that generates.

    A generation is claimed before it is sent, marked before the request leaves, and its job id is
    committed before anything else happens with it. Each call is one short transaction that
    survives a power cut; calls block, so use a thread from async code.

    Every call after `claim` names the owner that claimed. It fails with `LedgerError` when another
    owner took the submission over or when the state does not allow it: then stop, do not send.
    An owner must be unique to one generation in flight.

    Leases are told by the database server's clock on PostgreSQL, whatever the machines' clocks
    say. On SQLite, which serves one machine, they are told by that machine's clock. Where it was
    put back, a lease that seems to last longer than ten leases of whoever claims, and than an
    hour, counts as ended.

    Args:
        url: path of a file on a local disk, `sqlite:///path`, `sqlite://` (in memory, for one
            process) or `postgresql://user:password@host/database`. File, folder and tables are
            created on first use.
        clock: returns the current time, with a zone; the database's own by default.
        busy_timeout: seconds to wait for other transactions, and for PostgreSQL to answer.

    Raises:
        ConfigError: the URL is broken or not of a supported database.
        MissingExtraError: PostgreSQL needs a driver that is not installed.
    """

    def __init__(
        self,
        url: str | Path,
        *,
        clock: Callable[[], datetime] | None = None,
        busy_timeout: float = 30.0,
    ) -> None:
        super().__init__(Database(url, busy_timeout=busy_timeout), clock)

    def claim(
        self,
        intent: Intent,
        *,
        owner: str,
        lease_seconds: float = 60.0,
        new_run_id: Callable[[], str] = _new_id,
        budgets: Sequence[Budget] = (),
        concurrency: int | None = None,
    ) -> Claim:
        """Take an intent: get a submission to work on, or one that is done.

        `NEW` and `RESUME` come with a lease. Renew it while working. A submission whose lease has
        ended is taken over, also across scopes; both intents are then served by it.

        Args:
            intent: what is wanted.
            owner: who works on it; unique to this generation in flight.
            lease_seconds: how long others stay away unless the lease is renewed.
            new_run_id: mints the run and step id of a new submission; time-ordered by default.
            budgets: what a submission that may be paid has to leave room in.
            concurrency: how many open jobs the intent's account may have; None for any number.

        Raises:
            LeaseHeldError: another owner works on the same asset, partition and generation.
            HeldError: an earlier submit got no answer and a person has to decide.
            BudgetExceededError: a budget has no room; nothing is reserved and nothing may be sent.
            AccountBusyError: the account has as many open jobs as it may have.
            ConfigError: `concurrency` lets no job begin at all.
            LedgerError: the database cannot be used.
        """
        if concurrency is not None and concurrency < 1:
            # Who waits for a free account waits as long as it takes.
            raise ConfigError(
                f"concurrency of {intent.provider} is {concurrency}, which lets no job begin; give "
                "at least 1, or None for any number"
            )
        ids = Minted(new_run_id)
        now = self._clock()
        lease = timedelta(seconds=lease_seconds)
        limits = Limits(budgets, concurrency)
        claimant = Claimant(owner, now, now + lease, new_run_id)

        def work(connection: Connection, _: bool) -> Claim | LedgerError:
            who = replace(claimant, new_id=ids.again())
            decision = decide(connection, intent, who, limits)
            if isinstance(decision, LeaseHeldError) and end_absurd_lease(
                connection, intent, now, lease
            ):
                return decide(connection, intent, who, limits)
            return decision

        return self._write(work)

    def mark_sending(self, id: str, owner: str) -> LedgerRow:
        """Record that the submit is about to leave; send only after this returned."""
        return self._advance(SEND, id, owner, {"sending_at": self._clock()})

    def submitted(
        self,
        id: str,
        owner: str,
        job_id: str,
        *,
        estimated_seconds: float | None = None,
        outputs_expire_at: datetime | None = None,
    ) -> LedgerRow:
        """Record the vendor's job. A late answer also frees a submission that is already held.

        Args:
            id: the submission.
            owner: who claimed it.
            job_id: what the vendor calls the job.
            estimated_seconds: how long the vendor says it will take.
            outputs_expire_at: when the vendor will delete the outputs, if that is known already.
        """
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
                **_known(outputs_expire_at=outputs_expire_at),
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
        """Record that the job is done and what it cost (USD, None when unknown).

        `outputs_expire_at` is when the vendor will delete the outputs; None leaves what
        `submitted` recorded.
        """
        return self._advance(
            SUCCEED,
            id,
            owner,
            {
                **_ANSWERED,
                "state": SubmissionState.SUCCEEDED.value,
                **_known(cost_usd=cost_usd, outputs_expire_at=outputs_expire_at),
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
                **_known(cost_usd=cost_usd),
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
        now = self._clock()

        def changes(_: Connection, row: LedgerRow) -> dict[str, Any] | LedgerError:
            state = state_after_failure(row, sent)
            if row.owner != owner or state is None:
                return refusal(row, owner, "failed")
            changes = changes_after_failure(row, state, now=now, cost_usd=cost_usd)
            return changes | {"error_code": code, "error_message": error_text(message)}

        return self._decide(id, changes)

    def renew(self, id: str, owner: str, lease_seconds: float = 60.0) -> LedgerRow:
        """Extend the lease to `lease_seconds` from now."""
        return self._advance(
            RENEW, id, owner, {"lease_expires_at": self._clock() + timedelta(seconds=lease_seconds)}
        )

    def release(self, id: str, owner: str) -> LedgerRow:
        """Give up the lease without a verdict, as when cancelled; the next claim decides."""
        return self._advance(RELEASE, id, owner, {"owner": None, "lease_expires_at": None})

    def resolve(
        self,
        id: str,
        *,
        job_id: str | None = None,
        lost: bool = False,
        cost_usd: float | None = None,
    ) -> LedgerRow:
        """Decide, after looking at the vendor, what became of a submission without an answer.

        It is held, or it was sent and its lease has ended. Of two who decide at once one is heard.
        Without `job_id` and `lost` the vendor has certainly taken nothing on: it counts as nothing,
        and the next claim submits.

        Args:
            id: the submission.
            job_id: the job that the vendor has for it; the next claim fetches that.
            lost: it was paid, or nobody knows, and it cannot be fetched: it goes on counting as
                reserved, and the next claim submits all the same.
            cost_usd: with `lost`, what was paid; that then counts instead.

        Raises:
            ConfigError: the arguments contradict each other, or the cost is no amount of money.
            LedgerError: it is decided already, a worker waits for its answer, or the job is
                another submission's.
        """
        check_decision(job_id, lost, cost_usd)
        now = self._clock()

        def changes(connection: Connection, row: LedgerRow) -> dict[str, Any] | LedgerError:
            if not row.is_undecided(now):
                return undecidable(row)
            if job_id is None:
                reason = LOST if lost else None
                return given_up_changes(now, may_be_paid=lost, reason=reason, cost_usd=cost_usd)
            if other := submission_of_job(connection, job_id, but=id):
                return LedgerError(
                    f"submission {id} cannot have job {job_id}: that is submission {other}'s"
                )
            return found_changes(job_id, now)

        return self._decide(id, changes)

    def cancelled(self, id: str, reason: str, *, cost_usd: float | None = None) -> LedgerRow:
        """Give up an open or held submission, whoever owns it; the next claim submits anew.

        What it may have cost goes on counting as reserved unless the cost is known. A worker that
        still has it is stopped by its next step.

        Args:
            id: the submission.
            reason: why, kept as its error message.
            cost_usd: what the vendor charges for it; None when unknown.
        """
        now = self._clock()

        def changes(_: Connection, row: LedgerRow) -> dict[str, Any] | LedgerError:
            if row.state not in UNSETTLED_STATES:
                return LedgerError(f"submission {id} is {row.state}; there is nothing to cancel")
            return given_up_changes(
                now, may_be_paid=row.is_unanswered, reason=reason, cost_usd=cost_usd
            )

        return self._decide(id, changes)

    def take(self, account: str, limit: RateLimit) -> float:
        """Take the right to one submit; return the seconds to wait before it may leave.

        Sleep and send without asking again; a right that is not used is lost.

        Args:
            account: fingerprint of the vendor's credentials.
            limit: what the vendor allows.
        """
        now = self._clock()
        return self._database.transact(lambda it, _: rates.take(it, account, limit, now))

    def block(self, account: str, seconds: float) -> None:
        """Let nobody of the account submit for so long, as its vendor asked (an hour at most)."""
        now = self._clock()
        until = now + timedelta(seconds=seconds)
        self._database.transact(lambda it, _: rates.block(it, account, until, now))


def _known(**values: Any) -> dict[str, Any]:
    """Return what is known; what is not leaves what is stored."""
    return {name: value for name, value in values.items() if value is not None}
