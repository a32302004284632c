"""Keys of vendors' signatures that are not configured here, but handed out by the vendor."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from weakref import WeakKeyDictionary

from genblaze_dagster.errors import ConfigError, ProviderError
from genblaze_dagster.providers.vendor.callbacks import Delivery

_KEYS_LIFETIME = timedelta(hours=24)
_ASK_AGAIN = timedelta(seconds=60)
_ASK_AFTER_FAILURE = timedelta(seconds=5)
# Vendors wait about 10 s for the answer to a call. What came while one question went unanswered is
# not worth another: no longer than `_ASK_AFTER_FAILURE`.
_ANSWER_SECONDS = 5.0


class FetchedKeys:
    """Keys that a vendor hands out: kept for a day, asked for again when none fits, once a minute.

    However many forged calls come in, the vendor is asked no more often than that.

    Args:
        fetch: asks the vendor.
        seconds: how long that may take.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Sequence[bytes]]],
        *,
        seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._keys: Sequence[bytes] = ()
        self._fetched_at: datetime | None = None
        self._failed_at: datetime | None = None
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )

    async def have(
        self, delivery: Delivery, fits: Callable[[bytes], bool], *, now: datetime
    ) -> bool:
        """Whether one of the vendor's keys fits a call.

        Raises:
            WebhookError: `transient`: the vendor could not be asked.
        """
        if _is_within(self._fetched_at, _KEYS_LIFETIME, now) and any(map(fits, self._keys)):
            return True
        lock = self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with lock:
            if not _is_within(self._fetched_at, _ASK_AGAIN, now):
                await self._ask(delivery, now)
        return any(map(fits, self._keys))

    async def _ask(self, delivery: Delivery, now: datetime) -> None:
        fact = f"the keys of {delivery.vendor} cannot be fetched, so it was not checked; call again"
        if _is_within(self._failed_at, _ASK_AFTER_FAILURE, now):
            raise delivery.refused(fact, transient=True)
        try:
            async with asyncio.timeout(self._seconds):
                self._keys = await self._fetch()
        except (ProviderError, ConfigError, TimeoutError) as exc:
            self._failed_at = now
            why = str(exc) or f"no answer within {self._seconds:g} s"
            raise delivery.refused(f"{fact}: {why}", transient=True) from exc
        self._fetched_at = now


def _is_within(then: datetime | None, span: timedelta, now: datetime) -> bool:
    # Either way: a clock that was set back must not keep the vendor from being asked.
    return then is not None and abs(now - then) < span
