import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import AuthError, ConfigError, InvalidRequestError, ModelError
from genblaze_dagster.providers.nvidia import NvidiaAudioProvider
from genblaze_dagster.providers.nvidia.audio import MAGPIE
from genblaze_dagster.providers.protocol import GenerationRequest
from tests.support.vendor import called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, replay, scenario_names

OTHER_CALLS = ("audio_list_voices",)
GENERATIONS = [name for name in scenario_names("nvidia", "audio_*") if name not in OTHER_CALLS]
FUNCTION = "00000000-1111-4222-8333-444444444444"


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "nvidia" / f"{name}.json")


def make(client: httpx.AsyncClient) -> NvidiaAudioProvider:
    return NvidiaAudioProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    if "multipart" in captured:
        fields = {part["name"]: part["value"] for part in captured["multipart"]}
        if "sample_rate_hz" in fields:
            fields["sample_rate"] = int(fields.pop("sample_rate_hz"))
        return speech(prompt=fields.pop("text"), params=fields)
    fields = dict(captured["json"])
    url = fields.pop("audio", None)
    return GenerationRequest(
        model=captured["url"].partition("/genai/")[2],
        prompt=fields.pop("prompt"),
        modality=Modality.AUDIO,
        params=fields,
        inputs=(input_media(b"", "audio/wav", public_url=url),) if url else (),
    )


def speech(**changes: Any) -> GenerationRequest:
    parts = {"model": MAGPIE, "prompt": "Hello there.", "modality": Modality.AUDIO}
    return GenerationRequest(**{**parts, **changes})


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden sound gives equal requests and the expected bytes or error."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    NvidiaAudioProvider(API_KEY).validate(request)
    driven = replayed(scenario, make, request)
    check_expected(scenario, driven, key=API_KEY)


def test_voices_are_listed_by_language(vectors: Path) -> None:
    """The keys are the vendor's own, several languages with a comma."""
    scenario = load(vectors, "audio_list_voices")
    found = called(scenario, make, lambda provider: provider.list_voices())
    (entry,) = scenario.exchanges[0]["response"]["json"].values()
    assert found == {"en-US,es-US": entry["voices"]}


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("nvidia", "audio_*"))
    print(f"nvidia audio: {len(GENERATIONS) + len(OTHER_CALLS)} of {count} vectors replayed")
    assert len(GENERATIONS) + len(OTHER_CALLS) == count


@pytest.mark.parametrize(
    ("options", "host", "key"),
    [
        ({"function_id": FUNCTION}, f"https://{FUNCTION}.invocation.api.nvcf.nvidia.com", True),
        ({"container_url": "http://tts.example.com:9000"}, "http://tts.example.com:9000", False),
    ],
    ids=["function", "container"],
)
def test_speech_can_come_from_elsewhere(
    vectors: Path, options: dict[str, Any], host: str, key: bool
) -> None:
    """Another function gets the key, a container does not; neither depends on the model's name."""
    scenario = load(vectors, "audio_tts_wav")
    exchange = dict(scenario.exchanges[0])
    request = dict(exchange["request"], url=f"{host}/v1/audio/synthesize")
    if not key:
        request["headers"] = {
            name: value for name, value in request["headers"].items() if name != "authorization"
        }
    own = Scenario(
        "own", "nvidia", scenario.expect, [{"request": request, "response": exchange["response"]}]
    )
    asked = request_of(exchange)
    driven = replayed(
        own,
        lambda client: NvidiaAudioProvider(API_KEY if key else None, client=client, **options),
        GenerationRequest(**{**_fields(asked), "model": "nvidia/riva-tts"}),
    )
    check_expected(own, driven, key=API_KEY)


def _fields(request: GenerationRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ("prompt", "modality", "params")}


def test_a_model_that_is_not_there_says_what_to_check() -> None:
    """What nobody has seen is offered, and its refusal is a model error."""
    answers = [{"response": {"status": 404, "headers": {}, "body_text": "404 page not found\n"}}]
    request = speech(model="nvidia/fugatto")
    driven = replayed(Scenario("own", "nvidia", {}, answers), make, request, same_requests=False)
    assert isinstance(driven.error, ModelError)
    assert "build.nvidia.com" in str(driven.error)


def test_an_input_without_a_url_goes_as_data() -> None:
    """A store in a folder has no address to give."""
    request = speech(model="nvidia/maxine-x", inputs=(input_media(b"x", "audio/wav"),))
    answers = [{"response": {"status": 202, "headers": {"nvcf-reqid": "1"}}}]
    with replay(Scenario("own", "nvidia", {}, answers)) as wire:
        _submit(wire.client, request)
    assert b'"audio":"data:audio/wav;base64,eA=="' in wire.received[0].body


def _submit(client: Any, request: GenerationRequest) -> None:
    async def main() -> None:
        async with client() as opened:
            await make(opened).submit(request)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": ""}, "text"),
        ({"prompt": None}, "text"),
        ({"seed": 1}, "seed"),
        ({"params": {"output_format": "mp3"}}, "output_format"),
        ({"params": {"sample_rate": "44100"}}, "sample_rate_hz"),
        ({"params": {"n": 2}}, "n"),
        ({"inputs": (input_media(b"", "audio/wav"),)}, "inputs"),
        ({"model": "nvidia/riva-tts"}, "model"),
        ({"modality": Modality.VIDEO}, "modality"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_speech_does_not_take_is_refused_before_anything_is_sent(
    changes: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        NvidiaAudioProvider(API_KEY).validate(speech(**changes))
    assert caught.value.param == param
    assert caught.value.sent is False


def test_a_function_is_named_by_its_id() -> None:
    """The id becomes part of a host, so it has to be one."""
    with pytest.raises(ConfigError, match="no UUID"):
        NvidiaAudioProvider(API_KEY, function_id="evil.example.com/")


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent, unless a container speaks."""
    with pytest.raises(AuthError, match="NVIDIA_API_KEY"):
        NvidiaAudioProvider().validate(speech())
    NvidiaAudioProvider(container_url="http://localhost:9000").validate(speech(model="any"))
