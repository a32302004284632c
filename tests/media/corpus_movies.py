"""MP4, MOV and M4A files of many structures. The streams are encoded by PyAV."""

import io
import random
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import av
import numpy as np

_HOLDS_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MP4 = (
    ("libx264", "yuv420p", None),
    ("libx264", "yuv420p", "aac"),
    ("mpeg4", "yuv420p", None),
    ("mpeg4", "yuv420p", "libmp3lame"),
    ("libvpx-vp9", "yuv420p", "libopus"),
    (None, "", "aac"),
)
_MOV = (
    ("mjpeg", "yuvj420p", None),
    ("png", "rgb24", None),
    ("prores", "yuv422p10le", "pcm_s16le"),
    ("libx264", "yuv420p", "aac"),
    (None, "", "alac"),
)
_M4A = ((None, "", "aac"), (None, "", "alac"))
_FLAGS = ("", "", "", "frag_keyframe+empty_moov", "frag_keyframe+default_base_moof")
_SAMPLE_FORMATS = {"aac": "fltp", "libmp3lame": "s16p", "alac": "s16p"}


def box(kind: bytes, body: bytes) -> bytes:
    """Return one box."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


def mp4(rng: random.Random) -> bytes:
    """Return an MP4: any codec, with the movie first, last or in fragments."""
    video, pixels, audio = rng.choice(_MP4)
    return _rearranged(_encoded("mp4", video, pixels, audio, *_choices(rng)), rng)


def mov(rng: random.Random) -> bytes:
    """Return a QuickTime movie, in the same ways as an MP4."""
    video, pixels, audio = rng.choice(_MOV)
    return _rearranged(_encoded("mov", video, pixels, audio, *_choices(rng)), rng)


def m4a(rng: random.Random) -> bytes:
    """Return an M4A with AAC or ALAC, in the same ways as an MP4."""
    video, pixels, audio = rng.choice(_M4A)
    return _rearranged(_encoded("ipod", video, pixels, audio, *_choices(rng)), rng)


def _choices(rng: random.Random) -> tuple[str, bool]:
    return rng.choice(_FLAGS), rng.random() < 0.5


@cache
def _encoded(
    form: str, video: str | None, pixels: str, audio: str | None, flags: str, titled: bool
) -> bytes:
    options = {"fflags": "+bitexact"} | ({"movflags": flags} if flags else {})
    file = io.BytesIO()
    with av.open(file, "w", format=form, options=options) as container:
        if titled:
            container.metadata["title"] = "caf\u00e9"
            container.metadata["comment"] = "made for a test"
        streams: list[tuple[Any, Iterator[Any]]] = []
        if video:
            streams.append(_video(container, video, pixels))
        if audio:
            streams.append(_audio(container, audio))
        for stream, frames in streams:
            for frame in frames:
                container.mux(stream.encode(frame))
        for stream, _ in streams:
            container.mux(stream.encode())
    return file.getvalue()


def _video(container: Any, codec: str, pixels: str) -> tuple[Any, Iterator[av.VideoFrame]]:
    speed = {"cpu-used": "8"} if codec.startswith("libvpx") else {}
    stream = container.add_stream(codec, rate=10, options={"flags": "+bitexact", **speed})
    stream.width, stream.height, stream.pix_fmt = 32, 32, pixels
    stream.codec_context.thread_count = 1
    stream.codec_context.gop_size = 3
    shades = (np.full((32, 32, 3), shade, np.uint8) for shade in range(0, 250, 50))
    frames = (av.VideoFrame.from_ndarray(shade).reformat(format=pixels) for shade in shades)
    return stream, frames


def _audio(container: Any, codec: str) -> tuple[Any, Iterator[av.AudioFrame]]:
    sample_format = _SAMPLE_FORMATS.get(codec, "s16")
    stream = container.add_stream(codec, rate=48000, options={"flags": "+bitexact"})
    context = stream.codec_context
    context.layout, context.format, context.thread_count = "mono", sample_format, 1
    tone = (np.sin(np.arange(4800) * 0.05) * 9000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(tone[np.newaxis], format="s16", layout="mono")
    frame.sample_rate = 48000
    resampler = av.AudioResampler(sample_format, "mono", 48000, context.frame_size or None)
    return stream, iter((*resampler.resample(frame), *resampler.resample(None)))


def _split(data: bytes) -> list[bytes]:
    boxes: list[bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        boxes.append(data[at : at + size])
        at += size
    return boxes


def _shifted(movie: bytes, by: int) -> bytes:
    """Return a box with every chunk offset in it moved."""
    kind, body = movie[4:8], movie[8:]
    if kind in _HOLDS_BOXES:
        return box(kind, b"".join(_shifted(child, by) for child in _split(body)))
    if kind in (b"stco", b"co64"):
        code = "I" if kind == b"stco" else "Q"
        count = int.from_bytes(body[4:8])
        offsets = struct.unpack(f">{count}{code}", body[8:])
        return box(kind, body[:8] + struct.pack(f">{count}{code}", *(at + by for at in offsets)))
    return movie


def _kinds(boxes: Sequence[bytes]) -> list[bytes]:
    return [part[4:8] for part in boxes]


def _rearranged(data: bytes, rng: random.Random) -> bytes:
    boxes = _split(data)
    fragmented = b"moof" in _kinds(boxes)
    if not fragmented:
        boxes = _widened(_movie_changed(boxes, rng), rng)
    extra = [
        box(b"free", b""),
        box(b"free", bytes(rng.randrange(60))),
        box(b"skip", rng.randbytes(9)),
        box(b"uuid", rng.randbytes(16) + b"of another program"),
        box(b"uuid", bytes(16)),
        box(b"wide", b""),
    ]
    boxes += rng.sample(extra, rng.choice([0, 0, 1, 2]))
    if boxes[-1][:4] != b"\0\0\0\1" and rng.random() < 0.2:
        # The last box may leave its size open: up to the end of the file.
        boxes[-1] = bytes(4) + boxes[-1][4:]
    return b"".join(boxes)


def _movie_changed(boxes: list[bytes], rng: random.Random) -> list[bytes]:
    """Put boxes into the movie and in front of the media, perhaps the movie itself."""
    old_start = _media_start(boxes)
    movie = boxes.pop(_kinds(boxes).index(b"moov"))
    if rng.random() < 0.4:
        movie = box(b"moov", movie[8:] + box(b"free", bytes(rng.randrange(30))))
    if rng.random() < 0.3:
        boxes.insert(1, box(rng.choice([b"free", b"uuid"]), rng.randbytes(rng.randint(16, 40))))
    boxes.insert(rng.choice([1, len(boxes)]), movie)
    movie = _shifted(movie, _media_start(boxes) - old_start)
    return [movie if part[4:8] == b"moov" else part for part in boxes]


def _media_start(boxes: Sequence[bytes]) -> int:
    return sum(len(part) for part in boxes[: _kinds(boxes).index(b"mdat")])


def _widened(boxes: list[bytes], rng: random.Random) -> list[bytes]:
    """Give the media a 64-bit size, for which encoders leave 8 free bytes in front of it."""
    media = _kinds(boxes).index(b"mdat")
    if boxes[media - 1][:4] != b"\0\0\0\x08" or rng.random() < 0.7:
        return boxes
    body = boxes[media][8:]
    wide = struct.pack(">I4sQ", 1, b"mdat", len(body) + 16) + body
    return [*boxes[: media - 1], wide, *boxes[media + 1 :]]
