"""What can be done about a submission that is held because the answer to its submit was lost.

The store may have the result: then a process died between storing it and saying so. The vendor may
have called back with the job meanwhile. Else it is asked which jobs it has, if it can say. One that
nobody else's submission accounts for is ours, and is resumed. None at all, on the vendor's certain
word, means that nothing was sent. Everything else stays with a person, unless the run says that it
would rather pay twice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from genblaze_dagster.errors import ConfigError, GenblazeError, LedgerError, ProviderError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.claims import Claims
from genblaze_dagster.pipeline.events import StepEventType
from genblaze_dagster.pipeline.generation import Generation
from genblaze_dagster.pipeline.intents import idempotency_key
from genblaze_dagster.pipeline.stored_results import stored_result
from genblaze_dagster.providers.protocol import FindsJobs, FoundJobs, GenerationRequest
from genblaze_dagster.storage.store import MediaStore

LOOK_AFTER_SECONDS = (0.5, 1.5, 3.0)
"""Pauses before each look at a vendor's jobs: lists lag behind what was accepted."""

_LOOK_TIMEOUT_SECONDS = 20.0
# A job may seem older than its submit by as much as the vendor's clock is behind ours.
_CLOCK_SKEW = timedelta(seconds=60)
_MOST_CANDIDATES = 1000
_log = logging.getLogger(__name__)


class OnAmbiguous(StrEnum):
    """What to do when nobody can say whether a submit was accepted."""

    HOLD = "hold"
    """Wait for a person; nothing is sent again."""
    RESUBMIT = "resubmit"
    """Send it again. What was lost may have been accepted, and is then paid twice."""

    @classmethod
    def of(cls, value: str) -> Self:
        """Return the member of a value.

        Raises:
            ConfigError: there is none.
        """
        try:
            return cls(value)
        except ValueError as exc:
            raise ConfigError(
                f"on_ambiguous is {value!r}; give 'hold', or 'resubmit' to risk paying twice"
            ) from exc


class Verdict(StrEnum):
    """What was found out about a lost answer, and written into the ledger."""

    HELD = "held"
    """Nobody knows; the row stays as it is."""
    FOUND = "found"
    """The vendor has the job; the next claim resumes it."""
    ABSENT = "absent"
    """The vendor has no such job; the next claim submits."""
    PAID_AGAIN = "paid_again"
    """Nobody knows, and the run would rather pay twice; the next claim submits."""
    STORED = "stored"
    """The store has its result; the next claim takes it."""
    DECIDED = "decided"
    """Somebody else has decided meanwhile; the next claim goes by that."""


_SAID = {
    Verdict.STORED: "its result is in the store",
    Verdict.FOUND: "the job was found at the vendor",
    Verdict.ABSENT: "the vendor has no such job, so it may be submitted again",
    Verdict.PAID_AGAIN: "submitted again on demand, and paid twice if it had arrived",
}


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at the vendor: the jobs that nobody else accounts for."""

    job_ids: frozenset[str]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class LostAnswers:
    """Decides about held submissions of one Runner."""

    claims: Claims
    store: MediaStore
    on_ambiguous: OnAmbiguous
    look_after: Sequence[float] = LOOK_AFTER_SECONDS
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def decide(
        self, submission_id: str, generation: Generation, notify: Callable[..., None]
    ) -> Verdict:
        """Decide about one held submission of a generation, in the ledger and aloud."""
        row = await self.claims.call(self.claims.ledger.get, submission_id)
        if row.state is not SubmissionState.HELD:
            return Verdict.DECIDED
        if await self._is_stored(row):
            _tell(notify, Verdict.STORED, None)
            return Verdict.STORED
        verdict, job_id = await self._verdict(row, generation, notify)
        if verdict is Verdict.HELD:
            return verdict
        written = await self.claims.call(_write, self.claims.ledger, row, verdict, job_id)
        if written is verdict:
            _tell(notify, verdict, job_id)
        return written

    async def _is_stored(self, row: LedgerRow) -> bool:
        """Whether the store has the result of a submission; the ledger then says so too."""
        if row.owner is None:
            return False
        try:
            ref = await stored_result(self.store, row)
            if ref is None:
                return False
            # In the name of its owner, which wrote all this and died before it could say so.
            result = ref.to_dict()
            await self.claims.call(
                self.claims.ledger.stored, row.id, row.owner, result, ref.cost_usd
            )
        except GenblazeError as exc:
            _log.info("submission %s is not known to be stored: %s", row.id, redact(str(exc)))
            return False
        return True

    async def _verdict(
        self, row: LedgerRow, generation: Generation, notify: Callable[..., None]
    ) -> tuple[Verdict, str | None]:
        told = await self._called_back(row)
        if told is not None:
            return Verdict.FOUND, told
        look = await self._look(row, generation, notify)
        if look is not None and len(look.job_ids) == 1:
            return Verdict.FOUND, next(iter(look.job_ids))
        if look is not None and not look.job_ids and look.is_complete:
            return Verdict.ABSENT, None
        if self.on_ambiguous is OnAmbiguous.RESUBMIT:
            return Verdict.PAID_AGAIN, None
        return Verdict.HELD, None

    async def _called_back(self, row: LedgerRow) -> str | None:
        """Return the job with which the vendor has called back about this very submit.

        What it calls with from now on, its receiver gives to the row, which is held.
        """
        told = await self.claims.call(self.claims.ledger.callbacks_for, row)
        jobs = [callback.job_id for callback in told]
        known = await self.claims.call(self.claims.ledger.known_jobs, jobs) if jobs else set[str]()
        return next((job_id for job_id in jobs if job_id not in known), None)

    async def _look(
        self, row: LedgerRow, generation: Generation, notify: Callable[..., None]
    ) -> _Look | None:
        """Return what the vendor has for a submission; None when it cannot say."""
        provider = generation.provider
        if not isinstance(provider, FindsJobs) or row.sending_at is None:
            return None
        detail = "lost answer: looking for the job at the vendor"
        notify(StepEventType.PROGRESS, status="processing", detail=detail, message=detail)
        key = await idempotency_key(self.claims, row)
        request = replace(generation.request, idempotency_key=key)
        since = row.sending_at - _CLOCK_SKEW
        last: _Look | None = None
        for pause in self.look_after:
            await self.sleep(pause)
            look = await self._look_once(provider, request, since)
            if look is not None and look == last and len(look.job_ids) == 1:
                # Seen twice, and still nobody else's.
                return look
            last = look
        return last

    async def _look_once(
        self, provider: FindsJobs, request: GenerationRequest, since: datetime
    ) -> _Look | None:
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_SECONDS):
                found = await provider.find_jobs(request, since=since)
        except Exception as exc:
            # An adapter of anybody's: whatever it raises, the submission stays held.
            words = f": {redact(str(exc), max_chars=200)}" if isinstance(exc, ProviderError) else ""
            _log.warning("a lost job cannot be looked up: %s%s", type(exc).__name__, words)
            return None
        if len(found.job_ids) > _MOST_CANDIDATES:
            return None
        return await self._unaccounted(found)

    async def _unaccounted(self, found: FoundJobs) -> _Look:
        known = await self.claims.call(self.claims.ledger.known_jobs, found.job_ids)
        return _Look(frozenset(found.job_ids) - known, found.is_complete)


def _write(ledger: Ledger, row: LedgerRow, verdict: Verdict, job_id: str | None) -> Verdict:
    """Write a verdict into the ledger, and return it or what holds instead."""
    if not _is_still_held(ledger, row):
        return Verdict.DECIDED
    # In one turn of the ledger's own thread: no other step of this process takes the job meanwhile.
    if job_id is not None and ledger.known_jobs([job_id]):
        return Verdict.HELD
    try:
        ledger.resolve(row.id, job_id=job_id, lost=verdict is Verdict.PAID_AGAIN)
    except LedgerError:
        if _is_still_held(ledger, row):
            raise
        return Verdict.DECIDED
    return verdict


def _is_still_held(ledger: Ledger, row: LedgerRow) -> bool:
    # An attempt made since may be held as well: what was found out is not about that.
    now = ledger.get(row.id)
    return now.state is SubmissionState.HELD and now.attempt == row.attempt


def _tell(notify: Callable[..., None], verdict: Verdict, job_id: str | None) -> None:
    detail = f"lost answer: {_SAID[verdict]}"
    if verdict in (Verdict.ABSENT, Verdict.PAID_AGAIN):
        notify(StepEventType.RETRIED, detail=detail)
        return
    notify(StepEventType.PROGRESS, status="resumed", job_id=job_id, detail=detail, message=detail)
