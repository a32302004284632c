"""What AssemblyAI's transcription costs, in USD.

List prices as of October 2026 (https://www.assemblyai.com/pricing, as transcribed by public copies);
your contract may differ: give your own. Rates are per hour and counted to the second of audio
(https://www.assemblyai.com/docs/billing-and-pricing). Whatever may cost extra (speakers, summaries,
several channels, part of a recording) leaves the price unknown, as do several models in one name.
"""

from collections.abc import Mapping
from decimal import Decimal

from genblaze_dagster.providers.price_units import PriceUnit
from genblaze_dagster.providers.prices import InWords, price, price_table
from genblaze_dagster.providers.pricing import PricingContext

_FREE = frozenset(
    {"language", "language_code", "language_detection", "punctuate", "format_text"}
    | {"output_format", "chars_per_caption"}
    | {"webhook_url", "webhook_auth_header_name", "webhook_auth_header_value"}
)
_TABLE = price_table(
    price("universal-2", PriceUnit.INPUT_HOUR, 0.15),
    price("universal-3-pro", PriceUnit.INPUT_HOUR, 0.21),
    price("universal-3-5-pro", PriceUnit.INPUT_HOUR, 0.21),
)


def _price(context: PricingContext) -> float | Decimal | None:
    return _TABLE(context) if _is_plain(context.step.params) else None


def _is_plain(params: Mapping[str, object]) -> bool:
    return all(name in _FREE or value in (None, False) for name, value in params.items())


PRICE = InWords(_price, _TABLE)
