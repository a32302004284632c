import asyncio
from collections.abc import Callable

import httpx
import pytest

from genblaze_dagster.errors import ProviderTimeoutError
from genblaze_dagster.net.client import request
from genblaze_dagster.net.fence import fenced
from tests.support.raw_http import RawServer, always, answer, raw_server


def objects_at(*looks: int) -> Callable[[], str | None]:
    """An objection that is raised at these looks, counted from 1."""
    seen = 0

    def objection() -> str | None:
        nonlocal seen
        seen += 1
        return "the lease has ended" if seen in looks else None

    return objection


def sent_by(objection: Callable[[], str | None], *methods: str) -> tuple[list[str], object]:
    """Send requests behind a fence; return what arrived, and the error that stopped it."""

    async def body() -> tuple[list[str], object]:
        async with raw_server(always(answer(200))) as server:
            error = await _send(server, objection, methods)
            return [each.method for each in server.requests], error

    return asyncio.run(body())


async def _send(
    server: RawServer, objection: Callable[[], str | None], methods: tuple[str, ...]
) -> ProviderTimeoutError | None:
    with fenced(objection):
        for method in methods:
            try:
                await request(method, server.url(), provider="vendor", json={"a": 1})
            except ProviderTimeoutError as exc:
                return exc
    return None


def test_what_nobody_objects_to_is_sent() -> None:
    """Every request, over one connection."""
    assert sent_by(objects_at(), "POST", "GET", "POST") == (["POST", "GET", "POST"], None)


@pytest.mark.parametrize("look", [1, 2], ids=["before-connecting", "connected"])
def test_a_request_that_is_objected_to_does_not_leave(look: int) -> None:
    """Not a byte of it, although the connection may stand by then: it is certainly not sent."""
    arrived, error = sent_by(objects_at(look), "POST")
    assert arrived == []
    assert isinstance(error, ProviderTimeoutError)
    assert (error.sent, error.transient) == (False, True)
    assert "the lease has ended" in str(error)


@pytest.mark.parametrize("look", [3, 4, 5], ids=["body", "next", "next-connected"])
def test_after_something_has_left_nobody_is_certain(look: int) -> None:
    """A body that is held back, or a second request: the vendor has heard of it."""
    arrived, error = sent_by(objects_at(look), "POST", "POST")
    assert arrived == ["POST"]
    assert isinstance(error, ProviderTimeoutError)
    assert error.sent is None


def test_reading_is_always_allowed() -> None:
    """Whoever asks what became of a job pays for nothing."""
    assert sent_by(objects_at(1, 2, 3), "GET") == (["GET"], None)


def test_the_next_request_finds_a_working_connection() -> None:
    """A request that was stopped leaves nothing half-written behind."""

    async def body() -> list[str]:
        async with raw_server(always(answer(200, body=b"ok"))) as server:
            await request("GET", server.url(), provider="vendor")
            assert await _send(server, objects_at(2), ("POST",)) is not None
            assert (await request("GET", server.url(), provider="vendor")).content == b"ok"
            return [each.method for each in server.requests]

    assert asyncio.run(body()) == ["GET", "GET"]


def test_threads_are_behind_the_fence_of_who_started_them() -> None:
    """Providers with blocking calls run on threads, each with a loop of its own."""

    async def body() -> None:
        async with raw_server(always(answer(200))) as server:

            def call() -> None:
                asyncio.run(request_it(server.url()))

            with fenced(objects_at(1)), pytest.raises(ProviderTimeoutError):
                await asyncio.to_thread(call)
            await asyncio.to_thread(call)
            assert len(server.requests) == 1

    async def request_it(url: str) -> None:
        async with httpx.AsyncClient() as client:
            await request("POST", url, provider="vendor", client=client)

    asyncio.run(body())
