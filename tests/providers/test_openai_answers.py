import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import StepType
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    NotFoundError,
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
    StorageUnavailableError,
)
from genblaze_dagster.providers.openai import DalleProvider
from genblaze_dagster.providers.openai.pricing import price_of_usage
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Result
from tests.support.wire import input_media

KEY = "wirekey-0123456789abcdef"
PNG = base64.b64encode(b"\x89PNG").decode()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def call(
    response: httpx.Response | Exception, model: str = "gpt-image-2", **fields: Any
) -> tuple[Result, httpx.Request]:
    """Submit once against a fixed answer; return the result and what was sent."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(response, Exception):
            raise response
        return response

    async def main() -> Result:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            provider = DalleProvider(KEY, client=client, clock=lambda: NOW)
            request = GenerationRequest(**{"model": model, "prompt": "a fox", **fields})
            submission = await provider.submit(request)
            assert submission.result is not None
            return submission.result

    return asyncio.run(main()), seen[0]


def failure(response: httpx.Response | Exception, **fields: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call(response, **fields)
    return caught.value


def error_answer(status: int, error: Any, headers: Mapping[str, str] | None = None):
    return httpx.Response(status, json={"error": error}, headers=headers)


@pytest.mark.parametrize(
    ("status", "error", "kind", "transient"),
    [
        (401, {"code": None}, AuthError, False),
        (400, {"code": "invalid_api_key"}, AuthError, False),
        (403, {"code": "unsupported_country_region_territory"}, AuthError, False),
        (404, {"code": "model_not_found"}, ModelError, False),
        (403, {"code": "model_not_found"}, ModelError, False),
        (410, {"code": None}, ModelError, False),
        (404, {"code": None}, InvalidRequestError, False),
        (400, {"code": "moderation_blocked"}, ContentPolicyError, False),
        (422, {"code": "content_policy_violation"}, ContentPolicyError, False),
        (
            400,
            {"type": "image_generation_user_error", "moderation_details": {}},
            ContentPolicyError,
            False,
        ),
        (400, {"type": "image_generation_user_error"}, InvalidRequestError, False),
        (400, {"code": "billing_not_active"}, QuotaError, False),
        (400, {"code": "billing_hard_limit_reached"}, QuotaError, False),
        (400, {"code": "project_spend_limit_exceeded"}, QuotaError, False),
        (429, {"code": "insufficient_quota"}, QuotaError, False),
        (429, {"type": "insufficient_quota"}, QuotaError, False),
        (429, {"code": "rate_limit_exceeded"}, RateLimitError, True),
        (429, {"code": None}, RateLimitError, True),
        (400, {"code": "invalid_value"}, InvalidRequestError, False),
        (413, {}, InvalidRequestError, False),
        (422, {}, InvalidRequestError, False),
        (302, {}, InvalidRequestError, False),
        (408, {}, ProviderTimeoutError, True),
        (504, {}, ProviderTimeoutError, True),
        (500, {"type": "server_error"}, ProviderUnavailableError, True),
        (502, {}, ProviderUnavailableError, True),
        (503, {"code": "overloaded"}, ProviderUnavailableError, True),
    ],
)
def test_the_code_decides_before_the_status(
    status: int, error: dict[str, Any], kind: type[ProviderError], transient: bool
) -> None:
    """Every row of the error table gives its class, and an HTTP answer means it was sent."""
    raised = failure(error_answer(status, {"message": "No.", **error}))
    assert type(raised) is kind
    assert raised.transient is transient
    assert raised.sent is True
    assert raised.http_status == status
    assert raised.model == "gpt-image-2"


def test_an_error_carries_what_the_vendor_said() -> None:
    """Message, code, parameter, request id and the wait are kept."""
    error = {"message": "Too big.", "type": "t", "param": "size", "code": "rate_limit_exceeded"}
    raised = failure(error_answer(429, error, {"x-request-id": "req_1", "retry-after": "3"}))
    assert str(raised) == ("openai gpt-image-2: Too big. (HTTP 429, rate_limit_exceeded, req_1)")
    assert (raised.param, raised.vendor_code, raised.request_id, raised.retry_after) == (
        "size",
        "rate_limit_exceeded",
        "req_1",
        3.0,
    )


def test_the_vendor_may_forbid_a_retry() -> None:
    """`x-should-retry: false` makes a transient error final."""
    raised = failure(error_answer(500, {}, {"x-should-retry": "false"}))
    assert isinstance(raised, ProviderUnavailableError)
    assert raised.transient is False


@pytest.mark.parametrize(
    "body", [b"<html>Bad gateway</html>", b"", b"\xff\xfe", b"[]", b"null", b'{"error": "odd"}']
)
def test_an_answer_of_a_proxy_is_still_typed(body: bytes) -> None:
    """A body that is not OpenAI's falls back to the status."""
    raised = failure(httpx.Response(502, content=body))
    assert type(raised) is ProviderUnavailableError


def test_an_error_repeats_no_key_no_long_prompt_and_no_long_text() -> None:
    """What the vendor echoes is cleaned and shortened."""
    prompt = "a secret plan " * 20
    text = f"Bad key {KEY} and sk-proj-{'a1' * 20} for '{prompt}' " + "blah " * 1000
    raised = failure(error_answer(400, {"message": text}), prompt=prompt)
    message = str(raised)
    assert KEY not in message
    assert "a1a1a1" not in message
    assert "secret plan" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"not json", "not JSON"),
        (b"[]", "no image"),
        (b'{"created": 1}', "no image"),
        (b'{"data": null}', "no image"),
        (b'{"data": []}', "no image"),
        (b'{"data": [{}]}', "not readable"),
        (b'{"data": [null]}', "not readable"),
        (b'{"data": [{"b64_json": ""}]}', "not readable"),
        (b'{"data": [{"b64_json": "%%%"}]}', "not readable"),
        (b'{"data": [{"url": 5}]}', "not readable"),
    ],
)
def test_a_200_without_a_readable_image_is_not_a_success(content: bytes, fact: str) -> None:
    """An empty or damaged answer is a permanent OutputError that names the request."""
    response = httpx.Response(200, content=content, headers={"x-request-id": "req_9"})
    raised = failure(response)
    assert isinstance(raised, OutputError)
    assert (raised.transient, raised.sent, raised.request_id) == (False, True, "req_9")
    assert fact in str(raised)


@pytest.mark.parametrize(
    ("error", "kind", "sent"),
    [
        (httpx.ConnectError("refused"), ProviderUnavailableError, False),
        (httpx.ConnectTimeout("slow"), ProviderTimeoutError, False),
        (httpx.PoolTimeout("full"), ProviderTimeoutError, False),
        (httpx.ReadTimeout("slow"), ProviderTimeoutError, None),
        (httpx.WriteTimeout("slow"), ProviderTimeoutError, None),
        (httpx.ReadError("reset"), ProviderUnavailableError, None),
        (httpx.WriteError("reset"), ProviderUnavailableError, None),
        (httpx.RemoteProtocolError("cut"), ProviderUnavailableError, None),
    ],
)
def test_a_lost_call_says_whether_it_may_have_arrived(
    error: Exception, kind: type[ProviderError], sent: bool | None
) -> None:
    """Before the connection stands nothing was sent; after it nobody knows."""
    raised = failure(error)
    assert type(raised) is kind
    assert raised.sent is sent
    assert raised.transient is True


def test_headers_name_organisation_and_project_only_when_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Organisation, project and base URL come from arguments or the environment."""
    _, plain = call(httpx.Response(200, json={"data": [{"b64_json": PNG}]}))
    assert not {"openai-organization", "openai-project"} & set(plain.headers)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.test/openai/")
    _, named = call(httpx.Response(200, json={"data": [{"b64_json": PNG}]}))
    assert named.headers["openai-organization"] == "org-1"
    assert named.headers["openai-project"] == "proj-1"
    assert str(named.url) == "https://gateway.test/openai/images/generations"
    assert named.headers["authorization"] == f"Bearer {KEY}"


def test_the_timeout_of_the_step_is_the_time_to_wait_for_the_image() -> None:
    """The answer may take as long as the step; connecting may not."""
    _, sent = call(httpx.Response(200, json={"data": [{"b64_json": PNG}]}), timeout=345.0)
    timeouts = sent.extensions["timeout"]
    assert (timeouts["read"], timeouts["connect"]) == (345.0, 30.0)


def test_the_payload_keeps_facts_and_no_content() -> None:
    """Request id, usage and what the model chose are kept; images and URLs are not."""
    body = {
        "created": 5,
        "data": [{"b64_json": PNG, "revised_prompt": "red"}, {"url": "https://x.test/1?sig=a"}],
        "size": "1024x1024",
        "quality": "low",
        "background": None,
        "usage": {"input_tokens": 1},
        "surprise": "value",
    }
    result, _ = call(httpx.Response(200, json=body, headers={"x-request-id": "req_2"}))
    assert result.provider_payload == {
        "created": 5,
        "size": "1024x1024",
        "quality": "low",
        "usage": {"input_tokens": 1},
        "request_id": "req_2",
        "revised_prompt": "red",
    }
    json.dumps(result.provider_payload)


def test_media_type_and_end_of_life() -> None:
    """The type comes from the answer or the request, else it is left to the bytes."""
    url = httpx.Response(200, json={"data": [{"url": "https://x.test/1"}]})
    result, _ = call(url, model="dall-e-2")
    assert result.outputs[0].media_type is None
    assert result.outputs[0].expires_at == NOW + timedelta(minutes=60)
    coded = httpx.Response(200, json={"data": [{"b64_json": PNG}]})
    result, _ = call(coded, params={"output_format": "webp"})
    assert (result.outputs[0].media_type, result.outputs[0].expires_at) == ("image/webp", None)


USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"text_tokens": 20, "image_tokens": 80},
    "output_tokens": 1000,
}


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        ("gpt-image-1", USAGE, (20 * 5 + 80 * 10 + 1000 * 40) / 1e6),
        ("gpt-image-1-2025-04-15", USAGE, (20 * 5 + 80 * 10 + 1000 * 40) / 1e6),
        ("gpt-image-1.5", USAGE, (20 * 5 + 80 * 8 + 1000 * 32) / 1e6),
        ("gpt-image-2", USAGE, (20 * 5 + 80 * 8 + 1000 * 30) / 1e6),
        ("gpt-image-1-mini", USAGE, (20 * 2 + 80 * 2.5 + 1000 * 8) / 1e6),
        (
            "gpt-image-2",
            {**USAGE, "output_tokens_details": {"text_tokens": 10, "image_tokens": 990}},
            (20 * 5 + 80 * 8 + 990 * 30 + 10 * 10) / 1e6,
        ),
        (
            "gpt-image-1",
            {**USAGE, "output_tokens_details": {"text_tokens": 10, "image_tokens": 990}},
            None,
        ),
        ("gpt-image-1", {"input_tokens": 100, "output_tokens": 1000}, None),
        ("gpt-image-1", {"output_tokens": "many"}, None),
        ("gpt-image-1", {}, None),
        ("gpt-image-1", None, None),
        ("gpt-image-7", USAGE, None),
        ("dall-e-3", USAGE, None),
    ],
)
def test_tokens_have_a_price_or_none(model: str, usage: Any, cost: float | None) -> None:
    """The usage of an answer is priced exactly, and never guessed."""
    assert price_of_usage(model, usage) == (None if cost is None else pytest.approx(cost))


@pytest.mark.parametrize(
    ("model", "params", "cost"),
    [
        ("dall-e-3", {}, 0.04),
        ("dall-e-3", {"quality": "hd", "size": "1024x1792"}, 0.12),
        ("dall-e-2", {"n": 4, "size": "256x256"}, 0.064),
        ("gpt-image-1", {"quality": "high", "aspect_ratio": "3:2"}, 0.25),
        ("gpt-image-1-mini", {"quality": "low", "size": "1024x1024", "n": 3}, 0.015),
        ("gpt-image-1", {}, None),
        ("gpt-image-1", {"quality": "auto", "size": "1024x1024"}, None),
        ("gpt-image-2", {"quality": "high", "size": "1024x1024"}, None),
        ("unknown", {"quality": "high", "size": "1024x1024"}, None),
        ("gpt-image-1", {"bogus": 1}, None),
        ("dall-e-2", {"n": "many"}, None),
    ],
)
def test_the_estimate_is_the_table_price_or_unknown(
    model: str, params: dict[str, Any], cost: float | None
) -> None:
    """An estimate exists when model, quality and size are known; otherwise it is None, not 0."""
    request = GenerationRequest(model=model, prompt="x", params=params)
    assert DalleProvider().estimate_cost(request) == cost


def test_the_cost_of_a_result_is_usage_then_table_then_unknown() -> None:
    """Tokens win over the table; an edit without usage has no known cost."""
    plain = {"data": [{"b64_json": PNG}], "quality": "low", "size": "1024x1024"}
    table = call(httpx.Response(200, json=plain), model="gpt-image-1")[0]
    assert table.cost_usd == 0.011
    used = call(httpx.Response(200, json={**plain, "usage": USAGE}), model="gpt-image-1")[0]
    assert used.cost_usd == pytest.approx(0.0409)
    edit = call(
        httpx.Response(200, json=plain),
        model="gpt-image-1",
        inputs=(input_media(b"x", "image/png"),),
    )[0]
    assert edit.cost_usd is None


@pytest.mark.parametrize(
    ("cause", "transient"), [(NotFoundError("gone"), False), (StorageUnavailableError("x"), True)]
)
def test_an_input_that_cannot_be_read_is_before_send(cause: Exception, transient: bool) -> None:
    """A failing store is not an ambiguous submit: nothing was sent."""

    async def read() -> bytes:
        raise cause

    readable = input_media(b"", "image/png")
    broken = InputMedia(readable.asset, read, readable.stream, readable.public_url)
    with pytest.raises(ProviderUnavailableError) as caught:
        asyncio.run(
            DalleProvider(KEY).submit(
                GenerationRequest(
                    model="gpt-image-2", prompt="x", step_type=StepType.EDIT, inputs=(broken,)
                )
            )
        )
    assert caught.value.sent is False
    assert caught.value.transient is transient


def test_uploads_have_a_name_and_a_type() -> None:
    """A stored object without an extension in its URL still gets a file name."""
    picture = input_media(b"\xff\xd8", "image/jpeg", url="https://store.test/media/abc")
    _, sent = call(httpx.Response(200, json={"data": [{"b64_json": PNG}]}), inputs=(picture,))
    assert b'name="image"; filename="image.jpg"' in sent.content
    assert b"Content-Type: image/jpeg" in sent.content


def test_images_that_can_be_read_are_kept() -> None:
    """All of them are paid; what is broken is counted, and does not cost the others."""
    data = [{"b64_json": PNG}, {"b64_json": "%%%"}, None, {"url": "https://cdn.test/b?sig=1"}]
    result, _ = call(httpx.Response(200, json={"data": data}), params={"n": 4})
    assert [output.data or output.url for output in result.outputs] == [
        b"\x89PNG",
        "https://cdn.test/b?sig=1",
    ]
    assert result.provider_payload["missing"] == 2


@pytest.mark.parametrize(
    "body",
    [{"message": {"a": 1}, "code": 5, "param": ["x"]}, {"message": 5, "type": {}}, [1], 5],
    ids=repr,
)
def test_an_odd_error_body_is_still_typed(body: object) -> None:
    """What an error object holds is a text or is left out."""
    assert failure(error_answer(400, body)).http_status == 400
