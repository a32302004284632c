"""An event loop on a thread of its own, whose results the calling thread consumes.

Dagster interrupts a step by raising in its main thread, at any byte code. With the loop elsewhere
that exception lands in our own waiting, never inside a task or an event write, so every task ends
by an ordinary cancellation and what had finished is still there to be logged.
"""

import asyncio
import contextlib
import contextvars
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from queue import SimpleQueue
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

MOST_AT_ONCE = 200

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the body is done; then they arrive.

    An interrupt between two statements of an event write leaves a transaction open, and the
    database locked for everybody. Outside the main thread no signal arrives anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            # None stands for a handler that Python did not install and cannot put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])


class Background(Generic[T]):
    """Runs one coroutine and hands over what it emits, in order.

    Use as a context manager; leaving it, for whatever reason, cancels the coroutine if it still
    runs and waits until it has cleaned up.

    Args:
        main: called with an `emit` function, which tasks may call from the loop.
    """

    def __init__(self, main: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self._items: deque[T] = deque()
        # One entry per item and one at the end; the queue only wakes, the deque holds.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._over = threading.Event()
        self._running = threading.Event()
        self._stopping = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._body,), name="genblaze-batch", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._running.wait()
        except BaseException:
            # An interrupt in here would leave nobody to stop the thread.
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def each(self, handle: Callable[[list[T]], None]) -> None:
        """Call `handle` with what has been emitted since the last call, until the coroutine ends.

        An item is handed over at once when nothing is being handled; else with all that came in the
        meantime.

        Raises:
            BaseException: what the coroutine raised, after everything was handled.
        """
        while True:
            self._wake.get()
            # Asked before handing over: the end is announced after the last item.
            over = self._over.is_set()
            self._hand_over(handle)
            if over:
                break
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Cancel the coroutine if it still runs, and wait for its end."""
        self._stopping.set()
        cancelled = not self._over.is_set()
        if cancelled and self._loop is not None and self._task is not None:
            # The loop may have ended by itself in this very moment, and is then closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        if cancelled and self._error is not None:
            # The caller leaves with an exception of its own; this one must not be lost.
            _log.error("a cancelled batch ended with an error", exc_info=self._error)

    def rest(self, handle: Callable[[list[T]], None]) -> None:
        """After `stop`: call `handle` with what was not handled yet."""
        self._hand_over(handle)

    def _hand_over(self, handle: Callable[[list[T]], None]) -> None:
        while self._items:
            # A copy, because the loop goes on adding.
            items = list(self._items.copy())[:MOST_AT_ONCE]
            with interrupts_held_back():
                handle(items)
                for _ in items:
                    self._items.popleft()

    def _emit(self, item: T) -> None:
        self._items.append(item)
        self._wake.put(None)

    def _body(self) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(self._supervise())
        except asyncio.CancelledError:
            # Only `stop` cancels, and its caller is on the way out with an exception of its own.
            pass
        except BaseException as exc:
            self._error = exc
        finally:
            self._over.set()
            self._running.set()
            self._wake.put(None)

    async def _supervise(self) -> None:
        self._task = asyncio.current_task()
        self._running.set()
        # `stop` sets its flag before it looks for the task, so one of both is seen.
        if not self._stopping.is_set():
            await self._main(self._emit)
