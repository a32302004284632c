"""A bounded queue of webhook deliveries, worked off by a thread that lives while there is work."""

import asyncio
import atexit
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from weakref import WeakSet

from uuid_utils import uuid7

from genblaze_dagster.errors import ConfigError, WebhookError
from genblaze_dagster.net.webhooks import WebhookConfig, WebhookPoster

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 256 * 1024
EXIT_SECONDS: Final = 3.0

_LANES_AT_ONCE = 8
_IDLE_SECONDS = 1.0
_JOIN_SECONDS = 2.0
_GONE = 410


@dataclass(frozen=True, slots=True)
class _Delivery:
    id: str
    event: str
    lane: str
    body: bytes


class WebhookQueue:
    """Delivers payloads in the background: those of one lane in order, several lanes at once.

    Nothing here raises into a run. A full queue drops the newest payload; a payload the receiver
    does not take is given up after its retries and logged; after a 410 nothing more is sent. The
    counts tell: `dropped_count` has those that were never tried or cut off by `close`. What is
    left when the interpreter ends has 3 s in all. A forked child starts with an empty queue.

    Args:
        config: the receiver.
        maxsize: payloads waiting or on their way.
        poster: makes what delivers, once per working thread; for tests.
    """

    def __init__(
        self,
        config: WebhookConfig,
        *,
        maxsize: int = 10_000,
        poster: Callable[[WebhookConfig], WebhookPoster] = WebhookPoster,
    ) -> None:
        if maxsize < 1:
            raise ConfigError("queue_maxsize: give at least 1")
        self._config = config
        self._maxsize = maxsize
        self._poster = poster
        self._changed = threading.Condition()
        self._inbox: deque[_Delivery] = deque()
        self._unfinished = 0
        self._worker: _Worker | None = None
        self._closed = False
        self._gone = False
        self.delivered_count = 0
        self.failed_count = 0
        self.dropped_count = 0
        self.last_error: WebhookError | None = None
        _open_queues.add(self)

    def put(self, payload: Mapping[str, object], *, lane: str = "") -> None:
        """Queue a payload, if its `event` is wanted; never waits.

        Raises:
            ConfigError: it has no JSON form of at most 256 KiB.
        """
        event = str(payload.get("event", ""))
        wanted = self._config.include_events
        if wanted is not None and event not in wanted:
            return
        delivery = _Delivery(f"msg_{uuid7().hex}", event, lane, _encoded(payload))
        with self._changed:
            if self._closed or self._gone or self._unfinished >= self._maxsize:
                self._drop(1)
                return
            worker = self._working()
            if worker is None:
                self._drop(1)
                return
            self._unfinished += 1
            self._inbox.append(delivery)
            worker.wake()

    def close(self, timeout: float = 5.0) -> None:
        """Deliver what is queued, for at most `timeout` seconds, and stop; safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._unfinished, timeout)
            worker, self._worker = self._worker, None
        _open_queues.discard(self)
        if worker is None:
            return
        worker.stop()
        worker.join(_JOIN_SECONDS)
        with self._changed:
            if self._unfinished:
                self._drop(self._unfinished)
                self._unfinished = 0

    def take(self) -> list[_Delivery]:
        """Return what has come in since the last call, for the worker."""
        with self._changed:
            taken = list(self._inbox)
            self._inbox.clear()
            return taken

    def may_rest(self, worker: "_Worker") -> bool:
        """Whether the worker may end; from then on the next payload starts another."""
        with self._changed:
            if self._unfinished:
                return False
            if self._worker is worker:
                self._worker = None
            return True

    async def deliver(self, poster: WebhookPoster, delivery: _Delivery) -> None:
        """Deliver one payload and count how it went."""
        error: WebhookError | None = None
        if self._gone:
            with self._changed:
                self._drop(1)
                self._finish_one()
            return
        try:
            await poster.post(delivery.body, delivery_id=delivery.id)
        except WebhookError as exc:
            error = exc
        except Exception as exc:
            # Whatever it is, the payloads behind this one must still get their turn.
            error = WebhookError(
                f"webhook to {self._config.host}: {type(exc).__name__}", delivery_id=delivery.id
            )
        with self._changed:
            if error is None:
                self.delivered_count += 1
            else:
                self._note(error, delivery)
            self._finish_one()

    def leave_to_parent(self) -> None:
        """In a forked child: what was queued before is the parent's, and so is its thread."""
        # Whoever held the old lock does not exist here.
        self._changed = threading.Condition()
        self._inbox.clear()
        self._unfinished = 0
        self._worker = None
        self.delivered_count = self.failed_count = self.dropped_count = 0

    def new_poster(self) -> WebhookPoster:
        """Return what delivers, for the worker."""
        return self._poster(self._config)

    def _working(self) -> "_Worker | None":
        if self._worker is None or not self._worker.is_alive():
            worker = _Worker(self)
            try:
                worker.start()
            except RuntimeError:
                # No thread can be had, or the interpreter is ending; the run must not notice.
                worker.abandon()
                return None
            self._worker = worker
        return self._worker

    def _note(self, error: WebhookError, delivery: _Delivery) -> None:
        self.failed_count += 1
        self.last_error = error
        logger.warning("%s; %s %s is given up", error, delivery.event, delivery.id)
        if error.http_status == _GONE:
            self._gone = True
            logger.warning(
                "webhook to %s: the receiver is gone; nothing more is sent", self._config.host
            )

    def _drop(self, count: int) -> None:
        if not self.dropped_count:
            logger.warning(
                "webhook to %s: %s; events are dropped, dropped_count counts them",
                self._config.host,
                self._why_dropped(),
            )
        self.dropped_count += count

    def _why_dropped(self) -> str:
        if self._gone:
            return "the receiver is gone"
        if self._closed:
            return "closed"
        full = self._unfinished >= self._maxsize
        return "the queue is full" if full else "no thread can be started"

    def _finish_one(self) -> None:
        self._unfinished -= 1
        self._changed.notify_all()


class _Worker(threading.Thread):
    def __init__(self, queue: WebhookQueue) -> None:
        super().__init__(name="genblaze-webhooks", daemon=True)
        self._queue = queue
        self._loop = asyncio.new_event_loop()
        self._woken = asyncio.Event()
        self._stopped = False

    def wake(self) -> None:
        # The loop is closed when the worker has come to rest by itself.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._woken.set)

    def stop(self) -> None:
        self._stopped = True
        self.wake()

    def abandon(self) -> None:
        self._loop.close()

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        lanes: dict[str, deque[_Delivery]] = {}
        slots = asyncio.Semaphore(_LANES_AT_ONCE)
        tasks: set[asyncio.Task[None]] = set()
        poster = self._queue.new_poster()
        try:
            while not self._stopped:
                self._woken.clear()
                for delivery in self._queue.take():
                    waiting = lanes.setdefault(delivery.lane, deque())
                    waiting.append(delivery)
                    if len(waiting) == 1:
                        work = self._work_off(lanes, delivery.lane, slots, poster)
                        task = asyncio.create_task(work)
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                if not await self._woken_in_time() and self._queue.may_rest(self):
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await poster.aclose()

    async def _woken_in_time(self) -> bool:
        try:
            async with asyncio.timeout(_IDLE_SECONDS):
                return await self._woken.wait()
        except TimeoutError:
            return False

    async def _work_off(
        self,
        lanes: dict[str, deque[_Delivery]],
        lane: str,
        slots: asyncio.Semaphore,
        poster: WebhookPoster,
    ) -> None:
        waiting = lanes[lane]
        while waiting:
            async with slots:
                await self._queue.deliver(poster, waiting[0])
            waiting.popleft()
        del lanes[lane]


def _encoded(payload: Mapping[str, object]) -> bytes:
    try:
        body = json.dumps(dict(payload), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ConfigError("webhook payload: holds values that have no JSON form") from exc
    if len(body) > MAX_BODY_BYTES:
        raise ConfigError(f"webhook payload: larger than {MAX_BODY_BYTES} bytes; send less")
    return body


_open_queues: WeakSet[WebhookQueue] = WeakSet()


def _flush_at_exit() -> None:
    ends_at = time.monotonic() + EXIT_SECONDS
    for queue in list(_open_queues):
        queue.close(max(0.0, ends_at - time.monotonic()))


def _start_over_in_child() -> None:
    for queue in list(_open_queues):
        queue.leave_to_parent()


atexit.register(_flush_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over_in_child)
