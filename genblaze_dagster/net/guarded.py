"""An httpx transport that connects only to addresses it has just checked.

The check sits between name resolution and the socket, so there is no second look-up to lie to.
SNI, the certificate and the Host header still use the name. Proxies are ignored: a proxy would
resolve the name itself.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Generator, Iterable
from contextlib import aclosing, contextmanager
from typing import Any, cast

import httpcore
import httpx

from genblaze_dagster.net.ssrf import (
    PUBLIC_HTTPS,
    Resolver,
    UrlPolicy,
    allowed_addresses,
    check_text,
    resolve_host,
)

SocketOption = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)


class GuardedTransport(httpx.AsyncBaseTransport):
    """Connects to public https hosts only; every request and every connection is checked.

    `max_connections` and `keepalive_expiry` (seconds) bound the pool. `resolve` and `ssl_context`
    are for tests.
    """

    def __init__(
        self,
        policy: UrlPolicy = PUBLIC_HTTPS,
        *,
        ssl_context: ssl.SSLContext,
        resolve: Resolver = resolve_host,
        max_connections: int = 100,
        keepalive_expiry: float = 5.0,
    ) -> None:
        self._policy = policy
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            max_connections=max_connections,
            max_keepalive_connections=20,
            keepalive_expiry=keepalive_expiry,
            network_backend=_GuardedBackend(policy, resolve),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            UnsafeUrlError: the URL or the address behind it is refused; nothing was sent.
            httpx.TransportError: as any httpx transport.
        """
        check_text(request.url, self._policy)
        url = request.url
        core = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=cast("httpx.AsyncByteStream", request.stream),
            extensions=request.extensions,
        )
        with _httpx_errors():
            response = await self._pool.handle_async_request(core)
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Stream(response),
        )

    async def aclose(self) -> None:
        """Close every pooled connection."""
        await self._pool.aclose()


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, policy: UrlPolicy, resolve: Resolver) -> None:
        self._policy = policy
        self._resolve = resolve
        self._tcp = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await allowed_addresses(host, port, self._policy, self._resolve)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"resolving {host} took too long") from exc
        except OSError as exc:
            raise httpcore.ConnectError(f"{host} does not resolve") from exc
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._tcp.connect_tcp(
                    address,
                    port,
                    timeout=None if timeout is None else timeout / len(addresses),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            stream: Any = self._response.aiter_stream()
            async with aclosing(stream):
                async for chunk in stream:
                    yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def _httpx_errors() -> Generator[None]:
    """Raise httpcore's errors as httpx's of the same name."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
    ) as exc:
        kind: type[httpx.TransportError] = getattr(httpx, type(exc).__name__)
        raise kind(str(exc)) from exc
