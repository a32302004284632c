import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import AuthError, InvalidRequestError, OutputError
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.stability_audio import StabilityAudioProvider
from tests.support.vendor import Driven, assert_equal_requests, called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, replay, scenario_names

NUMBERS = ("duration", "seed", "steps", "cfg_scale", "strength", "mask_start", "mask_end")
OTHER_CALLS = (
    "balance",
    "v3_async_result_expired",
    # We ask for the bytes themselves; the same audio in JSON is only read, should it come.
    "t2a_json_base64",
)
# What the vendor refuses, and we before it is sent.
REFUSED = ("error_400",)
GENERATIONS = [n for n in scenario_names("stability_audio") if n not in OTHER_CALLS + REFUSED]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "stability_audio" / f"{name}.json")


def make(client: httpx.AsyncClient) -> StabilityAudioProvider:
    return StabilityAudioProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    parts = exchange["request"]["multipart"]
    fields: dict[str, Any] = {part["name"]: part["value"] for part in parts if "value" in part}
    for name in NUMBERS:
        if name in fields:
            fields[name] = float(fields[name]) if "." in fields[name] else int(fields[name])
    inputs = tuple(
        input_media(
            base64.b64decode(part["body_base64"]),
            part["content_type"],
            url=f"https://store.example.com/{part['filename']}",
        )
        for part in parts
        if "body_base64" in part
    )
    return GenerationRequest(
        model=fields.pop("model"),
        prompt=fields.pop("prompt"),
        seed=fields.pop("seed", None),
        modality=Modality.AUDIO,
        params=fields,
        inputs=inputs,
    )


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden generation gives equal requests and the expected states, bytes or error."""
    scenario = load(vectors, name)
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    check_expected(scenario, driven, key=API_KEY)
    if driven.result is None:
        return
    (output,) = driven.result.outputs
    assert output.media_type == scenario.expect["media_type"]
    if "seed" in scenario.expect:
        assert driven.result.provider_payload["seed"] == scenario.expect["seed"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    with pytest.raises(InvalidRequestError):
        StabilityAudioProvider(API_KEY).validate(request)
    allowed = replace(request, params={})
    driven = replayed(scenario, make, allowed, same_requests=False)
    check_expected(scenario, driven, key=API_KEY)


def test_audio_in_json_is_read_as_well(vectors: Path) -> None:
    """A gateway that answers in JSON gives the same audio and seed."""
    scenario = load(vectors, "t2a_json_base64")

    async def main() -> Any:
        async with wire.client() as client:
            return await make(client).submit(request_of(scenario.exchanges[0]))

    with replay(scenario) as wire:
        submission = asyncio.run(main())
    assert submission.result.provider_payload["seed"] == scenario.expect["seed"]
    assert submission.result.outputs[0].data


REQUEST = GenerationRequest(model="stable-audio-2.5", prompt="rain", modality=Modality.AUDIO)


def answered(request: GenerationRequest, *answers: dict[str, Any]) -> Driven:
    """Submit, and be answered with these."""
    scenario = Scenario("odd", "stability_audio", {}, [{"response": answer} for answer in answers])
    return replayed(scenario, make, request, same_requests=False)


def answer_of(content_type: str, **answer: Any) -> dict[str, Any]:
    return {"status": 200, **answer, "headers": {"content-type": content_type}}


def test_what_is_paid_for_is_not_lost_for_what_stands_beside_it() -> None:
    """A format that only newer models have, or a seed that is no number, costs no audio."""
    new = replace(REQUEST, model="stable-audio-2.6", params={"output_format": "flac"})
    driven = answered(new, answer_of("audio/flac", body_base64="ZkxhQw=="))
    assert driven.data == [b"fLaC"]
    assert driven.result is not None
    assert driven.result.outputs[0].media_type is None
    odd = {"status": 200, "headers": {"seed": "random"}, "body_base64": "SUQz"}
    driven = answered(REQUEST, odd)
    assert driven.data == [b"ID3"]
    assert driven.result is not None
    assert "seed" not in driven.result.provider_payload


@pytest.mark.parametrize(
    "answer",
    [
        answer_of("text/html", body_text="<html>busy</html>"),
        answer_of("application/json", json={"errors": ["busy"]}),
        answer_of("application/json", json={"audio": "a", "seed": 1}),
    ],
    ids=["a page", "an error", "no base64"],
)
def test_words_are_no_audio(answer: dict[str, Any]) -> None:
    """What is no audio in spite of its status is never kept as a sound."""
    assert isinstance(answered(REQUEST, answer).error, OutputError)


def test_a_page_in_place_of_a_kept_result_is_asked_past() -> None:
    """The vendor keeps a finished job for a day: a proxy's page does not cost it."""
    job = {"status": 202, "json": {"id": "j" * 64}}
    page = answer_of("text/html", body_text="<html>busy</html>")
    sound = answer_of("audio/mpeg", body_base64="SUQz")
    driven = answered(replace(REQUEST, model="stable-audio-3"), job, page, sound)
    assert driven.data == [b"ID3"]


def test_an_expired_result_is_gone(vectors: Path) -> None:
    """After 24 hours the vendor knows the job no more."""
    scenario = load(vectors, "v3_async_result_expired")
    job_id = scenario.exchanges[0]["request"]["url"].rpartition("/")[2]
    request = GenerationRequest(model="stable-audio-3", prompt="x", modality=Modality.AUDIO)

    async def main() -> None:
        async with wire.client() as client:
            await make(client).poll(job_id, request)

    with replay(scenario) as wire, pytest.raises(InvalidRequestError, match="expired"):
        asyncio.run(main())
    assert_equal_requests(scenario, wire.received)


def test_the_balance_is_told(vectors: Path) -> None:
    """Credits are there for a check of the key that costs nothing."""
    scenario = load(vectors, "balance")
    found = called(scenario, make, lambda provider: provider.retrieve_balance())
    assert found == scenario.expect["credits"]


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("stability_audio"))
    print(
        f"stability-audio: {len(GENERATIONS) + len(OTHER_CALLS) + len(REFUSED)} of {count} vectors replayed"
    )
    assert len(GENERATIONS) + len(OTHER_CALLS) + len(REFUSED) == count


@pytest.mark.parametrize(
    ("model", "params", "param"),
    [
        ("stable-audio-2.5", {"output_format": "ogg"}, "output_format"),
        ("stable-audio-2.5", {"steps": 50}, "steps"),
        ("stable-audio-2", {"steps": 8}, "steps"),
        ("stable-audio-2.5", {"duration": 200}, "duration"),
        ("stable-audio-2.5", {"seed": 0}, "seed"),
        ("stable-audio-2.5", {"strength": 0.5}, "strength"),
        ("stable-audio-2.5", {"mask_start": 1}, "mask_start"),
        ("stable-audio-2.5", {"negative_prompt": "drums"}, "negative_prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    model: str, params: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    request = GenerationRequest(model=model, prompt="x", modality=Modality.AUDIO, params=params)
    with pytest.raises(InvalidRequestError) as caught:
        StabilityAudioProvider(API_KEY).validate(request)
    assert caught.value.param == param
    assert caught.value.sent is False


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    request = GenerationRequest(model="stable-audio-3", prompt="x", modality=Modality.AUDIO)
    with pytest.raises(AuthError, match="STABILITY_API_KEY"):
        StabilityAudioProvider().validate(request)
