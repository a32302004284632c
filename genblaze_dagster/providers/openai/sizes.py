"""Sizes: from aspect ratio and resolution to `WIDTHxHEIGHT`, and which of those a model takes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from genblaze_dagster.providers.model_spec import ParamTransformer
from genblaze_dagster.providers.param_schemas import refuse

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

FindSize = Callable[[Any, Any], str]
"""Returns the size for an aspect ratio and a resolution, of which one may be None."""


def sized_by(find: FindSize) -> ParamTransformer:
    """Return what replaces `aspect_ratio` and `resolution` by the `size` that `find` says.

    A resolution may be a size itself.
    """

    def transform(params: dict[str, Any]) -> dict[str, Any]:
        native = dict(params)
        ratio, resolution = native.pop("aspect_ratio", None), native.pop("resolution", None)
        if ratio is None and resolution is None:
            return native
        if "size" in native:
            refuse("size", "give either size, or aspect_ratio and resolution")
        is_size = isinstance(resolution, str) and _SIZE.fullmatch(resolution) is not None
        native["size"] = resolution if ratio is None and is_size else find(ratio, resolution)
        return native

    return transform


def no_size(ratio: object, resolution: object) -> str:
    """Refuse: the sizes of the model are not known here."""
    refuse(
        "aspect_ratio" if resolution is None else "resolution",
        'the sizes of this model are not known here; give size="WIDTHxHEIGHT"',
    )


def one_of(sizes: Sequence[str]) -> FindSize:
    """Return what finds a size in a list: of exactly that shape, the largest of several."""
    known = [(int(width), int(height)) for width, _, height in (s.partition("x") for s in sizes)]

    def find(ratio: object, resolution: object) -> str:
        fitting = known
        if ratio is not None:
            shape = _ratio(ratio)
            fitting = [size for size in known if _shape(*size) == shape]
            if not fitting:
                shapes = ", ".join(sorted({f"{w}:{h}" for w, h in (_shape(*s) for s in known)}))
                refuse("aspect_ratio", f"the model has no such shape; it has {shapes}")
        if resolution is not None:
            fitting = [size for size in fitting if f"{min(size)}p" == resolution]
            if not fitting:
                refuse("resolution", f"no size fits exactly; the sizes are {', '.join(sizes)}")
        if len({_shape(*size) for size in fitting}) > 1:
            refuse("resolution", "it leaves the shape open; give aspect_ratio too, or size")
        return "{}x{}".format(*max(fitting))

    return find


def free_size(ratio: object, resolution: object) -> str:
    """Return a size in steps of 16 pixels; without a resolution about as large as 1024x1024."""
    across, down = _ratio("1:1" if ratio is None else ratio)
    if resolution is None:
        edge = _DEFAULT_SQUARE if across == down else _DEFAULT_EDGE
        times = edge // (_STEP * max(across, down))
        if times == 0:
            refuse("aspect_ratio", "this shape has no size in steps of 16 pixels; give size")
        return f"{across * _STEP * times}x{down * _STEP * times}"
    lines = _LINES.fullmatch(resolution) if isinstance(resolution, str) else None
    if lines is None:
        refuse("resolution", "expected a resolution such as 720p or 1536x864")
    short = int(lines[1])
    long, rest = divmod(short * max(across, down), min(across, down))
    if rest or short % _STEP or long % _STEP:
        refuse("resolution", "this shape is then not divisible by 16 on both sides; give size")
    return f"{long}x{short}" if across >= down else f"{short}x{long}"


@dataclass(frozen=True, slots=True)
class FreeSizeSchema:
    """`auto`, or any size within the limits of gpt-image-2."""

    def validate(self, key: str, value: Any) -> None:
        """Refuse everything else.

        Raises:
            InvalidRequestError: names the parameter and what is allowed.
        """
        if value == "auto":
            return
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            refuse(key, "expected 'auto' or WIDTHxHEIGHT")
        width, height = int(match[1]), int(match[2])
        if width % _STEP or height % _STEP:
            refuse(key, f"{value}: both sides must be divisible by {_STEP}")
        if max(width, height) > 3 * min(width, height):
            refuse(key, f"{value}: the ratio must be between 1:3 and 3:1")
        if max(width, height) > _MAX_EDGE or width * height > _MAX_PIXELS:
            refuse(key, f"{value}: at most 3840x2160 or 2160x3840")


def _ratio(ratio: object) -> tuple[int, int]:
    match = _RATIO.fullmatch(ratio) if isinstance(ratio, str) else None
    if match is None:
        refuse("aspect_ratio", "expected a ratio such as 16:9")
    return _shape(int(match[1]), int(match[2]))


def _shape(width: int, height: int) -> tuple[int, int]:
    return width // gcd(width, height), height // gcd(width, height)
