"""The HTTP clients every part of the package shares, and one way to call a vendor's API.

A client belongs to one event loop and one process. It is made on first use and closed when its
loop shuts down its generators (`asyncio.run` does), so nobody has to remember it.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import httpx
import orjson

from genblaze_dagster.errors import OutputError
from genblaze_dagster.net import wire_log
from genblaze_dagster.net.fence import fence_of
from genblaze_dagster.net.guarded import GuardedTransport
from genblaze_dagster.net.ssrf import PUBLIC_HTTPS, UrlPolicy
from genblaze_dagster.net.transport_errors import encoding_errors, provider_errors

MAX_ANSWER_BYTES = 512 * 1024 * 1024
KEEPALIVE_SECONDS = 5.0

HttpClient = httpx.AsyncClient
"""What `client=` arguments take; tests pass one with a transport of their own."""

FilePart = tuple[str, tuple[str, bytes, str]]
"""A multipart file: part name, then (file name, bytes, media type)."""

TextPart = tuple[str, tuple[None, str] | tuple[None, str, str]]
"""A multipart text field: part name, then (None, text), and its media type where a vendor wants one.

For forms in which names repeat, or that hold no file at all.
"""

wire_log.install()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for one connect, read, write, or a free connection of the pool."""

    connect: float = 30.0
    read: float = 60.0
    write: float = 60.0
    pool: float = 30.0

    def as_httpx(self) -> httpx.Timeout:
        """Return httpx's form of it."""
        return httpx.Timeout(connect=self.connect, read=self.read, write=self.write, pool=self.pool)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole response. `headers` looks names up without regard to case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)

    def json(self) -> Any:
        """Return the parsed body.

        Raises:
            ValueError: it is not JSON.
        """
        return orjson.loads(self.content)

    @property
    def text(self) -> str:
        """The body as text; undecodable bytes become replacement characters."""
        return self.content.decode("utf-8", "replace")


# Per loop: (process id, kind of client) -> the client and the generator that closes it. With the
# process id a forked child neither uses nor closes its parent's sockets.
_Key = tuple[int, object]
_Entry = tuple[httpx.AsyncClient, AsyncGenerator[httpx.AsyncClient]]
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, _Entry]] = WeakKeyDictionary()


def http_client() -> httpx.AsyncClient:
    """Return the running loop's client for vendor APIs, which honours proxy variables.

    Raises:
        RuntimeError: no event loop is running in this thread.
    """
    return _shared("api", _new_api_client)


def guarded_client(policy: UrlPolicy = PUBLIC_HTTPS) -> httpx.AsyncClient:
    """Return the running loop's client for URLs that come from others; see `net.ssrf`.

    Raises:
        RuntimeError: no event loop is running in this thread.
    """
    return _shared(policy, lambda: _new_guarded_client(policy))


async def aclose_client() -> None:
    """Close the running loop's shared clients; the next use opens new ones."""
    for _, closer in list(_clients.pop(asyncio.get_running_loop(), {}).values()):
        await closer.aclose()


async def request(
    method: str,
    url: str,
    *,
    provider: str,
    client: httpx.AsyncClient | None = None,
    headers: Mapping[str, str] | None = None,
    json: object = None,
    data: Mapping[str, Any] | None = None,
    files: Sequence[FilePart | TextPart] | None = None,
    content: bytes | None = None,
    params: Mapping[str, str | int | float | bool] | None = None,
    timeouts: Timeouts | None = None,
    max_bytes: int = MAX_ANSWER_BYTES,
) -> HttpAnswer:
    """Call a vendor's API once and read the whole answer, whatever its status.

    Nothing is retried and no redirect is followed. `provider` names the vendor in errors.
    `json` is sent as JSON; `data` with `files` as multipart/form-data, alone as a form; `content` as
    it is. `params` are added to the query of `url`.

    Raises:
        ProviderTimeoutError, ProviderUnavailableError: no complete answer. `sent` is False when
            the request cannot have reached the vendor, None when that is not known. Also when a
            `net.fence` objects.
        InvalidRequestError: URL, header or body cannot be encoded; nothing was sent.
        OutputError: the answer is larger than `max_bytes`.
    """
    client = client or http_client()
    with encoding_errors(provider):
        built = client.build_request(
            method,
            url,
            headers=headers,
            json=json,
            data=data,
            files=files,
            content=content,
            params=params,
            timeout=(timeouts or Timeouts()).as_httpx(),
        )
    with provider_errors(provider, method, url):
        async with _sent(client, built) as response:
            return HttpAnswer(
                response.status_code, response.headers, await _body(response, provider, max_bytes)
            )


@asynccontextmanager
async def streamed(
    method: str,
    url: str,
    *,
    provider: str,
    client: httpx.AsyncClient | None = None,
    headers: Mapping[str, str] | None = None,
    json: object = None,
    timeouts: Timeouts | None = None,
) -> AsyncGenerator[HttpAnswer | AsyncIterator[bytes]]:
    """Call a vendor's API once; yield the bytes of a success as they come, or the whole refusal.

    Leaving the block closes the connection, which ends the vendor's work where it notices.

    Raises:
        ProviderTimeoutError, ProviderUnavailableError, InvalidRequestError: as `request` does, also
            in the middle of a stream.
    """
    client = client or http_client()
    with encoding_errors(provider):
        built = client.build_request(
            method, url, headers=headers, json=json, timeout=(timeouts or Timeouts()).as_httpx()
        )
    with provider_errors(provider, method, url):
        async with _sent(client, built) as response:
            if response.status_code >= 400:
                body = await _body(response, provider, MAX_ANSWER_BYTES)
                yield HttpAnswer(response.status_code, response.headers, body)
            else:
                yield response.aiter_bytes()


async def _body(response: httpx.Response, provider: str, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise OutputError(
                f"{provider}: the answer is larger than {max_bytes} bytes",
                provider=provider,
                http_status=response.status_code,
            )
    return bytes(body)


@asynccontextmanager
async def _sent(client: httpx.AsyncClient, built: httpx.Request) -> AsyncGenerator[httpx.Response]:
    fence = fence_of(built.method)
    if fence is not None:
        fence.check()
        # Looking up the host, connecting and waiting for a free connection come first.
        built.extensions["trace"] = fence.trace
    response = await client.send(built, stream=True, follow_redirects=False)
    try:
        yield response
    finally:
        await response.aclose()


def _shared(kind: object, create: Callable[[], httpx.AsyncClient]) -> httpx.AsyncClient:
    entries = _clients.setdefault(asyncio.get_running_loop(), {})
    key = (os.getpid(), kind)
    if key in entries and not entries[key][0].is_closed:
        return entries[key][0]
    client = create()
    closer = _closing(entries, key, client)
    # Run the generator to its yield: from then on the loop closes it, and with it the client,
    # in shutdown_asyncgens. There is no other hook for the end of a loop.
    with suppress(StopIteration):
        closer.__anext__().send(None)
    entries[key] = (client, closer)
    return client


async def _closing(
    entries: dict[_Key, _Entry], key: _Key, client: httpx.AsyncClient
) -> AsyncGenerator[httpx.AsyncClient]:
    try:
        yield client
    finally:
        # The entry refers to the loop through its connections and would keep it alive.
        entries.pop(key, None)
        await client.aclose()


def _new_api_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=_ssl_context(),
        limits=httpx.Limits(
            max_connections=200, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE_SECONDS
        ),
        headers={"user-agent": user_agent()},
        cookies=_no_cookies(),
        timeout=Timeouts().as_httpx(),
    )


def _new_guarded_client(policy: UrlPolicy) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=GuardedTransport(
            policy, ssl_context=_ssl_context(), keepalive_expiry=KEEPALIVE_SECONDS
        ),
        headers={"user-agent": user_agent()},
        cookies=_no_cookies(),
        timeout=Timeouts().as_httpx(),
        trust_env=False,
    )


@cache
def user_agent() -> str:
    """Return what we call ourselves in requests."""
    return f"genblaze-dagster/{version('genblaze-dagster')}"


@cache
def _ssl_context() -> ssl.SSLContext:
    # Reading the trust store takes tens of milliseconds, so once per process.
    context = httpx.create_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_cookies() -> CookieJar:
    """A jar that stays empty: one call must not leave traces in the next."""
    return CookieJar(policy=DefaultCookiePolicy(allowed_domains=()))
