import asyncio
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import InvalidRequestError, ProviderUnavailableError
from genblaze_dagster.providers.nvidia import NvidiaVideoProvider
from genblaze_dagster.providers.nvidia.assets import INLINE_BYTES
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from tests.support.vendor import check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, replay, scenario_names

# A JSON prompt for Cosmos predict1: nothing we send, so only the answer is played.
NEVER_SENT = ("video_invalid_422",)
CONTAINER = ("video_cosmos_selfhosted_infer",)
GENERATIONS = [n for n in scenario_names("nvidia", "video_*") if n not in NEVER_SENT + CONTAINER]
PREDICT1 = "nvidia/cosmos-predict1-7b"
NANO = "nvidia/cosmos3-nano"
SVD = "stabilityai/stable-video-diffusion"


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "nvidia" / f"{name}.json")


def make(client: httpx.AsyncClient) -> NvidiaVideoProvider:
    return NvidiaVideoProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any], **changes: Any) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    fields = dict(captured["json"])
    path = captured["url"].partition("/v1/")[2]
    parts: dict[str, Any] = {
        "model": path.removeprefix("genai/").removeprefix("cosmos/"),
        "modality": Modality.VIDEO,
        "prompt": fields.pop("prompt", None),
        "negative_prompt": fields.pop("negative_prompt", None),
        "seed": fields.pop("seed", None),
    }
    if "inputs" in fields:
        parts |= {"prompt": "A robot arm stacks blocks", "seed": 42}
        fields = {}
    if "image" in fields:
        data = base64.b64decode(fields.pop("image").partition(",")[2])
        parts["inputs"] = (input_media(data, "image/png"),)
    return GenerationRequest(**{**parts, "params": fields, **changes})


def cosmos(**changes: Any) -> GenerationRequest:
    parts = {"model": PREDICT1, "prompt": "blocks", "modality": Modality.VIDEO}
    return GenerationRequest(**{**parts, **changes})


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden video gives equal requests, the expected states and bytes, or error."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    NvidiaVideoProvider(API_KEY).validate(request)
    driven = replayed(scenario, make, request)
    check_expected(scenario, driven, key=API_KEY)
    if "normalized" in scenario.expect:
        # The first is that of the submit's answer, unless that was the result.
        assert driven.states == scenario.expect["normalized"][1:]


@pytest.mark.parametrize("name", NEVER_SENT)
def test_a_refusal_of_what_is_never_sent_is_understood(vectors: Path, name: str) -> None:
    """The answer to a body of another form is an invalid request."""
    scenario = load(vectors, name)
    driven = replayed(scenario, make, cosmos(), same_requests=False)
    check_expected(scenario, driven, key=API_KEY)
    assert "missing field: inputs" in str(driven.error)


@pytest.mark.parametrize("name", CONTAINER)
def test_a_container_gets_the_same_call_and_no_key(vectors: Path, name: str) -> None:
    """Frames and sizes go in a group of their own, and the address is one's own."""
    scenario = load(vectors, name)
    url = scenario.exchanges[0]["request"]["url"].removesuffix("/infer")
    options = {"width": 1280, "height": 704, "frames_count": 121, "fps": 24}
    for params in (options, {"resolution": "1280x704", "duration": 5}):
        request = request_of(
            scenario.exchanges[0],
            model="my-cosmos",
            params={"prompt_upsampling": False, "guidance_scale": 7.0, "steps": 35, **params},
        )
        driven = replayed(
            scenario, lambda client: NvidiaVideoProvider(container_url=url, client=client), request
        )
        check_expected(scenario, driven, key=API_KEY)
        NvidiaVideoProvider(container_url=url).validate(request)
        assert driven.result is not None
        assert driven.result.provider_payload["revised_prompt"] == request.prompt


def test_a_large_input_is_uploaded_and_deleted(vectors: Path) -> None:
    """The file goes to the signed address without the key, its id into the request."""
    scenario = load(vectors, "asset_upload_then_infer")
    image = input_media(
        base64.b64decode(scenario.exchanges[1]["request"]["body_base64"]),
        "image/png",
        size_bytes=INLINE_BYTES + 1,
    )
    driven = replayed(
        scenario,
        lambda client: NvidiaVideoProvider(API_KEY, hold_seconds=300, client=client),
        request_of(scenario.exchanges[2], inputs=(image,)),
    )
    check_expected(scenario, driven, key=API_KEY)


def played(*answers: Mapping[str, Any]) -> Scenario:
    """Return a scenario of answers only."""
    return Scenario("own", "nvidia", {}, [{"response": answer} for answer in answers])


JOB = {"nvcf-reqid": "11111111-2222-4333-8444-555555555555"}
ACCEPTED = {"status": 202, "headers": JOB, "json": {}}
FILE = {"status": 200, "headers": {"content-type": "video/mp4"}, "body_base64": "AAAAGGZ0eXBtcDQy"}
LARGE = {"status": 302, "headers": {**JOB, "location": "https://results.example.com/out?sig=1"}}


@pytest.mark.parametrize(
    "hiccup",
    [{"status": 502, "headers": {}}, {"status": 429, "headers": {"retry-after": "2"}}],
    ids=["gateway", "rate"],
)
def test_a_hiccup_of_the_gateway_does_not_end_a_job(hiccup: Mapping[str, Any]) -> None:
    """An error that does not come from the job is asked again about, not taken for its end."""
    scenario = played(ACCEPTED, hiccup, FILE)
    driven = replayed(scenario, make, cosmos(), same_requests=False)
    assert driven.states == ["succeeded"]
    assert [error.http_status for error in driven.failed_attempts] == [hiccup["status"]]
    assert driven.data == [base64.b64decode(FILE["body_base64"])]


def test_a_large_result_of_the_submit_is_a_finished_job() -> None:
    """It is paid for, so it gets an id before it is downloaded; nothing is asked for in between."""
    driven = replayed(played(LARGE, FILE), make, cosmos(), same_requests=False)
    assert driven.job_id == JOB["nvcf-reqid"]
    assert driven.states == ["succeeded"]
    assert driven.data


def test_a_signed_address_that_has_run_out_is_asked_for_again() -> None:
    """A 403 of another host says nothing about our key."""
    scenario = played(ACCEPTED, LARGE, {"status": 403, "headers": {}}, LARGE, FILE)
    driven = replayed(scenario, make, cosmos(), same_requests=False)
    assert driven.error is None
    assert [type(error) for error in driven.failed_attempts] == [ProviderUnavailableError]
    assert driven.data


def test_an_acceptance_without_an_id_is_ambiguous() -> None:
    """A job may run that nobody can ask for."""
    accepted = {"status": 202, "headers": {}, "json": {}}
    driven = replayed(played(accepted), make, cosmos(), same_requests=False)
    assert isinstance(driven.error, ProviderUnavailableError)
    assert driven.error.sent is None


SLOT = {"status": 200, "json": {"assetId": "a1", "uploadUrl": "https://uploads.example.com/a1"}}


@pytest.mark.parametrize(
    "answers",
    [[{"status": 500}], [SLOT, {"status": 403}, {"status": 204}]],
    ids=["no-slot", "refused"],
)
def test_an_upload_that_fails_asks_for_no_generation(answers: list[Mapping[str, Any]]) -> None:
    """Nothing was paid, so the whole submit can be repeated; our key is not blamed for it."""
    picture = input_media(b"x", "image/png", size_bytes=INLINE_BYTES + 1)
    request = GenerationRequest(model=SVD, modality=Modality.VIDEO, inputs=(picture,))
    with replay(played(*answers)) as wire:
        error = asyncio.run(_refused(wire.client, request))
    assert error.sent is False
    assert len(wire.received) == len(answers)


async def _refused(client: Any, request: GenerationRequest) -> ProviderUnavailableError:
    async with client() as opened:
        with pytest.raises(ProviderUnavailableError) as caught:
            await make(opened).submit(request)
    return caught.value


def sent_bodies(scenario: Scenario, request: GenerationRequest) -> list[Any]:
    """Return the JSON bodies of what goes out for a request."""

    async def main() -> None:
        async with wire.client() as client:
            await make(client).submit(request)

    with replay(scenario) as wire:
        asyncio.run(main())
    return [json.loads(each.body) for each in wire.received if each.body[:1] == b"{"]


def test_cosmos_finds_its_input_among_the_assets() -> None:
    """An input is always uploaded, and named by number in a command whose quotes are escaped."""
    scenario = played(SLOT, {"status": 200}, ACCEPTED)
    picture = input_media(b"x", "image/png")
    bodies = sent_bodies(scenario, cosmos(prompt='say "hi"', inputs=(picture,), seed=4))
    command = 'video2world --prompt="say \\"hi\\"" --input_image_index=0 --seed=4'
    assert bodies[1]["inputs"][0]["data"] == [command]


@pytest.mark.parametrize(
    ("params", "media", "native"),
    [
        ({"duration": 5}, None, {"num_frames": 121, "fps": 24, "model_mode": "text2video"}),
        ({"duration": 0.8, "fps": 10}, None, {"num_frames": 9, "model_mode": "text2video"}),
        (
            {"resolution": "480p", "aspect_ratio": "16:9", "steps": 35},
            "video/mp4",
            {"resolution": "480_16_9", "num_inference_steps": 35, "model_mode": "video2video"},
        ),
        ({}, "image/png", {"input_reference": "data:image/png;base64,eA=="}),
    ],
    ids=["duration", "fraction", "shape", "image"],
)
def test_standard_parameters_become_those_of_cosmos3(
    params: dict[str, Any], media: str | None, native: dict[str, Any]
) -> None:
    """Seconds become frames, a shape and a tier one word, and the input tells the mode."""
    items: tuple[InputMedia, ...] = (input_media(b"x", media),) if media else ()
    request = cosmos(model=NANO, params=params, inputs=items)
    NvidiaVideoProvider(API_KEY).validate(request)
    (body,) = sent_bodies(played(ACCEPTED), request)
    assert {name: body[name] for name in native} == native


PICTURE = (input_media(b"x", "image/png"),)


@pytest.mark.parametrize(
    ("model", "changes", "param"),
    [
        (PREDICT1, {"params": {"fps": 24}}, "fps"),
        (PREDICT1, {"params": {"command": "text2world"}}, "command"),
        (PREDICT1, {"prompt": None}, "prompt"),
        (PREDICT1, {"inputs": (input_media(b"", "audio/wav"),)}, "inputs"),
        (NANO, {"params": {"num_frames": 120}}, "num_frames"),
        (NANO, {"params": {"duration": 5, "fps": 30}}, "num_frames"),
        (NANO, {"params": {"duration": 5, "num_frames": 121}}, "duration"),
        (NANO, {"params": {"duration": 1.01}}, "duration"),
        (NANO, {"params": {"duration": -1}}, "duration"),
        (NANO, {"params": {"duration": float("inf")}}, "params"),
        (NANO, {"params": {"resolution": "480p"}}, "resolution"),
        (NANO, {"params": {"aspect_ratio": "16:9"}}, "resolution"),
        (NANO, {"params": {"model_mode": "text2world"}}, "model_mode"),
        (NANO, {"params": {"n": 2}}, "n"),
        (NANO, {"inputs": PICTURE, "params": {"input_reference": "x"}}, "image"),
        (SVD, {"prompt": None}, "inputs"),
        (SVD, {"inputs": PICTURE}, "prompt"),
        (SVD, {"modality": Modality.IMAGE}, "modality"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    model: str, changes: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        NvidiaVideoProvider(API_KEY).validate(cosmos(model=model, **changes))
    assert caught.value.param == param
    assert caught.value.sent is False


def test_an_unknown_model_passes_through() -> None:
    """A Cosmos model goes to Cosmos' own path, others to the general one."""
    provider = NvidiaVideoProvider(API_KEY)
    for model, path in (
        ("nvidia/cosmos-transfer9", "/cosmos/nvidia/cosmos-transfer9"),
        ("acme/film", "/genai/acme/film"),
    ):
        request = cosmos(model=model, params={"anything": 1})
        provider.validate(request)
        assert provider.payload(request) == {"prompt": "blocks", "anything": 1}
        assert provider.path(request) == path
        assert provider.estimate_cost(request) is None
