import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.errors import AuthError, InvalidRequestError, ProviderTimeoutError
from genblaze_dagster.providers.luma import LumaProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from tests.support.vendor import called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

OTHER_CALLS = ("concepts", "credits", "delete_generation")
GENERATIONS = [name for name in scenario_names("luma") if name not in OTHER_CALLS]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "luma" / f"{name}.json")


def make(client: httpx.AsyncClient) -> LumaProvider:
    return LumaProvider(API_KEY, agents_api_key=API_KEY, client=client)


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    fields = dict(captured["json"])
    path = captured["url"].split("/")
    if path[-1] == "upscale":
        return GenerationRequest(
            model="ray-2",
            modality=Modality.VIDEO,
            step_type=StepType.UPSCALE,
            params={"generation_id": path[-2], "resolution": fields["resolution"]},
        )
    is_image = path[-1] == "image" or fields["model"].startswith("uni-")
    inputs = tuple(inputs_of(fields))
    edits = "source" in captured["json"]
    for name, value in fields.pop("video", {}).items():
        fields[name] = value
    if fields.get("type") in ("video", "image_edit"):
        del fields["type"]
    return GenerationRequest(
        model=fields.pop("model"),
        prompt=fields.pop("prompt"),
        modality=Modality.IMAGE if is_image else Modality.VIDEO,
        step_type=StepType.EDIT if edits else StepType.GENERATE,
        params=fields,
        inputs=inputs,
    )


def inputs_of(fields: dict[str, Any]) -> list[InputMedia]:
    """Take the media fields out and return the inputs they came from."""
    found: list[InputMedia] = []
    frames = fields.get("keyframes", {})
    if any(frame["type"] == "image" for frame in frames.values()):
        del fields["keyframes"]
        found += [
            picture(frame["url"], **({"role": "last_frame"} if name == "frame1" else {}))
            for name, frame in frames.items()
        ]
    found += [picture(r["url"], weight=r["weight"]) for r in fields.pop("image_ref", [])]
    found += [
        picture(r["url"], weight=r["weight"], role="style") for r in fields.pop("style_ref", [])
    ]
    for face in fields.pop("character_ref", {}).get("identity0", {}).get("images", []):
        found.append(picture(face, role="character"))
    if "source" in fields:
        source = fields.pop("source")
        found.append(input_media(base64.b64decode(source["data"]), source["media_type"]))
    return found


def picture(url: str, **metadata: Any) -> InputMedia:
    return input_media(b"", "image/png", public_url=url, metadata=metadata)


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden generation gives equal requests and the expected states, outputs or error."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    driven = replayed(scenario, make, request, download=bool(scenario.downloads))
    check_expected(scenario, driven, key=API_KEY)


def test_a_number_of_seconds_and_jpeg_are_written_as_luma_wants_them() -> None:
    """Standard values become Luma's own."""
    video = GenerationRequest(
        model="ray-2", prompt="x", modality=Modality.VIDEO, params={"duration": 5}
    )
    image = GenerationRequest(model="photon-1", prompt="x", params={"output_format": "jpeg"})
    provider = LumaProvider(API_KEY)
    assert provider.payload(video)["duration"] == "5s"
    assert provider.payload(image)["format"] == "jpg"


def test_other_calls_are_equal(vectors: Path) -> None:
    """Concepts, credits and deletion are as the vendor's client asks."""
    concepts = load(vectors, "concepts")
    assert len(called(concepts, make, lambda p: p.list_concepts())) == concepts.expect["concepts"]
    credits = load(vectors, "credits")
    found = called(credits, make, lambda p: p.retrieve_credits())
    assert found == credits.expect["credit_balance_usd_cents"]
    delete = load(vectors, "delete_generation")
    job_id = delete.exchanges[0]["request"]["url"].rpartition("/")[2]
    called(delete, make, lambda p: p.delete_generation(job_id))


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("luma"))
    print(f"luma: {len(GENERATIONS) + len(OTHER_CALLS)} of {count} vectors replayed")
    assert len(GENERATIONS) + len(OTHER_CALLS) == count


def test_a_lost_answer_is_ambiguous(vectors: Path) -> None:
    """A create that timed out may have started a generation."""
    scenario = load(vectors, "error_timeout_create")
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]))
    assert isinstance(driven.error, ProviderTimeoutError)
    assert driven.error.sent is None


@pytest.mark.parametrize(
    ("model", "modality", "params", "param"),
    [
        ("ray-2", Modality.VIDEO, {"duration": 7}, "duration"),
        ("ray-2", Modality.VIDEO, {"duration": 4.5}, "duration"),
        ("ray-2", Modality.VIDEO, {"negative_prompt": "x"}, "negative_prompt"),
        ("ray-2", Modality.VIDEO, {"seed": 1}, "seed"),
        ("ray-2", Modality.VIDEO, {"aspect_ratio": "2:1"}, "aspect_ratio"),
        ("ray-2", Modality.IMAGE, {}, "modality"),
        ("photon-1", Modality.IMAGE, {"output_format": "webp"}, "format"),
        ("photon-1", Modality.IMAGE, {"resolution": "4k"}, "resolution"),
        ("photon-1", Modality.IMAGE, {"weight": 0.5}, "weight"),
        ("photon-1", Modality.IMAGE, {"prompt": ""}, "prompt"),
        ("photon-1", Modality.VIDEO, {}, "modality"),
        ("photon-1", Modality.TEXT, {}, "modality"),
        ("ray-3.2", Modality.VIDEO, {"duration": 7}, "duration"),
        ("ray-3.2", Modality.VIDEO, {"video": {"duration": "9s"}}, "duration"),
        ("ray-3.2", Modality.VIDEO, {"video": "5s"}, "video"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    model: str, modality: Modality, params: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    request = GenerationRequest(model=model, prompt="x", modality=modality, params=params)
    with pytest.raises(InvalidRequestError) as caught:
        LumaProvider(API_KEY, agents_api_key=API_KEY).validate(request)
    assert caught.value.param == param
    assert caught.value.sent is False


URL = "https://store.example.com/a.png"
REFUSED_INPUTS: Mapping[str, tuple[str, Modality, dict[str, Any], list[InputMedia]]] = {
    "two first frames": ("ray-2", Modality.VIDEO, {}, [picture(URL), picture(f"{URL}?b")]),
    "a role that is none": ("ray-2", Modality.VIDEO, {}, [picture(URL, role="style")]),
    "a video as a frame": (
        "ray-2",
        Modality.VIDEO,
        {},
        [input_media(b"", "video/mp4", public_url=URL)],
    ),
    "a frame beside keyframes": (
        "ray-2",
        Modality.VIDEO,
        {"keyframes": {"frame0": {"type": "generation", "id": "g"}}},
        [picture(URL)],
    ),
    "five references": ("photon-1", Modality.IMAGE, {}, [picture(f"{URL}?{n}") for n in range(5)]),
    "a last frame of an image": ("photon-1", Modality.IMAGE, {}, [picture(URL, role="last_frame")]),
    "a video for the successor": (
        "ray-3.2",
        Modality.VIDEO,
        {},
        [input_media(b"", "video/mp4", public_url=URL)],
    ),
    "a frame beside the successor's": (
        "ray-3.2",
        Modality.VIDEO,
        {"video": {"start_frame": {"url": URL}}},
        [picture(URL)],
    ),
}


@pytest.mark.parametrize("case", REFUSED_INPUTS)
def test_no_input_is_left_out_silently(case: str) -> None:
    """What has no place in the request is refused, not dropped and not written over."""
    model, modality, params, found = REFUSED_INPUTS[case]
    request = GenerationRequest(
        model=model, prompt="x", modality=modality, params=params, inputs=tuple(found)
    )
    with pytest.raises(InvalidRequestError) as caught:
        LumaProvider(API_KEY, agents_api_key=API_KEY).validate(request)
    assert caught.value.sent is False


def test_a_first_frame_by_its_role_is_the_first_frame() -> None:
    """Its role says what an image without one is anyway."""
    provider = LumaProvider(API_KEY)
    request = GenerationRequest(
        model="ray-2",
        prompt="x",
        modality=Modality.VIDEO,
        inputs=(picture(URL, role="first_frame"),),
    )
    provider.validate(request)
    assert provider._body(request)["keyframes"] == {"frame0": {"type": "image", "url": URL}}


def test_an_edit_changes_what_its_parameter_names() -> None:
    """Then the input is a reference; without the parameter it is what is changed."""
    provider = LumaProvider(API_KEY)
    request = GenerationRequest(
        model="photon-1", prompt="x", step_type=StepType.EDIT, inputs=(picture(URL),)
    )
    assert provider._body(request)["modify_image_ref"] == {"url": URL}
    named = {"modify_image_ref": {"url": "https://x.example.com/b.png"}}
    body = provider._body(replace(request, params=named))
    assert body["modify_image_ref"] == named["modify_image_ref"]
    assert body["image_ref"] == [{"url": URL}]


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ({"params": {"generation_id": "../credits?x"}}, "generation_id"),
        ({"params": {"generation_id": "g"}, "prompt": "sharper"}, "prompt"),
        ({"params": {"generation_id": "g"}, "inputs": (picture(URL),)}, "inputs"),
    ],
    ids=["an id that is a path", "a prompt", "an input"],
)
def test_an_upscale_takes_an_earlier_generation_and_no_more(
    parts: dict[str, Any], param: str
) -> None:
    """The id becomes part of an address, and what the call has no place for is refused."""
    request = GenerationRequest(
        model="ray-2", modality=Modality.VIDEO, step_type=StepType.UPSCALE, **parts
    )
    with pytest.raises(InvalidRequestError) as caught:
        LumaProvider(API_KEY).validate(request)
    assert caught.value.param == param


def test_each_api_names_its_own_key() -> None:
    """The successor's models need the successor's key."""
    for model, variable in (("ray-2", "LUMAAI_API_KEY"), ("ray-3.2", "LUMA_AGENTS_API_KEY")):
        request = GenerationRequest(model=model, prompt="x", modality=Modality.VIDEO)
        with pytest.raises(AuthError, match=variable):
            LumaProvider().validate(request)


def test_an_input_without_a_url_is_refused_where_luma_must_fetch_it() -> None:
    """Dream Machine takes no bytes, so a store without URLs is told at once what to do."""
    import asyncio

    request = GenerationRequest(
        model="ray-2",
        prompt="x",
        modality=Modality.VIDEO,
        inputs=(input_media(b"png", "image/png"),),
    )
    with pytest.raises(InvalidRequestError, match="S3"):
        asyncio.run(LumaProvider(API_KEY).submit(request))
