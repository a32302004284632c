import asyncio
import contextvars
import signal
import subprocess
import sys
import threading

import pytest

from genblaze_dagster.net.loop import run_sync

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


async def where() -> tuple[int, str]:
    await asyncio.sleep(0)
    return threading.get_ident(), color.get()


def test_runs_in_this_thread_without_a_loop() -> None:
    """With no loop running the coroutine runs in the calling thread."""
    assert run_sync(where()) == (threading.get_ident(), "none")


def test_runs_beside_a_running_loop_with_its_context() -> None:
    """Inside a running loop it runs on another thread, with the caller's context variables."""

    async def outer() -> tuple[int, str]:
        color.set("blue")
        return run_sync(where())

    thread, seen = asyncio.run(outer())
    assert thread != threading.get_ident()
    assert seen == "blue"


@pytest.mark.parametrize("inside", [False, True])
def test_raises_what_the_coroutine_raises(inside: bool) -> None:
    """An error of the coroutine reaches the caller unchanged, and no thread is left."""

    async def fail() -> None:
        raise ValueError("wrong")

    async def outer() -> None:
        run_sync(fail())

    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="wrong"):
        asyncio.run(outer()) if inside else run_sync(fail())
    assert set(threading.enumerate()) <= before


def test_nests() -> None:
    """A coroutine run this way may run another one this way."""

    async def inner() -> int:
        return 2

    async def middle() -> int:
        return run_sync(inner()) + 1

    assert run_sync(middle()) == 3


INTERRUPTED = """
import asyncio, sys
from genblaze_dagster.net.loop import run_sync

async def job():
    print("started", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("cleaned up", flush=True)

async def outer():
    run_sync(job())

try:
    asyncio.run(outer()) if sys.argv[1] == "inside" else run_sync(job())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_an_interrupt_before_anybody_waits_is_not_lost() -> None:
    """A cancellation that lands while the private thread is still starting reaches the coroutine."""
    ended: list[str] = []

    async def job(caller: asyncio.Task[None]) -> None:
        # What SIGINT does under asyncio.run, at the earliest moment there is.
        caller.cancel()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cleaned up")

    async def outer() -> None:
        task = asyncio.current_task()
        assert task is not None
        run_sync(job(task))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(outer())
    assert ended == ["cleaned up"]


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_an_interrupt_cancels_the_coroutine_and_waits_for_its_cleanup(where: str) -> None:
    """On Ctrl-C the coroutine's cleanup runs, also on the private thread, before the error."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, where], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert output == "cleaned up\ninterrupted\n"
