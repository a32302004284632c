import asyncio
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    OutputError,
    ProviderTimeoutError,
)
from genblaze_dagster.providers.elevenlabs import (
    ElevenLabsMusicProvider,
    ElevenLabsSFXProvider,
    ElevenLabsTTSProvider,
)
from genblaze_dagster.providers.elevenlabs.speech import words_of
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.validation import DiscoveryResult, DiscoveryStatus
from genblaze_dagster.providers.vendor.provider import VendorProvider
from tests.support.vendor import Driven, called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, replay, scenario_names

OTHER_CALLS = ("list_models", "search_voices")
GENERATIONS = [name for name in scenario_names("elevenlabs") if name not in OTHER_CALLS]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "elevenlabs" / f"{name}.json")


def provider_of(url: str) -> type[VendorProvider]:
    if "/music" in url:
        return ElevenLabsMusicProvider
    return ElevenLabsSFXProvider if "/sound" in url else ElevenLabsTTSProvider


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    fields = dict(captured["json"])
    parts = urlsplit(captured["url"])
    fields |= dict(parse_qsl(parts.query))
    path = parts.path.split("/")
    if "text-to-speech" in path:
        fields["voice"] = path[path.index("text-to-speech") + 1]
    if path[-1] == "with-timestamps":
        fields["with_timestamps"] = True
    if path[-1] == "detailed":
        fields["detailed"] = True
    return GenerationRequest(
        model=fields.pop("model_id", "default"),
        prompt=fields.pop("text", None) or fields.pop("prompt", None),
        seed=fields.pop("seed", None),
        modality=Modality.AUDIO,
        params=fields,
    )


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden call gives an equal request and the expected bytes, words or error."""
    scenario = load(vectors, name)
    kind = provider_of(scenario.exchanges[0]["request"]["url"])

    def make(client: httpx.AsyncClient) -> VendorProvider:
        return kind(API_KEY, client=client)

    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    check_expected(scenario, driven, key=API_KEY)
    expect = scenario.expect
    if "suggestion" in expect:
        assert expect["suggestion"] in str(driven.error)
    if driven.result is None:
        return
    (output,) = driven.result.outputs
    assert output.media_type == expect["media_type"]
    if "song_id" in expect:
        assert driven.result.provider_payload["song_id"] == expect["song_id"]
    if "words" in expect:
        found = output.facts["audio"].word_timings
        assert [{"text": t.word, "start": t.start, "end": t.end} for t in found] == expect["words"]


def test_the_detailed_answer_tells_the_plan(vectors: Path) -> None:
    """Plan and audio are split as MIME says; nothing of the boundary is in the audio."""
    scenario = load(vectors, "music_detailed")
    driven = replayed(
        scenario,
        lambda client: ElevenLabsMusicProvider(API_KEY, client=client),
        request_of(scenario.exchanges[0]),
    )
    assert driven.result is not None
    assert "composition_plan" in driven.result.provider_payload


def test_models_and_voices_are_listed(vectors: Path) -> None:
    """Speech models come by id, voices by a search."""
    models = load(vectors, "list_models")
    voices = load(vectors, "search_voices")

    def make(client: httpx.AsyncClient) -> ElevenLabsTTSProvider:
        return ElevenLabsTTSProvider(API_KEY, client=client)

    assert called(models, make, lambda p: p.list_models()) == models.expect["models"]
    found = called(voices, make, lambda p: p.search_voices("george", page_size=2))
    assert [voice["voice_id"] for voice in found] == voices.expect["voices"]


def test_looking_through_voices_ends() -> None:
    """A vendor that names the same page again and again is asked for it once."""
    page = {"status": 200, "json": {"voices": [{}], "has_more": True, "next_page_token": "p"}}
    scenario = Scenario("a circle", "elevenlabs", {}, [{"response": page}] * 3)

    async def main() -> int:
        async with wire.client() as client:
            return len(await ElevenLabsTTSProvider(API_KEY, client=client).search_voices())

    with replay(scenario) as wire:
        assert asyncio.run(main()) == 2


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("elevenlabs"))
    print(f"elevenlabs: {len(GENERATIONS) + len(OTHER_CALLS)} of {count} vectors replayed")
    assert len(GENERATIONS) + len(OTHER_CALLS) == count


def test_a_lost_answer_is_ambiguous(vectors: Path) -> None:
    """A call that timed out may be paid."""
    scenario = load(vectors, "error_timeout")
    driven = replayed(
        scenario,
        lambda client: ElevenLabsTTSProvider(API_KEY, client=client),
        request_of(scenario.exchanges[0]),
    )
    assert isinstance(driven.error, ProviderTimeoutError)
    assert driven.error.sent is None


SPEECH = GenerationRequest(
    model="eleven_v3", prompt="Hi.", modality=Modality.AUDIO, params={"voice": "abc"}
)
SOUND = GenerationRequest(model="default", prompt="rain", modality=Modality.AUDIO)
MUSIC = GenerationRequest(model="music_v1", prompt="a waltz", modality=Modality.AUDIO)


@pytest.mark.parametrize(
    ("provider", "request_", "params", "param"),
    [
        (ElevenLabsTTSProvider, SPEECH, {}, "voice"),
        (ElevenLabsTTSProvider, SPEECH, {"voice": "../models"}, "voice"),
        (ElevenLabsTTSProvider, SPEECH, {"voice": "a", "stability": 2}, "stability"),
        (ElevenLabsTTSProvider, SPEECH, {"voice": "a", "output_format": "aiff"}, "output_format"),
        (ElevenLabsTTSProvider, SPEECH, {"voice": "a", "n": 2}, "n"),
        (ElevenLabsSFXProvider, SOUND, {"duration": 31}, "duration_seconds"),
        (ElevenLabsMusicProvider, MUSIC, {"duration": 2}, "music_length_ms"),
        (ElevenLabsMusicProvider, MUSIC, {"duration": 3.0001}, "music_length_ms"),
        (ElevenLabsMusicProvider, MUSIC, {"negative_prompt": "x"}, "negative_prompt"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else getattr(value, "name", ""),
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    provider: type[VendorProvider],
    request_: GenerationRequest,
    params: dict[str, Any],
    param: str,
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        provider(API_KEY).validate(replace(request_, params=params))
    assert caught.value.param == param
    assert caught.value.sent is False


def test_standard_values_become_native_ones() -> None:
    """Seconds, formats and languages are written as the API wants them."""
    music = replace(MUSIC, params={"duration": 12.5, "output_format": "mp3"})
    native = ElevenLabsMusicProvider(API_KEY).payload(music)
    assert native["music_length_ms"] == 12500
    assert native["output_format"] == "mp3_44100_128"
    speech = replace(SPEECH, params={"voice_id": "abc", "language": "fr", "speed": 1.1})
    native = ElevenLabsTTSProvider(API_KEY).payload(speech)
    assert native["language_code"] == "fr"
    assert native["voice_settings"] == {"speed": 1.1}
    both = {"voice": "abc", "speed": 1.1, "voice_settings": {"speed": 0.9}}
    native = ElevenLabsTTSProvider(API_KEY).payload(replace(SPEECH, params=both))
    assert native["voice_settings"] == {"speed": 0.9}


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(16.1, 16100), (4.35, 4350), (32.77, 32770), (600, 600_000)]
)
def test_a_duration_is_taken_as_it_is_written(seconds: float, milliseconds: int) -> None:
    """Times a thousand in binary, 16.1 is no whole number."""
    native = ElevenLabsMusicProvider(API_KEY).payload(replace(MUSIC, params={"duration": seconds}))
    assert native["music_length_ms"] == milliseconds


@pytest.mark.parametrize(
    ("provider", "request_"),
    [
        (ElevenLabsTTSProvider, replace(SPEECH, params={"voice": "abc"})),
        (ElevenLabsSFXProvider, SOUND),
        (ElevenLabsMusicProvider, MUSIC),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_input_is_refused_and_not_left_out(
    provider: type[VendorProvider], request_: GenerationRequest
) -> None:
    """None of the three hears or sees what a step before it made."""
    heard = input_media(b"ID3", "audio/mpeg")
    with pytest.raises(InvalidRequestError) as caught:
        provider(API_KEY).validate(replace(request_, inputs=(heard,)))
    assert caught.value.param == "inputs"


def test_an_unknown_model_passes_through_with_its_text_and_voice() -> None:
    """Whatever the model, the prompt is the text; without a voice there is no address."""
    provider = ElevenLabsTTSProvider(API_KEY)
    new = replace(SPEECH, model="eleven_nova", params={"voice_id": "abc", "anything": 1})
    provider.validate(new)
    assert provider.payload(new) == {"text": "Hi.", "voice": "abc", "anything": 1}
    assert provider.estimate_cost(new) is None
    for params in ({}, {"voice": "../models"}):
        with pytest.raises(InvalidRequestError) as caught:
            provider.validate(replace(new, params=params))
        assert caught.value.param == "voice"
    sound = replace(SOUND, model="eleven_boom", params={"duration": 2})
    assert ElevenLabsSFXProvider(API_KEY).payload(sound) == {"text": "rain", "duration_seconds": 2}


def answered(
    provider: type[VendorProvider], request: GenerationRequest, response: dict[str, Any]
) -> Driven:
    """Submit, and be answered with that."""
    scenario = Scenario("one answer", "elevenlabs", {}, [{"response": response}])
    return replayed(
        scenario, lambda client: provider(API_KEY, client=client), request, same_requests=False
    )


@pytest.mark.parametrize(
    "response",
    [
        {
            "status": 200,
            "headers": {"content-type": "application/json"},
            "json": {"detail": {"status": "system_busy", "message": "later"}},
        },
        {"status": 200, "headers": {"content-type": "text/html"}, "body_text": "<html>busy</html>"},
    ],
    ids=["an error", "a page"],
)
def test_words_are_no_audio(response: dict[str, Any]) -> None:
    """What is no audio in spite of its status is never kept as a sound."""
    for provider, request in (
        (ElevenLabsTTSProvider, replace(SPEECH, params={"voice": "abc"})),
        (ElevenLabsSFXProvider, SOUND),
        (ElevenLabsMusicProvider, MUSIC),
    ):
        driven = answered(provider, request, response)
        assert isinstance(driven.error, OutputError)
        assert "not media" in str(driven.error)


def test_an_odd_refusal_is_still_a_refusal() -> None:
    """The code counts, whatever stands beside it."""
    odd = {"detail": {"code": "bad_prompt", "message": ["no"], "data": "none"}}
    request = replace(SPEECH, params={"voice": "abc"})
    driven = answered(ElevenLabsTTSProvider, request, {"status": 400, "json": odd})
    assert isinstance(driven.error, ContentPolicyError)


def test_a_list_of_models_that_is_a_page_is_a_list_that_failed() -> None:
    """Discovery never raises."""
    page = {"status": 200, "body_text": "<html>busy</html>"}
    scenario = Scenario("a page", "elevenlabs", {}, [{"response": page}])

    async def main() -> DiscoveryResult:
        async with wire.client() as client:
            return await ElevenLabsTTSProvider(API_KEY, client=client).discover_models()

    with replay(scenario) as wire:
        found = asyncio.run(main())
    assert found.status is DiscoveryStatus.FAILED


def test_a_seed_goes_with_a_plan_only() -> None:
    """A prompt and a seed exclude each other, as the vendor says."""
    with pytest.raises(InvalidRequestError, match="seed"):
        ElevenLabsMusicProvider(API_KEY).validate(replace(MUSIC, seed=3))


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="ELEVENLABS_API_KEY"):
        ElevenLabsTTSProvider().validate(SPEECH)


def test_no_alignment_is_no_words() -> None:
    """The vendor may leave the alignment out."""
    assert words_of(None) == []


def test_an_alignment_that_cannot_be_read_costs_no_audio() -> None:
    """The audio is paid for; its timings are worth less."""
    alignment = {
        "characters": ["a", None],
        "character_start_times_seconds": [None, 1],
        "character_end_times_seconds": [1, 2],
    }
    response = {"status": 200, "json": {"audio_base64": "SUQz", "alignment": alignment}}
    request = replace(SPEECH, params={"voice": "abc", "with_timestamps": True})
    driven = answered(ElevenLabsTTSProvider, request, response)
    assert driven.data == [b"ID3"]


def test_a_plan_that_cannot_be_read_costs_no_audio() -> None:
    """The JSON part of the detailed answer is not JSON."""
    body = (
        b"--b\r\ncontent-type: application/json\r\n\r\n{oops\r\n"
        b"--b\r\ncontent-type: audio/mpeg\r\n\r\nID3\r\n--b--\r\n"
    )
    response = {
        "status": 200,
        "headers": {"content-type": "multipart/mixed; boundary=b"},
        "body_base64": b64encode(body).decode(),
    }
    driven = answered(ElevenLabsMusicProvider, replace(MUSIC, params={"detailed": True}), response)
    assert driven.data == [b"ID3"]
