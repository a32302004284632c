"""From standard parameters to those of GMI's models, which are their makers' own."""

from collections.abc import Mapping, Sequence
from typing import Any

from genblaze_dagster.providers.model_spec import ParamTransformer
from genblaze_dagster.providers.param_schemas import refuse

_SQUARE = {"1:1": "1024x1024"}

SORA_SIZES = {"720p": {"16:9": "1280x720", "9:16": "720x1280"}}
GPT_IMAGE_SIZES = {"1K": {**_SQUARE, "3:2": "1536x1024", "2:3": "1024x1536"}}
SEEDREAM_3_SIZES = {
    "1K": {
        **_SQUARE,
        "4:3": "1152x864",
        "3:4": "864x1152",
        "16:9": "1280x720",
        "9:16": "720x1280",
        "3:2": "1248x832",
        "2:3": "832x1248",
        "21:9": "1512x648",
    }
}
SEEDREAM_SIZES = {
    "2K": {
        "1:1": "2048x2048",
        "4:3": "2304x1728",
        "3:4": "1728x2304",
        "16:9": "2560x1440",
        "9:16": "1440x2560",
        "3:2": "2496x1664",
        "2:3": "1664x2496",
        "21:9": "3024x1296",
    }
}
"""Pixels by resolution and shape; the first resolution is that of a shape alone."""


def single(params: dict[str, Any]) -> dict[str, Any]:
    """Take `n` away from models that have none; one output is what they make."""
    native = dict(params)
    if native.pop("n", 1) != 1:
        refuse("n", "a request makes one output; expected 1, so run n items")
    return native


def up_to(params: dict[str, Any]) -> dict[str, Any]:
    """Take `n` away from models that decide how many pictures they make, up to `max_images`."""
    native = dict(params)
    if native.pop("n", 1) != 1:
        refuse("n", "the model has a limit and no number; give max_images, or run n items")
    return native


def sized_by(
    sizes: Mapping[str, Mapping[str, str]], *, alone: Sequence[str] = ()
) -> ParamTransformer:
    """Return what replaces `aspect_ratio` and `resolution` by `size`.

    Args:
        sizes: pixels by resolution and shape.
        alone: resolutions that are a size without a shape.
    """

    def transform(params: dict[str, Any]) -> dict[str, Any]:
        native = dict(params)
        ratio, resolution = native.pop("aspect_ratio", None), native.pop("resolution", None)
        if ratio is None and resolution is None:
            return native
        if "size" in native:
            refuse("size", "give either size, or aspect_ratio and resolution")
        native["size"] = _size(sizes, alone, ratio, resolution)
        return native

    return transform


def each(*steps: ParamTransformer) -> ParamTransformer:
    """Return what makes one change after the other."""

    def transform(params: dict[str, Any]) -> dict[str, Any]:
        for step in steps:
            params = step(params)
        return params

    return transform


def digits(value: Any) -> Any:
    """Write whole seconds as the text that some models want: 5 becomes "5"."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def on_or_off(value: Any) -> Any:
    """Write true and false as Kling does."""
    return ("on" if value else "off") if isinstance(value, bool) else value


def _size(
    sizes: Mapping[str, Mapping[str, str]], alone: Sequence[str], ratio: object, resolution: object
) -> str:
    if ratio is None:
        if resolution in alone:
            return str(resolution)
        refuse("resolution", "it leaves the shape open; give aspect_ratio too, or size")
    tiers = ", ".join(sizes)
    tier = next((t for t in sizes if resolution in (None, t)), None)
    if tier is None:
        refuse("resolution", f"with a shape it is one of {tiers}; or give size as WIDTHxHEIGHT")
    found = next((size for shape, size in sizes[tier].items() if shape == ratio), None)
    if found is None:
        refuse("aspect_ratio", f"expected one of {', '.join(sizes[tier])}; or give size")
    return found
