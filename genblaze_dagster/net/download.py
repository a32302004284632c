"""Stream a file from a URL somebody else gave us."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from genblaze_dagster.errors import (
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    UnsafeUrlError,
)
from genblaze_dagster.media.truncation import TruncationCheck
from genblaze_dagster.net.client import HttpClient, Timeouts, guarded_client
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.net.retry_after import parse_retry_after
from genblaze_dagster.net.ssrf import PUBLIC_HTTPS, UrlPolicy, check_text
from genblaze_dagster.net.transport_errors import transport_error

MAX_DOWNLOAD_BYTES = 5 * 1024**3
MAX_REDIRECTS = 5
CHUNK_BYTES = 256 * 1024
MAX_WAIT_SECONDS = 60.0

_BACKOFF_SECONDS = 0.5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRIED = frozenset({429, 500, 502, 503, 504})
_SUBJECT = "download"

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Download:
    """An open download. `content_length` is bytes, None when the server does not say."""

    status: int
    content_type: str | None
    content_length: int | None
    url: str
    """Where the bytes come from after redirects, without query."""
    _response: httpx.Response
    _max_bytes: int
    _ends_at: float

    async def aiter(self) -> AsyncIterator[bytes]:
        """Yield the body in chunks of at most about 256 KiB.

        Raises:
            OutputError: the body is larger than allowed.
            ProviderTimeoutError: it takes longer than allowed.
            ProviderUnavailableError: the connection broke, or the body ended early.
        """
        received = 0
        try:
            async for chunk in self._response.aiter_bytes(CHUNK_BYTES):
                received += len(chunk)
                if received > self._max_bytes:
                    raise _too_large(self.url, self._max_bytes)
                if time.monotonic() > self._ends_at:
                    raise ProviderTimeoutError(
                        f"{self.url}: not complete in time; {received} bytes arrived"
                    )
                yield chunk
        except httpx.RequestError as exc:
            raise transport_error(
                exc, f"{self.url}: the download broke off after {received} bytes", _SUBJECT
            ) from exc

    async def media(self) -> AsyncIterator[bytes]:
        """Yield the body as `aiter`, and find out whether it is a whole file.

        A Content-Length that is too small, or a connection that is closed in good order, does not
        show that bytes are missing; their container may.

        Raises:
            OutputError: after the last chunk, when the file is certainly cut off; transient, since
                the server may give all of it the next time.
        """
        check = TruncationCheck()
        received = 0
        async for chunk in self.aiter():
            check.feed(chunk)
            received += len(chunk)
            yield chunk
        if check.is_cut_off():
            raise OutputError(
                f"{self.url}: {check.media_type} that is cut off after {received} bytes; "
                "it is not stored, ask for it again",
                http_status=self.status,
                transient=True,
            )


@asynccontextmanager
async def stream_download(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    timeout: Timeouts | None = None,  # noqa: ASYNC109 - seconds per phase, not a deadline
    total_seconds: float = 3600.0,
    retries: int = 3,
    policy: UrlPolicy = PUBLIC_HTTPS,
    client: HttpClient | None = None,
    sleep: Sleep = asyncio.sleep,
) -> AsyncGenerator[Download]:
    """Open a URL and give its body as a stream; closed when the block is left.

    Only public https addresses are contacted; each of at most 5 redirects is checked again.
    `headers` go to the origin of `url` and nowhere else. Until the body begins, transport errors
    and answers 429 and 5xx are tried again up to `retries` times, waiting what the server asks
    (at most 60 s) or 0.5 s, 1 s, 2 s. `policy` and `client` are for tests.

    Raises:
        UnsafeUrlError: the URL, a redirect or an address is refused.
        OutputError: no file there (4xx), too many redirects, or larger than `max_bytes`.
        RateLimitError, ProviderTimeoutError, ProviderUnavailableError: transient.
    """
    ends_at = time.monotonic() + total_seconds
    fetch = _Fetch(client or guarded_client(policy), policy, timeout or Timeouts())
    response = await fetch.open_with_retries(url, headers or {}, retries, sleep)
    try:
        shown = strip_url(str(response.url))
        length = _content_length(response)
        if length is not None and length > max_bytes:
            raise _too_large(shown, max_bytes)
        content_type = response.headers.get("content-type")
        yield Download(
            response.status_code, content_type, length, shown, response, max_bytes, ends_at
        )
    finally:
        await response.aclose()


@dataclass(frozen=True, slots=True)
class _Fetch:
    client: httpx.AsyncClient
    policy: UrlPolicy
    timeouts: Timeouts

    async def open_with_retries(
        self, url: str, headers: Mapping[str, str], retries: int, sleep: Sleep
    ) -> httpx.Response:
        for attempt in range(retries + 1):
            try:
                return await self.open(url, headers)
            except ProviderError as exc:
                wait = exc.retry_after
                if wait is None:
                    wait = _BACKOFF_SECONDS * 2**attempt
                if not exc.transient or attempt == retries or wait > MAX_WAIT_SECONDS:
                    raise
            await sleep(wait)
        raise AssertionError("unreachable")

    async def open(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        """Follow redirects to a response that has a body to read."""
        target = check_text(url, self.policy)
        current = httpx.URL(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(current, headers)
            if response.status_code not in _REDIRECTS:
                return await self._accept(response)
            location = response.headers.get("location")
            await response.aclose()
            current = _joined(current, location)
            if check_text(current, self.policy) != target:
                headers = {}
        raise OutputError(f"{strip_url(url)}: more than {MAX_REDIRECTS} redirects")

    async def _get(self, url: httpx.URL, headers: Mapping[str, str]) -> httpx.Response:
        request = self.client.build_request(
            "GET",
            url,
            # Compressed media gains nothing, and Content-Length would count other bytes.
            headers={"accept-encoding": "identity", **headers},
            timeout=self.timeouts.as_httpx(),
        )
        try:
            return await self.client.send(request, stream=True, follow_redirects=False)
        except httpx.RequestError as exc:
            raise transport_error(exc, f"GET {strip_url(str(url))}", _SUBJECT) from exc

    async def _accept(self, response: httpx.Response) -> httpx.Response:
        if response.status_code in (200, 203):
            return response
        await response.aclose()
        raise _status_error(response)


def _joined(current: httpx.URL, location: str | None) -> httpx.URL:
    shown = strip_url(str(current))
    if not location:
        raise OutputError(f"{shown}: a redirect without a location")
    try:
        return current.join(location)
    except (httpx.InvalidURL, ValueError) as exc:
        raise UnsafeUrlError(f"{shown}: redirects to something that is not a URL") from exc


def _status_error(response: httpx.Response) -> ProviderError:
    status = response.status_code
    subject = f"{strip_url(str(response.url))}: answers {status}"
    if status == 429:
        return RateLimitError(
            f"{subject}; too many requests",
            http_status=status,
            retry_after=parse_retry_after(response.headers),
        )
    if status in _RETRIED:
        return ProviderUnavailableError(
            subject, http_status=status, retry_after=parse_retry_after(response.headers)
        )
    hint = "; the link may have expired" if status in (401, 403, 404, 410) else ""
    return OutputError(f"{subject}{hint}", http_status=status)


def _content_length(response: httpx.Response) -> int | None:
    if "content-encoding" in response.headers:
        return None
    text = response.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _too_large(shown: str, max_bytes: int) -> OutputError:
    return OutputError(f"{shown}: larger than the allowed {max_bytes} bytes")
