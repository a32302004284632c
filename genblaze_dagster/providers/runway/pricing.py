"""What Runway's models cost, in credits.

List prices as of October 2026 (https://docs.dev.runwayml.com/guides/pricing/ as quoted by Runway's
own https://github.com/runwayml/skills and by several others); your contract may differ: give your
own, by the unit `credit` or any other. The finished task reports what was charged, and that counts.
An output format costs more, by an amount that is not known here; so do shapes of gen4_image that are
neither 720p nor 1080p.
"""

from collections.abc import Mapping
from decimal import Decimal
from math import ceil

from genblaze_dagster.providers.price_units import per_credit
from genblaze_dagster.providers.prices import InWords
from genblaze_dagster.providers.pricing import PricingContext, seconds_of

USD_PER_CREDIT = Decimal("0.01")

_PER_SECOND: Mapping[str, int] = {"gen4.5": 12, "gen4_turbo": 5}
# With sound, which is the default, and without.
_VEO_PER_SECOND: Mapping[str, tuple[int, int]] = {"veo3.1": (40, 20), "veo3.1_fast": (15, 10)}
_GEN4_IMAGE: Mapping[int, int] = {720: 5, 1080: 8}
_GEN4_IMAGE_TURBO = 2
_CHARACTERS_PER_CREDIT = 50


def credits_of(context: PricingContext) -> Decimal | int | None:
    """Return how many credits a request takes; None when the list does not say."""
    model, params = context.step.model, context.step.params
    if params.get("outputFormat") is not None:
        return None
    if model == "gen4_image":
        return _GEN4_IMAGE.get(_short_side(params.get("ratio")))
    if model == "gen4_image_turbo":
        return _GEN4_IMAGE_TURBO
    if model == "eleven_multilingual_v2":
        text = params.get("promptText")
        return ceil(len(text) / _CHARACTERS_PER_CREDIT) if isinstance(text, str) else None
    rate = _PER_SECOND.get(model)
    if model in _VEO_PER_SECOND:
        with_sound, without = _VEO_PER_SECOND[model]
        rate = without if params.get("audio") is False else with_sound
    seconds = seconds_of(params.get("duration"))
    return None if rate is None or seconds is None else rate * seconds


PRICE = InWords(per_credit(USD_PER_CREDIT, credits_of), "0.01 USD per credit")


def _short_side(ratio: object) -> int:
    """Return the shorter side of a shape such as 1920:1080, 0 when it is none."""
    width, _, height = str(ratio).partition(":")
    return min(int(width), int(height)) if width.isdigit() and height.isdigit() else 0
