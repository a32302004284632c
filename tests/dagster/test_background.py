import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from genblaze_dagster._background import MOST_AT_ONCE, Background

Emit = Callable[[int], None]


def test_items_arrive_in_order_on_the_callers_thread() -> None:
    """Everything that was emitted is handled, once, by the thread that asks."""

    async def main(emit: Emit) -> None:
        for number in range(500):
            emit(number)
            if number % 50 == 0:
                await asyncio.sleep(0)

    seen: list[int] = []
    threads: set[int] = set()

    def handle(items: list[int]) -> None:
        assert len(items) <= MOST_AT_ONCE
        seen.extend(items)
        threads.add(threading.get_ident())

    with Background[int](main) as work:
        work.each(handle)
    assert seen == list(range(500))
    assert threads == {threading.get_ident()}


def test_an_item_does_not_wait_for_the_next_one() -> None:
    """What is emitted is handled while the coroutine still works."""
    handled = threading.Event()

    async def main(emit: Emit) -> None:
        emit(1)
        await asyncio.to_thread(handled.wait, 60)
        assert handled.is_set()

    with Background[int](main) as work:
        work.each(lambda items: handled.set())


def test_an_error_is_raised_after_everything_was_handled() -> None:
    """What was finished before the failure is not lost by it."""

    async def main(emit: Emit) -> None:
        emit(1)
        raise LookupError("gone")

    seen: list[int] = []
    with Background[int](main) as work, pytest.raises(LookupError, match="gone"):
        work.each(seen.extend)
    assert seen == [1]


def test_leaving_early_cancels_and_waits_for_the_cleaning_up() -> None:
    """Awaits in `finally` run to their end, and what they emit can still be handled."""
    started = threading.Event()

    async def main(emit: Emit) -> None:
        emit(1)
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            emit(2)

    seen: list[int] = []
    with Background[int](main) as work:
        assert started.wait(60)
        work.stop()
        work.rest(seen.extend)
    assert seen == [1, 2]


def test_an_interrupted_item_is_handled_again() -> None:
    """Handling is not over when it was broken off."""

    async def main(emit: Emit) -> None:
        emit(1)
        await asyncio.sleep(60)

    def interrupted(items: list[int]) -> None:
        raise KeyboardInterrupt

    seen: list[int] = []
    with Background[int](main) as work:
        with pytest.raises(KeyboardInterrupt):
            work.each(interrupted)
        work.stop()
        work.rest(seen.extend)
    assert seen == [1]


def test_an_error_while_cancelling_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The interrupt is what is raised; the other error can be read."""
    started = threading.Event()

    async def main(emit: Emit) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            raise LookupError("gone")

    with caplog.at_level(logging.ERROR), Background[int](main):
        assert started.wait(60)
    assert "ended with an error" in caplog.text
    assert "LookupError" in caplog.text


def test_it_works_inside_a_running_loop() -> None:
    """A notebook, or a daemon that runs where it schedules, has a loop of its own."""

    async def main(emit: Emit) -> None:
        emit(1)

    async def outer() -> list[int]:
        seen: list[int] = []
        with Background[int](main) as work:
            work.each(seen.extend)
        return seen

    assert asyncio.run(outer()) == [1]
