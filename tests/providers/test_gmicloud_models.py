import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.gmicloud import (
    GMICloudAudioProvider,
    GMICloudImageProvider,
    GMICloudVideoProvider,
)
from genblaze_dagster.providers.gmicloud.records import urls_of
from genblaze_dagster.providers.gmicloud.vendor import failure_of, read_error
from genblaze_dagster.providers.protocol import (
    FindsJobs,
    GenerationRequest,
    InputMedia,
    JobState,
)
from tests.support.wire import API_KEY, Scenario, input_media, replay

PROVIDERS = {
    "video": GMICloudVideoProvider,
    "image": GMICloudImageProvider,
    "audio": GMICloudAudioProvider,
}
SINCE = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def request_for(
    kind: str, model: str, *inputs: InputMedia, prompt: str | None = "a red fox", **params: Any
) -> GenerationRequest:
    return GenerationRequest(
        model=model,
        prompt=prompt,
        negative_prompt=params.pop("negative_prompt", None),
        seed=params.pop("seed", None),
        modality=Modality(kind),
        params=params,
        inputs=inputs,
    )


def media(media_type: str = "image/png", **metadata: Any) -> InputMedia:
    return input_media(b"bytes", media_type, public_url="https://s3/x?sig=1", metadata=metadata)


def payload_of(kind: str, request: GenerationRequest) -> dict[str, Any]:
    """Return the payload that a submit sends."""
    scenario = answering({"request_id": "1", "status": "queued"})

    async def main() -> None:
        async with wire.client() as client:
            provider = PROVIDERS[kind](API_KEY, client=client)
            provider.validate(request)
            await provider.submit(request)

    with replay(scenario) as wire:
        asyncio.run(main())
    body = json.loads(wire.received[0].body)
    assert body["model"] == request.model
    return body["payload"]


def answering(*answers: Any) -> Scenario:
    exchanges: list[Mapping[str, Any]] = [
        {"response": {"status": 200, "json": answer}} for answer in answers
    ]
    return Scenario("x", "gmicloud", {}, exchanges)


@pytest.mark.parametrize(
    ("kind", "model", "params", "native"),
    [
        ("video", "sora-2", {"duration": 4, "aspect_ratio": "9:16"}, {"seconds": "4", "size": "720x1280"}),
        ("video", "Veo3", {"duration": 8, "aspect_ratio": "16:9"}, {"durationSeconds": 8, "aspectRatio": "16:9"}),
        ("video", "kling-v2-6", {"duration": 10, "generate_audio": False}, {"duration": "10", "sound": "off"}),
        ("video", "kling-v4-new", {"duration": 7, "any": 1}, {"duration": "7", "any": 1}),
        ("video", "seedance-1-0-pro", {"aspect_ratio": "1:1"}, {"ratio": "1:1"}),
        ("video", "Kling-Text2Video-V2.1-Master", {"duration": "5", "n": 1}, {"duration": "5"}),
        ("image", "seedream-4-0-250828", {"aspect_ratio": "16:9"}, {"size": "2560x1440"}),
        ("image", "seedream-5.0-lite", {"resolution": "3K"}, {"size": "3K"}),
        ("image", "seedream-3-0-t2i-250415", {"aspect_ratio": "3:4", "watermark": False}, {"size": "864x1152", "add_watermark": False}),
        ("image", "gpt-image-2-generate", {"aspect_ratio": "3:2", "n": 2}, {"size": "1536x1024", "n": 2}),
        ("image", "gpt-image-2-generate", {"size": "auto"}, {"size": "auto"}),
        ("image", "somebody/new", {"anything": [1]}, {"anything": [1]}),
    ],
)  # fmt: skip
def test_standard_parameters_become_those_of_the_model(
    kind: str, model: str, params: dict[str, Any], native: dict[str, Any]
) -> None:
    """Each family gets its maker's names, and models nobody knows get what is given."""
    request = request_for(kind, model, **params)
    assert payload_of(kind, request) == {"prompt": "a red fox", **native}
    assert PROVIDERS[kind](API_KEY).estimate_cost(request) is None


@pytest.mark.parametrize(
    ("model", "params", "native"),
    [
        ("elevenlabs-tts-v3", {"output_format": "mp3"}, {"output_format": "mp3_44100_128"}),
        ("minimax-tts-speech-2.6-hd", {"language": "English", "output_format": "wav"}, {"language_boost": "English", "format": "wav"}),
        ("inworld-tts-1", {"speed": 1.2}, {"speaking_rate": 1.2}),
    ],
)  # fmt: skip
def test_the_text_of_speech_goes_into_text(
    model: str, params: dict[str, Any], native: dict[str, Any]
) -> None:
    """The prompt is the text, and `voice` the voice's id."""
    request = request_for("audio", model, voice="v1", **params)
    assert payload_of("audio", request) == {"text": "a red fox", "voice_id": "v1", **native}


def test_music_keeps_its_prompt() -> None:
    """The prompt of music is its style, not its words."""
    request = request_for("audio", "minimax-music-2.5", lyrics="la", output_format="mp3")
    wanted = {"prompt": "a red fox", "lyrics": "la", "format": "mp3"}
    assert payload_of("audio", request) == wanted


@pytest.mark.parametrize(
    ("kind", "model", "inputs", "fields"),
    [
        ("video", "veo-3.1-fast", (media(role="reference"),), {"reference_image"}),
        ("video", "seedance-2-0-260128", (media(role="reference"), media("video/mp4"), media("audio/mpeg")), {"reference_images", "reference_videos", "reference_audios"}),
        ("video", "pixverse-v5", (media(), media(role="last_frame")), {"image_url", "tail_image_url"}),
        ("image", "gpt-image-2-edit", (media(), media(role="mask")), {"image", "mask"}),
        ("audio", "minimax-audio-voice-clone-x", (media("audio/mpeg"), media("audio/mpeg", role="prompt")), {"source_audio", "prompt_audio"}),
        ("video", "somebody-new", (media(), media("video/mp4", field="clip")), {"image", "clip"}),
    ],
)  # fmt: skip
def test_inputs_go_where_the_model_looks_for_them(
    kind: str, model: str, inputs: tuple[InputMedia, ...], fields: set[str]
) -> None:
    """The kind and the role of an input decide its field; lists are lists even of one."""
    payload = payload_of(kind, request_for(kind, model, *inputs))
    assert payload.keys() - {"prompt", "text"} == fields
    for name in fields:
        assert payload[name] == (
            ["https://s3/x?sig=1"] if name[-1] == "s" else "https://s3/x?sig=1"
        )


def test_inputs_of_two_kinds_share_a_field_as_a_list() -> None:
    """Of two inputs that name the same field, neither replaces the other."""
    request = request_for(
        "video", "somebody-new", media(field="refs"), media("video/mp4", field="refs")
    )
    assert payload_of("video", request)["refs"] == ["https://s3/x?sig=1"] * 2


def test_an_input_without_a_url_goes_as_data_where_that_is_taken() -> None:
    """Kling takes a data URI; Sora's field is a URL and says so before anything is sent."""
    image = input_media(b"hi", "image/png")
    request = request_for("video", "kling-v2-6", image)
    assert payload_of("video", request)["image"] == "data:image/png;base64,aGk="
    with pytest.raises(InvalidRequestError, match="no URL") as caught:
        payload_of("video", request_for("video", "sora-2", image))
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("kind", "model", "params", "param"),
    [
        ("video", "sora-2", {"duration": 5}, "seconds"),
        ("video", "sora-2", {"seed": 1}, "seed"),
        ("video", "sora-2", {"resolution": "720p"}, "resolution"),
        ("video", "sora-2", {"aspect_ratio": "1:1"}, "aspect_ratio"),
        ("video", "sora-2", {"aspect_ratio": "16:9", "resolution": "4k"}, "resolution"),
        ("video", "sora-2", {"aspect_ratio": "16:9", "size": "1280x720"}, "size"),
        ("video", "sora-2", {"n": 2}, "n"),
        ("video", "veo-3.1", {"duration": 5}, "durationSeconds"),
        ("video", "veo-3.1", {"aspect_ratio": "1:1"}, "aspectRatio"),
        ("video", "kling-v2-6", {"duration": 6}, "duration"),
        ("video", "kling-v3-image-to-video", {}, "image"),
        ("video", "Kling-Image2Video-V2.1-Pro", {"duration": 5}, "image"),
        ("video", "seedance-2-0-x", {"duration": 3}, "duration"),
        ("video", "happyhorse-1", {"seed": 1}, "seed"),
        ("image", "seedream-4-0-x", {"n": 2}, "n"),
        ("image", "seedream-4-0-x", {"aspect_ratio": "5:4"}, "aspect_ratio"),
        ("image", "seedream-5.0-lite", {"max_images": 16}, "max_images"),
        ("image", "seedream-5.0-lite", {"seed": 1}, "seed"),
        ("image", "gpt-image-2-generate", {"n": 0}, "n"),
        ("image", "gpt-image-2-edit", {}, "image"),
        ("audio", "elevenlabs-tts-v3", {"stability": 2}, "stability"),
        ("audio", "inworld-tts-1", {"output_format": "mp3"}, "output_format"),
        ("audio", "minimax-audio-voice-clone-x", {}, "source_audio"),
        ("image", "seedream-3-0-t2i-x", {"prompt": None}, "prompt"),
        ("audio", "minimax-tts-x", {"prompt": None}, "text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    kind: str, model: str, params: dict[str, Any], param: str
) -> None:
    """The refusal names the parameter, and nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        PROVIDERS[kind](API_KEY).validate(request_for(kind, model, **params))
    assert caught.value.param == param
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("kind", "model", "inputs", "words"),
    [
        ("video", "sora-2", (media(role="last_frame"),), "another role"),
        ("video", "sora-2", (media("video/mp4"),), "takes: image"),
        ("video", "veo-3.1", (media(), media()), "at most 1"),
        ("video", "Kling-Text2Video-V2.1-Master", (media(),), "takes: none"),
        ("image", "seedream-5.0-lite", tuple(media() for _ in range(15)), "at most 14"),
        ("video", "somebody-new", (media("text/plain"),), "field"),
        ("video", "somebody-new", (media(), media(role="last_frame")), "field"),
    ],
)
def test_inputs_the_model_has_no_place_for_are_refused(
    kind: str, model: str, inputs: tuple[InputMedia, ...], words: str
) -> None:
    """No input is dropped: what finds no field is refused."""
    with pytest.raises(InvalidRequestError, match=words):
        PROVIDERS[kind](API_KEY).validate(request_for(kind, model, *inputs))


def test_an_input_and_its_parameter_exclude_each_other() -> None:
    """Neither of the two silently wins; a URL alone passes as the native parameter."""
    url = "https://example.com/a.png"
    GMICloudVideoProvider(API_KEY).validate(request_for("video", "sora-2", input_reference=url))
    with pytest.raises(InvalidRequestError, match="both as a parameter and as an input"):
        GMICloudVideoProvider(API_KEY).validate(
            request_for("video", "sora-2", media(), input_reference=url)
        )


def test_a_model_of_another_kind_names_its_provider() -> None:
    """What certainly makes images is not sent to the queue as a video."""
    with pytest.raises(ModelError, match="'gmicloud-image'") as caught:
        GMICloudVideoProvider(API_KEY).validate(request_for("video", "gpt-image-2-edit"))
    assert caught.value.sent is False


def test_a_missing_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is told before any work; the name of GMI's own package counts too."""
    request = request_for("video", "sora-2")
    with pytest.raises(AuthError, match="GMI_API_KEY"):
        GMICloudVideoProvider().validate(request)
    monkeypatch.setenv("GMI_CLOUD_APIKEY", "k")
    GMICloudVideoProvider().validate(request)


def test_a_lost_request_is_found_by_its_payload() -> None:
    """Same model, same payload, not older; a URL signed anew is the same URL."""
    image = "https://s3/x?sig=2"
    ours = {"prompt": "a red fox", "image": image, "duration": "5", "added": True}
    after = int(SINCE.timestamp())
    records = [
        {"request_id": "ours", "model": "kling-v2-6", "payload": ours, "created_at": after},
        {"request_id": "old", "model": "kling-v2-6", "payload": ours, "created_at": after - 1},
        {"request_id": "other", "model": "sora-2", "payload": ours, "created_at": after},
        {
            "request_id": "another-image",
            "model": "kling-v2-6",
            "payload": {**ours, "image": "https://s3/y"},
            "created_at": after,
        },
        {"request_id": "nothing", "model": "kling-v2-6", "created_at": after},
        "no record",
    ]
    request = request_for("video", "kling-v2-6", media(), duration=5)

    async def main() -> Any:
        async with wire.client() as client:
            provider = GMICloudVideoProvider(API_KEY, client=client)
            assert isinstance(provider, FindsJobs)
            return await provider.find_jobs(request, since=SINCE)

    with replay(answering({"requests": records, "total": 6})) as wire:
        found = asyncio.run(main())
    assert wire.received[0].url.endswith("/apikey/requests?model_id=kling-v2-6")
    assert found.job_ids == ("ours",)
    assert found.is_complete is False


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, {"error": "Backend error (400): bad size"}, InvalidRequestError),
        (500, {"error": "Backend error (400): flagged by moderation"}, ContentPolicyError),
        (500, {"error": "Backend error (429): slow down"}, RateLimitError),
        (400, {"error": "Backend error (503): overloaded"}, ProviderUnavailableError),
        (500, {"error": "Backend error (401): bad key"}, None),
        (422, {"message": "unsafe: safety system"}, ContentPolicyError),
        (400, {"error": "model names are case-sensitive"}, None),
        (400, {"error": "Insufficient balance"}, QuotaError),
        (500, {"error": {"message": "slow down", "code": 429}}, RateLimitError),
        (502, None, None),
        (500, ["?"], None),
    ],
)
def test_the_status_of_a_models_maker_decides(status: int, body: Any, kind: Any) -> None:
    """A text with an upstream status means that status; None leaves it to the HTTP status."""
    assert read_error(status, body).kind is kind


@pytest.mark.parametrize(
    ("record", "kind", "transient"),
    [
        ({"error_message": "Backend error (400): bad size"}, InvalidRequestError, None),
        ({"error": {"message": "Backend error (503): busy"}}, ProviderUnavailableError, None),
        ({"outcome": {"error": "insufficient credit"}}, QuotaError, None),
        ({"outcome": {"message": "blocked by the safety system"}}, ContentPolicyError, None),
        ({"outcome": None}, ModelError, True),
    ],
)
def test_the_reason_of_a_failure_is_found_wherever_it_stands(
    record: dict[str, Any], kind: Any, transient: bool | None
) -> None:
    """A failed record has its words in one of four places, or nowhere."""
    refusal = failure_of(record)
    assert (refusal.kind, refusal.transient) == (kind, transient)


def test_outputs_are_read_from_every_field_and_thumbnails_are_none() -> None:
    """All shapes of an outcome count, each URL once, and nothing that is no https URL."""
    outcome = {
        "media": [{"url": "https://a/1"}, {"url": None}, "https://a/9"],
        "medias": [{"url": "https://a/2"}],
        "video_url": "https://a/1",
        "image_url": "https://a/t",
        "thumbnail_image_url": "https://a/t",
    }
    assert urls_of({"outcome": outcome}, Modality.VIDEO) == ["https://a/2", "https://a/1"]
    assert urls_of({"outcome": {"audio_url": "file:///etc"}}, Modality.AUDIO) == []
    assert urls_of({"outcome": "?"}, Modality.IMAGE) == []


def test_a_success_without_an_output_is_an_error() -> None:
    """A submit that succeeds without outputs is asked for again, and then it is a failure."""
    record = {"request_id": "1", "status": "success", "outcome": {}}
    request = request_for("image", "somebody/new")

    async def main() -> Any:
        async with wire.client() as client:
            provider = GMICloudImageProvider(API_KEY, client=client)
            submission = await provider.submit(request)
            assert submission.result is None
            state = (await provider.poll("1", request)).state
            assert state is JobState.SUCCEEDED
            await provider.fetch_output("1", request)

    with replay(answering(record, record)) as wire, pytest.raises(OutputError, match="without an"):
        asyncio.run(main())
    assert len(wire.received) == 2
