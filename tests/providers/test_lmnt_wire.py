from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import AuthError, InvalidRequestError, OutputError
from genblaze_dagster.providers.lmnt import LMNTProvider, words_of
from genblaze_dagster.providers.protocol import GenerationRequest
from tests.support.vendor import called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

OTHER_CALLS = ("account", "list_voices")
JSON = {"content-type": "application/json"}
SPEECH = [name for name in scenario_names("lmnt") if name not in OTHER_CALLS]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "lmnt" / f"{name}.json")


def make(client: httpx.AsyncClient) -> LMNTProvider:
    return LMNTProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    fields = dict(captured["json"])
    if captured["url"].endswith("/v1/ai/speech"):
        fields.setdefault("return_timestamps", False)
    return GenerationRequest(
        model=fields.pop("model"),
        prompt=fields.pop("text"),
        modality=Modality.AUDIO,
        params={"output_format": fields.pop("format"), **fields},
    )


@pytest.mark.parametrize("name", SPEECH)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden speech gives an equal request and the expected bytes, words or error."""
    scenario = load(vectors, name)
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    check_expected(scenario, driven, key=API_KEY)
    if driven.result is None:
        return
    (output,) = driven.result.outputs
    assert output.media_type == scenario.expect["media_type"]
    if "words" in scenario.expect:
        audio = output.facts.get("audio")
        timings = audio.word_timings if audio is not None else []
        found = [{"text": t.word, "start": t.start, "end": t.end} for t in timings]
        assert found == scenario.expect["words"]


def test_the_account_tells_what_is_used(vectors: Path) -> None:
    """Plan and usage are there for a check of the key that costs nothing."""
    scenario = load(vectors, "account")
    found = called(scenario, make, lambda provider: provider.retrieve_account())
    assert found["usage"]["characters"] == scenario.expect["characters_used"]
    assert found["plan"]["character_limit"] == scenario.expect["character_limit"]


def test_voices_are_listed(vectors: Path) -> None:
    """The voices of an owner come with their ids."""
    scenario = load(vectors, "list_voices")
    found = called(scenario, make, lambda provider: provider.list_voices())
    assert [voice["id"] for voice in found] == scenario.expect["voices"]


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("lmnt"))
    print(f"lmnt: {len(SPEECH) + len(OTHER_CALLS)} of {count} vectors replayed")
    assert len(SPEECH) + len(OTHER_CALLS) == count


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({}, "voice"),
        ({"voice": "leah", "output_format": "ogg"}, "format"),
        ({"voice": "leah", "sample_rate": 44100}, "sample_rate"),
        ({"voice": "leah", "speed": 2}, "speed"),
        ({"voice": "leah", "return_timestamps": "yes"}, "return_timestamps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)) or "none",
)
def test_what_lmnt_does_not_take_is_refused_before_anything_is_sent(
    params: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    request = GenerationRequest(
        model="blizzard", prompt="Hi.", modality=Modality.AUDIO, params=params
    )
    with pytest.raises(InvalidRequestError) as caught:
        LMNTProvider(API_KEY).validate(request)
    assert caught.value.param == param
    assert caught.value.sent is False


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="LMNT_API_KEY"):
        LMNTProvider().validate(GenerationRequest(model="blizzard", modality=Modality.AUDIO))


def test_no_timestamps_are_no_words() -> None:
    """An answer without timings has none."""
    assert words_of(None) == []


def test_an_input_is_refused_and_not_left_out() -> None:
    """LMNT hears nothing of what a step before it made."""
    request = GenerationRequest(
        model="blizzard",
        prompt="Hi.",
        modality=Modality.AUDIO,
        params={"voice": "leah"},
        inputs=(input_media(b"ID3", "audio/mpeg"),),
    )
    with pytest.raises(InvalidRequestError) as caught:
        LMNTProvider(API_KEY).validate(request)
    assert caught.value.param == "inputs"


def test_an_unknown_model_passes_through_with_its_text() -> None:
    """Whatever the model, the prompt is the text."""
    provider = LMNTProvider(API_KEY)
    request = GenerationRequest(
        model="aurora",
        prompt="Hi.",
        modality=Modality.AUDIO,
        params={"voice_id": "leah", "anything": 1},
    )
    provider.validate(request)
    assert provider.payload(request) == {"text": "Hi.", "voice": "leah", "anything": 1}
    assert provider.estimate_cost(request) is None


@pytest.mark.parametrize(
    ("params", "body", "data"),
    [
        ({}, {"error": "busy"}, []),
        (
            {"return_timestamps": True},
            {"audio": "SUQz", "timestamps": [{"text": "Hi", "start": None}]},
            [b"ID3"],
        ),
    ],
    ids=["an error with 200", "timings that cannot be read"],
)
def test_words_are_no_audio_and_timings_cost_none(
    params: dict[str, Any], body: dict[str, Any], data: list[bytes]
) -> None:
    """An error is not kept as a sound, and a sound is not lost for its timings."""
    request = GenerationRequest(
        model="blizzard", prompt="Hi.", modality=Modality.AUDIO, params={"voice": "a", **params}
    )
    scenario = Scenario(
        "odd", "lmnt", {}, [{"response": {"status": 200, "headers": JSON, "json": body}}]
    )
    driven = replayed(scenario, make, request, same_requests=False)
    assert driven.data == data
    assert isinstance(driven.error, OutputError) is (not data)
