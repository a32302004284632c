"""What the local models accept: names, ranges and defaults of their parameters."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import InvalidRequestError, ModelError
from genblaze_dagster.providers.protocol import GenerationRequest

ASPECT_SIZES: Mapping[str, tuple[int, int]] = {
    "1:1": (512, 512),
    "4:3": (640, 480),
    "3:4": (480, 640),
    "3:2": (672, 448),
    "2:3": (448, 672),
    "16:9": (768, 432),
    "9:16": (432, 768),
    "21:9": (896, 384),
}
SAMPLE_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
SMALLEST_SIDE = 16
LARGEST_IMAGE_SIDE = 2048
LARGEST_VIDEO_SIDE = 1920
LONGEST_SECONDS = 60.0
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Size:
    """The picture size a request asks for, as far as it does."""

    width: int | None
    height: int | None
    aspect_ratio: str | None
    largest_side: int

    def resolve(self, natural: tuple[int, int]) -> tuple[int, int]:
        """Return width and height in pixels; `natural` is the size of the input, if any.

        Sides that follow from something else are even, as yuv420p needs them.
        """
        width, height = self.derive(natural)
        return min(width, self.largest_side), min(height, self.largest_side)

    def derive(self, natural: tuple[int, int]) -> tuple[int, int]:
        """Return width and height without the upper limit."""
        if self.width and self.height:
            return self.width, self.height
        wide, high = ASPECT_SIZES[self.aspect_ratio] if self.aspect_ratio else natural
        if self.width:
            scale = self.width / wide
        elif self.height:
            scale = self.height / high
        else:
            scale = min(1.0, self.largest_side / max(wide, high))
        return self.width or _even(wide * scale), self.height or _even(high * scale)


def _even(pixels: float) -> int:
    return max(SMALLEST_SIDE, 2 * round(pixels / 2))


@dataclass(frozen=True, slots=True)
class ImageParams:
    """Parameters of `local-image`."""

    size: Size
    seed: int | None
    count: int
    output_format: str
    caption: bool


@dataclass(frozen=True, slots=True)
class VideoParams:
    """Parameters of `local-video`; `duration` in seconds, None = the audio input's length or 2."""

    size: Size
    seed: int | None
    duration: float | None
    fps: int
    sample_rate: int
    caption: bool


@dataclass(frozen=True, slots=True)
class AudioParams:
    """Parameters of `local-audio`; `duration` in seconds."""

    seed: int | None
    duration: float
    sample_rate: int
    channels: int
    output_format: str


class ParamReader:
    """Takes the parameters of one request by name; what is left over is refused."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._params = dict(request.params)
        self._known: list[str] = []

    def refuse(self, name: str, problem: str) -> NoReturn:
        """Raise InvalidRequestError about the parameter `name`."""
        raise InvalidRequestError(
            f"{self._request.model}: {name} {problem}",
            provider="local",
            model=self._request.model,
            param=name,
            sent=False,
        )

    def _take(self, name: str) -> Any:
        self._known.append(name)
        return self._params.pop(name, None)

    def integer(self, name: str, low: int, high: int, *, step: int = 1) -> int | None:
        """Take a whole number of `low` to `high` that is a multiple of `step`."""
        value = self._take(name)
        if value is None:
            return None
        if type(value) is not int or not low <= value <= high or value % step:
            kind = "an even number" if step == 2 else "a whole number"
            self.refuse(name, f"must be {kind} from {low} to {high}, not {value!r:.40}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        """Take a finite number of `low` to `high`."""
        value = self._take(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            self.refuse(name, f"must be a number from {low:g} to {high:g}, not {value!r:.40}")
        return float(value)

    def choice(self, name: str, allowed: tuple[Any, ...]) -> Any:
        """Take one of the `allowed` values, of the very same type."""
        value = self._take(name)
        if value is not None and (type(value), value) not in [(type(a), a) for a in allowed]:
            listed = ", ".join(map(str, allowed))
            self.refuse(name, f"must be one of {listed}, not {value!r:.40}")
        return value

    def size(self, largest_side: int, *, step: int = 1) -> Size:
        """Take `width`, `height` and `aspect_ratio`."""
        width = self.integer("width", SMALLEST_SIDE, largest_side, step=step)
        height = self.integer("height", SMALLEST_SIDE, largest_side, step=step)
        aspect_ratio = self.choice("aspect_ratio", tuple(ASPECT_SIZES))
        if aspect_ratio and width and height:
            self.refuse("aspect_ratio", "cannot be combined with both width and height")
        size = Size(width, height, aspect_ratio, largest_side)
        if aspect_ratio and max(size.derive((1, 1))) > largest_side:
            self.refuse(
                "width" if width else "height",
                f"gives a side above {largest_side} with aspect_ratio {aspect_ratio}",
            )
        return size

    def seed(self) -> int | None:
        """Take the seed: the request's own, else the parameter."""
        seed = self.integer("seed", 0, LARGEST_SEED)
        if self._request.seed is None:
            return seed
        if seed not in (None, self._request.seed):
            self.refuse("seed", "is given twice with different values")
        return self._request.seed

    def finish(self) -> None:
        """Refuse what no one took."""
        for name in self._params:
            self.refuse(name, f"is not a parameter; allowed: {', '.join(sorted(self._known))}")


def image_params(request: GenerationRequest) -> ImageParams:
    """Return the parameters of a `local-image` request.

    Raises:
        InvalidRequestError: names the parameter and what is allowed.
    """
    reader = ParamReader(request)
    params = ImageParams(
        size=reader.size(LARGEST_IMAGE_SIDE),
        seed=reader.seed(),
        count=reader.integer("n", 1, 8) or 1,
        output_format=reader.choice("output_format", ("png", "jpeg", "webp")) or "png",
        caption=reader.choice("caption", (False, True)) or False,
    )
    reader.finish()
    _check_inputs(request, {"image": 1})
    return params


def video_params(request: GenerationRequest) -> VideoParams:
    """Return the parameters of a `local-video` request.

    Raises:
        InvalidRequestError: names the parameter and what is allowed.
    """
    reader = ParamReader(request)
    params = VideoParams(
        size=reader.size(LARGEST_VIDEO_SIDE, step=2),
        seed=reader.seed(),
        duration=reader.number("duration", 0.1, LONGEST_SECONDS),
        fps=reader.integer("fps", 1, 60) or 12,
        sample_rate=reader.choice("sample_rate", SAMPLE_RATES) or 44_100,
        caption=reader.choice("caption", (False, True)) or False,
    )
    reader.choice("output_format", ("mp4",))
    reader.finish()
    _check_inputs(request, {"image": 1, "audio": 1})
    return params


def audio_params(request: GenerationRequest) -> AudioParams:
    """Return the parameters of a `local-audio` request.

    Raises:
        InvalidRequestError: names the parameter and what is allowed.
    """
    reader = ParamReader(request)
    params = AudioParams(
        seed=reader.seed(),
        duration=reader.number("duration", 0.1, LONGEST_SECONDS) or 3.0,
        sample_rate=reader.choice("sample_rate", SAMPLE_RATES) or 44_100,
        channels=reader.integer("channels", 1, 2) or 2,
        output_format=reader.choice("output_format", ("wav", "flac", "mp3")) or "wav",
    )
    reader.finish()
    return params


def _check_inputs(request: GenerationRequest, allowed: Mapping[str, int]) -> None:
    counts = dict.fromkeys(allowed, 0)
    for media in request.inputs:
        kind = media.asset.media_type.split("/")[0]
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] > allowed.get(kind, 0):
            takes = " and ".join(f"at most {number} {name}" for name, number in allowed.items())
            ParamReader(request).refuse("inputs", f"take {takes}, not {media.asset.media_type}")


def undecodable(model: str, kind: str) -> InvalidRequestError:
    """Return the error for an input, `image` or `audio`, that is not what its type says."""
    return InvalidRequestError(
        f"{model}: the input {kind} cannot be decoded",
        provider="local",
        model=model,
        param="inputs",
        sent=False,
    )


MODELS: Mapping[str, tuple[Modality, Callable[[GenerationRequest], object]]] = {
    "local-image": (Modality.IMAGE, image_params),
    "local-video": (Modality.VIDEO, video_params),
    "local-audio": (Modality.AUDIO, audio_params),
}


def check(request: GenerationRequest) -> None:
    """Refuse a request no local model can carry out.

    Raises:
        ModelError: there is no such model.
        InvalidRequestError: names the parameter and what is allowed.
    """
    if request.model not in MODELS:
        raise ModelError(
            f"local has no model {request.model!r}; it has {', '.join(MODELS)}",
            provider="local",
            model=request.model,
            param="model",
            sent=False,
        )
    modality, read_params = MODELS[request.model]
    if request.modality != modality:
        ParamReader(request).refuse("modality", f"must be {modality}, not {request.modality}")
    read_params(request)
