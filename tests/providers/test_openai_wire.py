import asyncio
import base64
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import StepType
from genblaze_dagster.errors import (
    InvalidRequestError,
    ProviderError,
    ProviderUnavailableError,
)
from genblaze_dagster.providers.openai import DalleProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Result
from tests.support.vendor import ERRORS
from tests.support.vendor import replayed as driven_by
from tests.support.wire import API_KEY, Scenario, differences, input_media, replay, scenarios

NAMES = [
    "500_then_success",
    "auth_401",
    "billing_400",
    "content_policy_400",
    "dalle3_policy_400",
    "edit_by_url_json",
    "edit_many",
    "edit_mask",
    "edit_one",
    "empty_data",
    "generate_dalle3_url",
    "generate_full",
    "generate_jpeg_freeform",
    "generate_minimal",
    "org_unverified_403",
    "rate_limit_429",
]
# What the vendor refuses, and we before it is sent.
REFUSED = ("invalid_400",)


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "openai" / f"image_{name}.json")


def make(client: httpx.AsyncClient) -> DalleProvider:
    return DalleProvider(API_KEY, client=client)


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    if "multipart" in captured:
        texts = [part for part in captured["multipart"] if "value" in part]
        fields: dict[str, Any] = {part["name"]: part["value"] for part in texts}
        if "n" in fields:
            fields["n"] = int(fields["n"])
        inputs = tuple(uploaded(part) for part in captured["multipart"] if "body_base64" in part)
    else:
        fields = dict(captured["json"])
        linked = fields.pop("images", [])
        inputs = tuple(
            input_media(b"", "image/png", public_url=image["image_url"]) for image in linked
        )
        if linked:
            fields["image_transfer"] = "url"
    return GenerationRequest(
        model=fields.pop("model"),
        prompt=fields.pop("prompt"),
        step_type=StepType.EDIT if inputs else StepType.GENERATE,
        params=fields,
        inputs=inputs,
    )


def uploaded(part: Mapping[str, Any]) -> InputMedia:
    media_type, _ = mimetypes.guess_type(part["filename"])
    return input_media(
        base64.b64decode(part["body_base64"]),
        media_type or "",
        url=f"https://store.example.com/media/{part['filename']}",
        metadata={"role": "mask"} if part["name"] == "mask" else {},
    )


def run(scenario: Scenario) -> list[Result | ProviderError]:
    """Make the scenario's call as often as it has exchanges; assert that each request is equal."""

    async def calls(provider: DalleProvider) -> list[Result | ProviderError]:
        outcomes: list[Result | ProviderError] = []
        for exchange in scenario.exchanges:
            try:
                submission = await provider.submit(request_of(exchange))
                assert submission.job_id is None
                assert submission.result is not None
                outcomes.append(submission.result)
            except ProviderError as exc:
                outcomes.append(exc)
        return outcomes

    async def main() -> list[Result | ProviderError]:
        async with wire.client() as client:
            return await calls(make(client))

    with replay(scenario) as wire:
        outcomes = asyncio.run(main())
    assert len(wire.received) == len(scenario.exchanges)
    for exchange, received in zip(scenario.exchanges, wire.received, strict=True):
        assert differences(exchange["request"], received) == []
    return outcomes


@pytest.mark.parametrize("name", NAMES)
def test_replayed_call_sends_the_captured_request_and_reports_what_is_expected(
    vectors: Path, name: str
) -> None:
    """Each golden image exchange gives an equal request and the expected assets or error."""
    scenario = load(vectors, name)
    outcome = run(scenario)[-1]
    if "error_code" in scenario.expect:
        assert isinstance(outcome, ProviderError)
        check_error(outcome, scenario)
    else:
        assert isinstance(outcome, Result), outcome
        check_result(outcome, scenario)


def check_error(error: ProviderError, scenario: Scenario) -> None:
    expect = scenario.expect
    answer = scenario.exchanges[-1]["response"]
    assert isinstance(error, ERRORS[expect["error_code"]])
    assert error.transient is expect["retryable"]
    assert error.retry_after == expect.get("retry_after_s")
    assert error.param == expect.get("param")
    assert error.request_id == answer["headers"].get("x-request-id")
    assert error.sent is True
    assert error.http_status == answer["status"]
    assert API_KEY not in str(error)


def check_result(result: Result, scenario: Scenario) -> None:
    expect = scenario.expect
    if "assets" in expect:
        produced = [
            (o.media_type, hashlib.sha256(o.data or b"").hexdigest()) for o in result.outputs
        ]
        assert produced == [(a["media_type"], a["sha256"]) for a in expect["assets"]]
    if "usage_total_tokens" in expect:
        assert result.provider_payload["usage"]["total_tokens"] == expect["usage_total_tokens"]
    for output in result.outputs:
        assert output.headers == {}
    payload = repr(result.provider_payload)
    assert "https://" not in payload
    assert "b64" not in payload


def test_every_image_vector_is_replayed(vectors: Path) -> None:
    """The replayed scenarios are all image scenarios there are."""
    found = [scenario.name for scenario in scenarios(vectors, "openai", "image_*")]
    replayed = sorted([*NAMES, *REFUSED])
    print(f"{len(replayed)} of {len(found)} image vectors replayed")
    assert [f"openai/image_{name}" for name in replayed] == found


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    with pytest.raises(InvalidRequestError) as caught:
        DalleProvider(API_KEY).validate(request)
    assert caught.value.param == scenario.expect["param"]
    assert caught.value.sent is False
    allowed = replace(request, params={})
    driven = driven_by(scenario, make, allowed, same_requests=False)
    assert driven.error is not None
    check_error(driven.error, scenario)


def test_a_500_is_left_to_the_runner_to_retry(vectors: Path) -> None:
    """A 500 is transient and not retried here; the next call succeeds."""
    first, second = run(load(vectors, "500_then_success"))
    assert isinstance(first, ProviderUnavailableError)
    assert first.transient is True
    assert first.sent is True
    assert isinstance(second, Result)


def test_a_url_output_expires_and_carries_no_key(vectors: Path) -> None:
    """dall-e's signed URL is passed on as it is, without headers and with its end of life."""
    scenario = load(vectors, "generate_dalle3_url")
    (result,) = run(scenario)
    assert isinstance(result, Result)
    (output,) = result.outputs
    assert output.url == scenario.exchanges[0]["response"]["json"]["data"][0]["url"]
    assert output.headers == {}
    assert output.media_type is None
    assert output.expires_at is not None
    assert result.cost_usd == 0.12
    assert result.provider_payload["revised_prompt"] == "A single red dot centred on a white field."


def test_a_changed_request_is_noticed(vectors: Path) -> None:
    """The comparison itself fails when a field, a part or the key differs."""
    scenario = load(vectors, "generate_full")
    with replay(scenario) as wire:

        async def main() -> None:
            async with wire.client() as client:
                request = request_of(scenario.exchanges[0])
                other = GenerationRequest(model=request.model, prompt="another", params={"n": 3})
                await DalleProvider("sk-other", client=client).submit(other)

        asyncio.run(main())
    found = differences(scenario.exchanges[0]["request"], wire.received[0])
    assert any(line.startswith("json") for line in found)
    assert "header authorization differs" in found
    multipart = load(vectors, "edit_one").exchanges[0]["request"]
    assert differences({**multipart, "method": "PUT"}, wire.received[0])
