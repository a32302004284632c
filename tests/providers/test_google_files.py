import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.errors import (
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.net.download import stream_download
from genblaze_dagster.net.ssrf import UrlPolicy
from genblaze_dagster.providers.google import GeminiImageProvider, ImagenProvider, VeoProvider
from genblaze_dagster.providers.google.files import (
    MAX_INLINE_BYTES,
    MOST_LOOKS,
    StoredFile,
    download_headers,
    upload,
)
from genblaze_dagster.providers.google.provider import GoogleProvider
from genblaze_dagster.providers.google.vendor import GOOGLE, read_error
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.validation import ValidationOutcome
from genblaze_dagster.providers.vendor.api import Api
from tests.support.raw_http import always, answer, raw_server
from tests.support.vendor import assert_equal_requests, called, replayed
from tests.support.wire import API_KEY, Scenario, input_media, replay

LISTED = [
    (VeoProvider, ["veo-3.1-generate-preview"], "veo-9"),
    (ImagenProvider, ["imagen-4.0-generate-001"], "imagen-9"),
    (GeminiImageProvider, ["gemini-2.5-flash-image"], "gemini-9-image"),
]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "google" / f"{name}.json")


def with_answer(scenario: Scenario, position: int, response: Mapping[str, Any]) -> Scenario:
    exchanges = list(scenario.exchanges)
    exchanges[position] = {**exchanges[position], "response": response}
    return replace(scenario, exchanges=exchanges)


def uploaded(scenario: Scenario) -> StoredFile:
    data = base64.b64decode(scenario.exchanges[1]["request"]["body_base64"])

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)

    async def main() -> StoredFile:
        async with wire.client() as client:
            api = Api(GOOGLE, api_key=API_KEY, client=client)
            return await upload(api, data, media_type="image/png", name="in.png", sleep=sleep)

    with replay(scenario) as wire:
        stored = asyncio.run(main())
    assert_equal_requests(scenario, wire.received)
    return stored


def looks(scenario: Scenario, *states: str) -> Scenario:
    """The golden upload of a file that is processed first."""
    file = scenario.exchanges[1]["response"]["json"]["file"]
    url = file["uri"]
    request = {"method": "GET", "url": url, "headers": {"x-goog-api-key": "{{API_KEY}}"}}
    first, *others = ({**file, "state": state} for state in states)
    scenario = with_answer(scenario, 1, {"status": 200, "json": {"file": first}})
    later = [{"request": request, "response": {"status": 200, "json": file}} for file in others]
    return replace(scenario, exchanges=[*scenario.exchanges, *later])


def test_the_golden_upload_is_equal(vectors: Path) -> None:
    """The upload is opened with the key, and the bytes go without it."""
    stored = uploaded(load(vectors, "files_upload_resumable"))
    assert stored.name == "files/abc123"
    assert stored.part() == {"fileData": {"fileUri": stored.uri, "mimeType": "image/png"}}


def test_a_file_that_is_processed_is_waited_for(vectors: Path) -> None:
    """A video can be used when its state is ACTIVE."""
    scenario = looks(load(vectors, "files_upload_resumable"), "PROCESSING", "PROCESSING", "ACTIVE")
    assert uploaded(scenario).name == "files/abc123"


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        (("PROCESSING", "FAILED"), InvalidRequestError),
        (("PROCESSING",) * (MOST_LOOKS + 1), ProviderTimeoutError),
    ],
    ids=["failed", "endless"],
)
def test_a_file_that_cannot_be_used_is_no_ambiguous_submit(
    vectors: Path, states: tuple[str, ...], kind: type[ProviderError]
) -> None:
    """Whatever becomes of an upload, nothing was generated."""
    with pytest.raises(kind) as caught:
        uploaded(looks(load(vectors, "files_upload_resumable"), *states))
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("steps", "body"),
    [(1, {}), (2, {"file": {"name": "../x"}}), (2, {"file": {"name": "files/x"}}), (2, {})],
    ids=["no-address", "no-name", "no-uri", "no-file"],
)
def test_an_upload_that_was_given_nothing_is_a_typed_error(
    vectors: Path, steps: int, body: dict[str, Any]
) -> None:
    """Answers that are not what Google promises do not end in a crash."""
    scenario = load(vectors, "files_upload_resumable")
    broken = with_answer(scenario, steps - 1, {"status": 200, "json": body})

    async def main() -> None:
        async with wire.client() as client:
            api = Api(GOOGLE, api_key=API_KEY, client=client)
            await upload(api, b"x", media_type="image/png", name="in.png")

    with replay(broken) as wire, pytest.raises(OutputError, match="was given no") as caught:
        asyncio.run(main())
    assert len(wire.received) == steps
    assert caught.value.sent is False


def test_a_large_input_is_uploaded_and_a_small_one_is_not(vectors: Path) -> None:
    """Inputs stand in the request as long as there is room; the others go by their address."""
    edit, opened = load(vectors, "gemini_image_edit"), load(vectors, "files_upload_resumable")
    large = bytes(MAX_INLINE_BYTES)
    length = {"x-goog-upload-header-content-length": str(len(large))}
    steps = [dict(exchange) for exchange in opened.exchanges]
    for step in steps:
        step["request"] = {**step["request"], "headers": {**step["request"]["headers"], **length}}
    start, send = (step["request"] for step in steps)
    start["json"] = {
        "file": {"display_name": "in.png", "mime_type": "image/png", "size_bytes": len(large)}
    }
    send["body_base64"] = base64.b64encode(large).decode()
    request = {**edit.exchanges[0]["request"]}
    parts = request["json"]["contents"][0]["parts"]
    uri = opened.exchanges[1]["response"]["json"]["file"]["uri"]
    file = {"fileData": {"fileUri": uri, "mimeType": "image/png"}}
    small = base64.urlsafe_b64decode(parts[1]["inlineData"]["data"])
    parts.append(file)
    scenario = replace(edit, exchanges=[*steps, {**edit.exchanges[0], "request": request}])
    driven = replayed(
        scenario,
        lambda client: GeminiImageProvider(API_KEY, client=client),
        GenerationRequest(
            model="gemini-2.5-flash-image",
            prompt="make it blue",
            params={"responseModalities": ["TEXT", "IMAGE"]},
            inputs=(input_media(small, "image/png"), input_media(large, "image/png")),
        ),
    )
    assert driven.error is None


def test_the_key_of_a_download_stays_with_its_host() -> None:
    """A redirect to another host is followed without `x-goog-api-key`."""

    async def main() -> None:
        async with raw_server(always(answer(200, body=b"mp4"))) as storage:
            moved = answer(302, {"location": storage.url("/signed")})
            async with raw_server(always(moved)) as google:
                uri = google.url("/v1beta/files/a:download?alt=media")
                api = Api(GOOGLE, api_key=API_KEY, base_url=google.url("").rstrip("/"))
                headers = download_headers(api, uri)
                policy = UrlPolicy(allow_loopback=True)
                async with stream_download(uri, headers=headers, policy=policy) as download:
                    assert b"".join([chunk async for chunk in download.aiter()]) == b"mp4"
            assert [r.headers.get("x-goog-api-key") for r in google.requests] == [API_KEY]
        assert [r.headers.get("x-goog-api-key") for r in storage.requests] == [None]

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "models", "missing"), LISTED)
def test_models_are_listed_over_all_pages(
    vectors: Path, kind: type[GoogleProvider], models: list[str], missing: str
) -> None:
    """Each provider lists what is called in its way, from pages asked for one by one."""
    scenario = load(vectors, "models_list_two_pages")

    def make(client: httpx.AsyncClient) -> GoogleProvider:
        return kind(API_KEY, client=client)

    assert called(scenario, make, lambda p: p.list_models(page_size=2)) == models


@pytest.mark.parametrize(("kind", "models", "missing"), LISTED)
def test_a_model_is_checked_against_the_list(
    vectors: Path, kind: type[GoogleProvider], models: list[str], missing: str
) -> None:
    """What Google lists exists, with or without its prefix; what it does not list does not."""
    scenario = load(vectors, "models_list_two_pages")

    async def main() -> None:
        async with wire.client() as client:
            provider = kind(API_KEY, client=client)
            for name in (models[0], f"models/{models[0]}"):
                found = await provider.validate_model(name)
                assert found.outcome is ValidationOutcome.OK_AUTHORITATIVE
            found = await provider.validate_model(missing)
            assert found.outcome is ValidationOutcome.NOT_FOUND

    with replay(scenario) as wire:
        asyncio.run(main())
    assert len(wire.received) == 2


def test_a_list_without_an_end_is_given_up(vectors: Path) -> None:
    """A list that always names a next page ends in a typed error."""
    scenario = load(vectors, "models_list_two_pages")
    endless = replace(scenario, exchanges=[scenario.exchanges[0]] * 100)

    async def main() -> None:
        async with wire.client() as client:
            await VeoProvider(API_KEY, client=client).list_models(page_size=2)

    with replay(endless) as wire, pytest.raises(OutputError, match="more than 100 pages"):
        asyncio.run(main())


def test_a_model_is_looked_up(vectors: Path) -> None:
    """Google tells of a model what it can do, or that there is none."""

    def make(client: httpx.AsyncClient) -> VeoProvider:
        return VeoProvider(API_KEY, client=client)

    scenario = load(vectors, "models_get")
    found = called(scenario, make, lambda p: p.retrieve_model("veo-3.1-generate-preview"))
    assert found["supportedGenerationMethods"] == ["predictLongRunning"]

    async def missing() -> None:
        async with wire.client() as client:
            await make(client).retrieve_model("veo-9")

    scenario = load(vectors, "models_get_404")
    with replay(scenario) as wire, pytest.raises(ModelError) as caught:
        asyncio.run(missing())
    assert_equal_requests(scenario, wire.received)
    assert caught.value.transient is scenario.expect["retryable"]


def exhausted(*violations: dict[str, str], delay: str | None = None) -> dict[str, Any]:
    types = "type.googleapis.com/google.rpc"
    details: list[dict[str, Any]] = [
        {"@type": f"{types}.QuotaFailure", "violations": list(violations)}
    ]
    if delay is not None:
        details.append({"@type": f"{types}.RetryInfo", "retryDelay": delay})
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}


@pytest.mark.parametrize(
    ("body", "kind", "wait"),
    [
        (exhausted({"quotaId": "RequestsPerDayPerProject"}), QuotaError, None),
        (exhausted({"quotaId": "RequestsPerDayPerProject"}, delay="9s"), RateLimitError, 9.0),
        (exhausted({"quotaId": "RequestsPerMinute", "quotaValue": "0"}), QuotaError, None),
        (exhausted({"quotaId": "RequestsPerMinute", "quotaValue": "10"}), RateLimitError, None),
        (exhausted({"quotaId": "Unheard"}), RateLimitError, None),
        (exhausted(delay="soon"), RateLimitError, None),
        (exhausted(delay="0.25s"), RateLimitError, 0.25),
    ],
    ids=["day", "day-with-delay", "zero", "minute", "unknown", "no-delay", "fraction"],
)
def test_a_used_up_quota_is_told_from_too_many_requests(
    body: dict[str, Any], kind: type[ProviderError], wait: float | None
) -> None:
    """A day's quota without a delay is worth no waiting; what is unknown is."""
    refusal = read_error(429, body)
    assert (refusal.kind, refusal.retry_after) == (kind, wait)


@pytest.mark.parametrize("body", [None, [], "x", {"error": "x"}, {"error": {"details": "x"}}])
def test_an_error_of_a_proxy_means_its_status(body: object) -> None:
    """What is not Google's error object is judged by the HTTP status."""
    assert read_error(502, body).kind is None
    assert GOOGLE.rules.kind_of_status(499) is ProviderTimeoutError
    assert GOOGLE.rules.kind_of_status(404) is ModelError
