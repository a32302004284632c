"""What an image costs, in USD, as listed in November 2026.

gpt-image-1-mini: OpenAI's model page. gpt-image-1, gpt-image-1.5 and gpt-image-2: public listings
that quote OpenAI (https://platform.openai.com/docs/pricing). dall-e: the last prices before its
retirement. A model or combination that is not here has an unknown price, which is None.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.providers.prices import InWords
from genblaze_dagster.providers.pricing import PricingContext

_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """USD per million tokens."""

    text_in: float
    image_in: float
    image_out: float
    text_out: float | None = None


_TOKENS: Mapping[str, TokenPrice] = {
    "gpt-image-2": TokenPrice(5.0, 8.0, 30.0, 10.0),
    "gpt-image-1.5": TokenPrice(5.0, 8.0, 32.0, 10.0),
    "gpt-image-1": TokenPrice(5.0, 10.0, 40.0),
    "gpt-image-1-mini": TokenPrice(2.0, 2.5, 8.0),
}


def _sizes(square: float, oblong: float, wide: str = "1536x1024", tall: str = "1024x1536"):
    return {"1024x1024": square, wide: oblong, tall: oblong}


_PER_IMAGE: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "gpt-image-1.5": {
        "low": _sizes(0.009, 0.013),
        "medium": _sizes(0.034, 0.050),
        "high": _sizes(0.133, 0.200),
    },
    "gpt-image-1": {
        "low": _sizes(0.011, 0.016),
        "medium": _sizes(0.042, 0.063),
        "high": _sizes(0.167, 0.250),
    },
    "gpt-image-1-mini": {
        "low": _sizes(0.005, 0.006),
        "medium": _sizes(0.011, 0.015),
        "high": _sizes(0.036, 0.052),
    },
    "dall-e-3": {
        "standard": _sizes(0.040, 0.080, "1792x1024", "1024x1792"),
        "hd": _sizes(0.080, 0.120, "1792x1024", "1024x1792"),
    },
    "dall-e-2": {"standard": {"256x256": 0.016, "512x512": 0.018, "1024x1024": 0.020}},
}


def price(context: PricingContext) -> float | None:
    """Return what images cost, before or after they are made: by their tokens, else by the table.

    The table does not know what the input images of a GPT image edit cost.
    """
    step, facts = context.step, context.provider_payload
    cost = price_of_usage(step.model, facts.get("usage"))
    if cost is not None or (step.inputs and not step.model.startswith("dall-e")):
        return cost
    known = {name: facts.get(name) or step.params.get(name) for name in ("quality", "size")}
    return price_of_images(step.model, known, context.output_count)


PRICE = InWords(price, "by size and quality, or by the tokens reported")


def price_of_images(model: str, fields: Mapping[str, Any], count: int) -> float | None:
    """Return the table price of `count` images; `fields` holds `quality` and `size` if known.

    dall-e has defaults for both. GPT image models choose by themselves when not told, so their
    price is then unknown.
    """
    model = _SNAPSHOT.sub("", model)
    is_dalle = model.startswith("dall-e")
    quality = fields.get("quality") or ("standard" if is_dalle else None)
    size = fields.get("size") or ("1024x1024" if is_dalle else None)
    price = _PER_IMAGE.get(model, {}).get(str(quality), {}).get(str(size))
    return None if price is None else round(price * count, 6)


def price_of_usage(model: str, usage: Mapping[str, Any] | None) -> float | None:
    """Return the price of the tokens an answer reports, None when it reports none we can price."""
    price = _TOKENS.get(_SNAPSHOT.sub("", model))
    if price is None or not usage:
        return None
    inputs = _Split.of(usage, "input")
    outputs = _Split.of(usage, "output")
    if inputs is None or outputs is None or (outputs.text and price.text_out is None):
        return None
    micros = (
        inputs.text * price.text_in
        + inputs.image * price.image_in
        + outputs.image * price.image_out
        + outputs.text * (price.text_out or 0.0)
    )
    return round(micros / _MILLION, 8)


@dataclass(frozen=True, slots=True)
class _Split:
    text: int
    image: int

    @classmethod
    def of(cls, usage: Mapping[str, Any], side: str) -> "_Split | None":
        total = usage.get(f"{side}_tokens")
        details = usage.get(f"{side}_tokens_details")
        if isinstance(details, dict):
            text, image = details.get("text_tokens"), details.get("image_tokens")
            if isinstance(text, int) and isinstance(image, int):
                return cls(text, image)
        if not isinstance(total, int):
            return None
        # Without details the output is the image; an input could be either.
        return cls(0, total) if side == "output" else None
