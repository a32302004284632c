"""When to try again, and after how long: a pure function of attempt and error."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.errors import ConfigError, GenblazeError, ProviderError, RateLimitError

MAX_RETRY_AFTER_SECONDS = 120.0

RETRYABLE_CODES = frozenset(code for code in ProviderErrorCode if code.retryable)

# A gateway gave up waiting: the vendor behind it may have accepted the job.
_LOST_BEHIND_A_GATEWAY = frozenset({408, 502, 504})
_VENDOR_FAILED = 500
# What a status alone says. A code of the vendor's that says more is its word: it refused.
_UNEXPLAINED = frozenset(
    {ProviderErrorCode.SERVER_ERROR, ProviderErrorCode.TIMEOUT, ProviderErrorCode.UNKNOWN}
)
# What a vendor says of itself, and an adapter may conclude from silence.
_FAILED = frozenset({ProviderErrorCode.SERVER_ERROR, ProviderErrorCode.TIMEOUT})
# The vendor turned the request away before doing anything with it.
_TURNED_AWAY = 429


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries of one phase (submit, poll, fetch, store) of a step.

    The delay before retry n is `min(initial * multiplier ** (n - 1), max)` seconds, spread by
    `jitter`: `full` draws from [0, base], `equal` from [base/2, base], `none` is exact. A vendor's
    Retry-After replaces it, up to 120 s. Whatever the policy says, a submit that may have been
    accepted is never sent again.

    Args:
        max_attempts: calls of one phase, the first included.
        initial_backoff_sec: base of the first delay.
        max_backoff_sec: longest base.
        backoff_multiplier: how much longer every delay is than the one before.
        jitter: how the base is spread.
        respect_retry_after: wait as long as the vendor asks.
        retryable_codes: errors that are tried again.
        idempotency_key_strategy: what the header of `IDEMPOTENCY_HEADER_NAME` holds.
    """

    max_attempts: int = 6
    initial_backoff_sec: float = 1.0
    max_backoff_sec: float = 30.0
    backoff_multiplier: float = 2.0
    jitter: Literal["full", "equal", "none"] = "full"
    respect_retry_after: bool = True
    retryable_codes: frozenset[ProviderErrorCode] = RETRYABLE_CODES
    idempotency_key_strategy: Literal["step_id", "uuid_per_attempt", "none"] = "step_id"

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"RetryPolicy.max_attempts is {self.max_attempts}; give at least 1")

    @classmethod
    def conservative(cls) -> Self:
        """Two attempts, long waits."""
        return cls(max_attempts=2, initial_backoff_sec=2.0, max_backoff_sec=60.0)

    @classmethod
    def aggressive(cls) -> Self:
        """Seven attempts, short waits."""
        return cls(max_attempts=7, initial_backoff_sec=0.5, max_backoff_sec=15.0)

    @classmethod
    def disabled(cls) -> Self:
        """One attempt, and no error is retryable."""
        return cls(max_attempts=1, retryable_codes=frozenset())

    def retries(self, error: ProviderError) -> bool:
        """Whether an error is one that this policy tries again."""
        return error.transient and error.code in self.retryable_codes

    def delay(
        self,
        attempt: int,
        error: BaseException | None = None,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (from 1)."""
        asked = getattr(error, "retry_after", None)
        if self.respect_retry_after and asked is not None:
            return min(max(float(asked), 0.0), MAX_RETRY_AFTER_SECONDS)
        grown = self.initial_backoff_sec * self.backoff_multiplier ** (attempt - 1)
        base = min(grown, self.max_backoff_sec)
        if self.jitter == "full":
            return uniform(0.0, base)
        if self.jitter == "equal":
            return base / 2 + uniform(0.0, base / 2)
        return base


def is_ambiguous(error: BaseException) -> bool:
    """Whether a failed submit may have been accepted, so that sending again may pay twice.

    That is so when the answer was lost, and when it is a 5xx or 408: a vendor that fails does not
    say what it had done by then, and neither does a failure or timeout without a status. Any other
    answer is a refusal.
    """
    if not isinstance(error, ProviderError):
        # A provider that raises something else tells nothing about how far it got.
        return not isinstance(error, GenblazeError)
    if error.sent is not True:
        return error.sent is None
    status = error.http_status
    if status is None:
        return error.code in _FAILED
    return status in _LOST_BEHIND_A_GATEWAY or (
        status >= _VENDOR_FAILED and error.code in _UNEXPLAINED
    )


def may_resubmit(error: BaseException, *, deduplicates: bool) -> bool:
    """Whether the same submit may be sent again without any chance to pay twice."""
    if not isinstance(error, ProviderError) or not error.transient:
        return False
    if deduplicates or error.sent is False:
        return True
    turned_away = isinstance(error, RateLimitError) or error.http_status == _TURNED_AWAY
    return turned_away and error.sent is True
