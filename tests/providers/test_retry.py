from collections.abc import Callable

import pytest

from genblaze_dagster.errors import RateLimitError
from genblaze_dagster.providers.retry import RetryPolicy, is_ambiguous, may_resubmit


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy, (6, 1.0, 30.0)),
        (RetryPolicy.conservative, (2, 2.0, 60.0)),
        (RetryPolicy.aggressive, (7, 0.5, 15.0)),
        (RetryPolicy.disabled, (1, 1.0, 30.0)),
    ],
    ids=["default", "conservative", "aggressive", "disabled"],
)
def test_presets(policy: Callable[[], RetryPolicy], expected: tuple[int, float, float]) -> None:
    """The four policies have the numbers of the guides."""
    made = policy()
    assert (made.max_attempts, made.initial_backoff_sec, made.max_backoff_sec) == expected
    assert made.retries(RateLimitError("429")) == (made.max_attempts > 1)


def test_delay_is_spread_capped_and_overruled_by_the_vendor() -> None:
    """Delays follow the formula; Retry-After replaces them up to two minutes, unless disregarded."""
    exact = RetryPolicy(jitter="none")
    assert [exact.delay(n) for n in (1, 2, 3, 6, 50)] == [1, 2, 4, 30, 30]
    assert RetryPolicy(jitter="equal").delay(2, uniform=lambda low, high: high) == 2
    assert RetryPolicy().delay(2, uniform=lambda low, high: low) == 0
    asked = RateLimitError("429", retry_after=500)
    assert exact.delay(1, asked) == 120
    assert RetryPolicy(jitter="none", respect_retry_after=False).delay(1, asked) == 1


def test_a_rate_limit_behind_a_paid_request_is_ambiguous() -> None:
    """Only a 429 that answers the paid request itself allows another one."""
    assert may_resubmit(RateLimitError("429"), deduplicates=False)
    assert not may_resubmit(RateLimitError("429", sent=None), deduplicates=False)
    assert is_ambiguous(RateLimitError("429", sent=None))
