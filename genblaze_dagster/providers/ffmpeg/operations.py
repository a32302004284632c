"""The operations of `FFmpegTransform`: parameters in, arguments of ffmpeg out. Pure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.providers.ffmpeg.containers import (
    Container,
    Kind,
    container_named,
    default_container,
    names_for,
    same_container,
)
from genblaze_dagster.providers.ffmpeg.parameters import Parameters
from genblaze_dagster.providers.ffmpeg.program import MAX_PIXELS
from genblaze_dagster.providers.ffmpeg.provider import Plan
from genblaze_dagster.providers.protocol import InputMedia

FONT_FILE = "font.ttf"
_TEXT_FILE = "text.txt"

_LONGEST_SIDE = 16_384
_LONGEST_TEXT = 10_000
_LARGEST_FONT = 2_000
_DEFAULT_LUFS = -24.0
_COLOR = re.compile(
    r"(?:[A-Za-z]{1,30}|(?:#|0x)[0-9A-Fa-f]{6}(?:[0-9A-Fa-f]{2})?)(?:@[01](?:\.\d{1,4})?)?"
)
_OPUS_RATE = 48_000
_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


@dataclass(frozen=True, slots=True)
class Source:
    """The file to change."""

    media: InputMedia
    kind: Kind

    @property
    def container(self) -> Container:
        """The format the result has when nobody asks for another."""
        return same_container(self.media.asset.media_type, self.kind)


def _resize(source: Source, params: Parameters) -> Plan:
    width = params.whole("width", -1, _LONGEST_SIDE)
    height = params.whole("height", -1, _LONGEST_SIDE)
    if width * height == 0 or (width < 0 and height < 0):
        raise params.wrong("width", "at least one side above 0; -1 for the other keeps the shape")
    even = source.container.kind is Kind.VIDEO
    sides = {"width": width, "height": height}
    _check_sides(params, sides, even=even)
    # -2 keeps the shape and rounds to an even number, which video needs.
    wanted = ":".join(str(-2 if side < 0 and even else side) for side in sides.values())
    facts = {name: side for name, side in sides.items() if side > 0}
    return _picture(source, params, f"scale={wanted}:flags=bicubic+bitexact", "resize", facts)


def _crop(source: Source, params: Parameters) -> Plan:
    sides = {name: params.whole(name, 1, _LONGEST_SIDE) for name in ("width", "height")}
    x, y = (params.whole(name, 0, _LONGEST_SIDE, 0) for name in ("x", "y"))
    _check_sides(params, sides, even=source.container.kind is Kind.VIDEO)
    asset = source.media.asset
    for name, corner, whole in (("width", x, asset.width), ("height", y, asset.height)):
        if whole is not None and corner + sides[name] > whole:
            raise params.wrong(name, f"a part of the {whole} pixels from {corner} on")
    wanted = f"crop={sides['width']}:{sides['height']}:{x}:{y}:exact=1"
    return _picture(source, params, wanted, "crop", sides)


def _overlay_text(source: Source, params: Parameters) -> Plan:
    text = params.text("text", longest=_LONGEST_TEXT)
    size = params.whole("fontsize", 1, _LARGEST_FONT, 24)
    x, y = (params.whole(n, -_LONGEST_SIDE, _LONGEST_SIDE, 10) for n in ("x", "y"))
    color = params.text("fontcolor", "white", longest=50)
    if _COLOR.fullmatch(color) is None:
        raise params.wrong("fontcolor", "a colour name or #RRGGBB, with @0.5 half transparent")
    # The text is read from a file and taken as it is: in the filter's own language it could name
    # files and run expressions.
    wanted = (
        f"drawtext=textfile={_TEXT_FILE}:fontfile={FONT_FILE}:expansion=none:fontsize={size}"
        f":x={x}:y={y}:fontcolor={color}"
    )
    try:
        files = {_TEXT_FILE: text.encode(), FONT_FILE: b""}
    except UnicodeEncodeError:
        raise params.wrong("text", "text without half surrogate pairs") from None
    return _picture(source, params, wanted, "write text on", {}, files)


def _audio_normalize(source: Source, params: Parameters) -> Plan:
    if source.kind is Kind.IMAGE or source.container.media_type == "image/gif":
        raise params.wrong("operation", "one for pictures; there is no sound to normalize")
    target = params.number("target_lufs", -70, -5, _DEFAULT_LUFS)
    video = source.kind is Kind.VIDEO
    container = source.container
    arguments = (
        *(("-map", "0:v:0?", "-c:v", "copy") if video else ("-vn",)),
        *("-map", "0:a:0", "-af", f"loudnorm=I={target:g}"),
        # The filter works at 192 kHz and would leave it at that.
        *("-ar", str(_sample_rate(source))),
        *(*container.audio, *container.extra),
    )
    return Plan((source.media,), arguments, container, "normalize the sound")


def _convert_format(source: Source, params: Parameters) -> Plan:
    container = default_container(source.kind)
    name = params.text("format", container.extension, longest=20)
    found = container_named(name, source.kind)
    if found is None:
        raise params.wrong("format", f"one of {', '.join(names_for(source.kind))}")
    subject = f"convert the {source.kind} to {found.media_type}"
    if found.kind is Kind.AUDIO:
        arguments = ("-vn", "-map", "0:a:0", *found.audio, *found.extra)
        return Plan((source.media,), arguments, found, subject)
    sound = ("-map", "0:a:0?", *found.audio) if found.audio else ()
    arguments = ("-map", "0:v:0", *found.video, *sound, *found.extra)
    return Plan((source.media,), arguments, found, subject, decodes_video=True)


OPERATIONS: Mapping[str, Callable[[Source, Parameters], Plan]] = {
    "resize": _resize,
    "crop": _crop,
    "overlay_text": _overlay_text,
    "audio_normalize": _audio_normalize,
    "convert_format": _convert_format,
}
"""The operations by name; each leaves a place for the font when it needs one."""


def _picture(
    source: Source,
    params: Parameters,
    wanted: str,
    verb: str,
    facts: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> Plan:
    """Return the plan of a filter over the pictures; sound is copied."""
    if source.kind is Kind.AUDIO:
        raise params.wrong("operation", "one for sound; there are no pictures to change")
    container = source.container
    sound = ("-map", "0:a:0?", "-c:a", "copy") if container.audio else ()
    return Plan(
        inputs=(source.media,),
        arguments=("-map", "0:v:0", "-vf", wanted, *container.video, *sound, *container.extra),
        container=container,
        subject=f"{verb} the {source.kind}",
        decodes_video=True,
        files=files or {},
        facts=facts,
    )


def _check_sides(params: Parameters, sides: Mapping[str, int], *, even: bool) -> None:
    for name, side in sides.items():
        if even and side > 0 and side % 2:
            raise params.wrong(name, "an even number, as video needs")
    width, height = sides.values()
    if width * height > MAX_PIXELS:
        raise params.wrong("width", f"at most {MAX_PIXELS} pixels in all")


def _sample_rate(source: Source) -> int:
    audio = source.media.asset.audio
    rate = audio.sample_rate if audio is not None else None
    # Opus knows no other, and it is what an unknown rate most likely is.
    fixed = "libopus" in source.container.audio
    return rate if rate in _SAMPLE_RATES and not fixed else _OPUS_RATE
