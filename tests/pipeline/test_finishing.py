import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from genblaze_dagster.errors import StorageError
from genblaze_dagster.pipeline.finishing import GivenUp, finished

Finish = Callable[[asyncio.Event], Awaitable[str]]


async def at_once(_: asyncio.Event) -> str:
    await asyncio.sleep(0.01)
    return "stored"


async def in_spite_of_all(given_up: asyncio.Event) -> str:
    """Is in its last step, which it does not break off, when it is told to."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        given_up.set()
    return "stored"


async def never(given_up: asyncio.Event) -> str:
    try:
        await asyncio.sleep(60)
    finally:
        given_up.set()
    return "never"


async def badly(_: asyncio.Event) -> str:
    await asyncio.sleep(0.01)
    raise StorageError("the bucket is gone")


def outcome(finish: Finish, *, cancels: int = 1, grace: float = 0.05) -> tuple[Any, bool, bool]:
    """Return what came of it, whether it was told to hurry, and whether it was broken off."""

    async def body() -> tuple[Any, bool, bool]:
        hurried, broken_off = asyncio.Event(), asyncio.Event()

        async def main() -> object:
            try:
                return await finished(finish(broken_off), hurry=hurried.set, grace_seconds=grace)
            except (StorageError, GivenUp) as exc:
                return exc

        task = asyncio.ensure_future(main())
        for _ in range(cancels):
            await asyncio.sleep(0.002)
            task.cancel()
        result = await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return result, hurried.is_set(), broken_off.is_set()

    return asyncio.run(body())


def test_what_ends_within_the_grace_counts() -> None:
    """A cancelled step whose last objects are being written ends as if nothing had happened."""
    assert outcome(at_once, grace=60) == ("stored", True, False)


def test_nothing_is_hurried_without_a_cancellation() -> None:
    """An ordinary end is an ordinary end."""
    assert outcome(at_once, cancels=0) == ("stored", False, False)


def test_what_ends_in_the_very_moment_it_is_broken_off_counts() -> None:
    """The result of a task that finished all the same is returned, not given back as failed."""
    assert outcome(in_spite_of_all) == ("stored", True, True)


@pytest.mark.parametrize("cancels", [1, 2, 3])
def test_what_does_not_end_in_time_is_given_up(cancels: int) -> None:
    """It is broken off and waited for, however often the caller is cancelled meanwhile."""
    result, hurried, broken_off = outcome(never, cancels=cancels)
    assert isinstance(result, GivenUp)
    assert (hurried, broken_off) == (True, True)


@pytest.mark.parametrize("cancels", [2, 5])
def test_further_cancellations_do_not_shorten_the_grace(cancels: int) -> None:
    """What is paid for is stored, also when several layers cancel one after the other."""

    async def slowly(_: asyncio.Event) -> str:
        await asyncio.sleep(0.1)
        return "stored"

    assert outcome(slowly, cancels=cancels, grace=60) == ("stored", True, False)


def test_an_error_within_the_grace_is_that_error() -> None:
    """A cancellation does not hide that the store failed."""
    result, _, _ = outcome(badly, grace=60)
    assert isinstance(result, StorageError)
