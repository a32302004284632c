"""What an attempt that failed or was cancelled leaves behind in the ledger.

The row is left so that the next attempt can neither lose nor pay twice.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from genblaze_dagster.errors import (
    GenblazeError,
    HeldError,
    LedgerError,
    OutputError,
    ProviderError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.claims import Lease
from genblaze_dagster.pipeline.error_codes import CANCELLED, code_of
from genblaze_dagster.pipeline.finishing import has_expired
from genblaze_dagster.pipeline.job import Job
from genblaze_dagster.pipeline.outcome import Target
from genblaze_dagster.pipeline.spool import Spool, drop_spooled
from genblaze_dagster.providers.protocol import Result
from genblaze_dagster.providers.retry import is_ambiguous

_CAUSE_CHARS = 120
_GONE = 410
_SUBMISSION_ID = "submission_id"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one attempt that did not deliver."""

    ledger: Ledger
    target: Target
    job: Job
    lease: Lease
    spool: Spool | None
    clock: Callable[[], datetime]

    async def unanswered(self, error: GenblazeError) -> bool:
        """Settle an attempt without a result; return whether the submission may still deliver.

        Raises:
            HeldError: the submit's answer is lost and the provider cannot deduplicate.
        """
        job, row = self.job, self.lease.row
        if job.job_id is not None:
            return await self._with_job(error, cost_usd=None)
        if not isinstance(error, ProviderError):
            # The ledger failed, before anything was sent or when the answer was in.
            await self.give_back()
            return True
        is_lost = job.answer_lost or is_ambiguous(error)
        await self._failed(error, sent=None if is_lost else bool(error.sent))
        if is_lost and not job.generation.provider.deduplicates:
            partition = self.target.partition_key or "unpartitioned"
            raise HeldError(
                f"{self.target.asset_key} [{partition}]: the answer of {row.provider} was lost "
                f"({redact(str(error))[:_CAUSE_CHARS]}); it may be paid, so submission {row.id} is "
                "held and not sent again; look it up at the vendor, then run genblaze-dagster "
                f"ledger resolve {row.id}",
                submission_id=row.id,
            ) from error
        return is_lost or row.answer_lost

    async def unstored(self, error: GenblazeError, result: Result) -> bool:
        """Settle an attempt whose result is not stored; return whether it still may be."""
        if self.job.job_id is not None:
            if _may_come_yet(error, result, self.clock()):
                await self.give_back()
                return True
            return await self._with_job(error, cost_usd=result.cost_usd)
        if isinstance(error, OutputError) and not error.transient:
            # Paid, and nothing came of it: only another submit can help.
            await self._failed(error, sent=True, cost_usd=result.cost_usd)
            return False
        if not isinstance(error, ProviderError | LedgerError):
            await self._keep(result)
        # Without a copy of the result the row is held by the next claim, since the vendor has been
        # paid; unless it hands the same result out again.
        await self.give_back()
        return True

    async def broken_off(self, result: Result) -> None:
        """Settle an attempt that was cancelled while its result was being stored."""
        if self.job.job_id is None:
            await self._keep(result)
        await self.give_back()

    async def cancelled(self) -> None:
        """Stop a paid job upstream when this run is cancelled, and give the lease back."""
        job = self.job
        nothing_sent = job.job_id is None and not job.on_the_wire
        if nothing_sent or await job.cancel_upstream():
            await self.lease.apply(
                self.ledger.failed,
                code=CANCELLED,
                message="cancelled with its run",
                sent=not nothing_sent,
            )
        else:
            await self.give_back()

    async def give_back(self) -> None:
        """Let the next attempt take over at once."""
        try:
            await self.lease.apply(self.ledger.release)
        except LedgerError as exc:
            # Done meanwhile, or another worker's; else the lease ends by itself.
            _log.warning("submission %s was not given back: %s", self.lease.row.id, exc)

    async def _with_job(self, error: GenblazeError, *, cost_usd: float | None) -> bool:
        if not self.job.is_over(error):
            await self.give_back()
            return True
        await self._failed(error, sent=True, cost_usd=cost_usd)
        return False

    async def _failed(
        self, error: GenblazeError, *, sent: bool | None, cost_usd: float | None = None
    ) -> None:
        await self.lease.apply(
            self.ledger.failed,
            code=code_of(error),
            message=redact(str(error)),
            sent=sent,
            cost_usd=cost_usd,
        )

    async def _keep(self, result: Result) -> None:
        """Put what is paid for where the next attempt on this machine finds it."""
        if self.spool is None:
            return
        row = self.lease.row
        place = await self.spool.keep(row.id, result)
        if place is None:
            return
        try:
            await self.lease.apply(self.ledger.submitted, place)
        except LedgerError as exc:
            # Stored meanwhile, or another worker's: nobody will look for it there.
            _log.info("the result of submission %s is not needed: %s", row.id, exc)
            await drop_spooled(place, row.id)


def name_submission(error: Exception, id: str) -> None:
    """Let whoever reports an error name the submission that it is about."""
    # As `HeldError` does; what an adapter raises may be any exception, and may have no room for it.
    with suppress(AttributeError):
        setattr(error, _SUBMISSION_ID, id)


def _may_come_yet(error: GenblazeError, result: Result, now: datetime) -> bool:
    """Whether a job's output that cannot be downloaded may be there later.

    Many vendors answer 403 or 404 until their CDN has the file. Only a 410, or the vendor's own
    expiry, says that it is gone and may be paid for again.
    """
    if not isinstance(error, OutputError) or error.http_status is None:
        return False
    return error.http_status != _GONE and not has_expired(result, now)
