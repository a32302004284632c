import asyncio
import gc
import logging
import os
import subprocess
import sys
import weakref

import httpx
import pytest

from genblaze_dagster.errors import (
    InvalidRequestError,
    OutputError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from genblaze_dagster.net.client import (
    Timeouts,
    aclose_client,
    guarded_client,
    http_client,
    request,
    user_agent,
)
from tests.support.raw_http import RawRequest, always, answer, raw_server


def test_one_client_per_loop_closed_with_the_loop() -> None:
    """A loop shares one client; the next loop has another; both are closed at the end."""

    async def use() -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
        assert http_client() is http_client()
        assert guarded_client() is guarded_client()
        assert guarded_client() is not http_client()
        async with raw_server(always(answer(200, body=b"ok"))) as server:
            assert (await request("GET", server.url(), provider="x")).content == b"ok"
        return http_client(), guarded_client()

    first, second = asyncio.run(use()), asyncio.run(use())
    assert first[0] is not second[0]
    assert all(client.is_closed for client in (*first, *second))
    gc.collect()


def test_a_finished_loop_is_not_kept_alive() -> None:
    """Nothing of ours refers to a loop that has ended."""

    async def use() -> weakref.ref[asyncio.AbstractEventLoop]:
        async with raw_server(always(answer(200))) as server:
            await request("GET", server.url(), provider="x")
        return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(use())
    gc.collect()
    assert loop() is None


def test_closing_early_gives_a_new_client() -> None:
    """`aclose_client` closes this loop's clients; the next use opens a new one."""

    async def use() -> None:
        before = http_client()
        await aclose_client()
        assert before.is_closed
        assert http_client() is not before
        await http_client().aclose()
        assert not http_client().is_closed

    asyncio.run(use())


def test_without_a_loop_there_is_no_client() -> None:
    """Outside a running loop asking for the client is an error."""
    with pytest.raises(RuntimeError):
        http_client()


FORKED = """
import asyncio, os, sys
from genblaze_dagster.net import client
from genblaze_dagster.net.client import http_client, request

client.KEEPALIVE_SECONDS = 600.0

async def get(url, times=1):
    for _ in range(times):
        answer = await request("GET", url, provider="x")
        assert answer.content == b"ok"
    return http_client()

async def parent(url):
    mine = await get(url)
    pid = os.fork()
    if pid == 0:
        # The child leaves its parent's loop behind, as multiprocessing does.
        import asyncio.events
        asyncio.events._set_running_loop(None)
        try:
            assert asyncio.run(get(url)) is not mine
        except BaseException as exc:
            print(repr(exc), flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert http_client() is mine and not mine.is_closed
    await get(url, 2)
    print("child", os.waitstatus_to_exitcode(status), flush=True)

asyncio.run(parent(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_client_and_leaves_the_parents_alone() -> None:
    """After a fork the child opens its own connections and the parent's still work."""

    async def serve() -> tuple[str, int]:
        async with raw_server(always(answer(200, body=b"ok"))) as server:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-W",
                "error::ResourceWarning",
                "-c",
                FORKED,
                server.url(),
                stdout=subprocess.PIPE,
            )
            output, _ = await process.communicate()
            return output.decode(), server.connections

    output, connections = asyncio.run(serve())
    assert output == "child 0\n"
    assert connections == 2


def test_connections_are_kept_and_cookies_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests share a connection; a cookie set by one answer is not sent with the next."""
    monkeypatch.setattr("genblaze_dagster.net.client.KEEPALIVE_SECONDS", 600.0)

    async def use() -> None:
        response = answer(200, {"set-cookie": "session=abc; Path=/"})
        async with raw_server(always(response)) as server:
            for _ in range(3):
                await request("GET", server.url(), provider="x")
            assert server.connections == 1
            assert all("cookie" not in seen.headers for seen in server.requests)
            assert server.requests[0].headers["user-agent"] == user_agent()

    asyncio.run(use())
    assert user_agent().startswith("genblaze-dagster/")


def test_any_status_is_an_answer_and_redirects_are_not_followed() -> None:
    """4xx, 5xx and 3xx are returned with body and headers; the caller judges them."""

    async def use() -> None:
        for status in (302, 404, 503):
            response = answer(status, {"Location": "/other", "X-Request-Id": "r1"}, b'{"a": 1}')
            async with raw_server(always(response)) as server:
                got = await request("POST", server.url(), provider="x", json={})
            assert (got.status, got.json(), got.text) == (status, {"a": 1}, '{"a": 1}')
            assert got.headers["x-REQUEST-id"] == "r1"
            assert len(server.requests) == 1

    asyncio.run(use())


def failing(url: str, **arguments: object) -> BaseException:
    async def call() -> None:
        await request("POST", url, provider="acme", json={}, **arguments)  # type: ignore[arg-type]

    with pytest.raises(Exception) as caught:  # noqa: PT011
        asyncio.run(call())
    return caught.value


def test_no_connection_means_nothing_was_sent() -> None:
    """A refused connection is transient and certainly before send."""

    async def free_port() -> int:
        async with raw_server(always(b"")) as server:
            return server.port

    error = failing(f"http://127.0.0.1:{asyncio.run(free_port())}/v1?key=abcdef123")
    assert isinstance(error, ProviderUnavailableError)
    assert (error.sent, error.transient, error.provider) == (False, True, "acme")
    assert "abcdef123" not in str(error)


@pytest.mark.parametrize("url", ["ftp://host.test/x", "https://", "http://a\nb/"])
def test_a_url_that_is_none_is_refused_before_sending(url: str) -> None:
    """A wrong base URL is a permanent error and nothing was sent."""
    error = failing(url)
    assert isinstance(error, InvalidRequestError)
    assert error.sent is False


def test_a_key_that_breaks_the_header_is_not_repeated() -> None:
    """An illegal header fails without its value in the error or its causes."""

    async def call(key: str) -> BaseException:
        async with raw_server(always(answer(200))) as server:
            with pytest.raises(InvalidRequestError) as caught:
                await request("GET", server.url(), provider="x", headers={"authorization": key})
            assert server.requests == []
            return caught.value

    for key in ("sk-abc\ndef", "sk-äöü"):
        error = asyncio.run(call(key))
        shown = repr(error) + str(error) + repr(error.__cause__)
        assert "abc" not in shown
        assert "äöü" not in shown


@pytest.mark.parametrize(
    "body", [float("nan"), object(), "\ud800"], ids=["nan", "object", "surrogate"]
)
def test_a_body_that_cannot_be_encoded_is_refused(body: object) -> None:
    """What JSON cannot carry is a permanent error, and nothing was sent."""

    async def call() -> InvalidRequestError:
        with pytest.raises(InvalidRequestError) as caught:
            await request("POST", "http://127.0.0.1:9/x", provider="acme", json={"a": body})
        return caught.value

    assert asyncio.run(call()).sent is False


async def _drop(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _truncate(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200, {"content-length": "100"}, b"half"))
    writer.close()


async def _nonsense(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
    writer.write(b"this is not http\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("handler", [_drop, _truncate, _nonsense])
def test_a_lost_answer_is_ambiguous(handler) -> None:
    """Once the request may have arrived, a broken answer says neither sent nor unsent."""

    async def call() -> ProviderUnavailableError:
        async with raw_server(handler) as server:
            with pytest.raises(ProviderUnavailableError) as caught:
                await request("POST", server.url(), provider="acme", json={})
            return caught.value

    error = asyncio.run(call())
    assert error.sent is None
    assert error.transient is True


def test_no_answer_in_time_is_ambiguous() -> None:
    """A read timeout is a typed, transient timeout with an unknown fate."""

    async def silent(seen: RawRequest, writer: asyncio.StreamWriter) -> None:
        await released.wait()

    async def call() -> ProviderTimeoutError:
        async with raw_server(silent) as server:
            with pytest.raises(ProviderTimeoutError) as caught:
                await request(
                    "POST", server.url(), provider="acme", timeouts=Timeouts(read=0.05), json={}
                )
            released.set()
            return caught.value

    released = asyncio.Event()
    error = asyncio.run(call())
    assert error.sent is None
    assert error.transient is True


def test_an_endless_answer_is_cut_off() -> None:
    """An answer above the limit is refused instead of filling the memory."""

    async def call() -> None:
        async with raw_server(always(answer(200, body=b"x" * 5000))) as server:
            assert len((await request("GET", server.url(), provider="x")).content) == 5000
            with pytest.raises(OutputError, match="larger than 4999 bytes"):
                await request("GET", server.url(), provider="x", max_bytes=4999)

    asyncio.run(call())


def test_logs_of_the_http_library_hold_no_query_and_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """httpx logs URLs and httpcore headers; both are rewritten without credentials."""
    caplog.set_level(logging.DEBUG)
    location = "https://s3.test/k?X-Amz-Signature=c0ffee123456"

    async def call() -> None:
        async with raw_server(always(answer(302, {"location": location}))) as server:
            await request("GET", server.url("/p?key=verysecret99&sig=abc"), provider="x")

    asyncio.run(call())
    text = caplog.text
    assert "HTTP Request: GET http://127.0.0.1" in text
    assert "receive_response_headers" in text
    for secret in ("verysecret99", "sig=abc", "c0ffee"):
        assert secret not in text
