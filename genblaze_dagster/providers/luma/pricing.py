"""What Luma's models cost, in USD.

List prices of the successor API as of October 2026, where they are said to change until its general
release (https://docs.agents.lumalabs.ai/guides/pricing/); your contract may differ: give your own.
Videos are priced by resolution and length, pictures by the number of references. What is not here
has an unknown price: HDR, edits and extensions of videos, and the older Dream Machine (ray-2, photon).
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

from genblaze_dagster.core.enums import StepType
from genblaze_dagster.providers.prices import InWords
from genblaze_dagster.providers.pricing import PricingContext, seconds_of

# By resolution: 5 and 10 seconds in the standard dynamic range.
_RAY_3_2: Mapping[str, Mapping[int, float]] = {
    "360p": {5: 0.06, 10: 0.18},
    "540p": {5: 0.15, 10: 0.45},
    "720p": {5: 0.30, 10: 0.90},
    "1080p": {5: 1.20, 10: 3.60},
}
_TEXT_TO_IMAGE: Mapping[str, Decimal] = {"uni-1": Decimal("0.0404"), "uni-1-max": Decimal("0.1")}
_A_REFERENCE = Decimal("0.003")
_MOST_REFERENCES = 9
_PRICED_MEMBERS = frozenset({"resolution", "duration", "loop", "start_frame", "end_frame"})


def _video(context: PricingContext) -> float | None:
    video = context.step.params.get("video")
    fields = cast(Mapping[str, Any], video) if isinstance(video, Mapping) else {}
    asked = {name for name, value in fields.items() if value not in (None, False)}
    kind = context.step.params.get("type", "video")
    if kind != "video" or not asked <= _PRICED_MEMBERS or _has_film(context):
        return None
    seconds = seconds_of(fields.get("duration"))
    by_length = _RAY_3_2.get(str(fields.get("resolution")), {})
    return None if seconds is None else by_length.get(int(seconds))


def _image(context: PricingContext) -> float | None:
    """Return the price of a picture; the first picture of an edit counts as its references do."""
    price = _TEXT_TO_IMAGE.get(context.step.model)
    references = len(context.step.inputs)
    if price is None or references > _MOST_REFERENCES:
        return None
    # The first adds as much as each further one; the list begins at no reference.
    return float((price + references * _A_REFERENCE) * max(context.output_count, 1))


def _price(context: PricingContext) -> float | None:
    if context.step.step_type is StepType.UPSCALE:
        return None
    return _video(context) if context.step.model == "ray-3.2" else _image(context)


PRICE = InWords(_price, "by resolution, length and references")


def _has_film(context: PricingContext) -> bool:
    return any(asset.media_type.startswith("video/") for asset in context.step.inputs)
