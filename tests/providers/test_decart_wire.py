import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import AuthError, InvalidRequestError, ModelError
from genblaze_dagster.providers.decart import DecartImageProvider, DecartVideoProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor.provider import VendorProvider
from tests.support.vendor import check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

# Models and routes that the vendor has withdrawn; kept among the vectors as history.
WITHDRAWN = ("legacy_t2i_lucy_pro", "legacy_t2v_lucy_pro")
# The vendor's client fetches a URL by itself first; our input comes from the store.
FETCHES_FIRST = ("v2v_url_input",)
REFUSED = ("error_422_validation",)
EDITS = [n for n in scenario_names("decart") if n not in WITHDRAWN + REFUSED]


def load(vectors: Path, name: str) -> Scenario:
    scenario = Scenario.load(vectors / "wire" / "decart" / f"{name}.json")
    skipped = 1 if name in FETCHES_FIRST else 0
    return replace(scenario, exchanges=scenario.exchanges[skipped:])


def provider_of(exchange: Mapping[str, Any]) -> type[VendorProvider]:
    is_image = "/v1/generate/" in exchange["request"]["url"]
    return DecartImageProvider if is_image else DecartVideoProvider


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    parts = captured["multipart"]
    fields: dict[str, Any] = {part["name"]: part["value"] for part in parts if "value" in part}
    if "seed" in fields:
        fields["seed"] = int(fields["seed"])
    for name in ("enhance_prompt", "self_anchor"):
        if name in fields:
            fields[name] = fields[name] == "True"
    inputs = tuple(
        input_media(
            base64.b64decode(part["body_base64"]),
            part["content_type"],
            metadata={"role": "reference"} if part["name"] == "reference_image" else {},
        )
        for part in parts
        if "body_base64" in part
    )
    is_image = "/v1/generate/" in captured["url"]
    return GenerationRequest(
        model=captured["url"].rpartition("/")[2],
        prompt=fields.pop("prompt", None),
        seed=fields.pop("seed", None),
        modality=Modality.IMAGE if is_image else Modality.VIDEO,
        params=fields,
        inputs=inputs,
    )


@pytest.mark.parametrize("name", EDITS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden edit gives equal requests and the expected states, bytes or error."""
    scenario = load(vectors, name)
    first = scenario.exchanges[0]
    kind = provider_of(first)
    driven = replayed(scenario, lambda c: kind(API_KEY, client=c), request_of(first))
    check_expected(scenario, driven, key=API_KEY)
    if driven.result is not None:
        assert driven.result.outputs[0].media_type == scenario.expect["media_type"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    with pytest.raises(InvalidRequestError):
        DecartVideoProvider(API_KEY).validate(replace(request, seed=99_999_999_999))
    driven = replayed(
        scenario,
        lambda c: DecartVideoProvider(API_KEY, client=c),
        replace(request, seed=1),
        same_requests=False,
    )
    check_expected(scenario, driven, key=API_KEY)


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are, but for the withdrawn models."""
    count = len(scenario_names("decart"))
    print(f"decart: {len(EDITS) + len(REFUSED)} of {count} vectors replayed")
    assert len(EDITS) + len(REFUSED) + len(WITHDRAWN) == count


FILM = input_media(b"film", "video/mp4")
REFERENCE = {"role": "reference"}
PICTURE = input_media(b"picture", "image/png")
VIDEO = GenerationRequest(
    model="lucy-2.5", prompt="snow", modality=Modality.VIDEO, inputs=(FILM, PICTURE)
)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"inputs": ()}, "inputs"),
        ({"inputs": (FILM, FILM)}, "inputs"),
        ({"inputs": (PICTURE,)}, "inputs"),
        ({"params": {"resolution": "1080p"}}, "resolution"),
        ({"params": {"duration": 5}}, "duration"),
        ({"model": "lucy-2.6", "params": {"self_anchor": True}}, "self_anchor"),
        ({"model": "lucy-restyle-2"}, "prompt"),
        ({"model": "lucy-clip", "prompt": None}, "prompt"),
        ({"inputs": (FILM, input_media(b"film", "video/mp4", metadata=REFERENCE))}, "inputs"),
        ({"inputs": (FILM, input_media(b"x", "image/png", metadata={"role": "mask"}))}, "inputs"),
    ],
    ids=[
        "none",
        "two",
        "picture",
        "resolution",
        "duration",
        "self_anchor",
        "restyle",
        "clip",
        "film-reference",
        "mask",
    ],
)
def test_what_a_model_does_not_take_is_refused_before_anything_is_sent(
    changes: dict[str, Any], param: str
) -> None:
    """A refusal names the parameter and says that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        DecartVideoProvider(API_KEY).validate(replace(VIDEO, **changes))
    assert caught.value.param == param
    assert caught.value.sent is False


def test_an_unknown_model_is_told_by_its_404(vectors: Path) -> None:
    """A 404 of the submit is the model's, not the request's."""
    scenario = load(vectors, "error_503")
    answer = {"status": 404, "json": {"detail": "Not Found"}}
    unknown = replace(scenario, exchanges=[{**scenario.exchanges[0], "response": answer}])
    driven = replayed(
        unknown,
        lambda c: DecartVideoProvider(API_KEY, client=c),
        request_of(scenario.exchanges[0]),
    )
    assert isinstance(driven.error, ModelError)


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="DECART_API_KEY"):
        DecartVideoProvider().validate(VIDEO)


def test_a_model_that_would_change_the_address_is_refused() -> None:
    """It becomes part of a path."""
    with pytest.raises(ModelError) as caught:
        DecartVideoProvider(API_KEY).validate(replace(VIDEO, model="lucy/../x?y"))
    assert caught.value.sent is False


def test_an_unknown_image_model_is_told_by_its_404() -> None:
    """So a fallback model can be tried."""
    answer = {"status": 404, "json": {"detail": "Not Found"}}
    scenario = Scenario("unknown", "decart", {}, [{"response": answer}])
    request = GenerationRequest(model="lucy-image-9", prompt="snow", inputs=(PICTURE,))
    driven = replayed(
        scenario, lambda c: DecartImageProvider(API_KEY, client=c), request, same_requests=False
    )
    assert isinstance(driven.error, ModelError)


def test_a_page_in_place_of_the_video_is_asked_past() -> None:
    """The job is paid: the content is asked for again, not given up and not kept as a video."""
    page = {"status": 200, "headers": {"content-type": "text/html"}, "body_text": "<html></html>"}
    film = {"status": 200, "headers": {"content-type": "video/mp4"}, "body_base64": "ZmlsbQ=="}
    answers = [{"json": {"job_id": "j"}}, {"json": {"status": "completed"}}, page, film]
    exchanges = [{"response": {"status": 200, **answer}} for answer in answers]
    driven = replayed(
        Scenario("page", "decart", {}, exchanges),
        lambda c: DecartVideoProvider(API_KEY, client=c),
        VIDEO,
        same_requests=False,
    )
    assert driven.data == [b"film"]


def test_an_odd_list_of_problems_is_still_a_refusal() -> None:
    """Its members may be of any type."""
    answer = {"status": 422, "json": {"detail": [{"loc": 5, "msg": None, "type": 7}]}}
    driven = replayed(
        Scenario("odd", "decart", {}, [{"response": answer}]),
        lambda c: DecartVideoProvider(API_KEY, client=c),
        VIDEO,
        same_requests=False,
    )
    assert isinstance(driven.error, InvalidRequestError)
    assert driven.error.vendor_code == "7"
