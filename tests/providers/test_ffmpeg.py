import asyncio
import gc
import hashlib
import io
import uuid
from pathlib import Path

import pytest

from genblaze_dagster.errors import (
    ConfigError,
    InvalidRequestError,
    OutputError,
)
from genblaze_dagster.media.probe import probe
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.providers.ffmpeg import FFmpegCompositor, FFmpegTransform
from genblaze_dagster.providers.ffmpeg.program import find_ffmpeg
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Output, Provider
from genblaze_dagster.storage.store import MediaStore
from tests.providers.ffmpeg_media import given, local, make, read


def _is_there() -> bool:
    try:
        find_ffmpeg()
    except ConfigError:
        return False
    return True


needs_ffmpeg = pytest.mark.skipif(not _is_there(), reason="needs imageio-ffmpeg or ffmpeg")


@pytest.fixture(scope="module")
def video() -> InputMedia:
    return local("video", width=160, height=90, duration=1.0, fps=10)


@pytest.fixture(scope="module")
def sound() -> InputMedia:
    return local("audio", duration=1.5)


@pytest.fixture(scope="module")
def picture() -> InputMedia:
    return local("image", width=96, height=64)


def facts(output: Output) -> dict[str, object]:
    assert output.media_type is not None
    return probe(read(output), output.media_type)


def test_they_are_providers() -> None:
    """Both have all a Runner calls, the names of the guides, and nothing to pay twice."""
    for provider, name in (
        (FFmpegCompositor(), "ffmpeg-compositor"),
        (FFmpegTransform(), "ffmpeg-transform"),
    ):
        assert isinstance(provider, Provider)
        assert provider.name == name
        assert provider.deduplicates
        assert provider.estimate_cost(GenerationRequest("ffmpeg")) == 0.0


@needs_ffmpeg
def test_video_and_audio_become_one_file(video: InputMedia, sound: InputMedia) -> None:
    """The MP4 has the pictures as they were and the sound as AAC, and ends with the shorter one."""
    output = make(FFmpegCompositor(), sound, video)
    known = facts(output)
    assert output.media_type == "video/mp4"
    assert (known["width"], known["height"]) == (160, 90)
    assert known["duration"] == pytest.approx(1.0, abs=0.1)
    assert known["audio"]["codec"] == "aac"  # type: ignore[index]


@needs_ffmpeg
def test_mp3_is_copied_into_the_film(video: InputMedia) -> None:
    """Sound that MP4 players know is not encoded again."""
    output = make(FFmpegCompositor(), video, local("audio", duration=1.5, output_format="mp3"))
    assert facts(output)["audio"]["codec"] == "mp3"  # type: ignore[index]


@pytest.mark.parametrize("missing", ["audio", "video"])
def test_a_compositor_needs_both(missing: str, video: InputMedia, sound: InputMedia) -> None:
    """It says which kind of input is not there."""
    inputs = (video,) if missing == "audio" else (sound,)
    with pytest.raises(InvalidRequestError, match=f"there is no {missing}"):
        FFmpegCompositor().validate(GenerationRequest("ffmpeg", inputs=inputs))


@needs_ffmpeg
@pytest.mark.parametrize(
    "params",
    [
        {"operation": "resize", "width": 80, "height": -1},
        {"operation": "overlay_text", "text": "dusk"},
        {"operation": "audio_normalize"},
        {"operation": "convert_format", "format": "webm"},
        {"operation": "convert_format", "format": "mkv"},
        {"operation": "convert_format", "format": "ogg"},
    ],
    ids=lambda params: "-".join(str(value) for value in params.values()),
)
def test_the_same_request_gives_the_same_bytes(
    params: dict[str, object], video: InputMedia, sound: InputMedia
) -> None:
    """No time, random number or tag gets in, so the hashes of two runs agree."""
    film = given(read(make(FFmpegCompositor(), video, sound)), "video/mp4")
    assert read(make(FFmpegTransform(), film, **params)) == read(
        make(FFmpegTransform(), film, **params)
    )


@needs_ffmpeg
def test_resize_and_crop(video: InputMedia, picture: InputMedia) -> None:
    """Pictures and videos get the size that is asked for and keep their format."""
    transform = FFmpegTransform()
    small = make(transform, picture, operation="resize", width=48, height=-1)
    assert (small.media_type, facts(small)) == ("image/png", {"width": 48, "height": 32})
    film = facts(make(transform, video, operation="resize", width=-1, height=46))
    assert (film["width"], film["height"]) == (82, 46)
    part = facts(make(transform, video, operation="crop", width=40, height=20, x=7, y=3))
    assert (part["width"], part["height"]) == (40, 20)


@needs_ffmpeg
@pytest.mark.parametrize(
    "text",
    ["plain", "a:b'c\\", "%{pts} %{metadata:x}", "':textfile=/etc/passwd:x='0", "two\nlines"],
    ids=["plain", "quotes", "expansion", "injection", "lines"],
)
def test_text_is_written_as_it_is(text: str) -> None:
    """No character of the text is taken for ffmpeg's own language; all of it gets on the picture."""
    from PIL import Image

    black = io.BytesIO()
    Image.new("RGB", (600, 120)).save(black, "PNG")
    output = make(
        FFmpegTransform(),
        given(black.getvalue(), "image/png"),
        operation="overlay_text",
        text=text,
        fontcolor="#00ff00",
    )
    with Image.open(io.BytesIO(read(output))) as written:
        box = written.convert("RGB").getbbox()
        assert box is not None
        assert written.convert("RGB").getpixel((599, 119)) == (0, 0, 0)
    left, top, right, bottom = box
    # Tall letters reach a pixel above the line's own top.
    assert (left >= 10, top >= 8) == (True, True)
    assert right - left > 6 * max(len(line) for line in text.split("\n"))
    assert (bottom - top > 40) == ("\n" in text)


@needs_ffmpeg
def test_loudness_is_brought_to_the_target(sound: InputMedia) -> None:
    """A quieter target gives less signal, and the rate of the sound stays a usual one."""
    import numpy as np

    def level(target: float) -> float:
        output = make(FFmpegTransform(), sound, operation="audio_normalize", target_lufs=target)
        assert facts(output)["audio"]["sample_rate"] == 48_000  # type: ignore[index]
        samples = np.frombuffer(read(output)[44 : -1 if len(read(output)) % 2 else None], "<i2")
        return float(np.sqrt(np.mean(samples.astype(float) ** 2)))

    assert 2 < level(-20) / level(-32) < 8


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("mp4", "video/mp4"),
        ("MOV", "video/quicktime"),
        ("gif", "image/gif"),
        ("mp3", "audio/mpeg"),
        ("wav", "audio/wav"),
        ("flac", "audio/flac"),
        ("m4a", "audio/mp4"),
    ],
)
def test_formats(name: str, media_type: str, video: InputMedia, sound: InputMedia) -> None:
    """The bytes are of the format asked for; a sound format takes the sound out of a video."""
    from genblaze_dagster.media.sniff import sniff_media_type

    film = given(read(make(FFmpegCompositor(), video, sound)), "video/mp4")
    output = make(FFmpegTransform(), film, operation="convert_format", format=name)
    assert output.media_type == media_type
    assert sniff_media_type(read(output)[:64]) == media_type


@needs_ffmpeg
def test_sound_in_mp4_says_that_it_is_sound(sound: InputMedia) -> None:
    """A conversion of audio to mp4 is audio/mp4, not a video without pictures."""
    output = make(FFmpegTransform(), sound, operation="convert_format", format="mp4")
    assert output.media_type == "audio/mp4"


@needs_ffmpeg
def test_tags_of_the_input_stay_behind(picture: InputMedia) -> None:
    """What is derived does not carry the manifest or the secrets of what it came from."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "of-another-file")
    tagged = io.BytesIO()
    Image.new("RGB", (32, 32)).save(tagged, "PNG", pnginfo=info)
    assert b"of-another-file" in tagged.getvalue()
    source = given(tagged.getvalue(), "image/png")
    output = make(FFmpegTransform(), source, operation="resize", width=16, height=16)
    assert b"of-another-file" not in read(output)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({}, "operation"),
        ({"operation": "rotate"}, "operation"),
        ({"operation": "resize", "width": 80}, "height"),
        ({"operation": "resize", "width": 81, "height": 80}, "width"),
        ({"operation": "resize", "width": "80;", "height": 80}, "width"),
        ({"operation": "resize", "width": True, "height": 80}, "width"),
        ({"operation": "resize", "width": -1, "height": -1}, "width"),
        ({"operation": "resize", "width": 16_000, "height": 16_000}, "width"),
        ({"operation": "crop", "width": 100, "height": 50, "x": 100}, "width"),
        ({"operation": "overlay_text"}, "text"),
        ({"operation": "overlay_text", "text": "a\0b"}, "text"),
        ({"operation": "overlay_text", "text": "\ud800"}, "text"),
        ({"operation": "overlay_text", "text": "x", "fontcolor": "red:x=9"}, "fontcolor"),
        ({"operation": "overlay_text", "text": "x", "x": "h-10"}, "x"),
        ({"operation": "audio_normalize", "target_lufs": float("nan")}, "target_lufs"),
        ({"operation": "convert_format", "format": "../x"}, "format"),
        ({"operation": "convert_format", "fromat": "mp4"}, "fromat"),
    ],
    ids=str,
)
def test_wrong_parameters_are_refused_by_name(params: dict[str, object], param: str) -> None:
    """Nothing is run; the error names the parameter and what it may be."""
    source = given(b"x", "video/mp4", width=160, height=90)
    with pytest.raises(InvalidRequestError) as refused:
        FFmpegTransform().validate(GenerationRequest("ffmpeg", inputs=(source,), params=params))
    assert refused.value.param == param
    assert refused.value.sent is False


@needs_ffmpeg
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "of no known format"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "of no known format"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + b"\xff" * 500, "ffmpeg could not convert"),
        (b"", "of no known format"),
    ],
    ids=["playlist", "concat", "garbage", "empty"],
)
def test_what_is_no_media_is_refused(data: bytes, said: str) -> None:
    """A playlist that calls itself a video is never opened, and broken media is a typed error."""
    with pytest.raises(InvalidRequestError, match=said):
        make(FFmpegTransform(), given(data, "video/mp4"), operation="convert_format")


@needs_ffmpeg
def test_a_picture_too_large_to_decode_is_refused(picture: InputMedia) -> None:
    """A header that claims billions of pixels costs an error, not the memory."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    bomb += chunk(b"IDAT", zlib.compress(bytes(180_001))) + chunk(b"IEND", b"")
    # What is worked on for longer than a minute fails with another error.
    transform = FFmpegTransform(timeout=60)
    with pytest.raises(InvalidRequestError, match="could not resize"):
        make(transform, given(bomb, "image/png"), operation="resize", width=8, height=8)


@needs_ffmpeg
def test_inputs_must_be_the_bytes_of_their_records(picture: InputMedia) -> None:
    """Media that was changed in the store is not worked on."""
    data = asyncio.run(picture.read())
    changed = given(data, "image/png", sha256="0" * 64)
    with pytest.raises(InvalidRequestError, match="not the bytes of its record"):
        make(FFmpegTransform(), changed, operation="resize", width=8, height=8)


@needs_ffmpeg
def test_sizes_are_limited(picture: InputMedia) -> None:
    """A declared size is refused at once, a stream when it gets too long, an output likewise."""
    size = len(asyncio.run(picture.read()))
    transform = FFmpegTransform(max_bytes=size - 1)
    enlarge = {"operation": "resize", "width": 8, "height": 8}
    with pytest.raises(InvalidRequestError, match=f"has {size} bytes"):
        make(transform, picture, **enlarge)
    undeclared = given(asyncio.run(picture.read()), "image/png", size_bytes=None)
    with pytest.raises(InvalidRequestError, match="more than the allowed"):
        make(transform, undeclared, **enlarge)
    with pytest.raises(OutputError, match="output has more than"):
        make(
            FFmpegTransform(max_bytes=size),
            picture,
            **{**enlarge, "width": 1000, "height": 1000},
        )


@needs_ffmpeg
def test_temporary_files_live_as_long_as_the_output(picture: InputMedia) -> None:
    """The file alone is there while somebody holds the output; its folder is gone after that."""
    output = make(FFmpegTransform(), picture, operation="resize", width=8, height=8)
    assert output.path is not None
    folder = output.path.parent
    assert [entry.name for entry in folder.iterdir()] == ["output.png"]
    del output
    gc.collect()
    assert not folder.exists()


@needs_ffmpeg
def test_outputs_can_be_kept(picture: InputMedia, tmp_path: Path) -> None:
    """With output_dir the file stays there, under its hash."""
    kept = tmp_path / "new" / "folder"
    output = make(FFmpegTransform(kept), picture, operation="resize", width=8, height=8)
    data = read(output)
    assert [entry.name for entry in kept.iterdir()] == [f"{hashlib.sha256(data).hexdigest()}.png"]


@needs_ffmpeg
def test_a_pipeline_with_ffmpeg(tmp_path: Path) -> None:
    """Local video and audio are put together and made smaller, stored and provable."""
    pipeline = Pipeline("film")
    pipeline.step(
        LocalProvider(), model="local-video", modality="video", prompt="x", width=64, height=64,
        duration=0.5, fps=8,
    )  # fmt: skip
    pipeline.step(LocalProvider(), model="local-audio", modality="audio", prompt="x", duration=0.5)
    pipeline.step(
        FFmpegCompositor(), model="ffmpeg", modality="video", name="film", step_type="mix",
        input_from=["video", "audio"],
    )  # fmt: skip
    pipeline.step(
        FFmpegTransform(), model="ffmpeg", modality="video", name="small", step_type="transcode",
        input_from="film", operation="resize", width=32, height=32,
    )  # fmt: skip
    store = MediaStore(f"memory://{uuid.uuid4().hex}")
    result = pipeline.run(store=store, ledger=f"sqlite:///{tmp_path / 'ledger.db'}")
    small = result.media("small").object
    assert (small.width, small.height, small.media_type) == (32, 32, "video/mp4")
    assert result.manifest.verify()
    assert [step.cost_usd for step in result.run.steps] == [0.0] * 4
