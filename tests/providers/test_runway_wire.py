import base64
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
    ProviderError,
    ProviderTimeoutError,
)
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from genblaze_dagster.providers.runway import RunwayProvider
from tests.support.vendor import called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

MODALITIES = {
    "text_to_image": Modality.IMAGE,
    "text_to_speech": Modality.AUDIO,
    "sound_effect": Modality.AUDIO,
}
OTHER_CALLS = ("organization", "task_cancel", "upload_then_i2v")
GENERATIONS = [name for name in scenario_names("runway") if name not in OTHER_CALLS]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "runway" / f"{name}.json")


def make(client: httpx.AsyncClient) -> RunwayProvider:
    return RunwayProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any], **changes: Any) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    fields = dict(captured["json"])
    parts: dict[str, Any] = {
        "model": fields.pop("model"),
        "prompt": fields.pop("promptText", None),
        "negative_prompt": fields.pop("negativePrompt", None),
        "seed": fields.pop("seed", None),
        "modality": MODALITIES.get(captured["url"].rpartition("/")[2], Modality.VIDEO),
        "inputs": tuple(inputs_of(fields)),
        "params": fields,
    }
    return GenerationRequest(**{**parts, **changes})


def inputs_of(fields: dict[str, Any]) -> list[InputMedia]:
    """Take the media fields out and return the inputs they came from."""
    frames = fields.pop("promptImage", [])
    if isinstance(frames, str):
        frames = [{"uri": frames, "position": "first"}]
    found = [
        picture(frame["uri"], {"role": "last_frame"} if frame["position"] == "last" else {})
        for frame in frames
    ]
    found += [
        picture(reference["uri"], {"role": "reference", "tag": reference["tag"]})
        for reference in fields.pop("referenceImages", [])
    ]
    if "videoUri" in fields:
        found.append(input_media(b"", "video/mp4", public_url=fields.pop("videoUri")))
    return found


def picture(uri: str, metadata: dict[str, Any]) -> InputMedia:
    if uri.startswith("data:"):
        data = base64.b64decode(uri.partition(",")[2])
        return input_media(data, "image/png", metadata=metadata)
    return input_media(b"", "image/png", public_url=uri, metadata=metadata)


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden task gives equal requests, the expected states, outputs and bytes, or error."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    driven = replayed(scenario, make, request, download=bool(scenario.downloads))
    check_expected(scenario, driven, key=API_KEY)
    expect = scenario.expect
    if "cost_credits" in expect and driven.result is not None:
        assert driven.result.provider_payload["credits"] == expect["cost_credits"]
        assert driven.result.cost_usd == pytest.approx(expect["cost_credits"] * 0.01)
    if "progress" in expect:
        assert [status.progress for status in driven.statuses] == expect["progress"]


def test_the_standard_call_of_a_golden_exchange_is_the_same_request(vectors: Path) -> None:
    """An aspect ratio in standard form becomes the pixels Runway wants."""
    scenario = load(vectors, "i2v_gen4_turbo_success")
    params = {"duration": 5, "aspect_ratio": "16:9"}
    driven = replayed(scenario, make, request_of(scenario.exchanges[0], params=params))
    assert driven.error is None


def test_an_input_without_a_url_is_uploaded_when_large(vectors: Path) -> None:
    """The file goes to the signed address without the key, and its URI into the request."""
    scenario = load(vectors, "upload_then_i2v")
    part = scenario.exchanges[1]["request"]["multipart"][-1]
    image = input_media(
        base64.b64decode(part["body_base64"]),
        "image/png",
        url="https://store.example.com/media/tiny.png",
        size_bytes=100 * 1024 * 1024,
    )
    request = request_of(scenario.exchanges[2], inputs=(image,))
    check_expected(scenario, replayed(scenario, make, request), key=API_KEY)


def test_models_are_those_of_the_tier(vectors: Path) -> None:
    """The organization's model map stands in for the list that Runway does not have."""
    scenario = load(vectors, "organization")
    found = called(scenario, make, lambda provider: provider.list_models())
    assert found == sorted(scenario.expect["models"])


def with_state(scenario: Scenario, status: str) -> Scenario:
    """Have the task looked at before it is deleted."""
    (deleted,) = scenario.exchanges
    asked = {**deleted["request"], "method": "GET"}
    answer = {"status": 200, "json": {"id": "t", "status": status}}
    return replace(scenario, exchanges=[{"request": asked, "response": answer}, deleted])


@pytest.mark.parametrize("status", ["PENDING", "THROTTLED", "RUNNING"])
def test_a_task_is_cancelled(vectors: Path, status: str) -> None:
    """A cancel deletes a task that is not over, and is confirmed."""
    scenario = with_state(load(vectors, "task_cancel"), status)
    task_id = scenario.exchanges[0]["request"]["url"].rpartition("/")[2]
    assert called(scenario, make, lambda provider: provider.cancel(task_id)) is True


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_task_that_is_over_keeps_its_outputs(vectors: Path, status: str) -> None:
    """Deleting it would take away what was paid for, so a late cancel deletes nothing."""
    scenario = with_state(load(vectors, "task_cancel"), status)
    looked = replace(scenario, exchanges=scenario.exchanges[:1])
    task_id = scenario.exchanges[0]["request"]["url"].rpartition("/")[2]
    is_cancelled = called(looked, make, lambda provider: provider.cancel(task_id))
    assert is_cancelled is (status == "CANCELLED")


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("runway"))
    print(f"runway: {len(GENERATIONS) + len(OTHER_CALLS)} of {count} vectors replayed")
    assert len(GENERATIONS) + len(OTHER_CALLS) == count


def test_a_lost_answer_is_ambiguous(vectors: Path) -> None:
    """A create that timed out may have started a task, so it does not count as not sent."""
    scenario = load(vectors, "error_timeout_create")
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    assert isinstance(driven.error, ProviderTimeoutError)
    assert driven.error.sent is None


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "gen4.5", "params": {"duration": 11}}, "duration"),
        ({"model": "gen4.5", "params": {"duration": 2.5}}, "duration"),
        ({"model": "gen4.5", "params": {}}, "duration"),
        ({"model": "gen4.5", "params": {"duration": 5, "aspect_ratio": "5:1"}}, "aspect_ratio"),
        ({"model": "gen4.5", "params": {"duration": 5, "voice": "x"}}, "voice"),
        ({"model": "gen4_turbo", "params": {}}, "inputs"),
        ({"model": "veo3.1", "params": {"duration": 5}}, "duration"),
        ({"model": "gen4.5", "params": {"duration": 5}, "prompt": None}, "prompt"),
        ({"model": "eleven_v3", "modality": Modality.AUDIO, "params": {}}, "voice"),
        ({"model": "gen4.5", "modality": Modality.TEXT, "params": {}}, "modality"),
        ({"model": "gen4.5", "params": {"duration": 5, "aspect_ratio": "1:1"}}, "aspect_ratio"),
        ({"model": "gen4.5", "params": {"duration": 5, "ratio": "960:960"}}, "ratio"),
        ({"model": "gen4.5", "params": {"duration": 5}, "prompt": "\U0001f98a" * 501}, "prompt"),
        ({"model": "veo3.1", "params": {"resolution": "1080p"}}, "resolution"),
        (
            {"model": "veo3.1", "params": {"ratio": "1280:720", "resolution": "1080p"}},
            "ratio",
        ),
        (
            {"model": "veo3.1", "params": {"ratio": "1280:720", "aspect_ratio": "9:16"}},
            "ratio",
        ),
        ({"model": "gen4_image_turbo", "modality": Modality.IMAGE, "params": {}}, "inputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["model"],
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    changes: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    request = GenerationRequest(**{"prompt": "a cat", "modality": Modality.VIDEO, **changes})
    with pytest.raises(InvalidRequestError) as caught:
        RunwayProvider(API_KEY).validate(request)
    assert caught.value.param == param
    assert caught.value.sent is False


URL = "https://store.example.com/a.png"
FIRST = picture(URL, {})
REFUSED_INPUTS: Mapping[str, tuple[dict[str, Any], tuple[InputMedia, ...], str]] = {
    "two first frames": ({"model": "gen4_turbo"}, (FIRST, picture(f"{URL}?b", {})), "images of"),
    "a role that is none": ({"model": "gen4_turbo"}, (picture(URL, {"role": "mask"}),), "inputs"),
    "a video for a model of pictures": (
        {"model": "gen4.5", "params": {"duration": 5}},
        (input_media(b"", "video/mp4", public_url=URL),),
        "inputs",
    ),
    "two videos": (
        {"model": "aleph2"},
        (
            input_media(b"", "video/mp4", public_url=URL),
            input_media(b"", "video/mp4", public_url=f"{URL}?b"),
        ),
        "videos",
    ),
    "a sound for speech": (
        {"model": "eleven_v3", "modality": Modality.AUDIO, "params": {"voice": "Leslie"}},
        (input_media(b"", "audio/mpeg", public_url=URL),),
        "inputs",
    ),
    "an input beside its own parameter": (
        {"model": "gen9", "params": {"promptImage": URL}},
        (FIRST,),
        "promptImage",
    ),
}


@pytest.mark.parametrize("case", REFUSED_INPUTS)
def test_no_input_is_left_out_silently(case: str) -> None:
    """What has no place in the request is refused, not dropped and not written over."""
    changes, found, param = REFUSED_INPUTS[case]
    parts = {"prompt": "a cat", "modality": Modality.VIDEO, **changes}
    with pytest.raises(InvalidRequestError) as caught:
        RunwayProvider(API_KEY).validate(GenerationRequest(**parts, inputs=found))
    assert (caught.value.param or "").startswith(param)
    assert caught.value.sent is False


def test_a_first_frame_by_its_role_is_the_first_frame(vectors: Path) -> None:
    """Its role says what an image without one is anyway."""
    scenario = load(vectors, "i2v_gen4_turbo_success")
    request = request_of(scenario.exchanges[0])
    (plain,) = request.inputs
    asset = plain.asset.model_copy(update={"metadata": {"role": "first_frame"}})
    driven = replayed(scenario, make, replace(request, inputs=(replace(plain, asset=asset),)))
    assert driven.error is None


@pytest.mark.parametrize(
    ("public_url", "size"),
    [(f"https://store.example.com/{'s' * 2100}", 4_000_000), (URL, 16_000_001)],
    ids=["a long URL", "a large picture"],
)
def test_what_runway_cannot_fetch_is_uploaded(vectors: Path, public_url: str, size: int) -> None:
    """It fetches URLs of at most 2048 characters, and pictures of at most 16 MB."""
    scenario = load(vectors, "upload_then_i2v")
    part = scenario.exchanges[1]["request"]["multipart"][-1]
    image = input_media(
        base64.b64decode(part["body_base64"]),
        "image/png",
        url="https://store.example.com/media/tiny.png",
        public_url=public_url,
        size_bytes=size,
    )
    request = request_of(scenario.exchanges[2], inputs=(image,))
    check_expected(scenario, replayed(scenario, make, request), key=API_KEY)


def test_an_unknown_model_passes_through() -> None:
    """A model nobody knows is not refused, and has no price."""
    provider = RunwayProvider(API_KEY)
    request = GenerationRequest(
        model="gen9", prompt="a cat", modality=Modality.VIDEO, params={"anything": 1}
    )
    provider.validate(request)
    assert provider.payload(request) == {"promptText": "a cat", "anything": 1}
    assert provider.estimate_cost(request) is None


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent, and the message says which variable to set."""
    request = GenerationRequest(model="gen9", prompt="a cat", modality=Modality.VIDEO)
    with pytest.raises(AuthError, match="RUNWAYML_API_SECRET"):
        RunwayProvider().validate(request)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"status": 502, "json": {"error": "bad gateway"}}, ProviderError),
        ({"status": 200, "json": {"uploadUrl": "https://bucket.example.com"}}, OutputError),
    ],
    ids=["refused", "without a place"],
)
def test_an_upload_that_fails_is_no_lost_submit(
    vectors: Path, answer: dict[str, Any], kind: type[ProviderError]
) -> None:
    """Nothing was asked for yet, so no row is held, and the next attempt may start over."""
    scenario = load(vectors, "upload_then_i2v")
    broken = replace(scenario, exchanges=[{**scenario.exchanges[0], "response": answer}])
    image = input_media(b"x", "image/png", size_bytes=100 * 1024 * 1024)
    request = request_of(scenario.exchanges[2], inputs=(image,))
    driven = replayed(broken, make, request, same_requests=False)
    assert isinstance(driven.error, kind)
    assert driven.error.sent is False


def test_an_accepted_task_without_an_id_is_ambiguous(vectors: Path) -> None:
    """The task may run and cannot be found, so nothing may be sent again by itself."""
    scenario = load(vectors, "t2v_gen4_5_success")
    nameless = {"status": 200, "json": {"estimatedCost": {"credits": 60}}}
    broken = replace(scenario, exchanges=[{**scenario.exchanges[0], "response": nameless}])
    driven = replayed(broken, make, request_of(scenario.exchanges[0]))
    assert isinstance(driven.error, OutputError)
    assert driven.error.sent is None


def test_a_web_page_for_an_answer_neither_ends_a_job_nor_starts_another(vectors: Path) -> None:
    """A poll goes on after it, and a submit that got one may have been accepted."""
    scenario = load(vectors, "poll_502_then_success")
    page = {"status": 200, "body_text": "<html>busy</html>"}
    odd = [
        {**exchange, "response": page} if exchange["response"]["status"] == 502 else exchange
        for exchange in scenario.exchanges
    ]
    driven = replayed(replace(scenario, exchanges=odd), make, request_of(scenario.exchanges[0]))
    assert driven.error is None
    assert driven.result is not None
    first = replace(scenario, exchanges=[{**scenario.exchanges[0], "response": page}])
    lost = replayed(first, make, request_of(scenario.exchanges[0]))
    assert lost.error is not None
    assert lost.error.sent is None


def test_what_is_no_url_costs_no_output(vectors: Path) -> None:
    """Outputs that can be had are kept, whatever stands beside them."""
    scenario = load(vectors, "t2v_gen4_5_success")
    done = {"status": "SUCCEEDED", "output": [None, URL, {"url": URL}], "cost": 5}
    exchanges = [
        scenario.exchanges[0],
        {**scenario.exchanges[1], "response": {"status": 200, "json": done}},
    ]
    odd = replace(scenario, exchanges=exchanges)
    driven = replayed(odd, make, request_of(scenario.exchanges[0]), same_requests=False)
    assert driven.result is not None
    assert [output.url for output in driven.result.outputs] == [URL]
    assert driven.result.provider_payload == {}
