import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import AudioMetadata
from genblaze_dagster.errors import AuthError, InvalidRequestError, ModelError, OutputError
from genblaze_dagster.providers.openai import OpenAITTSProvider
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Provider
from tests.support.vendor import check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

# What the vendor refuses, and we before it is sent.
REFUSED = ("speech_invalid_400",)
SPEECH = [name for name in scenario_names("openai", "speech_*") if name not in REFUSED]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "openai" / f"{name}.json")


def make(client: httpx.AsyncClient) -> OpenAITTSProvider:
    return OpenAITTSProvider(API_KEY, client=client)


def asked(model: str = "tts-1", prompt: str | None = "Hi.", **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        model=model, prompt=prompt, **{"modality": Modality.AUDIO, "params": {}, **fields}
    )


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    fields = dict(exchange["request"]["json"])
    for ours, native in (("output_format", "response_format"), ("guidance", "instructions")):
        if native in fields:
            fields[ours] = fields.pop(native)
    return asked(fields.pop("model"), fields.pop("input"), params=fields)


@pytest.mark.parametrize("name", SPEECH)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden speech gives equal requests and the expected bytes and type, or error."""
    scenario = load(vectors, name)
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    check_expected(scenario, driven, key=API_KEY)
    if driven.result is None:
        return
    expected = scenario.expect["asset"]
    (output,) = driven.result.outputs
    assert output.media_type == expected["media_type"]
    assert hashlib.sha256(output.data or b"").hexdigest() == expected["sha256"]
    assert len(output.data or b"") == expected.get("bytes", len(output.data or b""))
    assert driven.result.provider_payload == {"request_id": "req_tts"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    with pytest.raises(InvalidRequestError, match="nova") as caught:
        OpenAITTSProvider(API_KEY).validate(request)
    assert caught.value.param == scenario.expect["param"]
    allowed = replace(request, params={"voice": "nova"})
    driven = replayed(scenario, make, allowed, same_requests=False)
    check_expected(scenario, driven, key=API_KEY)
    assert driven.error is not None
    assert driven.error.param == scenario.expect["param"]


def test_every_speech_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("openai", "speech_*"))
    print(f"openai-tts: {len(SPEECH) + len(REFUSED)} of {count} vectors replayed")
    assert len(SPEECH) + len(REFUSED) == count == 8


def test_it_is_a_provider() -> None:
    """The class has everything the Provider protocol asks for, under the name of manifests."""
    provider = OpenAITTSProvider()
    assert isinstance(provider, Provider)
    assert (provider.name, provider.deduplicates) == ("openai-tts", False)


@pytest.mark.parametrize(
    ("model", "params", "param"),
    [
        ("tts-1", {}, "voice"),
        ("tts-1", {"voice": "marin"}, "voice"),
        ("tts-1-hd-1106", {"voice": "verse"}, "voice"),
        ("gpt-4o-mini-tts", {"voice": "nobody"}, "voice"),
        ("gpt-4o-mini-tts", {"voice": {"name": "x"}}, "voice"),
        ("gpt-4o-mini-tts", {"voice": ["nova"]}, "voice"),
        ("tts-1", {"voice": "nova", "output_format": "ogg"}, "response_format"),
        ("tts-1", {"voice": "nova", "speed": 4.5}, "speed"),
        ("tts-1", {"voice": "nova", "speed": "fast"}, "speed"),
        ("tts-1", {"voice": "nova", "instructions": "Cheerful."}, "instructions"),
        ("gpt-4o-mini-tts", {"voice": "nova", "instructions": "x" * 4097}, "instructions"),
        ("gpt-4o-mini-tts", {"voice": "nova", "stream_format": "sse"}, "stream_format"),
        ("gpt-4o-mini-tts", {"voice": "nova", "language": "de"}, "language"),
        ("gpt-4o-mini-tts", {"voice": "nova", "n": 2}, "n"),
        ("tts-1", {"voice": "nova", "input": "Other."}, "input"),
        ("tts-9", {"voice": "nova", "input": "Other."}, "input"),
    ],
)
def test_what_openai_does_not_take_is_refused_before_anything_is_sent(
    model: str, params: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        OpenAITTSProvider(API_KEY).validate(asked(model, params=params))
    assert caught.value.param == param
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "x" * 4097}, "input"),
        ({"prompt": ""}, "input"),
        ({"prompt": None}, "input"),
        ({"seed": 7}, "seed"),
        ({"negative_prompt": "mumbling"}, "negative_prompt"),
        ({"inputs": (input_media(b"", "audio/mpeg"),)}, "inputs"),
        ({"modality": Modality.VIDEO}, "modality"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_the_request_itself_is_judged_too(fields: dict[str, Any], param: str) -> None:
    """The text has a length, and there is nothing but text."""
    request = asked(**{"params": {"voice": "nova"}, **fields})
    with pytest.raises(InvalidRequestError) as caught:
        OpenAITTSProvider(API_KEY).validate(request)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("model", "params", "native"),
    [
        ("tts-1", {"voice": "nova", "output_format": "flac"}, {"response_format": "flac"}),
        ("gpt-4o-mini-tts", {"voice": "cedar", "guidance": "Slow."}, {"instructions": "Slow."}),
        ("gpt-4o-mini-tts", {"voice": "voice_123"}, {"voice": {"id": "voice_123"}}),
        ("gpt-4o-mini-tts", {"voice": {"id": "voice_123"}}, {"voice": {"id": "voice_123"}}),
        ("gpt-4o-mini-tts-2026-01-01", {"voice": "marin", "speed": 4}, {"speed": 4}),
        ("tts-9", {"voice": "new", "mood": "gay"}, {"mood": "gay"}),
        ("kokoro-on-my-gateway", {"voice": "af_sky"}, {}),
    ],
)
def test_standard_and_native_parameters_become_openais(
    model: str, params: dict[str, Any], native: dict[str, Any]
) -> None:
    """Standard names are translated; unknown models take any value, under the API's names."""
    request = asked(model, params=params)
    provider = OpenAITTSProvider(API_KEY)
    provider.validate(request)
    assert provider.payload(request) == {"input": "Hi.", "voice": params["voice"], **native}


@pytest.mark.parametrize("model", ["gpt-image-2", "sora-2", "whisper-1", "gpt-4o"])
def test_models_of_another_kind_are_a_model_error(model: str) -> None:
    """OpenAI's other models certainly make no speech."""
    with pytest.raises(ModelError, match=model):
        OpenAITTSProvider(API_KEY).validate(asked(model))


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="OPENAI_API_KEY"):
        OpenAITTSProvider().validate(asked(params={"voice": "nova"}))


def spoken(content: bytes, **params: Any) -> Output:
    """Return the output of a call that is answered with these bytes."""

    async def main() -> Output:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=content))
        async with httpx.AsyncClient(transport=transport) as client:
            submission = await make(client).submit(asked(params={"voice": "nova", **params}))
            assert submission.result is not None
            return submission.result.outputs[0]

    return asyncio.run(main())


def test_headerless_audio_comes_with_the_facts_it_lacks() -> None:
    """PCM says nothing of itself: rate, channels and length are told."""
    output = spoken(bytes(2 * 36_000), output_format="pcm")
    assert output.media_type == "audio/pcm"
    assert output.facts["duration"] == 1.5
    assert output.facts["audio"] == AudioMetadata(channels=1, codec="pcm_s16le", sample_rate=24_000)
    assert spoken(b"ID3", output_format="mp3").facts == {}


def test_an_empty_answer_is_no_speech() -> None:
    """A 200 without a byte is an error, and may have been billed."""
    with pytest.raises(OutputError, match="billed"):
        spoken(b"")


@pytest.mark.parametrize(
    ("model", "usd"),
    [("tts-1", 0.015), ("tts-1-1106", 0.015), ("tts-1-hd", 0.03), ("gpt-4o-mini-tts", None)],
)
def test_the_price_counts_characters_or_is_unknown(model: str, usd: float | None) -> None:
    """The tokens of gpt-4o-mini-tts stand in no answer."""
    request = asked(model, "x" * 1000, params={"voice": "nova"})
    assert OpenAITTSProvider().estimate_cost(request) == usd


def test_words_are_no_audio() -> None:
    """An error with the status of a success is not kept as a sound."""
    answer = {
        "status": 200,
        "headers": {"content-type": "application/json; charset=utf-8"},
        "json": {"error": {"message": "busy"}},
    }
    scenario = Scenario("busy", "openai", {}, [{"response": answer}])
    request = asked(params={"voice": "alloy"})
    driven = replayed(scenario, make, request, same_requests=False)
    assert isinstance(driven.error, OutputError)
    assert "not media" in str(driven.error)
