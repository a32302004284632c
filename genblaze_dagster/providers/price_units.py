"""What vendors count: a strategy for each unit that a price list may name.

Those of `pricing` and these are all the arithmetic there is; a price list only chooses among them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, cast

from genblaze_dagster.core.models import Asset
from genblaze_dagster.providers.pricing import (
    PricingContext,
    PricingStrategy,
    amount_of,
    first_amount,
    first_match,
    per_input_chars,
    per_output_second,
    per_unit,
    rate_of,
    seconds_of,
    total_of,
)

MILLION = 1_000_000
CREDITS = "credits"
"""Extra of a model's spec: how many of the vendor's credits a request takes, as a `Quantity`."""

Quantity = Callable[[PricingContext], float | Decimal | None]
"""Returns how much of something a step takes, None when nobody can say."""

_DURATIONS = ("duration_seconds", "duration", "durationSeconds", "seconds")
_PIXELS = re.compile(r"(\d{1,6})x(\d{1,6})")
_SIZES = ("size", "image_size", "imageSize")
# What a vendor reports as used: OpenAI's names, then Google's.
_TOKENS_IN = ("input_tokens", "prompt_tokens", "promptTokenCount")
_TOKENS_OUT = ("output_tokens", "completion_tokens", "candidatesTokenCount")
# What a vendor reports as taken: Runway's credits, ElevenLabs' header, Replicate's and fal's seconds.
_CREDITS = ("credits", "character_cost")
_COMPUTED = ("predict_time", "inference_time")
_TOKENS_OF_THOUGHT = "thoughtsTokenCount"
_TOKENS_CACHED = "cachedContentTokenCount"


class PriceUnit(StrEnum):
    """What a price is for."""

    REQUEST = "request"
    """One call, whatever comes of it."""
    OUTPUT = "output"
    """One file that comes out."""
    IMAGE = "image"
    """The same, where it reads better."""
    OUTPUT_SECOND = "output_second"
    OUTPUT_MINUTE = "output_minute"
    INPUT_SECOND = "input_second"
    INPUT_MINUTE = "input_minute"
    INPUT_HOUR = "input_hour"
    THOUSAND_CHARACTERS = "1k_characters"
    MILLION_CHARACTERS = "1m_characters"
    MEGAPIXEL = "megapixel"
    """A million pixels of what comes out."""
    CREDIT = "credit"
    """A vendor's own unit, where we know how many a request takes or the vendor reports them."""
    COMPUTE_SECOND = "compute_second"
    """A second of the vendor's hardware, as it reports them, so after the fact."""
    MILLION_TOKENS = "million_tokens"
    """As the vendor reports them, so after the fact."""


def per_request(rate: float | Decimal) -> PricingStrategy:
    """Price a call at `rate` USD, however many outputs it has."""
    price = float(rate_of(rate))
    return lambda context: price


def per_second(rate: float | Decimal, *, usual: float | Decimal | None = None) -> PricingStrategy:
    """Price each second of the outputs: by their length, else the one asked for, else `usual`."""
    price = rate_of(rate)
    otherwise = None if usual is None else rate_of(usual)

    def asked(context: PricingContext) -> float | None:
        params = context.step.params
        given = [params[name] for name in _DURATIONS if params.get(name) is not None]
        # A length such as "auto" is not the usual one.
        seconds = first_amount(map(seconds_of, given)) if given else otherwise
        return None if seconds is None else float(price * seconds * max(context.output_count, 1))

    return first_match(per_output_second(price), asked)


def per_input_second(rate: float | Decimal) -> PricingStrategy:
    """Price each second of the inputs: as the vendor counted them, else by their records."""
    price = rate_of(rate)

    def strategy(context: PricingContext) -> float | None:
        seconds = amount_of(context.provider_payload.get("audio_duration"))
        if seconds is None:
            seconds = total_of(asset.duration for asset in context.step.inputs)
        return None if seconds is None else float(price * seconds)

    return strategy


def per_megapixel(rate: float | Decimal) -> PricingStrategy:
    """Price each million pixels of the outputs: of the files, else of the size asked for."""
    price = rate_of(rate) / MILLION

    def strategy(context: PricingContext) -> float | None:
        made = [_pixels_of(asset) for asset in context.assets]
        known = total_of(made) if made and None not in made else None
        if known is None and (asked := _pixels_asked(context.step.params)) is not None:
            known = asked * max(context.output_count, 1)
        return None if known is None else float(price * known)

    return strategy


def per_credit(rate: float | Decimal, credits: Quantity | None = None) -> PricingStrategy:
    """Price a vendor's credits at `rate` USD: those it reports, else those `credits` expects."""
    price = rate_of(rate)

    def strategy(context: PricingContext) -> float | None:
        count = first_amount(context.provider_payload.get(name) for name in _CREDITS)
        if count is None and credits is not None:
            count = amount_of(credits(context))
        return None if count is None else float(price * count)

    return strategy


def per_compute_second(rate: float | Decimal) -> PricingStrategy:
    """Price the seconds of hardware that the vendor reports; unknown before the call."""
    price = rate_of(rate)

    def strategy(context: PricingContext) -> float | None:
        metrics = context.provider_payload.get("metrics")
        if not isinstance(metrics, Mapping):
            return None
        reported = cast(Mapping[str, object], metrics)
        seconds = first_amount(reported.get(name) for name in _COMPUTED)
        return None if seconds is None else float(price * seconds)

    return strategy


@dataclass(frozen=True, slots=True)
class TokenRate:
    """USD per million tokens. Without a rate for cached ones, a call with some has no price.

    Prompts of more than `most` tokens are priced by `beyond`.
    """

    tokens_in: Decimal
    tokens_out: Decimal
    cached: Decimal | None = None
    most: int | None = None
    beyond: "TokenRate | None" = None

    def of(
        self, tokens_in: int | None, tokens_out: int | None, cached: int | None = None
    ) -> float | None:
        """Return the price in USD of so many tokens; `cached` ones are among those that went in."""
        if tokens_in is None or tokens_out is None:
            return None
        if self.most is not None and tokens_in > self.most:
            return None if self.beyond is None else self.beyond.of(tokens_in, tokens_out, cached)
        kept = cached or 0
        if kept and self.cached is None:
            return None
        cost = (tokens_in - kept) * self.tokens_in + tokens_out * self.tokens_out
        return float((cost + kept * (self.cached or 0)) / MILLION)


def token_rate(
    tokens_in: float | Decimal,
    tokens_out: float | Decimal,
    cached: float | Decimal | None = None,
    *,
    most: int | None = None,
    beyond: TokenRate | None = None,
) -> TokenRate:
    """Return a rate of USD per million tokens.

    Raises:
        ConfigError: a price is no finite amount of 0 or more.
    """
    known = None if cached is None else rate_of(cached)
    return TokenRate(rate_of(tokens_in), rate_of(tokens_out), known, most, beyond)


def per_token(rate: TokenRate) -> PricingStrategy:
    """Price the tokens that the vendor reports as `usage`; unknown before the call."""

    def strategy(context: PricingContext) -> float | None:
        usage = context.provider_payload.get("usage")
        if not isinstance(usage, Mapping):
            return None
        counts = cast(Mapping[str, Any], usage)
        tokens_in, tokens_out = _count(counts, _TOKENS_IN), _count(counts, _TOKENS_OUT)
        if tokens_out is not None:
            tokens_out += _count(counts, (_TOKENS_OF_THOUGHT,)) or 0
        return rate.of(tokens_in, tokens_out, _count(counts, (_TOKENS_CACHED,)))

    return strategy


def per(
    unit: PriceUnit,
    usd: Decimal,
    *,
    usual_seconds: Decimal | None = None,
    credits: Quantity | None = None,
) -> PricingStrategy:
    """Return the strategy that counts in a unit, at `usd` each; not for tokens, see `per_token`."""
    made: dict[PriceUnit, Callable[[], PricingStrategy]] = {
        PriceUnit.REQUEST: lambda: per_request(usd),
        PriceUnit.OUTPUT: lambda: per_unit(usd),
        PriceUnit.IMAGE: lambda: per_unit(usd),
        PriceUnit.OUTPUT_SECOND: lambda: per_second(usd, usual=usual_seconds),
        PriceUnit.OUTPUT_MINUTE: lambda: per_second(usd / 60, usual=usual_seconds),
        PriceUnit.INPUT_SECOND: lambda: per_input_second(usd),
        PriceUnit.INPUT_MINUTE: lambda: per_input_second(usd / 60),
        PriceUnit.INPUT_HOUR: lambda: per_input_second(usd / 3600),
        PriceUnit.THOUSAND_CHARACTERS: lambda: per_input_chars(usd),
        PriceUnit.MILLION_CHARACTERS: lambda: per_input_chars(usd, per=MILLION),
        PriceUnit.MEGAPIXEL: lambda: per_megapixel(usd),
        PriceUnit.COMPUTE_SECOND: lambda: per_compute_second(usd),
        PriceUnit.CREDIT: lambda: per_credit(usd, credits),
    }
    return made[unit]()


def _count(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((usage[n] for n in names if isinstance(usage.get(n), int)), None)


def _pixels_of(asset: Asset) -> Decimal | None:
    if asset.width is None or asset.height is None:
        return None
    return Decimal(asset.width * asset.height)


def _pixels_asked(params: Mapping[str, Any]) -> Decimal | None:
    for found in (params, *(params.get(name) for name in _SIZES)):
        if isinstance(found, Mapping):
            fields = cast(Mapping[str, Any], found)
            width, height = amount_of(fields.get("width")), amount_of(fields.get("height"))
            if width is not None and height is not None:
                return width * height
        elif isinstance(found, str) and (pair := _PIXELS.fullmatch(found)):
            return Decimal(int(pair[1]) * int(pair[2]))
    return None
