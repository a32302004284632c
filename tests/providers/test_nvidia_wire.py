import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import AuthError, ConfigError, InvalidRequestError, ModelError
from genblaze_dagster.providers.nvidia import NvidiaImageProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from tests.support.vendor import check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

# What the vendor refuses, and we before it is sent.
REFUSED = ("image_invalid_422_list", "image_invalid_422_problem")
GENERATIONS = [name for name in scenario_names("nvidia", "image_*") if name not in REFUSED]
KINDS = {"image": 21, "video": 10, "asset": 1, "audio": 9, "chat": 13, "models": 1}
FLUX = "black-forest-labs/flux.1-dev"
PNG = b"\x89PNG\r\n\x1a\n"


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "nvidia" / f"{name}.json")


def make(client: httpx.AsyncClient) -> NvidiaImageProvider:
    return NvidiaImageProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any], **changes: Any) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    fields = dict(captured["json"])
    prompts = fields.pop("text_prompts", [])
    parts: dict[str, Any] = {
        "model": captured["url"].partition("/genai/")[2],
        "prompt": prompts[0]["text"] if prompts else fields.pop("prompt", None),
        "negative_prompt": prompts[1]["text"] if prompts else fields.pop("negative_prompt", None),
        "seed": fields.pop("seed", None),
        "modality": Modality.IMAGE,
    }
    if "image" in fields:
        data = base64.b64decode(fields.pop("image").partition(",")[2])
        parts["inputs"] = (input_media(data, "image/png"),)
    return GenerationRequest(**{**parts, "params": fields, **changes})


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden picture gives equal requests, the expected states and bytes, or error."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    NvidiaImageProvider(API_KEY).validate(request)
    driven = replayed(scenario, make, request)
    check_expected(scenario, driven, key=API_KEY)
    expect = scenario.expect
    if driven.result is not None and "seed" in expect:
        assert driven.result.provider_payload["seed"] == expect["seed"]
        assert driven.result.provider_payload["request_id"]
    if "progress" in expect:
        # The first is that of the submit's answer.
        percents = [s.progress and s.progress * 100 for s in driven.statuses]
        assert percents == expect["progress"][1:]
        assert driven.statuses[0].poll_after == 2.0


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    with pytest.raises(InvalidRequestError) as caught:
        NvidiaImageProvider(API_KEY).validate(request)
    assert caught.value.param in scenario.exchanges[0]["request"]["json"]
    driven = replayed(scenario, make, replace(request, params={}), same_requests=False)
    check_expected(scenario, driven, key=API_KEY)


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios of all capabilities are all there are."""
    found = {kind: len(scenario_names("nvidia", f"{kind}*")) for kind in KINDS}
    count = len(scenario_names("nvidia"))
    print(f"nvidia: {sum(found.values())} of {count} vectors replayed: {found}")
    assert found == KINDS
    assert sum(found.values()) == count
    assert len(GENERATIONS) + len(REFUSED) == KINDS["image"]


@pytest.mark.parametrize(
    ("model", "params", "native"),
    [
        (FLUX, {"aspect_ratio": "3:2"}, {"width": 1152, "height": 768}),
        (FLUX, {"aspect_ratio": "16:9"}, {"width": 1344, "height": 768}),
        (FLUX, {"resolution": "1024x768"}, {"width": 1024, "height": 768}),
        (FLUX, {"guidance_scale": 3, "n": 1}, {"cfg_scale": 3}),
        ("stabilityai/stable-diffusion-3-medium", {"aspect_ratio": "5:4"}, {"aspect_ratio": "5:4"}),
        ("acme/painter", {"anything": 1, "n": 4}, {"anything": 1, "n": 4}),
        ("black-forest-labs/flux.9", {"anything": 1}, {"anything": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_standard_parameters_become_native_ones(
    model: str, params: dict[str, Any], native: dict[str, Any]
) -> None:
    """Each family spells them its own way; a model nobody knows gets them as they are."""
    provider = NvidiaImageProvider(API_KEY)
    request = GenerationRequest(model=model, prompt="a cat", params=params)
    provider.validate(request)
    assert provider.payload(request) == {"prompt": "a cat", **native}
    assert provider.estimate_cost(request) is None


def test_the_name_of_sd35_gets_its_underscore() -> None:
    """A name as people write it is the vendor's own."""
    provider = NvidiaImageProvider(API_KEY)
    for written in ("stable-diffusion-3.5-large", "stable-diffusion-3-5-large"):
        request = GenerationRequest(model=f"stabilityai/{written}", prompt="a cat")
        assert provider.path(request) == "/genai/stabilityai/stable-diffusion-3_5-large"


PICTURE = (input_media(PNG, "image/png"),)
XL = "stabilityai/stable-diffusion-xl"
KONTEXT = "black-forest-labs/flux.1-kontext-dev"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"params": {"width": 1000}}, "width"),
        ({"params": {"steps": 4}}, "steps"),
        ({"params": {"aspect_ratio": "21:9"}}, "aspect_ratio"),
        ({"params": {"aspect_ratio": "1:1", "width": 1024}}, "aspect_ratio"),
        ({"params": {"resolution": "1080p"}}, "resolution"),
        ({"params": {"n": 4}}, "n"),
        ({"params": {"samples": 4}}, "samples"),
        ({"params": {"output_format": "png"}}, "output_format"),
        ({"params": {"mode": "canny"}}, "inputs"),
        ({"negative_prompt": "rain"}, "negative_prompt"),
        ({"inputs": PICTURE}, "mode"),
        ({"inputs": PICTURE * 2, "params": {"mode": "canny"}}, "inputs"),
        ({"inputs": PICTURE, "params": {"mode": "canny", "image": "x"}}, "image"),
        ({"inputs": (input_media(b"", "audio/wav"),)}, "inputs"),
        ({"model": "black-forest-labs/flux.1-schnell", "params": {"cfg_scale": 3}}, "cfg_scale"),
        ({"model": "black-forest-labs/flux.2-klein-4b", "params": {"steps": 5}}, "steps"),
        ({"model": KONTEXT}, "inputs"),
        ({"model": XL, "inputs": PICTURE}, "inputs"),
        ({"model": XL, "prompt": None}, "text_prompts"),
        ({"model": XL, "params": {"text_prompts": []}}, "text_prompts"),
        (
            {"model": "stabilityai/stable-diffusion-3-medium", "params": {"cfg_scale": 10}},
            "cfg_scale",
        ),
        ({"modality": Modality.VIDEO}, "modality"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    changes: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    request = GenerationRequest(**{"model": FLUX, "prompt": "a cat", **changes})
    with pytest.raises(InvalidRequestError) as caught:
        NvidiaImageProvider(API_KEY).validate(request)
    assert caught.value.param == param
    assert caught.value.sent is False


@pytest.mark.parametrize("model", ["../secrets", "a/b?c", "a b", "", "/a"])
def test_what_cannot_be_a_model_never_becomes_an_address(model: str) -> None:
    """A name with a query or a way up the tree is refused."""
    with pytest.raises(ModelError, match="no name"):
        NvidiaImageProvider(API_KEY).validate(GenerationRequest(model=model, prompt="a cat"))


def test_a_missing_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key nothing is sent; the second variable holds one too."""
    provider, request = NvidiaImageProvider(), GenerationRequest(model=FLUX, prompt="a cat")
    with pytest.raises(AuthError, match="NVIDIA_API_KEY"):
        provider.validate(request)
    monkeypatch.setenv("NVIDIA_NIM_API_KEY", "nvapi-x")
    provider.validate(request)


@pytest.mark.parametrize("seconds", [0, 301])
def test_how_long_a_submit_is_held_has_bounds(seconds: int) -> None:
    """The gateway holds 300 seconds at most."""
    with pytest.raises(ConfigError, match="1 to 300"):
        NvidiaImageProvider(API_KEY, hold_seconds=seconds)
