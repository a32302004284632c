"""Cut off or whole: never a false alarm, and no half of a file that says how long it is."""

import asyncio
import io
import random
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.media.truncation import MAX_STEPS, TruncationCheck
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from tests.media.corpus import CONTAINERS, MAKERS, files
from tests.support.providers import png

SAMPLE = 40


def cut_off(data: bytes, piece: int = 1 << 18) -> bool:
    check = TruncationCheck()
    for at in range(0, len(data), piece):
        check.feed(data[at : at + piece])
    return check.is_cut_off()


def cuts(data: bytes, count: int = 20) -> Iterator[bytes]:
    """Yield beginnings of a file, spread over all but its first and last percent."""
    for number in range(count):
        yield data[: round(len(data) * (0.01 + 0.98 * number / (count - 1)))]


def pictured(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    pages = [Image.fromarray(np.roll(noise, shift)) for shift in range(3)]
    options |= {"save_all": True, "append_images": pages[1:]} if form in ("GIF", "WEBP") else {}
    pages[0].save(file, form, **options)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """Takes bytes and cannot be rewound."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def sounded(form: str, codec: str, *, seconds: int = 2, piped: bool = False) -> bytes:
    """Return noise in a container of PyAV's."""
    file: Any = Pipe() if piped else io.BytesIO()
    with av.open(file, "w", format=form, options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(codec, rate=48000)
        context = stream.codec_context
        context.layout, context.thread_count = "mono", 1
        noise = np.random.default_rng(1).integers(-9000, 9000, 48000 * seconds, np.int16)
        frame = av.AudioFrame.from_ndarray(noise[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = 48000
        resampler = av.AudioResampler(context.format, "mono", 48000, context.frame_size or None)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return file.data if piped else file.getvalue()


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_whole_file_is_never_called_cut_off(container: str) -> None:
    """Streaming headers, odd sizes, missing pad bytes and bytes behind the end prove nothing."""
    for name, data in files(container, SAMPLE, 5):
        for piece in (1, 17, 1 << 18):
            assert not cut_off(data, piece), name


@pytest.mark.slow
@pytest.mark.parametrize("container", CONTAINERS)
def test_none_of_many_files_is_called_cut_off(container: str) -> None:
    """The same for many more files."""
    for name, data in files(container, 400, 6):
        assert not cut_off(data), name


def test_golden_media_is_whole(vectors: Path) -> None:
    """Files of genblaze, with its manifests in them, are whole as they are."""
    found = [path for path in sorted((vectors / "genblaze" / "media").rglob("*")) if path.is_file()]
    assert len(found) > 20
    assert [path.name for path in found if cut_off(path.read_bytes())] == []


@pytest.mark.parametrize(
    ("model", "modality", "params"),
    [
        ("local-image", Modality.IMAGE, {}),
        ("local-video", Modality.VIDEO, {"duration": 1}),
        ("local-audio", Modality.AUDIO, {"duration": 1}),
    ],
)
def test_what_the_local_provider_makes_is_whole_and_its_half_is_not(
    model: str, modality: Modality, params: Mapping[str, Any]
) -> None:
    """Media of the provider that comes with the package is understood."""
    asked = GenerationRequest(model=model, prompt="a lake", modality=modality, params=dict(params))
    submission = asyncio.run(LocalProvider().submit(asked))
    assert submission.result is not None
    for output in submission.result.outputs:
        assert output.data is not None
        assert not cut_off(output.data)
        assert cut_off(output.data[: len(output.data) // 2])


OTHERS: Mapping[str, Callable[[], bytes]] = {
    "gif": lambda: pictured("GIF"),
    "animated webp": lambda: pictured("WEBP"),
    "avif": lambda: pictured("AVIF"),
    "progressive jpeg": lambda: pictured("JPEG", progressive=True),
    "webm": lambda: sounded("webm", "libopus"),
    "matroska": lambda: sounded("matroska", "pcm_s16le"),
    "wav": lambda: sounded("wav", "pcm_s16le"),
    "glb": lambda: b"glTF" + struct.pack("<II", 2, 1012) + bytes(1000),
    "png": lambda: png("a fox", 5000),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_every_cut_through_a_file_that_knows_its_length_is_found(
    make: Callable[[], bytes],
) -> None:
    """Wherever it is cut and however its bytes arrive, half a file is half a file."""
    data = make()
    assert not cut_off(data)
    assert not cut_off(data, 7)
    for number, part in enumerate(cuts(data)):
        assert cut_off(part), (number, len(part), len(data))
        assert cut_off(part, 101), (number, len(part), len(data))


@pytest.mark.parametrize(
    ("form", "codec"), [("mp3", "libmp3lame"), ("flac", "flac"), ("ogg", "libopus")]
)
def test_a_quarter_of_a_sound_is_found(form: str, codec: str) -> None:
    """Frames have no end that is cheap to see: what header and pages say has to do."""
    data = sounded(form, codec, seconds=8)
    assert not cut_off(data)
    assert cut_off(data[: len(data) // 4])


@pytest.mark.parametrize("container", ["png", "jpg", "webp", "mp4", "mov", "m4a"])
def test_nearly_every_half_of_a_picture_or_film_is_found(container: str) -> None:
    """Where it is not, the cut is between two parts that could both be the last."""
    found = [cut_off(data[: len(data) // 2]) for _, data in files(container, SAMPLE, 5)]
    assert sum(found) >= 0.85 * len(found)


@pytest.mark.parametrize(
    ("form", "codec"),
    [("wav", "pcm_s16le"), ("webm", "libopus"), ("mp3", "libmp3lame"), ("flac", "flac")],
)
def test_what_was_written_into_a_pipe_is_never_called_cut_off(form: str, codec: str) -> None:
    """Encoders that cannot go back to write the sizes leave them open: nothing is known."""
    data = sounded(form, codec, piped=True)
    assert not cut_off(data)
    assert not cut_off(data[: len(data) // 2 + 1000]) or form == "webm"


def riff(size: int, data_size: int, sound: int = 1000) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    start = b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + struct.pack("<I", 16) + form
    return start + b"data" + struct.pack("<I", data_size) + bytes(sound)


@pytest.mark.parametrize(
    ("size", "data_size"),
    [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0, 0xFFFFFFFF), (0x7FFFF000, 0x7FFFEFDC), (36, 4000)],
)
def test_sizes_that_a_stream_leaves_open_or_that_disagree_prove_nothing(
    size: int, data_size: int
) -> None:
    """A WAV is cut off only if the sizes of file and sound say the same."""
    assert not cut_off(riff(size, data_size))


def test_a_wav_whose_sizes_agree_is_cut_off_without_its_sound() -> None:
    """One byte less is a pad byte that somebody has left out."""
    whole = riff(1036, 1000)
    assert not cut_off(whole)
    assert not cut_off(whole + b"behind it")
    assert cut_off(whole[:-1])
    assert cut_off(whole[:40])


def box(kind: bytes, body: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(body) if size is None else size, kind) + body


FILM = box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", bytes(40))


@pytest.mark.parametrize(
    "end",
    [
        box(b"mdat", bytes(500), 0),
        box(b"mdat", bytes(500)) + b"\0\0\0\0",
        box(b"mdat", bytes(500)) + b"written by a program that knows no boxes",
        box(b"mdat", bytes(500)) + bytes(100),
        box(b"mdat", bytes(500)) + box(b"mdat", bytes(8), 4),
        box(b"mdat", struct.pack(">Q", 0), 1) + bytes(500),
    ],
    ids=["open", "zeros", "text", "many-zeros", "too-small", "wide-zero"],
)
def test_films_that_end_in_an_odd_way_are_whole(end: bytes) -> None:
    """A box of size 0 goes to the end, and what is no box is somebody's tail."""
    assert not cut_off(FILM + end)
    assert not cut_off(FILM + end, 3)


def test_a_film_with_a_64_bit_size_is_cut_off_before_its_end() -> None:
    """Sizes above 4 GiB are understood without so many bytes being kept."""
    start = FILM + box(b"mdat", struct.pack(">Q", 6 << 30), 1)
    check = TruncationCheck()
    check.feed(start)
    check.feed(bytes(1 << 20))
    assert check.is_cut_off()


def test_a_jpeg_with_a_preview_inside_and_bytes_behind_it() -> None:
    """The end of a preview is not that of the picture, and nothing behind the end counts."""
    picture = pictured("JPEG")
    preview = b"\xff\xe1" + struct.pack(">H", 2 + len(picture)) + picture
    whole = picture[:2] + preview + b"\xff\xff\xff" + picture[2:]
    assert not cut_off(whole)
    assert not cut_off(whole + picture[:100])
    assert cut_off(whole[: 2 + len(preview) + 100])
    assert cut_off(whole[:-2])


def test_a_gif_without_the_mark_at_its_end_is_whole() -> None:
    """Some writers leave it out, and everybody shows their pictures."""
    assert not cut_off(pictured("GIF")[:-1])
    assert cut_off(pictured("GIF")[:-2])


def test_bytes_that_are_no_media_are_never_called_cut_off() -> None:
    """Text, nothing, a single byte, and a container nobody here knows."""
    for data in (b"", b"x", b'{"a": 1}', b"%PDF-1.7 x", b"II*\0" + bytes(100), b"\x89PNG\r\n"):
        assert not cut_off(data)


def test_millions_of_parts_are_not_counted() -> None:
    """A file made to keep the reader busy ends the walk, and with it any verdict."""
    start = pictured("GIF")[:-1] + b"!\xfe"
    assert cut_off(start + b"\x01x" * 100)
    assert not cut_off(start + b"\x01x" * (MAX_STEPS // 2))


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_files_raise_nothing_and_end(container: str) -> None:
    """Whatever bytes stand where a size should be, there is an answer."""
    rng = random.Random(7)  # noqa: S311 - repeatable, not secret
    for _ in range(60):
        data = bytearray(MAKERS[container](rng))
        for _ in range(8):
            data[rng.randrange(len(data))] = rng.randrange(256)
        assert cut_off(bytes(data), rng.choice((1, 5, 1 << 18))) in (True, False)
