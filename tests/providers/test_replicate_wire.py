import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ConfigError,
    InvalidRequestError,
    ModelError,
    OutputError,
)
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, JobState, Result
from genblaze_dagster.providers.replicate import ReplicateProvider
from genblaze_dagster.providers.replicate.predictions import outputs_of
from genblaze_dagster.providers.validation import ValidationOutcome
from tests.support.vendor import Driven, called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

OTHER_CALLS = (
    "cancel",
    "input_file_upload",
    "model_404",
    "model_get_versioned",
    "models_list",
    "models_predictions_wait",
    "poll_503_then_success",
    "prefer_wait_done",
)
PREDICTIONS = [name for name in scenario_names("replicate") if name not in OTHER_CALLS]
JOB = "gm3qorzdhgbfurvjtvhg6dckhu"


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "replicate" / f"{name}.json")


def make(client: httpx.AsyncClient) -> ReplicateProvider:
    return ReplicateProvider(API_KEY, client=client)


def asked_by(exchange: Mapping[str, Any]) -> Any:
    """Return a provider with the options that a captured submit shows."""
    headers = exchange["request"]["headers"]
    version = exchange["request"]["json"].get("version", "")
    prefer = headers.get("prefer", "").partition("=")
    options: dict[str, Any] = {"unified": "/" in version}
    if prefer[0]:
        options["wait"] = int(prefer[2]) if prefer[2] else True
    if "cancel-after" in headers:
        options["cancel_after"] = int(headers["cancel-after"].removesuffix("s"))
    return lambda client: ReplicateProvider(API_KEY, client=client, **options)


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    fields = dict(captured["json"]["input"])
    path = captured["url"].split("/")
    model = captured["json"].get("version") or "/".join(path[-3:-1])
    inputs: list[InputMedia] = []
    if str(fields.get("image", "")).startswith("data:"):
        data = base64.b64decode(fields.pop("image").partition(",")[2])
        inputs.append(input_media(data, "image/png"))
    if "first_frame_image" in fields:
        url = fields.pop("first_frame_image")
        frame = {"field": "first_frame_image"}
        inputs.append(input_media(b"", "image/png", public_url=url, metadata=frame))
    return GenerationRequest(
        model=model,
        prompt=fields.pop("prompt", None),
        seed=fields.pop("seed", None),
        modality=Modality.VIDEO if "minimax" in model else Modality.IMAGE,
        params=fields,
        inputs=tuple(inputs),
    )


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden prediction gives equal requests and the expected states, files or error."""
    scenario = load(vectors, name)
    first = scenario.exchanges[0]
    downloads = scenario.exchanges[-1]["request"]["url"].startswith("https://replicate.delivery")
    driven = replayed(scenario, asked_by(first), request_of(first), download=downloads)
    check_expected(scenario, driven, key=API_KEY)
    expect = scenario.expect
    if driven.result is None:
        return
    if "predict_time_s" in expect:
        metrics = driven.result.provider_payload["metrics"]
        assert metrics["predict_time"] == expect["predict_time_s"]
    if "asset" in expect:
        assert hashlib.sha256(driven.data[0]).hexdigest() == expect["asset"]["sha256"]


@pytest.mark.parametrize("name", ["models_predictions_wait", "prefer_wait_done"])
def test_a_prediction_that_was_waited_for_still_has_an_id(vectors: Path, name: str) -> None:
    """With `wait` the request is equal; the job's id is kept, and the last word is polled for."""
    scenario = load(vectors, name)
    first = scenario.exchanges[0]
    driven = replayed(scenario, asked_by(first), request_of(first))
    answer = first["response"]["json"]
    assert driven.job_id == answer["id"]
    found = outputs_of(answer["output"], as_text=False, token=API_KEY)
    assert [output.url for output in found] == scenario.expect["output_urls"]


def test_a_large_input_is_uploaded(vectors: Path) -> None:
    """The file's URL at Replicate goes into the input."""
    scenario = load(vectors, "input_file_upload")
    (part,) = scenario.exchanges[0]["request"]["multipart"]
    image = input_media(
        base64.b64decode(part["body_base64"]),
        "image/png",
        url="https://store.example.com/media/frame.png",
        size_bytes=10_000_000,
    )
    body = scenario.exchanges[1]["request"]["json"]
    request = GenerationRequest(
        model=body["version"], prompt=body["input"]["prompt"], inputs=(image,)
    )
    check_expected(scenario, replayed(scenario, make, request), key=API_KEY)


def test_polling_goes_on_after_a_503(vectors: Path) -> None:
    """A poll that fails is transient, and the next tells the state."""
    scenario = load(vectors, "poll_503_then_success")
    request = GenerationRequest(model="owner/name", prompt="x")

    async def twice(provider: ReplicateProvider) -> list[object]:
        outcomes: list[object] = []
        for _ in range(2):
            try:
                outcomes.append((await provider.poll(JOB, request)).state)
            except Exception as exc:
                outcomes.append(getattr(exc, "transient", None))
        return outcomes

    assert called(scenario, make, twice) == [True, JobState.SUCCEEDED]


def test_a_prediction_is_cancelled(vectors: Path) -> None:
    """The cancel is confirmed by the state it answers with."""
    assert called(load(vectors, "cancel"), make, lambda p: p.cancel(JOB)) is True


def test_models_are_looked_up_one_by_one(vectors: Path) -> None:
    """A model's page tells its version; one that is not there is certainly unknown."""
    versioned = load(vectors, "model_get_versioned")
    found = called(versioned, make, lambda p: p.retrieve_model("stability-ai/sdxl"))
    assert found["latest_version"]["id"] == versioned.expect["version"]
    missing = called(load(vectors, "model_404"), make, lambda p: p.validate_model("nobody/nothing"))
    assert missing.outcome is ValidationOutcome.NOT_FOUND
    page = called(load(vectors, "models_list"), make, lambda p: p.list_page())
    assert [model["name"] for model in page["results"]] == ["b"]


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("replicate"))
    print(f"replicate: {len(PREDICTIONS) + len(OTHER_CALLS)} of {count} vectors replayed")
    assert len(PREDICTIONS) + len(OTHER_CALLS) == count


def test_files_are_found_in_whatever_a_model_puts_out() -> None:
    """Lists, objects and data URIs are searched; text counts only where text is asked for."""
    nested = {"a": [["https://replicate.delivery/x.png"], "data:image/png;base64,aGk="], "n": 3}
    first, second = outputs_of(nested, as_text=False, token="t")
    assert first.headers == {"authorization": "Bearer t"}
    assert second.data == b"hi"
    assert outputs_of("https://elsewhere.com/x", as_text=False, token="t")[0].headers == {}
    assert outputs_of(["Hel", "lo"], as_text=False, token="t") == ()
    assert outputs_of(["Hel", "lo"], as_text=True, token="t")[0].data == b"Hello"


def test_a_text_that_names_addresses_is_a_text() -> None:
    """Only where every piece is an address are they files."""
    (text,) = outputs_of(["See ", "https://", "example.com"], as_text=True, token="t")
    assert text.data == b"See https://example.com"
    (text,) = outputs_of("https://a.example.com is it.", as_text=True, token="t")
    assert text.data == b"https://a.example.com is it."
    (text,) = outputs_of(["https://[", "::1] is this machine"], as_text=True, token="t")
    assert text.data == b"https://[::1] is this machine"
    (file,) = outputs_of(["https://replicate.delivery/a.srt"], as_text=True, token="t")
    assert file.url == "https://replicate.delivery/a.srt"


def test_data_uris_of_any_form_are_read() -> None:
    """Not all of them are base64, and one that is broken does not cost the others."""
    uris = [
        "data:image/svg+xml,%3Csvg/%3E",
        "data:image/png;base64,@@@",
        "data:audio/wav;rate=1;base64,aGk=",
    ]
    found = outputs_of(uris, as_text=False, token="t")
    assert [(output.media_type, output.data) for output in found] == [
        ("image/svg+xml", b"<svg/>"),
        ("audio/wav", b"hi"),
    ]


def predicted(request: GenerationRequest, *answers: dict[str, Any]) -> Driven:
    exchanges = [{"response": {"status": 200, **answer}} for answer in answers]
    scenario = Scenario("odd", "replicate", {}, exchanges)
    return replayed(scenario, make, request, same_requests=False)


def test_numbers_and_texts_beside_a_file_are_kept() -> None:
    """A seed that only the output tells stands in the record, and no URL does."""
    output = {"image": "https://replicate.delivery/a.png", "seed": 5, "caption": "a fox"}
    done = {"id": JOB, "status": "succeeded", "output": output}
    driven = predicted(GenerationRequest(model="a/b"), {"json": done}, {"json": done})
    assert driven.result is not None
    assert driven.result.provider_payload == {"output": {"seed": 5, "caption": "a fox"}}


def test_an_upload_without_a_url_is_no_lost_submit() -> None:
    """Nothing was asked for yet, and no row may be held for it."""
    image = input_media(b"x", "image/png", size_bytes=1_000_000)
    driven = predicted(GenerationRequest(model="a/b", inputs=(image,)), {"json": {"urls": None}})
    assert isinstance(driven.error, OutputError)
    assert driven.error.sent is False


def test_an_odd_refusal_is_still_a_refusal() -> None:
    """A title that is no text is left out."""
    answer = {"status": 422, "json": {"title": 5, "detail": [1]}}
    assert isinstance(predicted(GenerationRequest(model="a/b"), answer).error, InvalidRequestError)


def test_a_field_given_twice_is_refused() -> None:
    """Neither the parameter nor the input is written over."""
    image = input_media(b"x", "image/png", metadata={"field": "start_image"})
    request = GenerationRequest(model="a/b", params={"start_image": "https://x"}, inputs=(image,))
    with pytest.raises(InvalidRequestError) as caught:
        ReplicateProvider(API_KEY).validate(request)
    assert caught.value.param == "start_image"


def test_an_output_that_is_gone_is_said_to_be(vectors: Path) -> None:
    """After one hour there is nothing left to fetch."""
    scenario = load(vectors, "version_create")
    answers = [dict(exchange["response"]["json"]) for exchange in scenario.exchanges]
    answers[-1] |= {"output": None, "data_removed": True}
    exchanges = [
        {**exchange, "response": {**exchange["response"], "json": answer}}
        for exchange, answer in zip(scenario.exchanges, answers, strict=True)
    ]
    gone = Scenario(scenario.name, scenario.provider, {}, exchanges)
    driven = replayed(gone, make, request_of(scenario.exchanges[0]))
    assert "expired" in str(driven.error)
    assert not isinstance(driven.result, Result)


def test_what_is_no_model_is_refused_before_anything_is_sent() -> None:
    """A name without an owner is told how models are named."""
    with pytest.raises(ModelError, match="owner/name") as caught:
        ReplicateProvider(API_KEY).validate(GenerationRequest(model="sdxl", prompt="x"))
    assert caught.value.sent is False


def test_an_input_without_a_usual_field_is_refused() -> None:
    """A file that is no picture, film or sound needs its field named."""
    import asyncio

    request = GenerationRequest(
        model="a/b", prompt="x", inputs=(input_media(b"x", "application/zip"),)
    )
    with pytest.raises(InvalidRequestError, match="field"):
        asyncio.run(ReplicateProvider(API_KEY).submit(request))


def test_settings_and_keys_are_checked_early() -> None:
    """A wait out of range, and a missing key, are told before any work."""
    with pytest.raises(ConfigError, match="1 to 60"):
        ReplicateProvider(API_KEY, wait=90)
    with pytest.raises(AuthError, match="REPLICATE_API_TOKEN"):
        ReplicateProvider().validate(GenerationRequest(model="a/b", prompt="x"))
