"""Blocking calls as coroutines, on threads that exist only while there is work for them.

A thread cannot be stopped from outside. When its caller stops waiting, the call goes on by itself;
its answer is kept for whoever asks the same thing again, so that what was paid is not paid twice.
"""

import asyncio
import contextvars
import functools
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from genblaze_dagster.errors import ProviderUnavailableError

T = TypeVar("T")

KEPT_ANSWERS = 64
MOST_ABANDONED = 64

_log = logging.getLogger(__name__)


class BlockingCalls:
    """Runs the blocking functions of one provider; safe to use from many threads and loops.

    Threads are daemons, are started with the calls and end with them: nothing idles, and one that
    hangs keeps no process from ending.

    Args:
        subject: the provider's name, for messages.
        limit: how many calls run at once; more wait. None: as many as are asked for, which is the
            `max_concurrency` of the run.
    """

    def __init__(self, subject: str, *, limit: int | None = None) -> None:
        self._subject = subject
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._workers = 0
        self._abandoned = 0
        self._kept: OrderedDict[str, Future[Any]] = OrderedDict()

    async def run(self, function: Callable[[], T], *, keep_as: str | None = None) -> T:
        """Return what a function returns, computed on another thread.

        When the caller is cancelled meanwhile, the answer is kept under `keep_as` (the last 64
        are) and given to the next call with the same name, which then runs nothing.

        Raises:
            ProviderUnavailableError: 64 calls that nobody waits for are still running; nothing was
                sent.
        """
        future: Future[T] | None = self._take(keep_as)
        if future is None:
            future = self._start(function)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # A call that still waits for its thread is cancelled by this and never runs.
            if not future.cancel():
                self._abandon(future, keep_as)
            raise

    def _take(self, name: str | None) -> "Future[Any] | None":
        with self._lock:
            return self._kept.pop(name, None) if name is not None else None

    def _start(self, function: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        call = functools.partial(contextvars.copy_context().run, function)
        with self._lock:
            if self._abandoned >= MOST_ABANDONED:
                raise ProviderUnavailableError(
                    f"{self._subject}: {self._abandoned} calls ran out of time and still hang; give "
                    "its client a timeout of its own",
                    provider=self._subject,
                    sent=False,
                )
            self._waiting.append((future, call))
            if self._limit is not None and self._workers >= self._limit:
                return future
            self._workers += 1
        worker = threading.Thread(target=self._work, name=f"genblaze-{self._subject}", daemon=True)
        try:
            worker.start()
        except RuntimeError as exc:
            self._withdraw(future, exc)
        return future

    def _withdraw(self, future: "Future[Any]", cause: RuntimeError) -> None:
        """Give up a call for which no thread can be had, unless another one has taken it up."""
        with self._lock:
            self._workers -= 1
        if future.cancel():
            raise ProviderUnavailableError(
                f"{self._subject}: no thread can be started; lower max_concurrency",
                provider=self._subject,
                sent=False,
            ) from cause

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._workers -= 1
                    return
                future, call = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                _complete(future, call)
            # Nothing may keep an answer in memory while the thread takes up the next call.
            del future, call

    def _abandon(self, future: "Future[Any]", name: str | None) -> None:
        with self._lock:
            self._abandoned += 1
            if name is not None:
                self._kept[name] = future
            dropped = self._kept.popitem(last=False)[0] if len(self._kept) > KEPT_ANSWERS else None
        if dropped is not None:
            _log.warning("%s: the late answer to %s is lost", self._subject, dropped)
        future.add_done_callback(functools.partial(self._came_late, name))

    def _came_late(self, name: str | None, future: "Future[Any]") -> None:
        with self._lock:
            self._abandoned -= 1
            kept = name is not None and self._kept.get(name) is future
        if kept and future.exception() is None:
            _log.warning(
                "%s: an answer came when nobody waited for it any more; it is kept in this "
                "process for the next attempt of %s",
                self._subject,
                name,
            )


def _complete(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        answer = call()
    except BaseException as exc:
        future.set_exception(exc)
    else:
        future.set_result(answer)
