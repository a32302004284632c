"""The ledger's blocking operations, run on threads of their own and awaited on an event loop.

Every commit waits for the disk. What is asked for meanwhile is done together and committed at once:
a hundred operations cost one such wait. SQLite has one writer, so one thread does it; PostgreSQL
joins the commits of several connections by itself, and each of a few threads uses one.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.transactions import Outcome

R = TypeVar("R")

# Bounds how long other processes wait for the write lock.
_LARGEST_GROUP = 128


@dataclass(frozen=True, slots=True)
class _Wanted(Generic[R]):
    operation: Callable[[], R]
    key: str | None
    future: asyncio.Future[R]


class Operations:
    """Runs the operations of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._most_threads = ledger.at_once
        self._group = _LARGEST_GROUP if self._most_threads == 1 else 1
        self._lock = threading.Lock()
        self._ready: deque[_Wanted[Any]] = deque()
        # Keys at work or ready, with those that wait for their turn.
        self._behind: dict[str, deque[_Wanted[Any]]] = {}
        self._working = 0
        self._threads = ThreadPoolExecutor(self._most_threads, thread_name_prefix="genblaze-ledger")

    def start(self, operation: Callable[[], R], *, key: str | None = None) -> asyncio.Future[R]:
        """Have an operation done; the future ends when it is committed, or refused.

        It is finished even when the future is cancelled. It may be run again after a run that was
        rolled back, so it must do nothing but call the ledger.

        Args:
            operation: calls the ledger.
            key: operations of one key are done in the order in which they are started.
        """
        loop = asyncio.get_running_loop()
        wanted = _Wanted(operation, key, loop.create_future())
        with self._lock:
            self._enqueue(wanted)
            if self._working < self._most_threads and self._ready:
                self._threads.submit(self._work)
                self._working += 1
        return wanted.future

    def close(self) -> None:
        """Finish what is wanted and end the threads."""
        self._threads.shutdown(wait=True)

    def _enqueue(self, wanted: _Wanted[Any]) -> None:
        # A single thread keeps the order by itself.
        if wanted.key is None or self._most_threads == 1:
            self._ready.append(wanted)
        elif wanted.key in self._behind:
            self._behind[wanted.key].append(wanted)
        else:
            self._behind[wanted.key] = deque()
            self._ready.append(wanted)

    def _work(self) -> None:
        while group := self._next_group():
            outcomes = self._ledger.together([wanted.operation for wanted in group])
            with self._lock:
                for wanted in group:
                    self._let_next(wanted.key)
            _deliver(group, outcomes)

    def _next_group(self) -> list[_Wanted[Any]]:
        with self._lock:
            count = min(self._group, len(self._ready))
            if not count:
                self._working -= 1
            return [self._ready.popleft() for _ in range(count)]

    def _let_next(self, key: str | None) -> None:
        if key is None or key not in self._behind:
            return
        waiting = self._behind[key]
        if waiting:
            self._ready.append(waiting.popleft())
        else:
            del self._behind[key]


def _deliver(group: Sequence[_Wanted[Any]], outcomes: Sequence[Outcome]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = {}
    for wanted, outcome in zip(group, outcomes, strict=True):
        by_loop.setdefault(wanted.future.get_loop(), []).append((wanted.future, outcome))
    for loop, ended in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, ended)
        except RuntimeError:
            # The loop is closed: nobody is left to hear it.
            continue


def _settle(ended: Sequence[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, outcome in ended:
        if future.done():
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)
