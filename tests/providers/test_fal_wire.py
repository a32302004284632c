import asyncio
import base64
import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    ContentPolicyError,
    InvalidRequestError,
    ProviderUnavailableError,
)
from genblaze_dagster.providers.fal import FalProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, JobState
from tests.support.vendor import called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, scenario_names

OTHER_CALLS = (
    "cancel_already_completed",
    "cancel_requested",
    "error_connect_backup_domain",
    "upload_falls_back_to_gcs",
    "upload_then_upscale",
    "workflows_namespace",
)
REFUSED = ("job_result_422_input",)
"""Refused here before anything is sent; the vendor's answer to it is understood all the same."""
CALLS = [name for name in scenario_names("fal") if name not in (*OTHER_CALLS, *REFUSED)]
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "run_sync": {"sync": True},
    "error_timeout_submit": {"start_timeout": 30},
    "submit_options": {
        "runner_hint": "run-1",
        "priority": "low",
        "start_timeout": 30,
        "webhook_url": "https://hooks.example.com/fal?run=1",
        "output_lifetime": 3600,
        "vendor_retries": False,
    },
}
SOUNDS = ("music", "speech")
ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "fal" / f"{name}.json")


def make_with(**options: Any) -> Any:
    return lambda client: FalProvider(API_KEY, client=client, clock=lambda: NOW, **options)


def modality_of(name: str) -> Modality:
    if name.startswith("video") or name in ("job_generation_timeout", "job_result_422_input"):
        return Modality.VIDEO
    if name.startswith(SOUNDS):
        return Modality.AUDIO
    return Modality.TEXT if name.startswith("transcription") else Modality.IMAGE


def request_of(name: str, scenario: Scenario) -> GenerationRequest:
    """Build the call a user of ours makes, in standard parameters, for what was captured."""
    captured = next(e["request"] for e in scenario.exchanges if "fal.run" in e["request"]["url"])
    model = httpx.URL(captured["url"]).path.strip("/")
    fields = dict(captured["json"])
    inputs: list[InputMedia] = []
    for member, media_type in (
        ("image_url", "image/png"),
        ("audio_url", "audio/mpeg"),
        ("ref_audio_url", "audio/mpeg"),
    ):
        if member in fields:
            inputs.append(input_media(b"", media_type, public_url=fields.pop(member)))
    prompt = fields.pop("prompt", None) or fields.pop("text", None) or fields.pop("gen_text", None)
    params = {**fields.pop("image_size", {}), **fields}
    for native, standard in (
        ("num_images", "n"),
        ("seconds_total", "duration"),
        ("upscale_factor", "scale"),
    ):
        if native in params:
            params[standard] = params.pop(native)
    if isinstance(params.get("duration"), str):
        params["duration"] = int(params["duration"].removesuffix("s"))
    return GenerationRequest(
        model=model,
        prompt=prompt,
        negative_prompt=params.pop("negative_prompt", None),
        seed=params.pop("seed", None),
        modality=modality_of(name),
        params=params,
        inputs=tuple(inputs),
    )


@pytest.mark.parametrize("name", CALLS)
def test_a_golden_call_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden call gives equal requests and the expected states, files, words or error."""
    scenario = load(vectors, name)
    request = request_of(name, scenario)
    make = make_with(**OPTIONS.get(name, {}))
    expect = scenario.expect
    downloads = scenario.downloads if len(expect.get("outputs", ())) == 1 else []
    driven = replayed(scenario, make, request, download=bool(downloads))
    check_expected(scenario, driven, key=API_KEY)
    if driven.statuses and "error_code" in expect:
        assert driven.statuses[-1].state is JobState.FAILED
    if "request_id" in expect:
        assert driven.job_id == f"fal-ai/flux/requests/{expect['request_id']}"
    for found, download in zip(driven.downloaded, downloads, strict=False):
        assert base64.b64encode(found).decode() == download["response"]["body_base64"]
    if driven.result is None:
        return
    # 8 seconds with sound at 0.40 USD; 6 characters at 0.05 USD per 1000.
    assert driven.result.cost_usd == {"video_veo31": 3.2, "speech_f5_clone": 0.0003}.get(name)
    assert all(output.headers == {} for output in driven.result.outputs)
    payload = driven.result.provider_payload
    assert payload["request_id"] == ID
    if "seed" in expect:
        assert payload["seed"] == expect["seed"]
    if "flagged" in expect:
        assert payload["has_nsfw_concepts"] == expect["flagged"]
        assert driven.result.outputs[0].facts == {"metadata": {"flagged": True}}
    if "words" in expect:
        assert driven.data == [expect["text"].encode()]
        assert payload["chunks"] == expect["words"]
        words = driven.result.outputs[0].facts["audio"].word_timings
        assert [(w.word, w.start, w.end) for w in words] == [
            (word["text"], word["start"], word["end"]) for word in expect["words"]
        ]


@pytest.mark.parametrize("name", CALLS)
def test_a_golden_call_is_valid(vectors: Path, name: str) -> None:
    """What fal's own client sends is not refused."""
    request = request_of(name, load(vectors, name))
    FalProvider(API_KEY).validate(request)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(name, scenario)
    with pytest.raises(InvalidRequestError, match="'10', '5'"):
        FalProvider(API_KEY).validate(request)
    allowed = replace(request, params={"duration": 5})
    driven = replayed(scenario, make_with(), allowed, same_requests=False)
    check_expected(scenario, driven, key=API_KEY)
    assert driven.error is not None
    assert driven.error.param == "duration"
    assert driven.error.vendor_code == "value_error.const"


@pytest.mark.parametrize(
    ("name", "stops"), [("cancel_requested", True), ("cancel_already_completed", False)]
)
def test_a_cancel_is_true_only_when_fal_takes_it(vectors: Path, name: str, stops: bool) -> None:
    """A job that is over is no error: its result is there to fetch."""
    job_id = f"fal-ai/flux/requests/{ID}"
    assert called(load(vectors, name), make_with(), lambda p: p.cancel(job_id)) is stops


def test_a_job_of_which_only_the_bare_id_is_known_cannot_be_cancelled() -> None:
    """Its address needs the model, which a cancel does not get."""
    assert asyncio.run(FalProvider(API_KEY).cancel(ID)) is False


def test_the_backup_domain_is_used_only_when_wanted(vectors: Path) -> None:
    """What certainly did not arrive goes to fal's other domain; otherwise it can be tried again."""
    scenario = load(vectors, "error_connect_backup_domain")
    request = request_of("", scenario)
    make = make_with(backup_domain=True)
    submission = called(scenario, make, lambda p: p.submit(request))
    assert submission.job_id.endswith(ID)
    first = replace(scenario, exchanges=scenario.exchanges[:1], expect={})
    driven = replayed(first, make_with(), request)
    assert isinstance(driven.error, ProviderUnavailableError)
    assert (driven.error.transient, driven.error.sent) == (True, False)


def test_a_lost_answer_never_goes_to_the_backup_domain(vectors: Path) -> None:
    """A submit that may have arrived is not sent twice."""
    scenario = load(vectors, "error_timeout_submit")
    make = make_with(start_timeout=30, backup_domain=True)
    driven = replayed(scenario, make, request_of("", scenario))
    assert driven.error is not None
    assert driven.error.sent is None


def test_a_large_input_is_uploaded_once_for_a_token(vectors: Path) -> None:
    """The CDN gets its token and never the key; the URL it answers with goes into the input."""
    scenario = load(vectors, "upload_then_upscale")
    sent = scenario.exchanges[1]["request"]
    image = input_media(
        base64.b64decode(sent["body_base64"]),
        "image/png",
        url="https://store.example.com/media/tiny.png",
        size_bytes=10_000_000,
    )
    request = GenerationRequest(model="fal-ai/esrgan", inputs=(image,))
    check_expected(scenario, replayed(scenario, make_with(), request), key=API_KEY)


def test_an_upload_falls_back_to_a_bucket_without_the_key(vectors: Path) -> None:
    """With the CDN down a signed URL takes the file; unlike fal's client, it does not get the key."""
    scenario = load(vectors, "upload_falls_back_to_gcs")
    exchanges = copy.deepcopy(scenario.exchanges)
    del exchanges[-1]["request"]["headers"]["authorization"]
    data = base64.b64decode(exchanges[-1]["request"]["body_base64"])
    item = input_media(data, "audio/mpeg", url="https://store.example.com/a.mp3")
    without_key = replace(scenario, exchanges=exchanges)
    assert called(without_key, make_with(), lambda p: p.upload(item)) == scenario.expect["url"]


def test_a_failed_upload_generated_nothing(vectors: Path) -> None:
    """The error says that nothing was sent, so that trying again cannot pay twice."""
    scenario = load(vectors, "upload_falls_back_to_gcs")
    down = {"status": 503, "json": {"detail": "down"}}
    exchanges = [*scenario.exchanges[:2], {**scenario.exchanges[2], "response": down}]
    data = base64.b64decode(exchanges[1]["request"]["body_base64"])
    audio = input_media(data, "audio/mpeg", url="https://x.example/a.mp3", size_bytes=10_000_000)
    request = GenerationRequest(model="fal-ai/whisper", modality=Modality.TEXT, inputs=(audio,))
    driven = replayed(replace(scenario, exchanges=exchanges), make_with(), request)
    assert isinstance(driven.error, ProviderUnavailableError)
    assert driven.error.sent is False


def test_a_token_is_kept_until_it_expires(vectors: Path) -> None:
    """Two uploads ask for one token; one that has expired is asked for again."""
    scenario = load(vectors, "upload_then_upscale")
    token, upload = scenario.exchanges[:2]
    data = base64.b64decode(upload["request"]["body_base64"])
    item = input_media(data, "image/png", url="https://store.example.com/tiny.png")

    async def twice(provider: FalProvider) -> list[str]:
        return [await provider.upload(item), await provider.upload(item)]

    kept = replace(scenario, exchanges=[token, upload, upload])
    assert len(called(kept, make_with(), twice)) == 2
    old = copy.deepcopy(token)
    old["response"]["json"]["expires_at"] = NOW.isoformat()
    expired = replace(scenario, exchanges=[old, upload, old, upload])
    assert len(called(expired, make_with(), twice)) == 2


def test_a_workflow_keeps_three_segments_and_tells_its_log(vectors: Path) -> None:
    """A bare id is enough to ask, and the log's last line is the message."""
    scenario = load(vectors, "workflows_namespace")
    request = GenerationRequest(model="workflows/acme/upscale-then-caption")
    status = called(scenario, make_with(logs=True), lambda p: p.poll(ID, request))
    assert status.state.value == scenario.expect["final"]
    assert status.message == "step 1 of 2"


def test_every_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("fal"))
    replayed_count = len(CALLS) + len(OTHER_CALLS) + len(REFUSED)
    print(f"fal: {replayed_count} of {count} vectors replayed")
    assert replayed_count == count == 39


def test_a_flagged_picture_fails_where_that_is_wanted(vectors: Path) -> None:
    """The policy decides; without it the picture is stored and said to be flagged."""
    scenario = load(vectors, "job_nsfw_blanked")
    driven = replayed(scenario, make_with(fail_flagged=True), request_of("", scenario))
    assert isinstance(driven.error, ContentPolicyError)


def test_what_a_proxy_says_is_not_what_became_of_the_run(vectors: Path) -> None:
    """A 503 without fal's request id is asked about again; the job has not failed."""
    scenario = load(vectors, "music_stable_audio")
    submit, status, result = scenario.exchanges
    down = {**result, "response": {"status": 503, "headers": {}, "body_text": "nginx"}}
    exchanges = [submit, status, down, status, result]
    request = request_of("music", scenario)
    driven = replayed(replace(scenario, exchanges=exchanges), make_with(), request)
    check_expected(scenario, driven, key=API_KEY)
    assert [type(error) for error in driven.failed_attempts] == [ProviderUnavailableError]


def changed(scenario: Scenario, status: int, headers: Mapping[str, str], body: Any) -> Scenario:
    """Return a scenario whose result is another answer."""
    answer = {"status": status, "headers": {"x-fal-request-id": ID, **headers}, "json": body}
    exchanges = [*scenario.exchanges[:-1], {**scenario.exchanges[-1], "response": answer}]
    return replace(scenario, exchanges=exchanges, expect={})


@pytest.mark.parametrize(
    ("status", "headers", "body", "transient"),
    [
        (504, {"x-fal-request-timeout-type": "user"}, {"detail": "timeout"}, False),
        (503, {"x-fal-retryable": "false"}, {"detail": "no"}, False),
        (422, {"x-fal-retryable": "true"}, {"detail": [{"type": "one_of"}]}, True),
        (400, {"x-fal-error-type": "runner_scheduling_failure"}, {"detail": "x"}, True),
    ],
    ids=["own-limit", "not-retryable", "retryable", "type-in-header"],
)
def test_headers_say_whether_another_try_makes_sense(
    vectors: Path, status: int, headers: Mapping[str, str], body: Any, transient: bool
) -> None:
    """What fal says about a retry wins over type and status."""
    scenario = load(vectors, "music_stable_audio")
    answered = changed(scenario, status, headers, body)
    driven = replayed(answered, make_with(), request_of("music", scenario))
    assert driven.statuses[-1].state is JobState.FAILED
    assert driven.error is not None
    assert driven.error.transient is transient


def test_a_job_cancelled_elsewhere_is_cancelled(vectors: Path) -> None:
    """499 with its type is no failure of the model."""
    scenario = load(vectors, "music_stable_audio")
    body = {"detail": "cancelled", "error_type": "client_cancelled"}
    driven = replayed(changed(scenario, 499, {}, body), make_with(), request_of("music", scenario))
    assert driven.states == ["cancelled"]
