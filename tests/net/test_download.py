import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.errors import (
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    UnsafeUrlError,
)
from genblaze_dagster.net.client import Timeouts
from genblaze_dagster.net.download import Download, stream_download
from genblaze_dagster.net.guarded import GuardedTransport
from genblaze_dagster.net.ssrf import UrlPolicy
from tests.support.providers import png
from tests.support.raw_http import (
    Handler,
    RawRequest,
    RawServer,
    always,
    answer,
    certificate_for,
    raw_server,
)

LOOPBACK = UrlPolicy(allow_loopback=True)
FILE = b"\x89PNG" + bytes(range(256)) * 4096
PICTURE = png("a fox")


class Waits(list[float]):
    """Takes the place of sleep and notes what was asked."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


async def fetch(
    url: str,
    *,
    read: Callable[[Download], AsyncIterator[bytes]] = Download.aiter,
    **arguments: Any,
) -> tuple[Download, bytes]:
    async with stream_download(url, **{"policy": LOOPBACK, **arguments}) as download:
        return download, b"".join([chunk async for chunk in read(download)])


def served(handler: Handler, path: str = "/a.png", **arguments: Any) -> tuple[RawServer, bytes]:
    async def main() -> tuple[RawServer, bytes]:
        async with raw_server(handler) as server:
            _, body = await fetch(server.url(path), **arguments)
            return server, body

    return asyncio.run(main())


def refused(
    handler: Handler, kind: type[Exception], path: str = "/a.png", **arguments: Any
) -> tuple[RawServer, Any]:
    async def main() -> tuple[RawServer, Any]:
        async with raw_server(handler) as server:
            with pytest.raises(kind) as caught:
                await fetch(server.url(path), **arguments)
            return server, caught.value

    return asyncio.run(main())


def test_streams_the_bytes_with_their_facts() -> None:
    """The body arrives whole and in bounded chunks; type and length come from the headers."""
    response = answer(200, {"content-type": "image/png; x=y"}, FILE)

    async def main() -> None:
        async with (
            raw_server(always(response)) as server,
            stream_download(
                server.url("/a.png?sig=abc"), headers={"X-Key": "k"}, policy=LOOPBACK
            ) as download,
        ):
            chunks = [chunk async for chunk in download.aiter()]
            assert hashlib.sha256(b"".join(chunks)).digest() == hashlib.sha256(FILE).digest()
            assert max(map(len, chunks)) <= 256 * 1024
            assert (download.status, download.content_type) == (200, "image/png; x=y")
            assert download.content_length == len(FILE)
            assert download.url == server.url("/a.png")
            assert "abc" not in repr(download)
            (seen,) = server.requests
            assert seen.path == "/a.png?sig=abc"
            assert seen.headers["x-key"] == "k"
            assert seen.headers["accept-encoding"] == "identity"

    asyncio.run(main())


def test_the_default_policy_does_not_contact_this_machine() -> None:
    """Without the explicit seam a loopback URL is refused and nothing connects."""

    async def main() -> None:
        async with raw_server(always(answer(200))) as server:
            for url in (server.url(), f"https://127.0.0.1:{server.port}/", "https://localhost/"):
                with pytest.raises(UnsafeUrlError):
                    async with stream_download(url):
                        pass
            assert server.connections == 0

    asyncio.run(main())


def test_environment_proxies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy variable does not divert a guarded download."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    _, body = served(always(answer(200, body=b"ok")))
    assert body == b"ok"


def redirecting(targets: Mapping[str, str], then: bytes) -> Handler:
    async def handler(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
        target = targets.get(seen.path)
        writer.write(then if target is None else answer(302, {"location": target}))

    return handler


def test_redirects_are_followed_up_to_five() -> None:
    """Five hops are fine, six are not."""
    hops = {f"/{n}": f"/{n + 1}" for n in range(5)}
    server, body = served(redirecting(hops, answer(200, body=b"end")), "/0")
    assert body == b"end"
    assert [seen.path for seen in server.requests] == ["/0", "/1", "/2", "/3", "/4", "/5"]
    refused(redirecting({**hops, "/5": "/6"}, answer(200)), OutputError, "/0")


@pytest.mark.parametrize(
    "target",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "http://example.com/",
        "file:///etc/passwd",
        "https://user:pw@example.com/",
        "https://[fd00::1]/",
        "gopher://x/",
    ],
)
def test_every_redirect_is_checked_again(target: str) -> None:
    """A redirect to an internal or unencrypted place is refused before it is contacted."""
    server, _ = refused(redirecting({"/a.png": target}, answer(200)), UnsafeUrlError)
    assert len(server.requests) == 1


def test_a_redirect_that_leads_nowhere_is_no_file() -> None:
    """A redirect without a location, or to something that is no URL, ends in a typed error."""
    refused(always(answer(302)), OutputError)
    nonsense = always(answer(302, {"location": "//[::1"}))
    refused(nonsense, ProviderUnavailableError, sleep=Waits())


def test_headers_stay_with_their_origin() -> None:
    """A key goes to the first origin only: not to another port, and not after coming back."""

    async def main() -> None:
        there, back = {"/a": "/b"}, {}
        done = answer(200, body=b"x")
        async with (
            raw_server(redirecting(there, done)) as home,
            raw_server(redirecting(back, done)) as other,
        ):
            there["/b"] = other.url("/c")
            back["/c"] = home.url("/d")
            await fetch(home.url("/a"), headers={"Authorization": "Bearer k"})
        assert [("authorization" in seen.headers, seen.path) for seen in home.requests] == [
            (True, "/a"),
            (True, "/b"),
            (False, "/d"),
        ]
        assert ["authorization" in seen.headers for seen in other.requests] == [False]

    asyncio.run(main())


def test_a_file_above_the_limit_is_refused_by_its_length_and_while_reading() -> None:
    """A declared length is refused at once, an undeclared one as soon as it is exceeded."""
    refused(always(answer(200, body=FILE)), OutputError, max_bytes=len(FILE) - 1)
    chunked = b"".join(b"400\r\n" + b"x" * 1024 + b"\r\n" for _ in range(8)) + b"0\r\n\r\n"
    response = answer(200, {"transfer-encoding": "chunked"}, chunked)
    _, body = served(always(response), max_bytes=8192)
    assert len(body) == 8192
    _, error = refused(always(response), OutputError, max_bytes=8191)
    assert error.transient is False


async def _truncated(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, {"content-length": "1000"}, b"half"))
    writer.close()


async def _truncated_chunks(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, {"transfer-encoding": "chunked"}, b"4\r\nhalf\r\n"))
    writer.close()


@pytest.mark.parametrize("handler", [_truncated, _truncated_chunks])
def test_a_body_that_ends_early_is_never_taken_for_the_file(handler: Handler) -> None:
    """Fewer bytes than promised is a transient error, whatever the framing."""
    _, error = refused(handler, ProviderUnavailableError, "/a.png?sig=abc")
    assert error.transient is True
    assert "sig" not in str(error)


def half_of_it(framing: Mapping[str, str]) -> Handler:
    async def handler(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in framing.items())
        writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + PICTURE[: len(PICTURE) // 2])
        writer.close()

    return handler


@pytest.mark.parametrize(
    "framing",
    [{"content-length": str(len(PICTURE) // 2)}, {"connection": "close"}],
    ids=["length", "closed"],
)
def test_media_that_ends_early_in_good_order_is_an_error(framing: Mapping[str, str]) -> None:
    """Half a picture under half a length, or none, is known by the picture; asking again may help."""
    _, error = refused(half_of_it(framing), OutputError, "/a.png?sig=abc", read=Download.media)
    assert (error.transient, error.http_status) == (True, 200)
    assert "image/png" in str(error)
    assert "sig" not in str(error)
    _, body = served(half_of_it(framing))
    assert body == PICTURE[: len(PICTURE) // 2]


def test_whole_media_and_what_is_no_media_arrive_as_they_are() -> None:
    """Bytes that prove nothing, also none at all, are nobody's business here."""
    for content in (PICTURE, PICTURE + b"behind it", FILE, b'{"a": 1}', b""):
        _, body = served(always(answer(200, body=content)), read=Download.media)
        assert body == content


def test_media_that_breaks_off_is_a_broken_connection() -> None:
    """Fewer bytes than promised stay what they are, whatever they were to be."""
    _, error = refused(_truncated, ProviderUnavailableError, read=Download.media)
    assert error.transient is True


def flaky(*responses: bytes) -> Handler:
    left = list(responses)

    async def handler(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
        response = left.pop(0)
        if response:
            writer.write(response)
        else:
            writer.close()

    return handler


def test_transient_answers_are_tried_again_with_growing_waits() -> None:
    """Broken connections, 5xx and 429 are tried again; Retry-After replaces our own wait."""
    waits = Waits()
    handler = flaky(b"", answer(503), answer(429, {"retry-after": "7"}), answer(200, body=b"ok"))
    server, body = served(handler, sleep=waits)
    assert body == b"ok"
    assert waits == [0.5, 1.0, 7.0]
    assert len(server.requests) == 4


def test_retries_end() -> None:
    """After the last retry the last error is raised, transient for the Runner to judge."""
    waits = Waits()
    handler = flaky(answer(500), answer(500), answer(429, {"retry-after-ms": "1500"}))
    _, error = refused(handler, RateLimitError, sleep=waits, retries=2)
    assert waits == [0.5, 1.0]
    assert (error.retry_after, error.transient, error.http_status) == (1.5, True, 429)


def test_a_long_wait_is_left_to_the_caller() -> None:
    """A Retry-After above a minute is not slept here; it is in the error."""
    waits = Waits()
    handler = always(answer(503, {"retry-after": "3600"}))
    _, error = refused(handler, ProviderUnavailableError, sleep=waits)
    assert waits == []
    assert error.retry_after == 3600


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204, 206])
def test_other_answers_are_final_and_hold_no_query(status: int) -> None:
    """A missing, expired or partial file is an OutputError, at the first attempt."""
    waits = Waits()
    server, error = refused(always(answer(status)), OutputError, "/a.png?sig=abcd", sleep=waits)
    assert waits == []
    assert len(server.requests) == 1
    assert error.http_status == status
    assert "abcd" not in str(error)


def test_a_silent_server_times_out() -> None:
    """No answer within the read timeout is a typed timeout, tried again like other failures."""

    async def main() -> None:
        released = asyncio.Event()

        async def silent(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
            await released.wait()

        waits = Waits()
        async with raw_server(silent) as server:
            with pytest.raises(ProviderTimeoutError):
                await fetch(server.url(), timeout=Timeouts(read=0.03), sleep=waits, retries=1)
            assert waits == [0.5]
            released.set()

    asyncio.run(main())


def test_a_trickle_of_bytes_ends_at_the_total_time() -> None:
    """A server that sends a little now and then cannot hold a worker for ever."""

    async def trickle(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, {"content-length": str(10**9)}))
        while not writer.is_closing():
            writer.write(b"x" * 262_144)
            await writer.drain()
            await asyncio.sleep(0.01)

    refused(trickle, ProviderTimeoutError, total_seconds=0.1)


def test_leaving_early_closes_the_connection() -> None:
    """Breaking out of the stream leaves no open connection and raises nothing."""

    async def main() -> None:
        async with raw_server(always(answer(200, body=FILE * 8))) as server:
            async with stream_download(server.url(), policy=LOOPBACK) as download:
                async for _ in download.aiter():
                    break
            with pytest.raises(ValueError, match="mine"):
                async with stream_download(server.url(), policy=LOOPBACK):
                    raise ValueError("mine")

    asyncio.run(main())


def resolver(
    addresses: Callable[[str], Sequence[str]], asked: list[str]
) -> Callable[[str, int], Any]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return addresses(host)

    return resolve


def tls_client(
    tls: Any, policy: UrlPolicy, addresses: Callable[[str], Sequence[str]], asked: list[str]
) -> httpx.AsyncClient:
    transport = GuardedTransport(
        policy, ssl_context=tls, resolve=resolver(addresses, asked), keepalive_expiry=600.0
    )
    return httpx.AsyncClient(transport=transport, trust_env=False)


def test_tls_uses_the_name_and_connects_to_the_checked_address(tmp_path: Path) -> None:
    """SNI, certificate and Host are the name's; the socket goes where the one look-up said."""
    server_tls, client_tls = certificate_for("media.example.test", tmp_path)
    names: list[str] = []
    server_tls.sni_callback = lambda socket, name, context: names.append(name)
    asked: list[str] = []

    async def main() -> None:
        async with raw_server(always(answer(200, body=b"ok")), server_tls) as server:
            policy = UrlPolicy(ports=frozenset({server.port}), allow_loopback=True)
            url = server.url("/a", host="media.example.test")
            async with tls_client(client_tls, policy, lambda _: ["127.0.0.1"], asked) as client:
                for _ in range(2):
                    _, body = await fetch(url, policy=policy, client=client)
                    assert body == b"ok"
            assert server.connections == 1
            assert server.requests[0].headers["host"] == f"media.example.test:{server.port}"

    asyncio.run(main())
    assert names == ["media.example.test"]
    assert asked == ["media.example.test"]


def test_a_certificate_for_another_name_is_refused_for_good(tmp_path: Path) -> None:
    """A wrong certificate is not transient: it will be wrong again."""
    server_tls, client_tls = certificate_for("other.example.test", tmp_path)

    async def main() -> ProviderError:
        async with raw_server(always(answer(200)), server_tls) as server:
            policy = UrlPolicy(ports=frozenset({server.port}), allow_loopback=True)
            url = server.url("/a", host="media.example.test")
            async with tls_client(client_tls, policy, lambda _: ["127.0.0.1"], []) as client:
                with pytest.raises(ProviderUnavailableError) as caught:
                    await fetch(url, policy=policy, client=client)
                return caught.value

    error = asyncio.run(main())
    assert error.transient is False
    assert error.sent is False


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::1"]])
def test_a_public_name_that_leads_inside_is_refused_at_the_connection(
    tmp_path: Path, addresses: list[str]
) -> None:
    """The check is on the addresses that would be connected to, so rebinding gains nothing."""
    server_tls, client_tls = certificate_for("media.example.test", tmp_path)
    asked: list[str] = []

    async def main() -> None:
        async with raw_server(always(answer(200)), server_tls) as server:
            policy = UrlPolicy(ports=frozenset({server.port}))
            url = server.url("/a", host="media.example.test")
            async with tls_client(client_tls, policy, lambda _: addresses, asked) as client:
                with pytest.raises(UnsafeUrlError):
                    await fetch(url, policy=policy, client=client)
            assert server.connections == 0

    asyncio.run(main())
    assert asked == ["media.example.test"]


def test_the_next_address_is_tried_when_one_does_not_answer(tmp_path: Path) -> None:
    """A host with a dead address is still reached through its other one."""
    server_tls, client_tls = certificate_for("media.example.test", tmp_path)

    async def main() -> bytes:
        async with raw_server(always(answer(200, body=b"ok")), server_tls) as server:
            policy = UrlPolicy(ports=frozenset({server.port}), allow_loopback=True)
            url = server.url("/a", host="media.example.test")
            both = ["127.0.0.2", "127.0.0.1"]
            async with tls_client(client_tls, policy, lambda _: both, []) as client:
                return (await fetch(url, policy=policy, client=client))[1]

    assert asyncio.run(main()) == b"ok"
