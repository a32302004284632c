"""Sizes: from aspect ratio and resolution to `WIDTHxHEIGHT`, and which of those a model takes."""

import re
from collections.abc import Mapping
from math import gcd
from typing import Any

from genblaze_dagster.providers.openai.families import FREE_SIZES, Family
from genblaze_dagster.providers.openai.refusals import listed, refuse, shown

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_RATIO = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})")
_LINES = re.compile(r"([1-9]\d{2,3})p")

# gpt-image-2: both sides divisible by 16, ratio 1:3 to 3:1, up to 3840x2160.
_STEP = 16
_MAX_EDGE = 3840
_MAX_PIXELS = 3840 * 2160
# The largest size of an aspect ratio that costs about what the older models' sizes cost.
_DEFAULT_EDGE = 1536
_DEFAULT_SQUARE = 1024


def size_from_standard(model: str, params: Mapping[str, Any], family: Family | None) -> str | None:
    """Return the size that `aspect_ratio` and `resolution` ask for, None without them.

    Raises:
        InvalidRequestError: the model has no size of exactly that shape.
    """
    ratio = params.get("aspect_ratio")
    resolution = params.get("resolution")
    if ratio is None and resolution is None:
        return None
    if params.get("size") is not None:
        raise refuse("size", "give either size, or aspect_ratio and resolution")
    if ratio is None and isinstance(resolution, str) and _SIZE.fullmatch(resolution):
        return resolution
    if family is None or family.sizes is None:
        raise refuse(
            "aspect_ratio" if resolution is None else "resolution",
            f'the sizes of {model} are not known here; give size="WIDTHxHEIGHT"',
        )
    if family.sizes == FREE_SIZES:
        return _free_size(ratio or "1:1", resolution)
    if resolution is not None:
        raise refuse(
            "resolution",
            f"{shown(resolution)} is not a size of {family.name}. Allowed: {listed(family.sizes)}",
        )
    size = family.ratios.get(str(ratio))
    if size is None:
        raise refuse(
            "aspect_ratio",
            f"{shown(ratio)} is not a ratio of {family.name}. Allowed: {listed(family.ratios)}",
        )
    return size


def _free_size(ratio: object, resolution: object) -> str:
    match = _RATIO.fullmatch(ratio) if isinstance(ratio, str) else None
    if match is None:
        raise refuse("aspect_ratio", f"{shown(ratio)} is not a ratio such as 16:9")
    across, down = int(match[1]), int(match[2])
    across, down = across // gcd(across, down), down // gcd(across, down)
    if resolution is None:
        edge = _DEFAULT_SQUARE if across == down else _DEFAULT_EDGE
        times = edge // (_STEP * max(across, down))
        if times == 0:
            raise refuse(
                "aspect_ratio", f"{shown(ratio)} has no size in steps of 16 pixels; give size"
            )
        return f"{across * _STEP * times}x{down * _STEP * times}"
    lines = _LINES.fullmatch(resolution) if isinstance(resolution, str) else None
    if lines is None:
        raise refuse(
            "resolution", f"{shown(resolution)} is not a resolution such as 720p or 1536x864"
        )
    short = int(lines[1])
    long, rest = divmod(short * max(across, down), min(across, down))
    if rest or short % _STEP or long % _STEP:
        raise refuse(
            "resolution",
            f"{resolution} at {ratio} is not divisible by 16 on both sides; give size",
        )
    return f"{long}x{short}" if across >= down else f"{short}x{long}"


def check_size(fields: Mapping[str, Any], family: Family) -> None:
    """Refuse a size the model is known not to make.

    Raises:
        InvalidRequestError: names the size and what is allowed.
    """
    size = fields.get("size")
    if size is None or family.sizes is None:
        return
    if family.sizes != FREE_SIZES:
        if size not in family.sizes:
            raise refuse("size", f"size={shown(size)}; {family.name} takes {listed(family.sizes)}")
        return
    if size == "auto":
        return
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is None:
        raise refuse("size", f"size={shown(size)} is neither 'auto' nor WIDTHxHEIGHT")
    width, height = int(match[1]), int(match[2])
    if width % _STEP or height % _STEP:
        raise refuse("size", f"size={size}; both sides must be divisible by {_STEP}")
    if max(width, height) > 3 * min(width, height):
        raise refuse("size", f"size={size}; the ratio must be between 1:3 and 3:1")
    if max(width, height) > _MAX_EDGE or width * height > _MAX_PIXELS:
        raise refuse("size", f"size={size}; at most 3840x2160 or 2160x3840")
