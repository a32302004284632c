"""How fast an account may submit, across every process that shares the ledger.

A token bucket per account. Its tokens may be below zero: whoever takes one then is told how long
to wait until it is there, and nobody else gets that one. So many waiting processes neither ask
again nor all start at once.
"""

import logging
import math
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.ledger.database import lock
from genblaze_dagster.ledger.schema import rate_buckets
from genblaze_dagster.ledger.statements import Statement
from genblaze_dagster.providers.protocol import RateLimit

_log = logging.getLogger(__name__)

LONGEST_BLOCK = timedelta(hours=1)
"""Whatever a vendor or a clock says, an account is asked again after this time."""

# Clocks of machines differ a little: the fastest one fills the bucket. A bucket filled further in
# the future than this was filled by a clock that has been set back.
_CLOCK_SKEW = timedelta(seconds=60)

_OWN = rate_buckets.c.account == bindparam("of_account")
_BUCKET = Statement(select(rate_buckets).where(_OWN))
_CREATE = Statement(insert(rate_buckets))
_CHANGE = Statement(update(rate_buckets).where(_OWN))


class _Bucket(NamedTuple):
    account: str
    tokens: float
    refilled_at: datetime
    blocked_until: datetime | None


def take(connection: Connection, account: str, limit: RateLimit, now: datetime) -> float:
    """Take the right to one submit, and say when it may leave.

    The wait is final: sleep, then send, without asking again. A right that is not used is lost.
    In any time span an account gets at most `burst` rights plus those its rate adds meanwhile.
    After a block it starts with one.

    Args:
        connection: a transaction that may write.
        account: fingerprint of the credentials.
        limit: what the vendor allows; without `requests` only blocks are waited for.
        now: the current time.

    Returns:
        Seconds to wait; 0.0 when the submit may leave at once.

    Raises:
        ConfigError: the limit lets nothing leave at all.
    """
    bucket = _locked(connection, account, now)
    blocked_until = None if bucket is None else bucket.blocked_until
    start = now if blocked_until is None else max(now, blocked_until)
    if limit.requests is None:
        return _seconds(now, start)
    rate, burst = _rate(limit.requests, limit)
    if bucket is None:
        created = {"account": account, "tokens": burst - 1.0, "refilled_at": now}
        _CREATE.run(connection, created)
        return 0.0
    tokens, refilled_at = bucket.tokens, bucket.refilled_at
    if refilled_at > start + _CLOCK_SKEW:
        refilled_at = start
    if blocked_until is not None and blocked_until > refilled_at:
        # The vendor said stop: it has counted more than this bucket.
        tokens = min(tokens + _seconds(refilled_at, blocked_until) * rate, 1.0)
        refilled_at = blocked_until
    tokens = min(tokens + _seconds(refilled_at, start) * rate, burst) - 1.0
    changes = {"tokens": tokens, "refilled_at": max(refilled_at, start)}
    _CHANGE.run(connection, {"of_account": account, **changes})
    return _seconds(now, start) + max(0.0, -tokens / rate)


def block(connection: Connection, account: str, until: datetime, now: datetime) -> None:
    """Let nobody of the account submit until then, as a vendor's Retry-After asks for.

    A shorter block never ends a longer one; none lasts longer than an hour. A submit whose wait
    was given before still leaves when that is over.

    Args:
        connection: a transaction that may write.
        account: fingerprint of the credentials.
        until: the end of the block.
        now: the current time.
    """
    bucket = _locked(connection, account, now)
    until = _capped(until, account, now)
    if bucket is None:
        created = {"account": account, "tokens": 1.0, "refilled_at": now, "blocked_until": until}
        _CREATE.run(connection, created)
    elif bucket.blocked_until is None or bucket.blocked_until < until:
        _CHANGE.run(connection, {"of_account": account, "blocked_until": until})


def _locked(connection: Connection, account: str, now: datetime) -> _Bucket | None:
    lock(connection, f"rate:{account}")
    found = _BUCKET.first(connection, {"of_account": account})
    if found is None:
        return None
    bucket = _Bucket(**found)
    if bucket.blocked_until is None or bucket.blocked_until <= now + LONGEST_BLOCK:
        return bucket
    # A clock was set back since.
    until = _capped(bucket.blocked_until, account, now)
    _CHANGE.run(connection, {"of_account": account, "blocked_until": until})
    return bucket._replace(blocked_until=until)


def _capped(until: datetime, account: str, now: datetime) -> datetime:
    longest = now + LONGEST_BLOCK
    if until <= longest:
        return until
    _log.warning(
        "account %s is blocked until %s, more than an hour from now; it is asked again at %s",
        account,
        until.isoformat(),
        longest.isoformat(),
    )
    return longest


def _rate(requests: float, limit: RateLimit) -> tuple[float, float]:
    """Return tokens per second and the most tokens the bucket holds."""
    if not (0 < requests < math.inf and 0 < limit.seconds < math.inf):
        raise ConfigError(
            f"rate limit of {requests} requests in {limit.seconds} seconds lets nothing leave; give "
            "finite numbers above 0, or None for no limit"
        )
    return requests / limit.seconds, max(1.0, requests if limit.burst is None else limit.burst)


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start).total_seconds(), 0.0)
