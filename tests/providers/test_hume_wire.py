from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    InvalidRequestError,
    OutputError,
    ProviderTimeoutError,
)
from genblaze_dagster.providers.hume import HumeTTSProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from tests.support.vendor import Driven, called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

OTHER_CALLS = ("list_voices",)
# What the vendor refuses, and we before it is sent.
REFUSED = ("error_400_coded", "error_422")
JSON = {"content-type": "application/json"}
SPEECH = [n for n in scenario_names("hume") if n not in OTHER_CALLS + REFUSED]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "hume" / f"{name}.json")


def make(client: httpx.AsyncClient) -> HumeTTSProvider:
    return HumeTTSProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    fields = dict(exchange["request"]["json"])
    (utterance,) = fields.pop("utterances")
    params = {name: value for name, value in utterance.items() if name not in ("text", "voice")}
    voice = utterance.get("voice", {})
    if voice:
        params["voice"] = voice.get("id") or voice["name"]
    if "format" in fields:
        params["output_format"] = fields.pop("format")["type"]
    version = fields.pop("version", None)
    if exchange["request"]["url"].endswith("/file"):
        params["as_file"] = True
    return GenerationRequest(
        model=f"octave-{version}" if version else "octave",
        prompt=utterance["text"],
        modality=Modality.AUDIO,
        params={**params, **fields},
    )


@pytest.mark.parametrize("name", SPEECH)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden speech gives an equal request and the expected bytes, words or error."""
    scenario = load(vectors, name)
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    expect = scenario.expect
    if "outputs_count" in expect:
        expect = {**expect, "output_sha256": [expect["output_sha256"]] * expect["outputs_count"]}
    check_expected(replace(scenario, expect=expect), driven, key=API_KEY)
    if driven.result is None:
        return
    output = driven.result.outputs[0]
    assert output.media_type == expect["media_type"]
    if "duration_s" in expect:
        assert output.facts["duration"] == expect["duration_s"]
    if "generation_id" in expect:
        assert driven.result.provider_payload["generation_ids"] == [expect["generation_id"]]
    if "words" in expect:
        found = output.facts["audio"].word_timings
        for wanted, timing in zip(expect["words"], found, strict=True):
            given = {"text": timing.word, "start": timing.start, "end": timing.end}
            assert {name: given[name] for name in wanted} == wanted


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    with pytest.raises(InvalidRequestError):
        HumeTTSProvider(API_KEY).validate(request_of(scenario.exchanges[0]))
    allowed = GenerationRequest(model="octave", prompt="Hi", modality=Modality.AUDIO)
    driven = replayed(scenario, make, allowed, same_requests=False)
    check_expected(scenario, driven, key=API_KEY)


def test_a_lost_answer_is_ambiguous(vectors: Path) -> None:
    """A call that timed out may be paid, so it does not count as not sent."""
    scenario = load(vectors, "error_timeout")
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    assert isinstance(driven.error, ProviderTimeoutError)
    assert driven.error.sent is None


def test_voices_are_listed_to_the_last_page(vectors: Path) -> None:
    """All pages are read, and none past the last that is announced."""
    scenario = load(vectors, "list_voices")
    one_page = replace(scenario, exchanges=scenario.exchanges[:1])
    found = called(one_page, make, lambda provider: provider.list_voices(page_size=10))
    assert [voice["name"] for voice in found] == scenario.expect["voices"]


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("hume"))
    replayed_count = len(SPEECH) + len(OTHER_CALLS) + len(REFUSED)
    print(f"hume: {replayed_count} of {count} vectors replayed")
    assert replayed_count == count


@pytest.mark.parametrize(
    ("model", "params", "param"),
    [
        ("octave-2", {}, "voice"),
        ("octave-1", {"include_timestamp_types": ["word"]}, "include_timestamp_types"),
        ("octave", {"output_format": "flac"}, "format"),
        ("octave", {"n": 6}, "num_generations"),
        ("octave", {"language": "de"}, "language"),
        ("octave", {"speed": -1}, "speed"),
        ("octave", {"voice_provider": "CUSTOM_VOICE"}, "voice_provider"),
        ("octave", {"as_file": True, "n": 2}, "n"),
        (
            "octave-2",
            {"voice": "x", "as_file": True, "include_timestamp_types": ["word"]},
            "include_timestamp_types",
        ),
        ("other", {"voice": 5}, "voice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "none",
)
def test_what_octave_does_not_take_is_refused_before_anything_is_sent(
    model: str, params: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    request = GenerationRequest(model=model, prompt="Hi.", modality=Modality.AUDIO, params=params)
    with pytest.raises(InvalidRequestError) as caught:
        HumeTTSProvider(API_KEY).validate(request)
    assert caught.value.param == param
    assert caught.value.sent is False


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    request = GenerationRequest(model="octave", prompt="Hi.", modality=Modality.AUDIO)
    with pytest.raises(AuthError, match="HUME_API_KEY"):
        HumeTTSProvider().validate(request)


def test_an_input_is_refused_and_not_left_out() -> None:
    """Hume hears nothing of what a step before it made."""
    request = GenerationRequest(
        model="octave",
        prompt="Hi.",
        modality=Modality.AUDIO,
        inputs=(input_media(b"ID3", "audio/mpeg"),),
    )
    with pytest.raises(InvalidRequestError) as caught:
        HumeTTSProvider(API_KEY).validate(request)
    assert caught.value.param == "inputs"


def submitted(request: GenerationRequest, body: dict[str, Any]) -> Driven:
    scenario = Scenario(
        "one", "hume", {}, [{"response": {"status": 200, "headers": JSON, "json": body}}]
    )
    return replayed(scenario, make, request, same_requests=False)


def test_an_unknown_model_passes_through_with_its_text() -> None:
    """Whatever the model, the prompt is the text of the utterance."""
    request = GenerationRequest(
        model="sonata", prompt="Hi.", modality=Modality.AUDIO, params={"voice": "x", "anything": 1}
    )
    provider = HumeTTSProvider(API_KEY)
    provider.validate(request)
    assert provider.payload(request) == {"text": "Hi.", "voice": "x", "anything": 1}
    driven = submitted(request, {"generations": [{"audio": "SUQz"}]})
    assert driven.data == [b"ID3"]
    assert driven.result is not None
    assert driven.result.cost_usd is None


def test_takes_that_can_be_read_are_kept() -> None:
    """All of them are paid; one without audio is counted, and does not cost the others."""
    request = GenerationRequest(
        model="octave", prompt="Hi.", modality=Modality.AUDIO, params={"n": 3}
    )
    first, last = (
        {"audio": "SUQz", "generation_id": "a"},
        {"audio": "SUQzMw==", "generation_id": "c"},
    )
    odd = {"audio": "", "generation_id": "b"}
    driven = submitted(request, {"generations": [first, odd, last]})
    assert driven.data == [b"ID3", b"ID33"]
    assert driven.result is not None
    assert driven.result.provider_payload == {"generation_ids": ["a", "c"], "missing": 1}
    assert isinstance(submitted(request, {"generations": [odd]}).error, OutputError)


def test_words_are_no_audio() -> None:
    """An error with the status of a success is not kept as a sound."""
    request = GenerationRequest(
        model="octave", prompt="Hi.", modality=Modality.AUDIO, params={"as_file": True}
    )
    assert isinstance(submitted(request, {"message": "busy"}).error, OutputError)
