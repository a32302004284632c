"""From sync code into async code, whether or not a loop already runs in this thread."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

_GLANCE_SECONDS = 0.1


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result; blocks the calling thread.

    Without a running loop in this thread it runs here. With one (a notebook, an async op) it runs
    on a thread of its own, with the caller's context variables. An interrupt while waiting,
    or a cancellation of the calling task cancels the coroutine, waits until it has cleaned up,
    and is raised again.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    return _run_in_thread(coroutine)


def _run_in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()
    outcome: Future[T] = Future()

    async def supervise() -> T:
        task = asyncio.ensure_future(coroutine)
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    def body() -> None:
        try:
            outcome.set_result(asyncio.run(supervise()))
        except BaseException as exc:
            outcome.set_exception(exc)

    def cancel() -> None:
        loop, task = started.result()
        loop.call_soon_threadsafe(task.cancel)

    caller = asyncio.current_task()
    # Counted before the coroutine can start: what it starts may be what interrupts us.
    cancellations = caller.cancelling() if caller is not None else 0
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(body,), name="genblaze-run-sync")
    thread.start()
    try:
        _wait(outcome, cancel, caller, cancellations)
        return outcome.result()
    finally:
        if not outcome.done():
            cancel()
        thread.join()


def _wait(
    outcome: Future[T],
    cancel: Callable[[], None],
    caller: "asyncio.Task[Any] | None",
    cancellations: int,
) -> None:
    """Wait for the outcome; pass on a cancellation of the task that is blocked here.

    `asyncio.run` turns the first interrupt into such a cancellation, which nobody would see
    while the loop's thread waits.
    """
    while not wait((outcome,), timeout=_GLANCE_SECONDS).done:
        if caller is not None and caller.cancelling() > cancellations:
            cancellations = caller.cancelling()
            cancel()
