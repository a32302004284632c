"""One direct call of a guide-style provider, `invoke` or `resume`: a step in, a finished step out.

Pipelines do not come through here: they go through the Runner, its ledger and its store.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from genblaze_dagster.core.enums import ProviderErrorCode, StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import GenblazeError, ProviderError, ProviderTimeoutError
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.base import (
    SYNC_JOB,
    BaseProvider,
    ProgressEvent,
    RunnableConfig,
    StepRetriedEvent,
)
from genblaze_dagster.providers.exchange import UPSTREAM_ID, check_inputs, cost_of
from genblaze_dagster.providers.retry import RetryPolicy, may_resubmit

T = TypeVar("T")
_Phase = Literal["submit", "poll", "fetch", "step"]

DEFAULT_TIMEOUT_SECONDS = 600.0
_LONGEST_POLL_SECONDS = 30.0
_POLL_DOUBLES_EVERY_SECONDS = 30.0
_FIRST_POLL_SHARE = 0.8
_LONG_SLEEP_SECONDS = 15.0
_HEARTBEAT_SECONDS = 10.0

_log = logging.getLogger(__name__)


def poll_interval(elapsed_seconds: float, *, first_seconds: float = 1.0) -> float:
    """Return seconds until the next poll: `first`, doubling every 30 s of waiting, at most 30 s."""
    doublings = min(elapsed_seconds // _POLL_DOUBLES_EVERY_SECONDS, 10)
    return min(first_seconds * 2**doublings, _LONGEST_POLL_SECONDS)


@dataclass(slots=True)
class Invocation:
    """Drives one step through submit, poll and fetch; `run` is called once.

    `prediction_id` set means: submitted already.
    """

    provider: BaseProvider
    step: Step
    config: RunnableConfig
    policy: RetryPolicy
    timeout: float
    prediction_id: Any = None
    is_resumed: bool = False
    retries: int = 0
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _started: float = field(default_factory=time.monotonic)
    _phase_started: float = 0.0

    @classmethod
    def of(
        cls,
        provider: BaseProvider,
        step: Step,
        config: RunnableConfig | None,
        *,
        prediction_id: Any = None,
    ) -> "Invocation":
        """Return the call of a step with the settings of a config.

        Raises:
            ValueError: the config holds `tenant_id`.
        """
        given: RunnableConfig = config or {}
        if "tenant_id" in given:
            raise ValueError("config holds tenant_id; give it to the Pipeline or the sink")
        return cls(
            provider,
            step.model_copy(deep=True),
            given,
            provider.retry_policy,
            given.get("timeout", DEFAULT_TIMEOUT_SECONDS),
            prediction_id,
            is_resumed=prediction_id is not None,
        )

    async def run(self) -> Step:
        """Return the finished step; a failure is in its status, error and error_code."""
        started_at = datetime.now(UTC)
        made, error = await self._outcome()
        made.started_at = started_at
        made.completed_at = datetime.now(UTC)
        made.retries = self.step.retries + self.retries
        if UPSTREAM_ID not in self.step.metadata:
            made.metadata.pop(UPSTREAM_ID, None)
        if self.prediction_id not in (None, SYNC_JOB):
            made.provider_payload.setdefault("job_id", self.prediction_id)
        if error is not None:
            made.status = StepStatus.FAILED
            made.error = redact(str(error))
            made.error_code = getattr(error, "code", ProviderErrorCode.UNKNOWN)
            self._progress("failed", message=made.error)
            return made
        made.status, made.error, made.error_code = StepStatus.SUCCEEDED, None, None
        made.cost_usd = cost_of(made, self.provider)
        self._progress("succeeded")
        return made

    async def _outcome(self) -> tuple[Step, GenblazeError | None]:
        try:
            check_inputs(self.step, self.provider)
            async with asyncio.timeout(self.timeout):
                return await self._with_step_retries(), None
        except TimeoutError:
            error = ProviderTimeoutError(
                f"{self.provider.name} did not finish within {self.timeout:g} s; invoke the same "
                "step again for a late answer, or resume() the job id in provider_payload"
            )
        except GenblazeError as exc:
            error = exc
        return self.step.model_copy(deep=True), error

    async def _with_step_retries(self) -> Step:
        most = max(self.config.get("max_retries", 0), 0)
        while True:
            try:
                return await self._once()
            except ProviderError as exc:
                again = self.prediction_id is not None or self._may_submit_again(exc)
                if not again or self.retries >= most or not self.policy.retries(exc):
                    raise
                self.retries += 1
                await self._pause("step", self.retries, most + 1, exc)

    async def _once(self) -> Step:
        if self.is_resumed:
            self.provider.calls.check_id(self.prediction_id)
            self._progress("resumed")
        elif self.prediction_id is not None:
            self._progress("retry_resumed")
        estimated: float | None = None
        if self.prediction_id is None:
            self._progress("submitted")
            accepted = await self._retrying("submit", self._submit, self._may_submit_again)
            self.prediction_id = accepted.prediction_id
            if accepted.step is not None:
                self.prediction_id = SYNC_JOB
            self._tell("on_submit", self.step.step_id, self.prediction_id)
            if accepted.step is not None:
                return accepted.step
            estimated = accepted.estimated_seconds
        await self._wait(estimated)
        return await self._retrying("fetch", self._fetch, lambda _: True)

    def _may_submit_again(self, error: ProviderError) -> bool:
        return may_resubmit(error, deduplicates=self.provider.deduplicates)

    async def _submit(self) -> Any:
        return await self.provider.calls.submit(self._fresh(StepStatus.SUBMITTED), self.config)

    async def _fetch(self) -> Step:
        step = self._fresh(StepStatus.PROCESSING)
        return await self.provider.calls.fetch_output(self.prediction_id, step)

    def _fresh(self, status: StepStatus) -> Step:
        # An attempt that failed half-way has left its traces in the step it was given.
        return self.step.model_copy(deep=True, update={"status": status})

    async def _wait(self, estimated: float | None) -> None:
        self._phase_started = time.monotonic()
        if estimated:
            await self._nap(estimated * _FIRST_POLL_SHARE)
        while not await self._retrying("poll", self._poll, lambda _: True):
            known = await self.provider.calls.progress(self.prediction_id)
            self._progress("processing", known)
            elapsed = time.monotonic() - self._phase_started
            await self._nap(poll_interval(elapsed, first_seconds=self.provider.poll_interval))

    async def _poll(self) -> bool:
        return await self.provider.calls.poll(self.prediction_id, self.step, self.config)

    async def _nap(self, seconds: float) -> None:
        if seconds < _LONG_SLEEP_SECONDS:
            await self.sleep(seconds)
            return
        while seconds > _HEARTBEAT_SECONDS:
            await self.sleep(_HEARTBEAT_SECONDS)
            seconds -= _HEARTBEAT_SECONDS
            self._progress("processing", is_heartbeat=True)
        await self.sleep(seconds)

    async def _retrying(
        self,
        phase: _Phase,
        call: Callable[[], Awaitable[T]],
        again: Callable[[ProviderError], bool],
    ) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await call()
            except ProviderError as exc:
                last = attempt >= self.policy.max_attempts
                if last or not again(exc) or not self.policy.retries(exc):
                    raise
                await self._pause(phase, attempt, self.policy.max_attempts, exc)

    async def _pause(self, phase: _Phase, attempt: int, most: int, error: ProviderError) -> None:
        delay = self.policy.delay(attempt, error)
        if time.monotonic() - self._started + delay >= self.timeout:
            # There would be no time left for another attempt: what went wrong says more.
            raise error
        event = StepRetriedEvent(
            step_id=self.step.step_id,
            provider=self.provider.name,
            model=self.step.model,
            phase=phase,
            attempt=attempt,
            max_attempts=most,
            delay_sec=delay,
            error_code=error.code.value,
            error=redact(str(error)),
            run_id=self.config.get("run_id"),
        )
        self._tell("on_retry", event)
        await self.sleep(delay)

    def _progress(
        self,
        status: str,
        known: Mapping[str, Any] | None = None,
        *,
        message: str | None = None,
        is_heartbeat: bool = False,
    ) -> None:
        facts = known or {}
        event = ProgressEvent(
            step_id=self.step.step_id,
            provider=self.provider.name,
            model=self.step.model,
            status=status,
            progress_pct=facts.get("progress_pct"),
            elapsed_sec=time.monotonic() - self._started,
            message=message or facts.get("message"),
            preview_url=facts.get("preview_url"),
            request_id=None if self.prediction_id is None else str(self.prediction_id),
            is_heartbeat=is_heartbeat,
        )
        self._tell("on_progress", event)

    def _tell(
        self, name: Literal["on_progress", "on_submit", "on_retry"], *arguments: object
    ) -> None:
        callback: Callable[..., object] | None = self.config.get(name)
        if callback is None:
            return
        try:
            callback(*arguments)
        except Exception as exc:
            _log.warning("%s raised %s; the step goes on", name, redact(repr(exc)))
