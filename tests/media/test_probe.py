import io
import time
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from genblaze_dagster.core.models import Asset
from genblaze_dagster.media.probe import probe
from tests.media.damage import damaged


def picture(
    output_format: str, size: tuple[int, int], mode: str = "RGB", **options: object
) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], len(mode)), np.uint8)
    Image.fromarray(pixels).save(buffer, output_format, **options)
    return buffer.getvalue()


def sound(container: str, codec: str, *, rate: int = 48_000, seconds: float = 1.5) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(
            codec, rate=rate, layout="stereo", options={"strict": "experimental"}
        )
        frame_size = 960
        for start in range(0, int(rate * seconds), frame_size):
            ramp = np.arange(start, start + frame_size) / rate
            wave = (0.3 * np.sin(2 * np.pi * 440 * ramp)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
            frame.sample_rate, frame.pts = rate, start
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def film(container: str, codec: str, frames: int = 30, **options: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=15)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(
                np.full((96, 96), 4 * number + 20, np.uint8), format="yuv420p"
            )
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("output_format", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}),
        ("GIF", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 50}),
        ("WEBP", "RGBA", {"quality": 50}),
        ("AVIF", "RGB", {}),
        ("AVIF", "RGBA", {}),
    ],
)
def test_size_of_pictures(output_format: str, mode: str, options: dict[str, object]) -> None:
    """Width and height are those Pillow wrote, in every flavour of every format."""
    data = picture(output_format, (123, 45), mode, **options)
    assert probe(data, f"image/{output_format.lower()}") == {"width": 123, "height": 45}


def test_size_of_an_animated_webp_is_its_canvas() -> None:
    """An animation reports the size of its canvas."""
    frames = [Image.new("RGB", (70, 30), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    assert probe(buffer.getvalue(), "image/webp") == {"width": 70, "height": 30}


@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_facts_of_a_film(container: str) -> None:
    """Size, duration, frame rate and codec come from the movie header."""
    facts = probe(film(container, "libx264"), "video/mp4")
    assert facts == {
        "width": 96,
        "height": 64,
        "duration": 2.0,
        "video": {"frame_rate": 15.0, "codec": "h264", "has_audio": False},
    }


def test_facts_of_a_film_on_its_side() -> None:
    """A film that is shown turned by a quarter reports the size it is shown at."""
    data = film("mp4", "libx264")
    upright = bytes.fromhex("00010000 00000000 00000000 00000000 00010000")
    turned = bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000")
    header = data.index(b"tkhd")
    at = data.index(upright, header)
    facts = probe(data[:at] + turned + data[at + len(turned) :], "video/mp4")
    assert (facts["width"], facts["height"]) == (64, 96)


def test_facts_of_a_fragmented_film_leave_out_what_is_not_in_its_header() -> None:
    """A fragmented file still has size and codec."""
    data = film("mp4", "libx264", movflags="frag_keyframe+empty_moov")
    facts = probe(data, "video/mp4")
    assert (facts["width"], facts["height"], facts["video"]["codec"]) == (96, 64, "h264")
    assert "frame_rate" not in facts["video"]


@pytest.mark.parametrize(
    ("container", "codec", "rate", "expected"),
    [
        ("wav", "pcm_s16le", 48_000, {"codec": "pcm_s16le", "bitrate": 1_536_000}),
        ("wav", "pcm_f32le", 44_100, {"codec": "pcm_f32le", "bitrate": 2_822_400}),
        ("wav", "pcm_s24le", 48_000, {"codec": "pcm_s24le", "bitrate": 2_304_000}),
        ("flac", "flac", 44_100, {"codec": "flac"}),
        ("mp3", "libmp3lame", 44_100, {"codec": "mp3"}),
        ("ipod", "aac", 48_000, {"codec": "aac"}),
        ("adts", "aac", 48_000, {"codec": "aac"}),
        ("ogg", "vorbis", 44_100, {"codec": "vorbis"}),
        ("ogg", "libopus", 48_000, {"codec": "opus"}),
        ("ogg", "flac", 44_100, {"codec": "flac"}),
    ],
)
def test_facts_of_sound(container: str, codec: str, rate: int, expected: dict[str, object]) -> None:
    """Duration, sample rate, channels and codec of what FFmpeg's muxers write."""
    facts = probe(sound(container, codec, rate=rate), "")
    assert facts["duration"] == pytest.approx(1.5, abs=0.08)
    assert facts["audio"].items() >= (expected | {"sample_rate": rate, "channels": 2}).items()
    assert "video" not in facts


def test_bytes_go_before_the_declared_type_and_paths_work(tmp_path: Path) -> None:
    """A JPEG that is served as PNG is probed as JPEG, from memory and from disk."""
    data = picture("JPEG", (40, 30))
    file = tmp_path / "wrong.png"
    file.write_bytes(data)
    assert probe(data, "image/png") == probe(file, "image/png") == {"width": 40, "height": 30}


@pytest.mark.parametrize("media_type", ["text/plain", "", "video/webm", "image/png"])
def test_unknown_bytes_have_no_facts(media_type: str) -> None:
    """What no parser knows has no facts and is no error."""
    assert probe(b"just some text", media_type) == {}
    assert probe(b"", media_type) == {}


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """A path that does not exist is not mistaken for broken media."""
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "nothing.png", "image/png")


def test_huge_film_is_probed_by_hopping(tmp_path: Path) -> None:
    """A 6 GB film needs a few reads, whatever stands between its headers."""
    data = film("mp4", "libx264")
    moov = data.index(b"moov") - 4
    file = tmp_path / "huge.mp4"
    size = 6 << 30
    with file.open("wb") as output:
        output.write(data[: data.index(b"mdat") - 4])
        output.write((1).to_bytes(4) + b"mdat" + size.to_bytes(8))
        output.seek(size - 16, 1)
        output.write(data[moov:])
    tracemalloc.start()
    facts = probe(file, "video/mp4")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert facts["duration"] == 2.0
    assert peak < 1 << 20


def test_film_of_nothing_but_boxes_is_probed_soon() -> None:
    """Many tracks of many boxes, of which none is the one looked for, end in seconds."""

    def box(kind: bytes, body: bytes) -> bytes:
        return (len(body) + 8).to_bytes(4) + kind + body

    track = box(
        b"trak", box(b"mdia", box(b"hdlr", bytes(8) + b"vide") + box(b"free", b"") * 20_000)
    )
    data = box(b"ftyp", b"isom" + bytes(8)) + box(b"moov", track * 200)
    started = time.thread_time()
    assert probe(data, "video/mp4") == {"video": {"has_audio": False}}
    assert time.thread_time() - started < 5


def check_damaged(files: list[bytes], rounds: int, seed: int) -> None:
    for data in damaged(files, rounds, seed):
        Asset(url="x:y", media_type="image/png", **probe(data, "image/png"))


@pytest.fixture(scope="module")
def samples(vectors: Path) -> list[bytes]:
    files = sorted((vectors / "genblaze" / "media" / "original").iterdir())
    return [
        *(file.read_bytes() for file in files),
        picture("AVIF", (40, 30)),
        film("mp4", "libx264", 5),
        sound("ipod", "aac", seconds=0.2),
        sound("adts", "aac", seconds=0.2),
        sound("ogg", "vorbis", seconds=0.2),
        sound("ogg", "libopus", seconds=0.2),
        sound("mp3", "libmp3lame", seconds=0.2),
    ]


def test_damaged_media_never_raise(samples: list[bytes]) -> None:
    """Whatever is broken, probing returns facts an Asset accepts."""
    check_damaged(samples, 2_000, seed=20)


@pytest.mark.slow
def test_damaged_media_never_raise_long(samples: list[bytes]) -> None:
    """The same with a hundred thousand damaged files."""
    check_damaged(samples, 100_000, seed=21)
