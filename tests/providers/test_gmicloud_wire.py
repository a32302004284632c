import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import ProviderError
from genblaze_dagster.providers.gmicloud import (
    GMICloudAudioProvider,
    GMICloudImageProvider,
    GMICloudVideoProvider,
)
from genblaze_dagster.providers.gmicloud.chat import list_chat_models
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from genblaze_dagster.providers.validation import ValidationOutcome
from tests.support.vendor import Driven, assert_equal_requests, called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, replay, scenario_names

CHATS = scenario_names("gmicloud", "chat_*")
"""Replayed in test_gmicloud_chat.py."""
LISTS = ("model_get", "models_list", "models_list_sdk")
POLLS = (
    "poll_500_then_success",
    "video_cancelled",
    "video_failed",
    "video_failed_content_policy",
    "video_failed_rate_limited",
)
SUBMITS = [n for n in scenario_names("gmicloud") if n not in (*CHATS, *LISTS, *POLLS)]

JOB = "550e8400-e29b-41d4-a716-446655440000"
ROLES = {
    "image": None,
    "input_reference": None,
    "first_frame": None,
    "source_audio": None,
    "image_tail": "last_frame",
    "lastFrame": "last_frame",
    "last_frame": "last_frame",
}
STANDARD = {
    "aspectRatio": "aspect_ratio",
    "durationSeconds": "duration",
    "generateAudio": "generate_audio",
    "ratio": "aspect_ratio",
    "seconds": "duration",
    "sound": "generate_audio",
    "voice_id": "voice",
}
PROVIDERS = {
    Modality.VIDEO: GMICloudVideoProvider,
    Modality.IMAGE: GMICloudImageProvider,
    Modality.AUDIO: GMICloudAudioProvider,
}


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "gmicloud" / f"{name}.json")


def make_for(modality: Modality) -> Any:
    return lambda client: PROVIDERS[modality](API_KEY, client=client)


def modality_of(model: str) -> Modality:
    if "gpt-image" in model or "seedream" in model:
        return Modality.IMAGE
    return Modality.AUDIO if "tts" in model or "minimax" in model else Modality.VIDEO


def request_of(body: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks: standard names."""
    fields: dict[str, Any] = dict(body["payload"])
    inputs: list[InputMedia] = []
    for name, role in ROLES.items():
        urls = fields.pop(name, [])
        for url in urls if isinstance(urls, list) else [urls]:
            kind = "audio/mpeg" if "audio" in name else "image/png"
            metadata = {} if role is None else {"role": role}
            inputs.append(input_media(b"", kind, public_url=url, metadata=metadata))
    params = {STANDARD.get(name, name): value for name, value in fields.items()}
    if "duration" in params:
        params["duration"] = int(params["duration"])
    if params.get("generate_audio") == "on":
        params["generate_audio"] = True
    if "sora" in body["model"] and params.get("size") == "1280x720":
        params |= {"aspect_ratio": "16:9", "resolution": "720p"}
        del params["size"]
    text = params.pop("text", None)
    return GenerationRequest(
        model=body["model"],
        prompt=params.pop("prompt", text),
        negative_prompt=params.pop("negative_prompt", params.pop("negativePrompt", None)),
        seed=params.pop("seed", None),
        modality=modality_of(body["model"]),
        params=params,
        inputs=tuple(inputs),
    )


@pytest.mark.parametrize("name", SUBMITS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden submit gives an equal request, and the expected states, outputs or error."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0]["request"]["json"])
    driven = replayed(scenario, make_for(request.modality), request)
    check_expected(scenario, driven, key=API_KEY)
    if "error_code" not in scenario.expect:
        assert driven.job_id == JOB
        ended = scenario.expect["normalized"][-1] == "succeeded"
        assert (driven.result is not None) is ended


@pytest.mark.parametrize("name", POLLS)
def test_a_golden_poll_tells_the_expected_state(vectors: Path, name: str) -> None:
    """Each golden poll gives an equal request and the expected state or error; a 500 is transient."""
    scenario = load(vectors, name)
    request = GenerationRequest(model="sora-2-pro", prompt="x", modality=Modality.VIDEO)
    driven = Driven()

    async def main() -> None:
        async with wire.client() as client:
            provider = GMICloudVideoProvider(API_KEY, client=client)
            while len(wire.received) < len(scenario.exchanges):
                try:
                    driven.statuses.append(await provider.poll(JOB, request))
                except ProviderError as exc:
                    driven.failed_attempts.append(exc)
            if driven.states == ["succeeded"]:
                driven.result = await provider.fetch_output(JOB, request)

    with replay(scenario) as wire:
        asyncio.run(main())
    assert_equal_requests(scenario, wire.received)
    assert all(failed.transient for failed in driven.failed_attempts)
    error = driven.statuses[-1].error
    if isinstance(error, ProviderError):
        driven.error = error
    states = ["retry"] * len(driven.failed_attempts) + driven.states
    assert states == scenario.expect["normalized"]
    if states[-1] != "cancelled":
        check_expected(scenario, driven, key=API_KEY)


def test_an_answer_that_is_already_a_success_is_not_polled_for(vectors: Path) -> None:
    """Models that answer at once give the result with the submit, and each file once."""
    scenario = load(vectors, "audio_voice_clone_submit")
    request = request_of(scenario.exchanges[0]["request"]["json"])
    driven = replayed(scenario, make_for(Modality.AUDIO), request)
    assert driven.statuses == []
    assert driven.result is not None
    assert len(driven.result.outputs) == 1
    assert driven.result.cost_usd is None
    assert driven.result.provider_payload == {"request_id": JOB}


def test_what_the_outcome_measures_is_kept(vectors: Path) -> None:
    """The length GMI tells stands in the provider's payload."""
    scenario = load(vectors, "audio_elevenlabs_submit_poll")
    request = request_of(scenario.exchanges[0]["request"]["json"])
    driven = replayed(scenario, make_for(Modality.AUDIO), request)
    assert driven.result is not None
    assert driven.result.provider_payload == {"request_id": JOB, "duration_ms": 2100}
    assert driven.result.model_version == "elevenlabs-tts-v3"


def test_the_queue_lists_its_models(vectors: Path) -> None:
    """Records of the older form are read, and a model on the list is certain."""
    scenario = load(vectors, "models_list_sdk")
    found = called(scenario, make_for(Modality.VIDEO), lambda p: p.validate_model("Veo3"))
    assert found.outcome is ValidationOutcome.OK_AUTHORITATIVE
    assert called(scenario, make_for(Modality.IMAGE), lambda p: p.list_models()) == []


def test_names_alone_are_a_list_too(vectors: Path) -> None:
    """The form the page shows tells no kind, so all names count; others are not ruled out."""
    scenario = load(vectors, "models_list_sdk")
    answer = {**scenario.exchanges[0]["response"], "json": {"model_ids": ["Veo3", "sora-2"]}}
    named = Scenario("x", "gmicloud", {}, [{**scenario.exchanges[0], "response": answer}])
    make = make_for(Modality.IMAGE)
    assert called(named, make, lambda p: p.list_models()) == ["Veo3", "sora-2"]
    found = called(named, make, lambda p: p.validate_model("some-new-model"))
    assert found.outcome is ValidationOutcome.UNKNOWN_PERMISSIVE


def test_a_model_tells_of_itself(vectors: Path) -> None:
    """A model's record is at hand, with its kind and parameters."""
    scenario = load(vectors, "model_get")
    found = called(scenario, make_for(Modality.VIDEO), lambda p: p.retrieve_model("Veo3"))
    assert found["model_type"] == "video"


def test_the_chat_lists_its_own_models(vectors: Path) -> None:
    """Chat models stand at the chat's address."""
    scenario = load(vectors, "models_list")

    async def main() -> Any:
        async with wire.client() as client:
            return await list_chat_models(API_KEY, client=client)

    with replay(scenario) as wire:
        assert asyncio.run(main()) == ["deepseek-ai/DeepSeek-V3.2"]
    assert_equal_requests(scenario, wire.received)


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("gmicloud"))
    replayed_ones = len(SUBMITS) + len(POLLS) + len(LISTS) + len(CHATS)
    print(f"gmicloud: {replayed_ones} of {count} vectors replayed")
    assert replayed_ones == count == 34


def test_the_organisation_goes_with_the_key(vectors: Path) -> None:
    """Who is billed is named in the header GMI documents."""
    scenario = load(vectors, "video_veo31_submit")
    exchange = dict(scenario.exchanges[0])
    exchange["request"] = {
        **exchange["request"],
        "headers": {**exchange["request"]["headers"], "x-organization-id": "org-7"},
    }
    named = Scenario(scenario.name, scenario.provider, {}, [exchange])

    def make(client: httpx.AsyncClient) -> Any:
        return GMICloudVideoProvider(API_KEY, organization="org-7", client=client)

    assert replayed(named, make, request_of(exchange["request"]["json"])).job_id == JOB
