import base64
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
from genblaze_dagster.providers.assemblyai import AssemblyAIProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from tests.support.vendor import called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

OTHER_CALLS = ("delete", "error_upload_403")
TRANSCRIPTS = [name for name in scenario_names("assemblyai") if name not in OTHER_CALLS]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "assemblyai" / f"{name}.json")


def make(client: httpx.AsyncClient) -> AssemblyAIProvider:
    return AssemblyAIProvider(API_KEY, client=client)


def request_of(scenario: Scenario) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured requests ask."""
    captured = [exchange["request"] for exchange in scenario.exchanges]
    (fields,) = [dict(r["json"]) for r in captured if r["url"].endswith("/transcript")][:1]
    url = fields.pop("audio_url")
    if captured[0]["url"].endswith("/upload"):
        audio = input_media(base64.b64decode(captured[0]["body_base64"]), "audio/mpeg")
    else:
        audio = input_media(b"", "audio/mpeg", public_url=url)
    last = captured[-1]["url"]
    if "chars_per_caption" in last:
        fields |= {"output_format": "srt", "chars_per_caption": int(last.rpartition("=")[2])}
    return GenerationRequest(
        model=",".join(fields.pop("speech_models", ["default"])),
        modality=Modality.TEXT,
        params=fields,
        inputs=(audio,),
    )


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden transcript gives equal requests and the expected text, words or error."""
    scenario = load(vectors, name)
    driven = replayed(scenario, make, request_of(scenario))
    check_expected(scenario, driven, key=API_KEY)
    if driven.result is None:
        return
    expect = scenario.expect
    output = driven.result.outputs[0]
    if "text" in expect:
        assert output.data is not None
        assert output.data.decode().strip() == expect["text"]
    if "words" in expect:
        audio = output.facts.get("audio")
        timings = audio.word_timings if audio is not None else []
        for wanted, timing in zip(expect["words"], timings, strict=True):
            assert (timing.word, timing.start, timing.end) == (
                wanted["text"],
                wanted["start"],
                wanted["end"],
            )
    payload = driven.result.provider_payload
    if "audio_duration_s" in expect:
        assert payload["audio_duration"] == expect["audio_duration_s"]
    if "segments" in expect:
        assert len(payload["utterances"]) == expect["segments"]
    if "subtitles" in expect:
        subtitles = driven.result.outputs[1]
        assert subtitles.media_type == "application/x-subrip"
        assert subtitles.data is not None
        assert b" --> " in subtitles.data


def test_a_refused_upload_is_refused(vectors: Path) -> None:
    """An upload of another account cannot be transcribed, and says so."""
    scenario = load(vectors, "error_upload_403")
    driven = replayed(scenario, make, request_of(scenario))
    check_expected(scenario, driven, key=API_KEY)


def test_a_transcript_is_wiped(vectors: Path) -> None:
    """Deleting is as the vendor's client asks."""
    scenario = load(vectors, "delete")
    job_id = scenario.exchanges[0]["request"]["url"].rpartition("/")[2]
    called(scenario, make, lambda provider: provider.delete_transcript(job_id))


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("assemblyai"))
    print(f"assemblyai: {len(TRANSCRIPTS) + len(OTHER_CALLS)} of {count} vectors replayed")
    assert len(TRANSCRIPTS) + len(OTHER_CALLS) == count


def test_a_lost_answer_is_ambiguous(vectors: Path) -> None:
    """A create that timed out may have started a job."""
    scenario = load(vectors, "error_timeout_create")
    driven = replayed(scenario, make, request_of(scenario))
    assert isinstance(driven.error, ProviderTimeoutError)
    assert driven.error.sent is None


AUDIO = input_media(b"x", "audio/mpeg")
REQUEST = GenerationRequest(model="universal-2", modality=Modality.TEXT, inputs=(AUDIO,))


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"inputs": ()}, "inputs"),
        ({"inputs": (AUDIO, AUDIO)}, "inputs"),
        ({"inputs": (input_media(b"x", "image/png"),)}, "inputs"),
        ({"prompt": "hello"}, "prompt"),
        ({"seed": 3}, "seed"),
        ({"params": {"output_format": "docx"}}, "output_format"),
        ({"params": {"diarize": "yes"}}, "speaker_labels"),
        ({"modality": Modality.AUDIO}, "modality"),
        ({"params": {"chars_per_caption": 32}}, "chars_per_caption"),
        ({"params": {"output_format": "docx"}, "model": "slam-1"}, "output_format"),
    ],
    ids=[
        "none",
        "two",
        "picture",
        "prompt",
        "seed",
        "format",
        "diarize",
        "modality",
        "captions",
        "other-format",
    ],
)
def test_what_is_no_transcription_is_refused_before_anything_is_sent(
    changes: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        AssemblyAIProvider(API_KEY).validate(replace(REQUEST, **changes))
    assert caught.value.param == param
    assert caught.value.sent is False


def test_standard_names_become_native_ones() -> None:
    """Language, speakers and their number are written as the API wants them."""
    given = {"language": "de", "diarize": True, "speakers": 2}
    native = AssemblyAIProvider(API_KEY).payload(replace(REQUEST, params=given))
    assert native == {"language_code": "de", "speaker_labels": True, "speakers_expected": 2}


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="ASSEMBLYAI_API_KEY"):
        AssemblyAIProvider().validate(REQUEST)


def test_an_upload_without_a_url_is_no_lost_submit() -> None:
    """Nothing was asked for yet, and no row may be held for it."""
    scenario = Scenario("odd", "assemblyai", {}, [{"response": {"status": 200, "json": {}}}])
    driven = replayed(scenario, make, REQUEST, same_requests=False)
    assert isinstance(driven.error, OutputError)
    assert driven.error.sent is False


def test_words_that_tell_no_time_cost_no_transcript() -> None:
    """The text is paid for; the timings of a word are worth less."""
    words = [{"text": "a", "start": None, "end": 5}, {"text": "b", "start": 5, "end": 9}, 7]
    done = {"id": "t", "status": "completed", "text": "a b", "words": words, "utterances": [5]}
    answers = [{"upload_url": "https://cdn.example.com/u"}, done, done]
    exchanges = [{"response": {"status": 200, "json": answer}} for answer in answers]
    scenario = Scenario("odd", "assemblyai", {}, exchanges)
    driven = replayed(scenario, make, REQUEST, same_requests=False)
    assert driven.data == [b"a b"]
    assert driven.result is not None
    (word,) = driven.result.outputs[0].facts["audio"].word_timings
    assert (word.word, word.start, word.end) == ("b", 0.005, 0.009)
