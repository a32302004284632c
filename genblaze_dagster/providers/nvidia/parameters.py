"""Standard parameters as NVIDIA's models spell them: what several families share."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from genblaze_dagster.providers.param_schemas import refuse

DEFAULT_FPS = 24


def one_each(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without `n`, which may only be 1.

    Raises:
        InvalidRequestError: it is more.
    """
    native = dict(params)
    if native.pop("n", 1) != 1:
        refuse("n", "a request makes one; run n items instead")
    return native


def frames_of(params: dict[str, Any], *, frames: str, fps: str) -> None:
    """Replace `duration` (seconds) by the frames that span it, the first one included.

    Without frames per second there are 24, which the request then says.

    Raises:
        InvalidRequestError: it stands beside a number of frames, or is no whole number of frames.
    """
    duration = params.pop("duration", None)
    if duration is None:
        return
    if frames in params:
        refuse("duration", f"cannot stand beside {frames}; give one of them")
    rate = params.setdefault(fps, DEFAULT_FPS)
    if not _is_number(duration) or not _is_number(rate) or duration <= 0:
        refuse("duration", "expected a number of seconds above 0, and of frames per second")
    # As written, not in binary: 0.7 s at 10 are 7 frames.
    count = Decimal(str(duration)) * Decimal(str(rate))
    if count % 1:
        refuse("duration", f"is no whole number of frames at {rate} frames per second")
    params[frames] = int(count) + 1


def pixels_of(params: dict[str, Any]) -> None:
    """Replace a `resolution` of the form `1024x1024` by width and height.

    Raises:
        InvalidRequestError: it has another form, or stands beside them.
    """
    resolution = params.pop("resolution", None)
    if resolution is None:
        return
    if "width" in params or "height" in params:
        refuse("resolution", "cannot stand beside width and height; give one of them")
    width, by, height = str(resolution).partition("x")
    if not (by and width.isdecimal() and height.isdecimal() and len(resolution) <= 11):
        refuse("resolution", "expected pixels such as 1024x1024")
    params["width"], params["height"] = int(width), int(height)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
