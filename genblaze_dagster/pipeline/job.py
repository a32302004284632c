"""One vendor job from submit to result: retries that cannot pay twice, polling, cancelling."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.errors import (
    ContentPolicyError,
    GenblazeError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderTimeoutError,
)
from genblaze_dagster.net.fence import Objection, fenced
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.events import StepEventType, StepPhase
from genblaze_dagster.pipeline.generation import Generation
from genblaze_dagster.pipeline.rates import Account
from genblaze_dagster.providers.invocation import poll_interval
from genblaze_dagster.providers.protocol import JobState, Result, Submission
from genblaze_dagster.providers.retry import RetryPolicy, is_ambiguous, may_resubmit

T = TypeVar("T")

_CANCEL_GRACE_SECONDS = 10.0
_CANCEL_DEADLINE_SECONDS = 5.0
_QUOTED_CHARS = 200
_HEARTBEAT_SECONDS = 10.0
# A sleep that is hardly longer than one heartbeat is not worth one.
_LONG_SLEEP_HEARTBEATS = 1.5


class JobRecord(Protocol):
    """Where a job's progress is made durable before anything else happens with it."""

    async def sending(self) -> None:
        """The request goes out now."""
        ...

    async def submitted(self, job_id: str, estimated_seconds: float | None) -> None:
        """The vendor has accepted the job."""
        ...


@dataclass(slots=True)
class Job:
    """Drives one generation at its provider.

    `job_id` set means: accepted already, by whoever; `run` then resumes it. `answer_lost` is True
    once a submit may have been accepted without our knowing, `on_the_wire` while that is open for
    the current one. `interrupted` is True
    when a cancellation arrived while a one-call answer was coming in: the result is paid for, so
    it is returned to be stored, and the caller re-raises after that.

    `is_late` is True when the step's time was over.

    `objection` is asked right before the bytes of a submit leave, and may still stop them.

    With an `account` every submit waits for its turn. That is not the vendor's time: the step's
    timeout does not run meanwhile.
    """

    generation: Generation
    policy: RetryPolicy
    record: JobRecord
    notify: Callable[..., None]
    account: Account | None = None
    objection: Objection = lambda: None
    job_id: str | None = None
    attempts: int = 0
    interrupted: bool = False
    answer_lost: bool = False
    on_the_wire: bool = False
    ended: bool = False
    is_late: bool = False
    heartbeat_seconds: float = _HEARTBEAT_SECONDS
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    started: float = field(default_factory=time.monotonic)
    _limit: asyncio.Timeout | None = None

    async def run(self) -> Result:
        """Submit unless there is a job, wait for it and return its result.

        Raises:
            ProviderError: what the vendor or the wire said; `ProviderTimeoutError` after the
                step's timeout.
        """
        request = self.generation.request
        self.started = time.monotonic()
        try:
            async with asyncio.timeout(request.timeout) as self._limit:
                result = await self._run()
            if self._limit.expired():
                # The answer came after the bell, while it was waited for: late, but paid for.
                self.interrupted = False
            return result
        except TimeoutError as exc:
            self.is_late = True
            self._tell("failed")
            raise ProviderTimeoutError(
                f"{self.generation.provider.name} did not finish within {request.timeout:g} s; "
                "a submitted job is resumed by the next attempt",
                # Without a job id nobody knows whether the vendor took what was on the wire.
                sent=True if self.job_id else None if self.on_the_wire else False,
            ) from exc

    async def fetch_again(self) -> Result:
        """Ask once more for the outputs of a job that is over, within the step's timeout.

        Raises:
            ProviderError: they cannot be had.
        """
        provider, timeout = self.generation.provider, self.generation.request.timeout
        if self.job_id is None:
            raise OutputError(f"{provider.name} has given no job to fetch from")
        self.started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                return await self._fetch(self.job_id)
        except TimeoutError as exc:
            raise ProviderTimeoutError(
                f"{provider.name} did not give its outputs again within {timeout:g} s"
            ) from exc

    async def _fetch(self, job_id: str) -> Result:
        provider, request = self.generation.provider, self.generation.request
        return await self._retrying(StepPhase.FETCH, lambda: provider.fetch_output(job_id, request))

    async def _run(self) -> Result:
        try:
            result = await self._result()
        except GenblazeError:
            self._tell("failed")
            raise
        self._tell("succeeded")
        return result

    def _tell(self, status: str, **details: object) -> None:
        self.notify(StepEventType.PROGRESS, status=status, job_id=self.job_id, **details)

    async def _result(self) -> Result:
        estimated: float | None = None
        if self.job_id is None:
            submission = await self._submit()
            if submission.result is not None:
                return submission.result
            estimated = submission.estimated_seconds
        else:
            self._tell("resumed", detail="resumed")
        job_id = self.job_id
        if job_id is None:
            raise OutputError(
                f"{self.generation.provider.name} returned neither a job id nor a result"
            )
        await self._wait(job_id, estimated)
        return await self._fetch(job_id)

    async def _submit(self) -> Submission:
        provider = self.generation.provider
        await self._turn()
        await self.record.sending()
        self._tell("submitted")
        while True:
            self.attempts += 1
            self.on_the_wire = True
            try:
                submission = await self._answer(self._guarded(self._send()))
                break
            except GenblazeError as exc:
                # One lost answer stays lost, whatever later attempts are told.
                self.answer_lost = self.answer_lost or is_ambiguous(exc)
                self.on_the_wire = self.answer_lost
                await self._slow_down(self.attempts, exc)
                again = may_resubmit(exc, deduplicates=provider.deduplicates)
                if not again or not self._tries_again(self.attempts, exc):
                    raise
                await self._pause(StepPhase.SUBMIT, self.attempts, exc)
                await self._turn()
        if submission.job_id is not None and submission.result is None:
            self.job_id = submission.job_id
            await asyncio.shield(
                self.record.submitted(submission.job_id, submission.estimated_seconds)
            )
            if self.interrupted:
                raise asyncio.CancelledError
            self._tell("processing")
        return submission

    async def _send(self) -> Submission:
        with fenced(self.objection) as fence:
            # A provider with connections of its own is looked at here only.
            fence.check()
            return await self.generation.provider.submit(self.generation.request)

    async def _turn(self) -> None:
        """Wait until the account may submit again."""
        wait = 0.0 if self.account is None else await self.account.take()
        if wait <= 0.0:
            return
        limit = self._limit
        ends_at = None if limit is None else limit.when()
        if limit is not None:
            limit.reschedule(None)
        begun = time.monotonic()
        while wait > 0.0:
            said = f"rate limited: sent in {wait:.0f} s"
            self._tell("processing", detail="rate limited", message=said, is_heartbeat=True)
            await self.sleep(min(wait, self.heartbeat_seconds))
            wait -= self.heartbeat_seconds
        waited = time.monotonic() - begun
        self.started += waited
        if limit is not None and ends_at is not None:
            limit.reschedule(ends_at + waited)

    async def _slow_down(self, attempt: int, error: GenblazeError) -> None:
        """Let the other processes wait too when the vendor asks for it."""
        if self.account is not None and isinstance(error, ProviderError):
            await self.account.slow_down(error, self.policy.delay(attempt, error))

    async def _guarded(self, call: Awaitable[T]) -> T:
        """Turn what an adapter should not raise into a typed error that keeps the ledger right."""
        try:
            return await call
        except GenblazeError:
            raise
        except Exception as exc:
            raise ProviderError(
                f"provider {self.generation.provider.name} raised an unexpected "
                f"{type(exc).__name__} ({self._said(str(exc))}); this is a bug in the adapter",
                sent=None,
            ) from exc

    def _said(self, words: str) -> str:
        text = redact(words)
        for prompt in (self.generation.request.prompt, self.generation.request.negative_prompt):
            if prompt:
                text = text.replace(prompt, "[prompt]")
        return text[:_QUOTED_CHARS]

    async def _answer(self, call: Awaitable[Submission]) -> Submission:
        # A submit on the wire is never dropped half-way: its answer is what we paid for.
        task = asyncio.ensure_future(call)
        try:
            while not task.done():
                # It may take minutes: somebody watching is told that it is still waited for.
                await asyncio.wait({task}, timeout=self.heartbeat_seconds)
                if not task.done():
                    self._tell("processing", is_heartbeat=True)
            return task.result()
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            await asyncio.wait({task}, timeout=_CANCEL_GRACE_SECONDS)
            if not task.done():
                raise
            if (error := task.exception()) is not None:
                if getattr(error, "sent", None) is False:
                    self.on_the_wire = self.answer_lost
                raise
            self.interrupted = True
            return task.result()
        finally:
            task.cancel()

    async def _wait(self, job_id: str, estimated: float | None) -> None:
        provider, request = self.generation.provider, self.generation.request
        started = time.monotonic()
        if estimated:
            await self._nap(estimated * 0.8)
        while True:
            status = await self._retrying(StepPhase.POLL, lambda: provider.poll(job_id, request))
            if status.state is JobState.SUCCEEDED:
                return
            self.ended = status.state in (JobState.FAILED, JobState.CANCELLED)
            if status.state is JobState.FAILED:
                raise status.error or ModelError(
                    f"{provider.name} job failed: {status.message or 'no reason given'}"
                )
            if status.state is JobState.CANCELLED:
                raise ModelError(f"{provider.name} job was cancelled at the vendor; run it again")
            message = self._said(status.message) if status.message else None
            self._tell(
                "processing",
                progress=status.progress,
                preview_url=status.preview_url,
                detail=status.state.value,
                message=message,
            )
            elapsed = time.monotonic() - started
            await self._nap(status.poll_after or poll_interval(elapsed))

    async def _nap(self, seconds: float) -> None:
        """Sleep; in a long sleep somebody watching is told that the job is still waited for."""
        if seconds >= _LONG_SLEEP_HEARTBEATS * self.heartbeat_seconds:
            while seconds > self.heartbeat_seconds:
                await self.sleep(self.heartbeat_seconds)
                seconds -= self.heartbeat_seconds
                self._tell("processing", is_heartbeat=True)
        await self.sleep(seconds)

    async def _retrying(self, phase: StepPhase, call: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._guarded(call())
            except ProviderError as exc:
                await self._slow_down(attempt, exc)
                if not self._tries_again(attempt, exc):
                    raise
                await self._pause(phase, attempt, exc)

    def _tries_again(self, attempt: int, error: GenblazeError) -> bool:
        is_retryable = isinstance(error, ProviderError) and self.policy.retries(error)
        return is_retryable and attempt < self.policy.max_attempts

    async def _pause(self, phase: StepPhase, attempt: int, error: GenblazeError) -> None:
        delay = self.policy.delay(attempt, error)
        if time.monotonic() - self.started + delay >= self.generation.request.timeout:
            # There would be no time left for another attempt: what went wrong says more.
            raise error
        code = getattr(error, "code", ProviderErrorCode.UNKNOWN)
        self.notify(
            StepEventType.RETRIED,
            attempt=attempt + 1,
            detail=f"{phase}: {type(error).__name__}, again in {delay:.1f} s",
            phase=phase,
            max_attempts=self.policy.max_attempts,
            delay_seconds=delay,
            error_code=code.value,
            error=self._said(str(error)),
            job_id=self.job_id,
        )
        await self.sleep(delay)

    def is_over(self, error: GenblazeError) -> bool:
        """Whether an accepted job can give nothing any more.

        A wrong key or a used-up quota while polling says nothing about the job: it is resumed.
        """
        gone = (InvalidRequestError, ModelError, OutputError, ContentPolicyError)
        return self.ended or isinstance(error, gone)

    async def cancel_upstream(self) -> bool:
        """Ask the vendor to stop an accepted job; True when it confirms within 5 s."""
        if self.job_id is None:
            return False
        try:
            async with asyncio.timeout(_CANCEL_DEADLINE_SECONDS):
                return await self.generation.provider.cancel(self.job_id)
        except (ProviderError, TimeoutError):
            # The job stays submitted in the ledger and is resumed by who asks next.
            return False
