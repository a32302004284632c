"""What Google's models cost, in USD.

List prices of the paid tier as of September and October 2026
(https://ai.google.dev/gemini-api/docs/pricing, as transcribed by several public copies of the page);
your contract may differ: give your own. What is not here has an unknown price: Veo 2 and 3, the
extension of a video, chat models that are not listed, grounding with a search, batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from genblaze_dagster.providers.price_units import MILLION, PriceUnit, TokenRate, token_rate
from genblaze_dagster.providers.prices import InWords, price, price_table
from genblaze_dagster.providers.pricing import PricingContext

_SECOND = PriceUnit.OUTPUT_SECOND
_ANY = "*veo-3.1-"

# With sound, which is always there; 8 seconds of 720p when nothing is asked for.
_VEO = price_table(
    price(f"{_ANY}generate-*", _SECOND, 0.60, resolution="4k", seconds=8),
    price(f"{_ANY}generate-*", _SECOND, 0.40, seconds=8),
    price(f"{_ANY}fast-generate-*", _SECOND, 0.30, resolution="4k", seconds=8),
    price(f"{_ANY}fast-generate-*", _SECOND, 0.12, resolution="1080p", seconds=8),
    price(f"{_ANY}fast-generate-*", _SECOND, 0.10, seconds=8),
    price(f"{_ANY}lite-generate-*", _SECOND, 0.08, resolution="1080p", seconds=8),
    price(f"{_ANY}lite-generate-*", _SECOND, 0.05, seconds=8),
)


def _veo_price(context: PricingContext) -> float | Decimal | None:
    is_extension = any(a.media_type.startswith("video/") for a in context.step.inputs)
    return None if is_extension else _VEO(context)


VEO = InWords(_veo_price, _VEO)
IMAGEN = price_table(
    price("*imagen-4.0-generate-*", PriceUnit.IMAGE, 0.04),
    price("*imagen-4.0-ultra-generate-*", PriceUnit.IMAGE, 0.06),
    price("*imagen-4.0-fast-generate-*", PriceUnit.IMAGE, 0.02),
)


@dataclass(frozen=True, slots=True)
class _ImageModel:
    """USD per million tokens, and the tokens of a picture by its size."""

    tokens_in: Decimal
    image_out: Decimal
    text_out: Decimal | None
    tokens: Mapping[str, int]


_IMAGE_MODELS: Mapping[str, _ImageModel] = {
    "gemini-2.5-flash-image": _ImageModel(Decimal("0.30"), Decimal(30), None, {"1K": 1290}),
    "gemini-3.1-flash-image": _ImageModel(
        Decimal("0.50"), Decimal(60), Decimal(3), {"1K": 1120, "2K": 1680, "4K": 2520}
    ),
    "gemini-3-pro-image": _ImageModel(
        Decimal(2), Decimal(120), Decimal(12), {"1K": 1120, "2K": 1120, "4K": 2000}
    ),
}

CHAT: Mapping[str, TokenRate] = {
    "gemini-3.1-pro-preview": token_rate(2, 12, 0.20, most=200_000, beyond=token_rate(4, 18, 0.40)),
    "gemini-2.5-pro": token_rate(1.25, 10, 0.125, most=200_000, beyond=token_rate(2.50, 15, 0.25)),
    "gemini-2.5-flash": token_rate(0.30, 2.50, 0.03),
    "gemini-2.5-flash-lite": token_rate(0.10, 0.40, 0.01),
}
"""Tokens of thoughts count as output. Audio that goes in costs more and is not priced here."""


def _image_price(context: PricingContext) -> float | None:
    """Return what pictures cost: by the tokens reported, else by their number and size."""
    known = _IMAGE_MODELS.get(_base(context.step.model))
    params = context.step.params
    if known is None or params.get("tools") is not None:
        return None
    usage = context.provider_payload.get("usage")
    if isinstance(usage, Mapping):
        return _reported(known, cast(Mapping[str, Any], usage))
    tokens = known.tokens.get(str(params.get("imageSize", "1K")))
    if tokens is None or not context.output_count:
        return None
    return float(known.image_out * tokens * context.output_count / MILLION)


GEMINI_IMAGE = InWords(_image_price, "by image size, then by the tokens reported")


def _reported(known: _ImageModel, usage: Mapping[str, Any]) -> float | None:
    tokens_in, out = usage.get("promptTokenCount"), usage.get("candidatesTokenCount")
    details = usage.get("candidatesTokensDetails")
    if not isinstance(tokens_in, int) or not isinstance(out, int) or not isinstance(details, list):
        return None
    images = sum(
        part["tokenCount"]
        for part in cast(Sequence[Mapping[str, Any]], details)
        if part.get("modality") == "IMAGE" and isinstance(part.get("tokenCount"), int)
    )
    text = out - images + int(usage.get("thoughtsTokenCount") or 0)
    if text and known.text_out is None:
        return None
    cost = tokens_in * known.tokens_in + images * known.image_out + text * (known.text_out or 0)
    return float(cost / MILLION)


def _base(model: str) -> str:
    return model.removeprefix("models/").removesuffix("-preview")
