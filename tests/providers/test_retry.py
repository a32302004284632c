from collections.abc import Callable

import pytest

from genblaze_dagster.errors import (
    AuthError,
    ConfigError,
    ContentPolicyError,
    InvalidRequestError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.providers.retry import RetryPolicy, is_ambiguous, may_resubmit


def test_presets_have_the_documented_numbers() -> None:
    """The four policies are those of the genblaze guides."""
    shapes = {
        name: (
            policy.max_attempts,
            policy.initial_backoff_sec,
            policy.max_backoff_sec,
            policy.backoff_multiplier,
        )
        for name, policy in {
            "default": RetryPolicy(),
            "conservative": RetryPolicy.conservative(),
            "aggressive": RetryPolicy.aggressive(),
            "disabled": RetryPolicy.disabled(),
        }.items()
    }
    assert shapes["default"] == (6, 1.0, 30.0, 2.0)
    assert shapes["conservative"] == (2, 2.0, 60.0, 2.0)
    assert shapes["aggressive"] == (7, 0.5, 15.0, 2.0)
    assert shapes["disabled"][0] == 1


@pytest.mark.parametrize(("attempt", "expected"), [(1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0)])
def test_delay_doubles_up_to_its_cap(attempt: int, expected: float) -> None:
    """Without jitter the delay is initial * 2^(n-1), capped."""
    assert RetryPolicy(jitter="none").delay(attempt) == expected


def test_jitter_stays_in_its_band() -> None:
    """Full jitter draws from zero, equal jitter from half of the base delay."""
    low = lambda a, b: a  # noqa: E731
    high = lambda a, b: b  # noqa: E731
    assert RetryPolicy(jitter="full").delay(3, uniform=low) == 0.0
    assert RetryPolicy(jitter="full").delay(3, uniform=high) == 4.0
    assert RetryPolicy(jitter="equal").delay(3, uniform=low) == 2.0
    assert RetryPolicy(jitter="equal").delay(3, uniform=high) == 4.0


def test_retry_after_replaces_the_delay_within_two_minutes() -> None:
    """A vendor's wish is honoured, clamped to 120 s, unless the policy says otherwise."""
    asked = RateLimitError("slow down", retry_after=7.5)
    long = RateLimitError("slow down", retry_after=4000)
    assert RetryPolicy().delay(1, asked) == 7.5
    assert RetryPolicy().delay(1, long) == 120.0
    assert RetryPolicy(respect_retry_after=False, jitter="none").delay(1, asked) == 1.0


def test_a_policy_without_attempts_is_refused() -> None:
    """Zero attempts would silently do nothing."""
    with pytest.raises(ConfigError, match="max_attempts"):
        RetryPolicy(max_attempts=0)


@pytest.mark.parametrize(
    ("error", "ambiguous", "resubmit", "resubmit_dedup"),
    [
        (ProviderUnavailableError("no route", sent=False), False, True, True),
        (ProviderUnavailableError("reset", sent=None), True, False, True),
        (ProviderUnavailableError("down, it is said"), True, False, True),
        (ProviderTimeoutError("late, it is said"), True, False, True),
        (ProviderError("failed, it is said"), False, False, False),
        (ProviderUnavailableError("502", http_status=502), True, False, True),
        (ProviderUnavailableError("504", http_status=504), True, False, True),
        (ProviderUnavailableError("500", http_status=500), True, False, True),
        (ProviderUnavailableError("503", http_status=503, retry_after=1), True, False, True),
        (ProviderUnavailableError("529", http_status=529), True, False, True),
        (ProviderTimeoutError("408", http_status=408), True, False, True),
        (ProviderError("500", http_status=500), True, False, False),
        (RateLimitError("503", http_status=503), False, True, True),
        (ContentPolicyError("500", http_status=500), False, False, False),
        (InvalidRequestError("400", http_status=400), False, False, False),
        (ProviderUnavailableError("upload: 502", http_status=502, sent=False), False, True, True),
        (RateLimitError("429", http_status=429), False, True, True),
        (AuthError("401", http_status=401), False, False, False),
        (RuntimeError("bug in an adapter"), True, False, False),
    ],
)
def test_only_what_cannot_pay_twice_is_sent_again(
    error: Exception, ambiguous: bool, resubmit: bool, resubmit_dedup: bool
) -> None:
    """Ambiguity and resubmission follow from what the vendor can have seen."""
    assert is_ambiguous(error) is ambiguous
    assert may_resubmit(error, deduplicates=False) is resubmit
    assert may_resubmit(error, deduplicates=True) is resubmit_dedup


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
