import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ConfigError,
    InvalidRequestError,
    ModelError,
    OutputError,
)
from genblaze_dagster.providers.fal import FalProvider
from genblaze_dagster.providers.fal.jobs import job_id_of
from genblaze_dagster.providers.fal.results import facts_of, outputs_of
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.pricing import per_unit
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from tests.support.vendor import called
from tests.support.wire import API_KEY, Scenario, input_media

IMAGE, VIDEO, AUDIO, TEXT = Modality.IMAGE, Modality.VIDEO, Modality.AUDIO, Modality.TEXT
FLUX = "fal-ai/flux/schnell"
KLING = "fal-ai/kling-video/v2/master/text-to-video"
PICTURE = input_media(b"p", "image/png", public_url="https://s.example/p.png")
SOUND = input_media(b"s", "audio/mpeg", public_url="https://s.example/s.mp3")


def asked(
    model: str,
    modality: Modality = IMAGE,
    params: Mapping[str, Any] | None = None,
    *inputs: InputMedia,
    prompt: str | None = "x",
    **fields: Any,
) -> GenerationRequest:
    return GenerationRequest(
        model=model,
        prompt=prompt,
        modality=modality,
        params=params or {},
        inputs=inputs,
        **fields,
    )


def made(method: str, url: str, answer: Any, **sent: Any) -> Scenario:
    """Return a scenario of one call; `sent` is what its request must hold."""
    request = {
        "method": method,
        "url": url,
        "headers": {"authorization": "Key {{API_KEY}}"},
        **sent,
    }
    return Scenario(
        "made", "fal", {}, [{"request": request, "response": {"status": 200, "json": answer}}]
    )


def make(client: Any) -> FalProvider:
    return FalProvider(API_KEY, client=client)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (
            asked(FLUX, params={"aspect_ratio": "16:9", "n": 3, "output_format": "jpg"}, seed=0),
            {
                "prompt": "x",
                "image_size": "landscape_16_9",
                "num_images": 3,
                "output_format": "jpeg",
                "seed": 0,
            },
        ),
        (
            asked(FLUX, params={"width": 640, "height": 480}),
            {"prompt": "x", "image_size": {"width": 640, "height": 480}},
        ),
        (
            asked("fal-ai/recraft/v3/text-to-image", params={"image_size": "square"}),
            {"prompt": "x", "image_size": "square"},
        ),
        (
            asked("fal-ai/aura-sr", IMAGE, {"scale": 4}, PICTURE, prompt=None),
            {"image_url": "https://s.example/p.png", "upscale_factor": 4},
        ),
        (asked(KLING, VIDEO, {"duration": 5.0}), {"prompt": "x", "duration": "5"}),
        (asked(KLING, VIDEO, {"duration": "10"}), {"prompt": "x", "duration": "10"}),
        (asked("fal-ai/veo3.1", VIDEO, {"duration": 6}), {"prompt": "x", "duration": "6s"}),
        (
            asked(
                "fal-ai/minimax/hailuo-02/standard/image-to-video",
                VIDEO,
                {},
                PICTURE,
                input_media(
                    b"",
                    "image/png",
                    public_url="https://s.example/l.png",
                    metadata={"role": "last_frame"},
                ),
            ),
            {
                "prompt": "x",
                "image_url": "https://s.example/p.png",
                "end_image_url": "https://s.example/l.png",
            },
        ),
        (
            asked("fal-ai/elevenlabs/tts/eleven-v3", AUDIO, {"voice_id": "v", "language": "de"}),
            {"text": "x", "voice": "v", "language_code": "de"},
        ),
        (
            asked("fal-ai/minimax/speech-02-hd", AUDIO, {"voice": "v", "speed": 1.2}),
            {
                "text": "x",
                "voice_setting": {"voice_id": "v", "speed": 1.2},
                "output_format": "url",
            },
        ),
        (
            asked(
                "fal-ai/minimax/speech-02-hd",
                AUDIO,
                {"speed": 1.2, "voice_setting": {"speed": 0.9}},
            ),
            {"text": "x", "voice_setting": {"speed": 0.9}, "output_format": "url"},
        ),
        (
            asked("fal-ai/elevenlabs/music", AUDIO, {"duration": 16.1}),
            {"prompt": "x", "music_length_ms": 16100},
        ),
        (
            asked("fal-ai/chatterbox/text-to-speech", AUDIO, {"voice_url": "https://v.example/"}),
            {"text": "x", "audio_url": "https://v.example/"},
        ),
        (
            asked("fal-ai/f5-tts", AUDIO, {}, SOUND),
            {
                "gen_text": "x",
                "ref_audio_url": "https://s.example/s.mp3",
                "model_type": "F5-TTS",
            },
        ),
        (
            asked("fal-ai/stable-audio-25/text-to-audio", AUDIO, {"duration": 8.0}),
            {"prompt": "x", "seconds_total": 8},
        ),
        (
            asked("fal-ai/elevenlabs/music", AUDIO, {"duration": 12.5, "output_format": "mp3"}),
            {"prompt": "x", "music_length_ms": 12500, "output_format": "mp3_44100_128"},
        ),
        (
            asked("fal-ai/hyper3d/rodin", IMAGE, {"output_format": "usdz"}, PICTURE, prompt=None),
            {"input_image_urls": ["https://s.example/p.png"], "geometry_file_format": "usdz"},
        ),
        (
            asked("fal-ai/hunyuan3d-v3/text-to-3d", params={"output_format": "obj"}),
            {"prompt": "x"},
        ),
        (
            asked("fal-ai/wizper", TEXT, {}, input_media(b"hi", "audio/mpeg"), prompt=None),
            {"audio_url": "data:audio/mpeg;base64,aGk="},
        ),
        (
            asked("fal-ai/flux-pro/kontext", IMAGE, {"n": 2, "aspect_ratio": "2:3"}, PICTURE),
            {
                "prompt": "x",
                "num_images": 2,
                "aspect_ratio": "2:3",
                "image_url": "https://s.example/p.png",
            },
        ),
        (
            asked(
                "acme/thing/fast",
                VIDEO,
                {"whatever": [1, None]},
                input_media(
                    b"",
                    "image/png",
                    public_url="https://s.example/a.png",
                    metadata={"field": "image_urls"},
                ),
                prompt=None,
            ),
            {"whatever": [1, None], "image_urls": ["https://s.example/a.png"]},
        ),
    ],
    ids=lambda value: value.model if isinstance(value, GenerationRequest) else "",
)
def test_standard_parameters_become_the_models_own(
    request_: GenerationRequest, body: dict[str, Any]
) -> None:
    """Parameters, prompt and inputs go where each model looks for them; unknown models pass."""

    async def submit(provider: FalProvider) -> str | None:
        provider.validate(request_)
        # 6 seconds with sound at 0.40 USD; one character at 0.05 USD per 1000.
        prices = {"fal-ai/veo3.1": 2.4, "fal-ai/f5-tts": 0.00005}
        assert provider.estimate_cost(request_) == prices.get(request_.model)
        return (await provider.submit(request_)).job_id

    answer = {"request_id": "abc", "status": "IN_QUEUE"}
    scenario = made("POST", f"https://queue.fal.run/{request_.model}", answer, json=body)
    owner, alias = request_.model.split("/")[:2]
    assert called(scenario, make, submit) == f"{owner}/{alias}/requests/abc"


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asked(FLUX, negative_prompt="blur"), "negative_prompt"),
        (asked(FLUX, params={"aspect_ratio": "2:1"}), "aspect_ratio"),
        (asked(FLUX, params={"width": 640}), "height"),
        (asked(FLUX, params={"width": 640, "height": 1, "image_size": "square"}), "image_size"),
        (asked(FLUX, params={"image_size": "huge"}), "image_size"),
        (asked(FLUX, params={"output_format": "webp"}), "output_format"),
        (asked(FLUX, params={"n": 0}), "num_images"),
        (asked(FLUX, prompt=None), "prompt"),
        (asked(FLUX, IMAGE, {}, PICTURE), "inputs"),
        (asked(FLUX, VIDEO), "modality"),
        (asked("fal-ai/flux/dev/image-to-image"), "image_url"),
        (asked("fal-ai/esrgan", IMAGE, {}, PICTURE, PICTURE, prompt=None), "image_url"),
        (asked("fal-ai/esrgan", IMAGE, {}, PICTURE), "prompt"),
        (asked("fal-ai/triposr", IMAGE, {}, PICTURE), "prompt"),
        (asked("fal-ai/recraft/v3/text-to-image", params={"n": 2}), "n"),
        (asked("fal-ai/minimax/video-01", VIDEO, {"duration": 6}), "duration"),
        (
            asked("fal-ai/minimax/hailuo-02/standard/text-to-video", VIDEO, {"duration": 5}),
            "duration",
        ),
        (asked(KLING, VIDEO, {"duration": 7}), "duration"),
        (asked(KLING, VIDEO, {"duration": 5.5}), "duration"),
        (asked(KLING, VIDEO, seed=1), "seed"),
        (
            asked(KLING.replace("text-", "image-"), VIDEO, {"aspect_ratio": "1:1"}, PICTURE),
            "aspect_ratio",
        ),
        (asked("fal-ai/veo3.1", VIDEO, {"duration": "5s"}), "duration"),
        (asked("fal-ai/veo3.1", VIDEO, {"resolution": "480p"}), "resolution"),
        (asked("fal-ai/chatterbox/text-to-speech", AUDIO, {"voice": "a"}), "voice"),
        (asked("fal-ai/f5-tts", AUDIO), "ref_audio_url"),
        (asked("fal-ai/minimax/speech-02-hd", AUDIO, {"output_format": "mp3"}), "output_format"),
        (asked("fal-ai/stable-audio", AUDIO, {"duration": 2.5}), "seconds_total"),
        (asked("fal-ai/stable-audio", AUDIO, seed=1), "seed"),
        (asked("fal-ai/elevenlabs/music", AUDIO, {"duration": 0.0005}), "duration"),
        (asked("fal-ai/whisper", TEXT, {"chunk_level": "line"}, SOUND), "chunk_level"),
        (asked("fal-ai/whisper", TEXT), "audio_url"),
        (asked("fal-ai/wizper", TEXT, {"diarize": True}, SOUND, prompt=None), "diarize"),
        (asked("fal-ai/hyper3d/rodin", prompt=None), "prompt"),
        (
            asked("a/b", IMAGE, {}, input_media(b"", "image/png", metadata={"role": "mask"})),
            "inputs",
        ),
        (asked("a/b", IMAGE, {"image_url": "https://x.example"}, PICTURE), "image_url"),
        (
            asked("a/b", IMAGE, {}, input_media(b"", "image/png", size_bytes=200_000_000)),
            "inputs",
        ),
    ],
    ids=lambda value: value.model if isinstance(value, GenerationRequest) else value,
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    request_: GenerationRequest, param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        FalProvider(API_KEY).validate(request_)
    assert caught.value.param == param
    assert caught.value.sent is False


@pytest.mark.parametrize("model", ["flux", "fal-ai/../x", "fal-ai/flux?x=1", "/fal-ai/flux"])
def test_what_is_no_model_is_refused(model: str) -> None:
    """An id that would change the address is no id."""
    with pytest.raises(ModelError, match="fal-ai/flux/schnell"):
        FalProvider(API_KEY).validate(asked(model))


def test_a_missing_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told before any work."""
    monkeypatch.delenv("FAL_KEY", raising=False)
    monkeypatch.delenv("FAL_KEY_ID", raising=False)
    with pytest.raises(AuthError, match="FAL_KEY"):
        FalProvider().validate(asked(FLUX))


def test_a_key_may_stand_in_two_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Id and secret are joined; the one variable and the argument win over them."""
    monkeypatch.delenv("FAL_KEY", raising=False)
    monkeypatch.setenv("FAL_KEY_ID", "id")
    monkeypatch.setenv("FAL_KEY_SECRET", "secret")
    assert FalProvider().api.key == "id:secret"
    assert FalProvider("given").api.key == "given"
    monkeypatch.setenv("FAL_KEY", "one")
    assert FalProvider().api.key == "one"


@pytest.mark.parametrize(
    "options",
    [
        {"priority": "high"},
        {"start_timeout": 0},
        {"output_lifetime": -1},
        {"webhook_url": "http://x.example"},
        {"webhook_url": "https://x.example", "sync": True},
    ],
    ids=str,
)
def test_settings_are_checked_early(options: dict[str, Any]) -> None:
    """What fal cannot do is told when the provider is made."""
    with pytest.raises(ConfigError, match="fal: "):
        FalProvider(API_KEY, **options)


@pytest.mark.parametrize(
    ("status_url", "job_id"),
    [
        ("https://queue.fal.run/other/app/requests/i-1/status", "other/app/requests/i-1"),
        ("https://evil.example/a/b/requests/i-1/status", "a/b/requests/i-1"),
        ("https://queue.fal.run/../x/requests/i-1/status", "fal-ai/flux/requests/i-1"),
        ("https://queue.fal.run/a/b/requests/another/status", "fal-ai/flux/requests/i-1"),
        (None, "fal-ai/flux/requests/i-1"),
    ],
)
def test_a_job_is_addressed_as_fal_says_but_never_elsewhere(
    status_url: str | None, job_id: str
) -> None:
    """Only the path of the answer's address counts; the host stays the queue's."""
    assert job_id_of({"request_id": "i-1", "status_url": status_url}, FLUX) == job_id
    assert job_id_of({"request_id": "i/../1"}, FLUX) is None
    assert job_id_of({}, FLUX) is None


def test_what_is_no_job_id_is_refused() -> None:
    """A job id of another shape never becomes an address."""
    with pytest.raises(InvalidRequestError, match="job id"):
        asyncio.run(FalProvider(API_KEY).poll("https://x.example/requests/1", asked(FLUX)))


def file(name: str, **facts: Any) -> dict[str, Any]:
    return {"url": f"https://v3.fal.media/files/{name}", **facts}


def test_what_was_asked_for_is_looked_for_first() -> None:
    """A video's thumbnail is not its output; a bare URL and a data URI are files too."""
    result = {"image": file("thumb.png"), "video": "https://v3.fal.media/v.mp4"}
    assert [o.url for o in outputs_of(result, VIDEO)] == ["https://v3.fal.media/v.mp4"]
    (inline,) = outputs_of({"images": [{"url": "data:image/png;base64,aGk="}]}, IMAGE)
    assert inline.data == b"hi"
    assert outputs_of({"images": [{"url": "data:image/png;base64,?"}], "x": 1}, IMAGE) == ()
    assert outputs_of({"image": file("a.png") | {"url": "ftp://x"}}, IMAGE) == ()
    assert outputs_of({"image": None, "video": [], "text": 3}, IMAGE) == ()


def test_a_mesh_is_typed_by_what_it_is_called() -> None:
    """Where the bytes would not tell, fal's type does, else the file's name; textures come along."""
    plain = file("m.obj", content_type="application/octet-stream", file_name="m.obj")
    mesh, texture = outputs_of({"model_mesh": plain, "textures": [file("t.png")]}, IMAGE)
    assert (mesh.media_type, texture.media_type) == ("model/obj", None)
    several = {"model_glb": file("m.glb"), "model_urls": {"fbx": file("m.fbx"), "glb": None}}
    assert [o.url for o in outputs_of(several, IMAGE, form="fbx")] == [
        "https://v3.fal.media/files/m.fbx"
    ]
    assert outputs_of(several, IMAGE, form="obj") == ()


def test_a_format_that_did_not_come_back_is_no_output() -> None:
    """The mesh is not replaced by one in another format."""
    result = {"model_glb": file("m.glb"), "model_urls": {"glb": file("m.glb")}}
    request = asked("fal-ai/hunyuan3d-v3/text-to-3d", params={"output_format": "obj"})
    url = "https://queue.fal.run/fal-ai/hunyuan3d-v3/requests/abc"
    with pytest.raises(OutputError, match="obj"):
        called(made("GET", url, result), make, lambda p: p.fetch_output("abc", request))


def test_outputs_expire_when_they_were_told_to() -> None:
    """The lifetime asked for is that of the URLs; without one nobody knows."""
    url, result = "https://queue.fal.run/fal-ai/flux/requests/abc", {"images": [file("a.png")]}
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def expiry(**options: Any) -> datetime | None:
        fetched = called(
            made("GET", url, result),
            lambda c: FalProvider(API_KEY, client=c, clock=lambda: now, **options),
            lambda p: p.fetch_output("abc", asked(FLUX)),
        )
        return fetched.outputs[0].expires_at

    assert expiry(output_lifetime=60) == now + timedelta(seconds=60)
    assert expiry() is None


def test_transcripts_of_all_models_are_read() -> None:
    """Segments are kept in the record; words go into the output; a broken time is left out."""
    segments = {"text": " Hi. ", "chunks": [{"timestamp": [0, 1.5], "text": " Hi."}]}
    (output,) = outputs_of(segments, TEXT)
    assert (output.data, output.facts) == (b"Hi.", {})
    assert facts_of(segments)["chunks"] == [{"text": "Hi.", "start": 0, "end": 1.5}]
    words = {
        "text": "Hi you",
        "words": [
            {"text": "Hi", "type": "word", "start": 0.1, "end": 0.3, "speaker_id": "s1"},
            {"text": " ", "type": "spacing", "start": 0.3, "end": 0.4},
            {"text": "you", "type": "word", "start": 0.4, "end": None},
        ],
    }
    (output,) = outputs_of(words, TEXT)
    assert [w.word for w in output.facts["audio"].word_timings] == ["Hi"]
    assert facts_of(words)["chunks"][0]["speaker"] == "s1"
    by_word = {"text": "", "chunks": [{"timestamp": [2, 1], "text": "odd"}]}
    (output,) = outputs_of(by_word, TEXT, by_word=True)
    assert (output.data, output.facts) == (b"\n", {})
    assert facts_of(by_word, by_word=True) == {}


def test_facts_hold_numbers_and_no_addresses() -> None:
    """What a model puts beside its timings does not reach the record."""
    result = {"timings": {"inference": 1.5, "log": "https://x.example"}, "seed": 7}
    assert facts_of(result) == {"seed": 7, "timings": {"inference": 1.5}}


def test_models_and_prices_can_be_asked_for() -> None:
    """Both go to the platform's address with the key; the rate is told as fal says it."""
    page = {"models": [{"endpoint_id": "a/b"}, {"endpoint_id": "c/d"}], "has_more": False}
    url = "https://api.fal.ai/v1/models"
    assert called(made("GET", url, page), make, lambda p: p.list_models()) == ["a/b", "c/d"]
    price = {"endpoint_id": "a/b", "unit_price": 0.1, "unit": "second", "currency": "USD"}
    asked_for = f"{url}/pricing?endpoint_id=a/b"
    found = called(made("GET", asked_for, {"prices": [price]}), make, lambda p: p.unit_price("a/b"))
    assert found == price


def test_a_price_of_ones_own_counts() -> None:
    """fal tells none, so a registered one is what an estimate is made of."""
    models = ModelRegistry(provider_families=FalProvider.families, strict_params=True)
    models.register_pricing(FLUX, per_unit(0.003))
    request = asked(FLUX, params={"n": 2})
    assert FalProvider(API_KEY, models=models).estimate_cost(request) == 0.006


def test_every_family_knows_its_own_examples() -> None:
    """The first family that an example matches is the one it stands in."""
    models = FalProvider(API_KEY).models
    for family in FalProvider.families:
        for example in family.example_slugs:
            match = models.match_family(example)
            assert match is not None
            assert match.family.name == family.name
