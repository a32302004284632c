"""What a generation tells the ledger before it is sent: who wants it, for whom, at what price."""

import logging
import math

from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.ledger.submission import Intent, LedgerRow, submit_key
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.claims import Claims
from genblaze_dagster.pipeline.generation import Generation
from genblaze_dagster.pipeline.outcome import Target
from genblaze_dagster.pipeline.rates import account_holder
from genblaze_dagster.providers.protocol import GenerationRequest, Provider

_log = logging.getLogger(__name__)


def intent_of(generation: Generation, target: Target) -> Intent:
    """Return what a generation wants of the ledger, its expected price included."""
    provider = generation.provider
    has = account_holder(provider)
    return Intent(
        asset_key=target.asset_key,
        partition_key=target.partition_key,
        scope=target.scope,
        generation_key=generation.key,
        provider=provider.name,
        model=generation.spec.model,
        deduplicates=provider.deduplicates,
        reuse=target.reuse,
        tenant_id=target.tenant_id,
        account=None if has is None else has.account,
        estimated_cost_usd=expected_cost(provider, generation.request),
        for_asset=target.for_asset,
    )


def expected_cost(provider: Provider, request: GenerationRequest) -> float | None:
    """Return what a request is expected to cost in USD; None when nobody can say.

    A provider that fails to estimate, or gives no amount of money, does not know.
    """
    try:
        cost = provider.estimate_cost(request)
        usd = None if cost is None else float(cost)
    except Exception as exc:
        # An adapter of anybody's: what it cannot price may still be asked, if the budgets allow it.
        words = str(exc) if isinstance(exc, GenblazeError) else type(exc).__name__
        _log.warning("%s: no estimate: %s", provider.name, redact(words, max_chars=200))
        return None
    return usd if usd is not None and math.isfinite(usd) and usd >= 0 else None


async def idempotency_key(claims: Claims, row: LedgerRow) -> str:
    """Return the key of the submit of a submission's present attempt; see `submit_key`."""
    if row.attempt == 1:
        return submit_key(row.run_id, 0)
    failed = await claims.call(claims.ledger.past_attempts, row.id)
    return submit_key(row.run_id, len(failed))
