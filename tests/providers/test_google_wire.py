import base64
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    ProviderError,
)
from genblaze_dagster.providers.google import GeminiImageProvider, ImagenProvider, VeoProvider
from genblaze_dagster.providers.google.provider import GoogleProvider
from genblaze_dagster.providers.models import ModelRegistry, ModelSpec
from genblaze_dagster.providers.pricing import per_unit
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from tests.support.vendor import Driven, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

# What the vendor refuses, and we before it is sent.
REFUSED = {
    "veo_invalid_400": {"durationSeconds": 8},
    "gemini_image_invalid_400": {"aspectRatio": "1:1"},
}
GENERATIONS = [
    name
    for pattern in ("veo_*", "imagen_*", "gemini_image_*")
    for name in scenario_names("google", pattern)
    if name not in REFUSED
]
# Replayed in test_google_chat.py and test_google_files.py.
ELSEWHERE = [
    *scenario_names("google", "chat_*"),
    *scenario_names("google", "files_*"),
    *scenario_names("google", "models_*"),
]
NOW = datetime(2026, 11, 21, tzinfo=UTC)
KINDS: Mapping[str, type[GoogleProvider]] = {
    ":predictLongRunning": VeoProvider,
    ":predict": ImagenProvider,
    ":generateContent": GeminiImageProvider,
}


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "google" / f"{name}.json")


def kind_of(scenario: Scenario) -> type[GoogleProvider]:
    url = scenario.exchanges[0]["request"]["url"]
    return next(kind for method, kind in KINDS.items() if url.endswith(method))


def request_of(scenario: Scenario) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = scenario.exchanges[0]["request"]
    model = captured["url"].rpartition("/")[2].partition(":")[0]
    body = captured["json"]
    if "instances" in body:
        (instance,) = body["instances"]
        prompt, inputs = instance["prompt"], tuple(pictures_of(instance))
        params = dict(body.get("parameters", {}))
    else:
        parts = body["contents"][0]["parts"]
        prompt = parts[0]["text"]
        inputs = tuple(inline_input(part["inlineData"]) for part in parts[1:])
        params = dict(body["generationConfig"])
        params |= params.pop("imageConfig", {})
    return GenerationRequest(
        model=model,
        prompt=prompt,
        modality=Modality.VIDEO if kind_of(scenario) is VeoProvider else Modality.IMAGE,
        params=params,
        inputs=inputs,
    )


def pictures_of(instance: Mapping[str, Any]) -> list[InputMedia]:
    """Return the inputs the pictures of an instance came from."""
    return [
        input_media(
            base64.b64decode(instance[name]["bytesBase64Encoded"]),
            instance[name]["mimeType"],
            metadata={"role": "last_frame"} if name == "lastFrame" else {},
        )
        for name in ("image", "lastFrame")
        if name in instance
    ]


def inline_input(inline: Mapping[str, Any]) -> InputMedia:
    return input_media(base64.urlsafe_b64decode(inline["data"]), inline["mime_type"])


def replay_of(scenario: Scenario, request: GenerationRequest, **options: Any) -> Driven:
    kind = kind_of(scenario)

    def make(client: httpx.AsyncClient) -> GoogleProvider:
        return kind(API_KEY, client=client, clock=lambda: NOW)

    return replayed(scenario, make, request, **options)


def video_call(**changes: Any) -> GenerationRequest:
    fields = {"model": "veo-3.1-generate-preview", "prompt": "x", "modality": Modality.VIDEO}
    return GenerationRequest(**{**fields, **changes})


def operation(response: Mapping[str, Any]) -> Scenario:
    """A made-up operation that is done at the first look."""
    name = "models/veo-3.1-generate-preview/operations/op1"
    origin = "https://generativelanguage.googleapis.com/v1beta"
    json = {"instances": [{"prompt": "x"}]}
    headers = {"x-goog-api-key": "{{API_KEY}}"}
    start = {
        "method": "POST",
        "url": f"{origin}/models/veo-3.1-generate-preview:predictLongRunning",
    }
    return Scenario(
        "made up",
        "google",
        {},
        [
            {
                "request": {**start, "headers": headers, "json": json},
                "response": {"status": 200, "json": {"name": name}},
            },
            {
                "request": {"method": "GET", "url": f"{origin}/{name}", "headers": headers},
                "response": {"status": 200, "json": {"name": name, "done": True, **response}},
            },
        ],
    )


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden generation gives equal requests and the expected states, bytes or error."""
    scenario = load(vectors, name)
    expect = scenario.expect
    driven = replay_of(scenario, request_of(scenario), download="asset" in expect)
    check_expected(scenario, driven, key=API_KEY)
    assets = expect.get("assets") or ([expect["asset"]] if "asset" in expect else [])
    found = [hashlib.sha256(data).hexdigest() for data in driven.data]
    assert found == [asset["sha256"] for asset in assets]
    for asset, output in zip(assets, driven.result.outputs if driven.result else (), strict=True):
        assert output.media_type in (asset["media_type"], None)
    if "text" in expect:
        assert driven.result is not None
        assert driven.result.provider_payload["text"] == expect["text"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(scenario)
    with pytest.raises(InvalidRequestError):
        kind_of(scenario)(API_KEY).validate(request)
    allowed = replace(request, params=REFUSED[name])
    check_expected(scenario, replay_of(scenario, allowed, same_requests=False), key=API_KEY)


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    replayed_names = {*GENERATIONS, *REFUSED, *ELSEWHERE}
    count = len(scenario_names("google"))
    print(f"google: {len(replayed_names)} of {count} vectors replayed")
    assert len(replayed_names) == count


@pytest.mark.parametrize(
    ("name", "params"),
    [
        (
            "veo_full_config",
            {
                "n": 1,
                "duration": 8,
                "aspect_ratio": "9:16",
                "resolution": "1080P",
                "negative_prompt": "blur",
                "person_generation": "allow_all",
                "output_format": "mp4",
            },
        ),
        (
            "imagen_full",
            {
                "n": 2,
                "aspect_ratio": "16:9",
                "resolution": "2k",
                "person_generation": "allow_adult",
                "output_format": "jpeg",
                "outputOptions": {"compressionQuality": 80},
                "safetySetting": "BLOCK_LOW_AND_ABOVE",
                "includeRaiReason": True,
            },
        ),
        ("gemini_image_config", {"aspect_ratio": "16:9", "resolution": "2k", "n": 1}),
        ("gemini_image_text_to_image", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_standard_call_of_a_golden_exchange_is_the_same_request(
    vectors: Path, name: str, params: dict[str, Any]
) -> None:
    """Standard parameters become Google's own, in the spelling it wants."""
    scenario = load(vectors, name)
    request = replace(request_of(scenario), params=params)
    kind_of(scenario)(API_KEY).validate(request)
    assert replay_of(scenario, request).error is None


def test_a_video_needs_the_key_and_lives_two_days(vectors: Path) -> None:
    """The URL comes with the header that opens it, when it expires, and the file's name."""
    scenario = load(vectors, "veo_create_poll_download")
    driven = replay_of(scenario, request_of(scenario), download=True)
    assert driven.result is not None
    (output,) = driven.result.outputs
    assert output.headers == {"x-goog-api-key": API_KEY}
    assert output.expires_at == NOW + timedelta(days=2)
    assert output.facts == {"metadata": {"google_file": "files/abc123def456"}}
    assert [status.poll_after for status in driven.statuses] == [10, 10, None]
    assert API_KEY not in repr(output)


def test_a_video_elsewhere_does_not_get_the_key() -> None:
    """An address that is not the API's is fetched without the key."""
    uri = "https://generativelanguage.googleapis.com.example.com/v1beta/files/a:download"
    samples = {"generatedSamples": [{"video": {"uri": uri}}]}
    driven = replay_of(operation({"response": {"generateVideoResponse": samples}}), video_call())
    assert driven.result is not None
    assert driven.result.outputs[0].headers == {}


def test_what_was_not_filtered_is_delivered() -> None:
    """A partly filtered operation succeeds, and notes how much is missing and why."""
    uri = "https://generativelanguage.googleapis.com/v1beta/files/a:download?alt=media"
    videos = {
        "generatedSamples": [{"video": {"uri": uri}}],
        "raiMediaFilteredCount": 1,
        "raiMediaFilteredReasons": ["violence"],
    }
    driven = replay_of(operation({"response": {"generateVideoResponse": videos}}), video_call())
    assert driven.result is not None
    assert len(driven.result.outputs) == 1
    assert driven.result.provider_payload == {"filtered": 1, "filter_reasons": ["violence"]}


def test_reasons_alone_say_that_it_was_filtered() -> None:
    """An operation may tell why and not how many."""
    videos = {"raiMediaFilteredReasons": ["violence"]}
    driven = replay_of(operation({"response": {"generateVideoResponse": videos}}), video_call())
    assert driven.states == ["failed"]
    assert isinstance(driven.error, ContentPolicyError)


@pytest.mark.parametrize(
    ("code", "kind", "transient"),
    [
        (3, "INVALID_INPUT", False),
        (4, "TIMEOUT", True),
        (5, "MODEL_ERROR", False),
        (7, "AUTH", False),
        (8, "RATE_LIMIT", True),
        (14, "SERVER_ERROR", True),
        (16, "AUTH", False),
    ],
)
def test_a_failed_operation_is_read_by_its_number(code: int, kind: str, transient: bool) -> None:
    """Operations fail with numbers of google.rpc, which are no HTTP statuses."""
    scenario = operation({"error": {"code": code, "message": "no"}})
    expect = {"error_code": kind, "retryable": transient}
    driven = replay_of(scenario, video_call())
    check_expected(replace(scenario, expect=expect), driven, key=API_KEY)


def test_a_success_without_a_video_may_have_been_billed() -> None:
    """Neither a sample nor a filter: the operation's promise is broken, and that is said."""
    driven = replay_of(operation({"response": {}}), video_call())
    assert driven.states == ["succeeded"]
    assert "may have been billed" in str(driven.error)


def test_references_and_earlier_results_are_sent_as_veo_takes_them() -> None:
    """References go as a list with their type, an earlier result by its address."""
    scenario = operation({"error": {"code": 5}})
    data = base64.b64encode(b"png").decode()
    picture = {"bytesBase64Encoded": data, "mimeType": "image/png"}
    uri = "https://generativelanguage.googleapis.com/v1beta/files/abc:download?alt=media"
    instance = {
        "prompt": "x",
        "video": {"uri": uri},
        "referenceImages": [{"image": picture, "referenceType": "ASSET"}],
    }
    scenario.exchanges[0]["request"]["json"]["instances"] = [instance]
    inputs = (
        input_media(b"png", "image/png", metadata={"role": "reference"}),
        input_media(b"mp4", "video/mp4", metadata={"google_file": "files/abc"}),
    )
    request = video_call(inputs=inputs)
    VeoProvider(API_KEY).validate(request)
    driven = replay_of(scenario, request)
    assert isinstance(driven.error, ModelError)


PICTURE = input_media(b"png", "image/png")
REFERENCE = input_media(b"png", "image/png", metadata={"role": "reference"})


@pytest.mark.parametrize(
    ("kind", "model", "changes", "param"),
    [
        (VeoProvider, "veo-3.1-fast-generate-preview", {"params": {"duration": 5}}, "duration"),
        (VeoProvider, "veo-3.0-generate-001", {"params": {"duration": 4}}, "duration"),
        (VeoProvider, "veo-2.0-generate-001", {"params": {"duration": 4}}, "duration"),
        (VeoProvider, "veo-3.1", {"params": {"duration": 4, "resolution": "4k"}}, "duration"),
        (VeoProvider, "veo-3.0-generate-001", {"params": {"resolution": "4k"}}, "resolution"),
        (VeoProvider, "veo-3.1", {"params": {"aspect_ratio": "1:1"}}, "aspectRatio"),
        (VeoProvider, "veo-3.1", {"params": {"n": 2}}, "sampleCount"),
        (VeoProvider, "veo-2.0-generate-001", {"params": {"n": 3}}, "sampleCount"),
        (VeoProvider, "veo-3.1", {"params": {"output_format": "webm"}}, "output_format"),
        (VeoProvider, "veo-3.1", {"params": {"generate_audio": True}}, "generate_audio"),
        (VeoProvider, "veo-3.1", {"params": {"person_generation": "x"}}, "personGeneration"),
        (VeoProvider, "veo-3.1", {"seed": 1}, "seed"),
        (VeoProvider, "veo-3.1", {"prompt": None}, "prompt"),
        (VeoProvider, "veo-3.1", {"inputs": (PICTURE, PICTURE)}, "first frames"),
        (VeoProvider, "veo-3.1", {"inputs": (REFERENCE,) * 4}, "reference images"),
        (VeoProvider, "veo-2.0-generate-001", {"inputs": (REFERENCE,)}, "reference images"),
        (VeoProvider, "veo-3.1", {"inputs": (input_media(b"", "video/mp4"),)}, "inputs"),
        (VeoProvider, "veo-3.1", {"inputs": (input_media(b"", "audio/mpeg"),)}, "inputs"),
        (
            VeoProvider,
            "veo-3.1",
            {"inputs": (input_media(b"", "image/png", metadata={"role": "mask"}),)},
            "role",
        ),
        (VeoProvider, "veo-3.1", {"modality": Modality.IMAGE}, "modality"),
        (ImagenProvider, "imagen-4.0-generate-001", {"params": {"n": 5}}, "sampleCount"),
        (ImagenProvider, "imagen-4.0-generate-001", {"params": {"resolution": "4K"}}, "size"),
        (ImagenProvider, "imagen-4.0-generate-001", {"params": {"aspect_ratio": "2:1"}}, "ratio"),
        (ImagenProvider, "imagen-4.0-generate-001", {"params": {"output_format": "webp"}}, "out"),
        (ImagenProvider, "imagen-4.0-generate-001", {"seed": 1}, "seed"),
        (ImagenProvider, "imagen-4.0-generate-001", {"negative_prompt": "x"}, "negative_prompt"),
        (ImagenProvider, "imagen-4.0-generate-001", {"inputs": (PICTURE,)}, "inputs"),
        (ImagenProvider, "imagen-4.0-generate-001", {"prompt": None}, "prompt"),
        (GeminiImageProvider, "gemini-2.5-flash-image", {"params": {"n": 2}}, "n"),
        (GeminiImageProvider, "gemini-2.5-flash-image", {"params": {"resolution": "2K"}}, "size"),
        (GeminiImageProvider, "gemini-3.1-flash-image", {"params": {"resolution": "8K"}}, "size"),
        (GeminiImageProvider, "gemini-3.1-flash-image", {"negative_prompt": "x"}, "negative"),
        (GeminiImageProvider, "gemini-3.1-flash-image", {"params": {"output_format": "png"}}, "o"),
        (
            GeminiImageProvider,
            "gemini-3.1-flash-image",
            {"params": {"responseModalities": ["TEXT"]}},
            "responseModalities",
        ),
        (
            GeminiImageProvider,
            "gemini-3.1-flash-image",
            {"inputs": (input_media(b"", "video/mp4"),)},
            "inputs",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else getattr(value, "name", value),
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    kind: type[GoogleProvider], model: str, changes: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    modality = Modality.VIDEO if kind is VeoProvider else Modality.IMAGE
    request = GenerationRequest(**{"prompt": "x", "modality": modality, "model": model, **changes})
    with pytest.raises(InvalidRequestError) as caught:
        kind(API_KEY).validate(request)
    assert param.lower() in str(caught.value.param).lower()
    assert caught.value.sent is False


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("model", ["../files/x", "veo?key=1", "models/", "a/b", ""])
def test_a_model_that_would_change_the_address_is_refused(
    kind: type[GoogleProvider], model: str
) -> None:
    """The model is part of the URL, so it has to be a name."""
    modality = Modality.VIDEO if kind is VeoProvider else Modality.IMAGE
    request = GenerationRequest(model=model, prompt="x", modality=modality)
    with pytest.raises(ModelError) as caught:
        kind(API_KEY).validate(request)
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("kind", "native"),
    [
        (VeoProvider, {"durationSeconds": 30, "anything": 1}),
        (ImagenProvider, {"duration": 30, "anything": 1}),
        (GeminiImageProvider, {"duration": 30, "anything": 1, "responseModalities": ["IMAGE"]}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_unknown_model_passes_through(
    kind: type[GoogleProvider], native: dict[str, Any]
) -> None:
    """A model nobody knows gets its parameters as they are, and has no price."""
    modality = Modality.VIDEO if kind is VeoProvider else Modality.IMAGE
    params = {"duration": 30, "anything": 1}
    request = GenerationRequest(model="new-9", prompt="x", modality=modality, params=params)
    provider = kind(API_KEY)
    provider.validate(request)
    assert provider.payload(request) == {"prompt": "x", **native}
    assert provider.estimate_cost(request) is None


def test_an_image_that_is_not_counted_counts_as_four() -> None:
    """Imagen makes four images by default, so four are what it is expected to cost."""
    models = ModelRegistry()
    models.register(ModelSpec(model_id="imagen-4.0-generate-001", pricing=per_unit(0.5)))
    provider = ImagenProvider(API_KEY, models=models)
    request = GenerationRequest(model="imagen-4.0-generate-001", prompt="x")
    assert provider.estimate_cost(request) == 2.0
    one = replace(request, params={"sampleCount": 1})
    assert provider.estimate_cost(one) == 0.5


@pytest.mark.parametrize("kind", KINDS.values())
def test_a_missing_key_names_the_variable(kind: type[GoogleProvider]) -> None:
    """Without a key nothing is sent, and the message says which variable to set."""
    modality = Modality.VIDEO if kind is VeoProvider else Modality.IMAGE
    with pytest.raises(AuthError, match="GEMINI_API_KEY") as caught:
        kind().validate(GenerationRequest(model="veo-3.1", prompt="x", modality=modality))
    assert caught.value.sent is False


def test_one_of_two_keys_wins_as_in_googles_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """GEMINI_API_KEY is enough; with both set GOOGLE_API_KEY is used."""
    monkeypatch.setenv("GEMINI_API_KEY", "gemini")
    assert VeoProvider().api.key == "gemini"
    monkeypatch.setenv("GOOGLE_API_KEY", "google")
    assert VeoProvider().api.key == "google"


def test_drafts_of_a_thinking_model_are_no_pictures(vectors: Path) -> None:
    """Parts that are thoughts are left out; one in the alphabet for URLs is read."""
    scenario = load(vectors, "gemini_image_text_to_image")
    drafted = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thought": True}
    final = {"inlineData": {"mimeType": "image/png", "data": "_-8"}}
    content = {"content": {"parts": [drafted, {"text": "idea", "thought": True}, final]}}
    exchange = {
        **scenario.exchanges[0],
        "response": {"status": 200, "json": {"candidates": [content]}},
    }
    driven = replay_of(replace(scenario, exchanges=[exchange]), request_of(scenario))
    assert driven.data == [b"\xff\xef"]
    assert driven.result is not None
    assert "text" not in driven.result.provider_payload


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({}, ModelError),
        ({"candidates": "none"}, ModelError),
        ({"candidates": [{"finishReason": "MAX_TOKENS"}]}, ModelError),
        ({"candidates": [{"finishReason": "RECITATION"}]}, ContentPolicyError),
        ({"candidates": [{"content": {"parts": [{"inlineData": {"data": "%"}}]}}]}, ProviderError),
    ],
    ids=["empty", "nonsense", "max_tokens", "recitation", "no-base64"],
)
def test_an_answer_without_a_picture_is_a_typed_error(
    vectors: Path, answer: dict[str, Any], kind: type[ProviderError]
) -> None:
    """Whatever comes instead of a picture, it ends in an error that is not tried again."""
    scenario = load(vectors, "gemini_image_text_to_image")
    exchange = {**scenario.exchanges[0], "response": {"status": 200, "json": answer}}
    driven = replay_of(replace(scenario, exchanges=[exchange]), request_of(scenario))
    assert isinstance(driven.error, kind)
    assert driven.error.transient is False
