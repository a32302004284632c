"""The blocking methods of one guide-style provider as coroutines that raise typed errors only."""

import hashlib
import inspect
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from genblaze_dagster.core.enums import StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ConfigError, OutputError
from genblaze_dagster.net.fence import fence_of
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.base import (
    BaseProvider,
    RunnableConfig,
    SubmitResult,
    preflight_is_skipped,
)
from genblaze_dagster.providers.blocking import BlockingCalls
from genblaze_dagster.providers.failures import Phase, error_for_code, typed_error

_SLOTS = ("submit", "poll", "fetch_output")
_ABANDONED_STATUS = (StepStatus.FAILED, StepStatus.CANCELLED)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submit: a job id, or the finished step of a provider that answers at once."""

    prediction_id: Any = None
    estimated_seconds: float | None = None
    step: Step | None = None


class Calls:
    """One provider's methods on threads of their own; safe for many steps and event loops.

    A submit that its caller gave up waiting for goes on, and its answer is taken by the next submit
    of the same step (same id and same request) in this process.

    Args:
        provider: a `BaseProvider`, or one of another package with the same methods.
        max_concurrency: how many calls run at once; see `BlockingCalls`.

    Raises:
        ConfigError: the provider lacks a method, or has coroutines for them.
    """

    def __init__(self, provider: BaseProvider, *, max_concurrency: int | None = None) -> None:
        _check(provider)
        self._provider = provider
        self._threads = BlockingCalls(provider.name, limit=max_concurrency)
        self._preflight_lock = threading.Lock()
        self._is_preflighted = False

    @property
    def answers_at_once(self) -> bool:
        """Whether a submit is the whole call."""
        return callable(getattr(self._provider, "generate", None))

    async def submit(
        self,
        step: Step,
        config: RunnableConfig | None = None,
        *,
        done: Callable[[], None] | None = None,
    ) -> Accepted:
        """Start the job, or do the whole call.

        `done` is called on the call's own thread when it is over, however late that is.

        Raises:
            ProviderError: `sent` says whether the vendor may have accepted the request.
        """

        def call() -> Accepted:
            try:
                self._preflight_once(step)
                if (fence := fence_of()) is not None:
                    # What the provider sends is its own affair: this is the last look.
                    fence.check()
                with self._typed(Phase.SUBMIT, step):
                    return self._submit(step, config)
            finally:
                if done is not None:
                    done()

        return await self._threads.run(call, keep_as=_identity(step))

    def _submit(self, step: Step, config: RunnableConfig | None) -> Accepted:
        generate = getattr(self._provider, "generate", None)
        if generate is not None:
            # Its answer is checked and not stored by `SyncProvider.submit`: it is used right here.
            return Accepted(step=self._finished(generate(step, config), step, "generate"))
        answer = self._provider.submit(step, config)
        # By its fields: SubmitResult of another package is one too.
        estimated = getattr(answer, "estimated_seconds", None)
        prediction_id = getattr(answer, "prediction_id", answer)
        if isinstance(answer, SubmitResult):
            prediction_id = answer.prediction_id
        self.check_id(prediction_id)
        return Accepted(prediction_id, estimated)

    def check_id(self, prediction_id: object) -> None:
        """Refuse what cannot be a job id.

        Raises:
            ProviderError: code invalid_input. The vendor may have accepted the job all the same.
        """
        if prediction_id is None or prediction_id in ("", b""):
            raise error_for_code(
                "invalid_input",
                f"{self._provider.name}: submit returned no job id; return the vendor's id, or a "
                "SubmitResult",
                provider=self._provider.name,
                sent=None,
            )

    def _preflight_once(self, step: Step) -> None:
        check = getattr(self._provider, "preflight_auth", None)
        if check is None or self._is_preflighted or preflight_is_skipped():
            return
        with self._preflight_lock:
            if not self._is_preflighted:
                with self._typed(Phase.PREFLIGHT, step):
                    check()
                self._is_preflighted = True

    async def poll(self, prediction_id: Any, step: Step, config: RunnableConfig | None) -> bool:
        """Ask once whether a job is over.

        Raises:
            ProviderError: the job failed, or the vendor could not be asked.
        """

        def call() -> bool:
            with self._typed(Phase.POLL, step):
                answer = cast(object, self._provider.poll(prediction_id, config))
                if not isinstance(answer, bool):
                    # Not a ProviderError, which from a poll would say that the job failed.
                    raise TypeError(
                        f"poll returned {type(answer).__name__}; return True when the job is over "
                        "and False while it runs"
                    )
                return answer

        return await self._threads.run(call)

    async def progress(self, prediction_id: Any) -> Mapping[str, Any]:
        """Return what is known of a running job; empty when nothing is. Raises nothing."""
        method = getattr(self._provider, "poll_progress", None)
        # Most providers have none, and a thread for nothing costs as much as the poll.
        if method is None or getattr(method, "__func__", None) is BaseProvider.poll_progress:
            return {}

        def call() -> object:
            try:
                return method(prediction_id)
            except Exception as exc:
                _log.debug("%s: no progress: %s", self._provider.name, type(exc).__name__)
                return None

        answer = await self._threads.run(call)
        return cast(Mapping[str, Any], answer) if isinstance(answer, Mapping) else {}

    async def fetch_output(self, prediction_id: Any, step: Step) -> Step:
        """Return the step with the outputs of a job that is over.

        Raises:
            ProviderError: there are none, or they cannot be had.
        """

        def call() -> Step:
            with self._typed(Phase.FETCH, step):
                made = self._provider.fetch_output(prediction_id, step)
                return self._finished(made, step, "fetch_output")

        return await self._threads.run(call)

    async def cancel(self, prediction_id: Any) -> bool:
        """Ask the vendor to stop a job; True when it confirms.

        Raises:
            ProviderError: the vendor could not be asked.
        """
        method = getattr(self._provider, "cancel", None)
        if method is None or getattr(method, "__func__", None) is BaseProvider.cancel:
            return False

        def call() -> bool:
            with self._typed(Phase.POLL):
                return bool(method(prediction_id))

        return await self._threads.run(call)

    def _finished(self, made: object, step: Step, method: str) -> Step:
        # By its fields: a step of another package on the same format will do.
        if not hasattr(made, "assets") or not hasattr(made, "status"):
            raise OutputError(
                f"{self._provider.name}: {method} returned {type(made).__name__}; return the step",
                sent=None,
            )
        finished = cast(Step, made)
        if finished.status in _ABANDONED_STATUS:
            said = redact(finished.error or "no reason given", max_chars=300)
            raise error_for_code(finished.error_code, f"{self._provider.name}: {said}")
        return finished

    def _typed(self, phase: Phase, step: Step | None = None) -> "_Typed":
        return _Typed(self._provider, phase, step)


@dataclass(frozen=True, slots=True)
class _Typed:
    """Raises whatever the block raises as a typed error; StopIteration and SystemExit too."""

    provider: BaseProvider
    phase: Phase
    step: Step | None

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        typed = typed_error(
            error,
            provider=self.provider.name,
            step=self.step,
            phase=self.phase,
            one_request=getattr(self.provider, "one_request", True),
        )
        if typed is not error:
            raise typed from error


def _check(provider: BaseProvider) -> None:
    methods = ("generate",) if hasattr(provider, "generate") else _SLOTS
    for name in methods:
        method = getattr(provider, name, None)
        if not callable(method):
            raise ConfigError(
                f"{type(provider).__name__} has no {name}(); derive from BaseProvider or "
                "SyncProvider, or implement genblaze_dagster.providers.Provider"
            )
        if inspect.iscoroutinefunction(method):
            raise ConfigError(
                f"{type(provider).__name__}.{name} is a coroutine; an async provider implements "
                "genblaze_dagster.providers.Provider, without a base class"
            )


def _identity(step: Step) -> str:
    """Return a name of one request: of the step, and of what is asked in it."""
    asked = (
        step.model,
        step.prompt,
        step.negative_prompt,
        step.seed,
        step.modality,
        step.params,
        [item.sha256 or item.asset_id for item in step.inputs],
    )
    # Parameters may hold anything; what is not JSON counts by its text.
    text = json.dumps(asked, sort_keys=True, default=repr)
    return f"{step.step_id}/{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
