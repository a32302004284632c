import asyncio
import hashlib
import io
import re
import struct
import subprocess
import sys
import wave
from collections.abc import AsyncIterator

import av
import numpy as np
import pytest
from PIL import Image

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.media.boxes import walk
from genblaze_dagster.media.probe import probe
from genblaze_dagster.media.source import Source
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.local.palettes import PALETTES
from genblaze_dagster.providers.local.scenes import SCENES
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Result

MODALITIES = {
    "local-image": Modality.IMAGE,
    "local-video": Modality.VIDEO,
    "local-audio": Modality.AUDIO,
}


def request(model: str, prompt: str = "a quiet lake", **fields: object) -> GenerationRequest:
    return GenerationRequest(
        model=model,
        prompt=prompt,
        modality=MODALITIES[model],
        **fields,  # type: ignore[arg-type]
    )


def generate(asked: GenerationRequest) -> Result:
    submission = asyncio.run(LocalProvider().submit(asked))
    assert submission.result is not None
    return submission.result


def media(asked: GenerationRequest) -> bytes:
    (output,) = generate(asked).outputs
    assert output.data is not None
    return output.data


def as_input(data: bytes, media_type: str) -> InputMedia:
    async def read() -> bytes:
        return data

    async def stream() -> AsyncIterator[bytes]:
        yield data

    asset = Asset(
        url="memory://test/input",
        media_type=media_type,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return InputMedia(asset, read, stream, lambda: None)


def video_frames(data: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def png_chunks(data: bytes) -> list[bytes]:
    kinds, offset = [], 8
    while offset < len(data):
        length, kind = struct.unpack(">I4s", data[offset : offset + 8])
        kinds.append(kind)
        offset += length + 12
    return kinds


def test_png_opens_at_the_default_size_and_has_only_picture_chunks() -> None:
    """A default picture is a 512x512 RGB PNG without text, time or profile chunks."""
    data = media(request("local-image"))
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (512, 512), "RGB")
    assert set(png_chunks(data)) == {b"IHDR", b"IDAT", b"IEND"}


@pytest.mark.parametrize("scene", [scene.name for scene in SCENES])
def test_every_scene_is_a_picture_and_not_a_flat_area(scene: str) -> None:
    """Each composition fills the picture with many colours and clear contrast."""
    words = next(sorted(entry.words)[0] for entry in SCENES if entry.name == scene)
    result = generate(request("local-image", words, params={"width": 192, "height": 128}))
    assert result.provider_payload["drawn"].startswith(f"{scene}/")
    assert result.outputs[0].data is not None
    pixels = np.asarray(Image.open(io.BytesIO(result.outputs[0].data)))
    assert pixels.shape == (128, 192, 3)
    assert pixels.std() > 20
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 600


@pytest.mark.parametrize("scene", [sorted(scene.words)[0] for scene in SCENES])
@pytest.mark.parametrize(("width", "height"), [(16, 16), (1200, 16), (17, 1100)])
def test_every_scene_fits_every_shape(scene: str, width: int, height: int) -> None:
    """Tiny, wide and tall pictures are drawn, also with a caption, without numeric warnings."""
    params = {"width": width, "height": height, "caption": True}
    facts = probe(media(request("local-image", scene, params=params)), "")
    assert facts == {"width": width, "height": height}


def test_words_of_the_prompt_choose_scene_and_palette() -> None:
    """A prompt with known words gets their scene and palette, whatever the seed."""
    asked = "mountains at sunset"
    drawn = {
        generate(
            request("local-image", asked, seed=seed, params={"width": 16, "height": 16})
        ).provider_payload["drawn"]
        for seed in range(5)
    }
    assert drawn == {"ridges/ember"}


def test_seeds_choose_scene_and_palette_of_a_prompt_without_known_words() -> None:
    """Without a known word different seeds give different scenes and palettes."""
    drawn = {
        generate(
            request("local-image", "zyx", seed=seed, params={"width": 16, "height": 16})
        ).provider_payload["drawn"]
        for seed in range(30)
    }
    scenes, palettes = zip(*(pair.split("/") for pair in drawn), strict=True)
    assert len(set(scenes)) >= 4
    assert len(set(palettes)) >= 5
    assert set(palettes) <= {palette.name for palette in PALETTES}


def test_default_seed_comes_from_the_prompt_and_is_reported() -> None:
    """Passing back the reported seed gives the same picture; another prompt another seed."""
    first = generate(request("local-image", "one"))
    again = generate(request("local-image", "one", seed=first.provider_payload["seed"]))
    other = generate(request("local-image", "two"))
    assert first.outputs == again.outputs
    assert other.provider_payload["seed"] != first.provider_payload["seed"]


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("local-image", {}),
        ("local-image", {"output_format": "jpeg"}),
        ("local-image", {"output_format": "webp"}),
        ("local-image", {"caption": True, "aspect_ratio": "16:9"}),
        ("local-video", {"duration": 0.5, "width": 128, "height": 96}),
        ("local-audio", {"duration": 1}),
        ("local-audio", {"duration": 1, "output_format": "flac"}),
        ("local-audio", {"duration": 1, "output_format": "mp3"}),
    ],
)
def test_same_request_gives_the_same_bytes_and_another_seed_others(
    model: str, params: dict[str, object]
) -> None:
    """The bytes follow from the request alone, and change with seed and prompt."""
    first = media(request(model, params=params, seed=1))
    assert media(request(model, params=params, seed=1)) == first
    assert media(request(model, params=params, seed=2)) != first
    assert media(request(model, "another prompt", params=params, seed=1)) != first
    assert media(request(model, params=params, seed=1, negative_prompt="fog")) != first


def test_requests_at_the_same_time_do_not_disturb_each_other() -> None:
    """Eight generations at once give the bytes they give alone."""
    asked = [request("local-image", seed=seed, params={"width": 200}) for seed in range(4)] + [
        request("local-video", seed=seed, params={"width": 64, "duration": 0.5})
        for seed in range(4)
    ]

    async def together() -> list[Result | None]:
        provider = LocalProvider()
        submissions = await asyncio.gather(*(provider.submit(one) for one in asked))
        return [submission.result for submission in submissions]

    assert asyncio.run(together()) == [generate(one) for one in asked]


ELSEWHERE = """
import asyncio, hashlib
from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest

async def main():
    provider = LocalProvider(latency=5)
    for model, modality in (
        ("local-image", Modality.IMAGE), ("local-audio", Modality.AUDIO), ("local-video", Modality.VIDEO)
    ):
        request = GenerationRequest(
            model=model, modality=modality, prompt="a quiet lake", idempotency_key=model
        )
        result = await provider.fetch_output("any", request)
        print(hashlib.sha256(result.outputs[0].data).hexdigest())

asyncio.run(main())
"""


def test_another_process_fetches_the_same_bytes() -> None:
    """A process that never submitted a job fetches exactly what the submitter would have."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        hashlib.sha256(media(request(model))).hexdigest()
        for model in ("local-image", "local-audio", "local-video")
    ]


def test_wav_is_16_bit_stereo_of_the_asked_length() -> None:
    """The default audio is a 3 second stereo WAV, audible, without clipping or clicks at its ends."""
    with wave.open(io.BytesIO(media(request("local-audio"))), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 44_100)
        assert file.getnframes() == 3 * 44_100
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, 2)
    level = np.abs(samples.astype(int))
    assert 15_000 < level.max() < 32_000
    assert level[:10].max() < 200
    assert level[-10:].max() < 200
    assert not np.array_equal(samples[:, 0], samples[:, 1])


@pytest.mark.parametrize("output_format", ["flac", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_compressed_audio_decodes_to_the_asked_length(output_format: str, channels: int) -> None:
    """FLAC decodes to exactly the samples of the WAV, MP3 to about as many."""
    params = {"duration": 1.25, "sample_rate": 24_000, "channels": channels}
    plain = media(request("local-audio", params=params))
    data = media(request("local-audio", params=params | {"output_format": output_format}))
    assert len(data) < len(plain)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.sample_rate, stream.channels) == (24_000, channels)
        decoded = sum(frame.samples for frame in container.decode(audio=0))
    assert decoded == 30_000 if output_format == "flac" else abs(decoded - 30_000) < 3_000
    facts = probe(data, "")
    assert facts["duration"] == pytest.approx(1.25, abs=0.1)


def test_mp4_is_what_browsers_play_and_starts_at_once() -> None:
    """H.264 High yuv420p in limited BT.709, and the index stands before the media."""
    data = media(request("local-video"))
    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video[0]
        context = video.codec_context
        assert (context.name, video.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert (context.width, context.height, video.average_rate) == (512, 512, 12)
        assert (context.colorspace, context.color_range) == (1, 1)
        assert not container.streams.audio
        assert sum(1 for _ in container.decode(video=0)) == 24
    with Source.open(data) as source:
        boxes = [box.type for box in walk(source, 0, source.size)]
    assert boxes.index(b"moov") < boxes.index(b"mdat")
    assert boxes[0] == b"ftyp"


def test_files_carry_no_encoder_date_or_version() -> None:
    """No container names the muxer or a creation time, so that nothing changes by itself."""
    for asked in (
        request("local-video", params={"duration": 0.5}),
        request("local-audio", params={"output_format": "mp3", "duration": 0.5}),
        request("local-audio", params={"output_format": "flac", "duration": 0.5}),
    ):
        data = media(asked)
        assert not re.search(rb"Lav[cf]\d", data)
        with av.open(io.BytesIO(data)) as container:
            assert "creation_time" not in container.metadata


def test_video_starts_from_its_input_image_and_moves() -> None:
    """The first frame is the input picture; the last one is a closer look at it."""
    still = media(request("local-image", params={"width": 320, "height": 240}))
    frames = video_frames(media(request("local-video", inputs=(as_input(still, "image/png"),))))
    pixels = np.asarray(Image.open(io.BytesIO(still))).astype(int)
    assert frames[0].shape == (240, 320, 3)
    assert np.abs(frames[0] - pixels).mean() < 4
    assert np.abs(frames[-1] - pixels).mean() > 2 * np.abs(frames[0] - pixels).mean()


def test_video_carries_its_audio_input_and_lasts_as_long() -> None:
    """With sound the length follows the sound, and the sound is the input's."""
    sound = media(request("local-audio", params={"duration": 1.5}))
    data = media(request("local-video", inputs=(as_input(sound, "audio/wav"),)))
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.channels) == ("aac", 2)
        decoded = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
    expected = np.frombuffer(sound[44:], np.int16).reshape(-1, 2).T / 32768
    length = min(decoded.shape[1], expected.shape[1])
    assert np.corrcoef(decoded[0, :length], expected[0, :length])[0, 1] > 0.98
    facts = probe(data, "video/mp4")
    assert facts["duration"] == pytest.approx(1.5, abs=0.05)
    assert facts["video"]["has_audio"] is True


def test_sound_is_cut_to_an_explicit_duration() -> None:
    """An explicit duration wins over the length of the sound."""
    sound = media(request("local-audio", params={"duration": 2, "output_format": "mp3"}))
    data = media(
        request(
            "local-video",
            inputs=(as_input(sound, "audio/mpeg"),),
            params={"duration": 0.5, "width": 64, "height": 64},
        )
    )
    assert probe(data, "video/mp4")["duration"] == pytest.approx(0.5, abs=0.05)


def test_image_input_is_recoloured_not_replaced() -> None:
    """An edit keeps the forms of its input and takes the colours of the prompt."""
    source = media(request("local-image", "galaxy"))
    edited = media(request("local-image", "desert sand", inputs=(as_input(source, "image/png"),)))
    before, after = (
        np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(float).ravel()
        for data in (source, edited)
    )
    assert np.corrcoef(before, after)[0, 1] > 0.9
    assert source != edited


def test_inputs_set_the_mood_of_audio_by_their_content() -> None:
    """Audio accepts any input; other bytes give other music."""
    made = {
        media(
            request("local-audio", params={"duration": 0.5}, inputs=(as_input(data, "video/mp4"),))
        )
        for data in (b"one", b"two")
    }
    assert len(made) == 2


def test_several_pictures_have_consecutive_seeds() -> None:
    """The second of `n` pictures is the picture of the next seed."""
    small = {"width": 32, "height": 32}
    outputs = generate(request("local-image", seed=7, params=small | {"n": 3})).outputs
    assert len(outputs) == 3
    assert outputs[1].data == media(request("local-image", seed=8, params=small))


def test_caption_writes_the_prompt_only_when_asked() -> None:
    """The caption darkens the lower edge and leaves the rest of the picture alone."""
    plain, captioned = (
        np.asarray(Image.open(io.BytesIO(media(request("local-image", params=params)))))
        for params in ({}, {"caption": True})
    )
    assert np.array_equal(plain[:256], captioned[:256])
    assert captioned[-6:].mean() < 0.6 * plain[-6:].mean()
    assert captioned[-60:].max() == 255


@pytest.mark.parametrize(
    ("model", "params", "size"),
    [
        ("local-image", {"aspect_ratio": "16:9"}, (768, 432)),
        ("local-image", {"width": 333, "height": 77}, (333, 77)),
        ("local-image", {"width": 300}, (300, 300)),
        ("local-image", {"height": 360, "aspect_ratio": "16:9"}, (640, 360)),
        ("local-video", {"aspect_ratio": "9:16", "duration": 0.1}, (432, 768)),
        ("local-video", {"width": 64, "height": 48, "duration": 0.1}, (64, 48)),
    ],
)
def test_size_follows_width_height_and_aspect_ratio(
    model: str, params: dict[str, object], size: tuple[int, int]
) -> None:
    """A missing side follows from the aspect ratio."""
    facts = probe(media(request(model, params=params)), "")
    assert (facts["width"], facts["height"]) == size


def test_odd_and_transparent_input_pictures_become_an_even_video() -> None:
    """A 33x21 picture with an alpha channel gives a video with even sides."""
    buffer = io.BytesIO()
    Image.new("RGBA", (33, 21), (200, 10, 10, 128)).save(buffer, "PNG")
    asked = request(
        "local-video",
        inputs=(as_input(buffer.getvalue(), "image/png"),),
        params={"duration": 0.2},
    )
    frames = video_frames(media(asked))
    assert frames[0].shape == (20, 32, 3)
    assert frames[0][..., 0].mean() == pytest.approx(100, abs=6)


@pytest.mark.parametrize("media_type", ["image/png", "audio/wav"])
@pytest.mark.parametrize("data", [b"", b"not media at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 60])
def test_broken_inputs_are_refused(media_type: str, data: bytes) -> None:
    """Bytes that are not what their type says give InvalidRequestError about the inputs."""
    asked = request("local-video", inputs=(as_input(data, media_type),))
    with pytest.raises(InvalidRequestError) as caught:
        generate(asked)
    assert caught.value.param == "inputs"
    assert caught.value.sent is False
