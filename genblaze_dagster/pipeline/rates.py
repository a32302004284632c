"""The limits of one vendor account, shared by every process that uses the same ledger."""

import logging
from dataclasses import dataclass
from typing import Self, cast

from genblaze_dagster.errors import LedgerError, ProviderError, RateLimitError
from genblaze_dagster.pipeline.claims import Claims
from genblaze_dagster.providers.protocol import HasAccount, Provider, RateLimit

_TOO_MANY_REQUESTS = 429
_log = logging.getLogger(__name__)


def account_holder(provider: Provider) -> HasAccount | None:
    """Return a provider that names its account, None when it does not."""
    # As `isinstance` says, in a hundredth of its time: every step asks several times.
    if hasattr(provider, "account") and hasattr(provider, "rate_limit"):
        return cast(HasAccount, provider)
    return None


@dataclass(frozen=True, slots=True)
class Account:
    """One account, by the fingerprint of its credentials."""

    name: str
    limit: RateLimit
    claims: Claims

    @classmethod
    def of(cls, provider: Provider, claims: Claims) -> Self | None:
        """Return the account a provider's submits count against; None when it names none."""
        has = account_holder(provider)
        if has is None:
            return None
        # Without limits of its own it still waits as long as the vendor told any process to.
        return cls(has.account, has.rate_limit or RateLimit(), claims)

    async def take(self) -> float:
        """Return the seconds until a submit may leave; 0.0 means now, and that it counts.

        Raises:
            LedgerError: the ledger cannot be asked.
        """
        return await self.claims.call(self.claims.ledger.take, self.name, self.limit)

    async def slow_down(self, error: ProviderError, delay_seconds: float) -> None:
        """Let every process wait so long, when an error says that the account is too fast."""
        is_limited = isinstance(error, RateLimitError) or error.http_status == _TOO_MANY_REQUESTS
        # A used-up quota is a 429 too, and waiting does not help.
        if not error.transient or not (is_limited or error.retry_after is not None):
            return
        try:
            await self.claims.call(self.claims.ledger.block, self.name, delay_seconds)
        except LedgerError as exc:
            # This process waits all the same; what the vendor said must not be hidden by it.
            _log.warning("other processes were not told to wait %g s: %s", delay_seconds, exc)
