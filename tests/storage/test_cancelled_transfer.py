"""A transfer that is cancelled while any of its requests is under way."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path

import pytest

from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.options import MIB
from genblaze_dagster.storage.store import MediaStore
from tests.storage.faults import Answer, FaultServer, Request

Faulty = Callable[..., MediaStore]

# What storing 11 MiB takes: begin, three parts, complete, look at it, look at the address, copy,
# look at the copy, delete. A second copy takes the same once more.
LARGE_REQUESTS = 10
_ANSWER_SECONDS = 0.03


class _CancelAt:
    """Cancels a task while its nth request is under way; `times` cancellations come in a row."""

    def __init__(self, faults: FaultServer, number: int, times: int) -> None:
        self._number = number
        self._times = times
        self._seen = 0
        self._lock = threading.Lock()
        self.under_way = 0
        faults.rule = self._rule

    def watch(self, task: asyncio.Task[object]) -> None:
        self._task, self._loop = task, asyncio.get_running_loop()

    def _rule(self, request: Request) -> Answer | None:
        with self._lock:
            self._seen += 1
            is_due = self._seen == self._number
        if is_due:
            for _ in range(self._times):
                self._loop.call_soon_threadsafe(self._task.cancel)
                time.sleep(_ANSWER_SECONDS / self._times)
        return None


async def _film(size: int) -> AsyncIterator[bytes]:
    start = (24).to_bytes(4) + b"ftypisom" + bytes(4) + b"isommp42" + (size - 24).to_bytes(4)
    yield (start + b"mdat").ljust(MIB, b"x")
    for number in range(1, size // MIB):
        yield bytes([number]) * MIB


async def _store_film(store: MediaStore, twin: bool) -> str:
    stored = await store.put_media(
        _film(11 * MIB),
        media_type="video/mp4",
        extension=".mp4",
        placement=Placement("r", "a"),
        twin=twin,
    )
    if stored.twin is not None:
        await stored.twin.complete(b"the end")
    return stored.key


@pytest.mark.parametrize(
    ("number", "times", "twin"),
    [(number, times, False) for number in range(1, LARGE_REQUESTS + 1) for times in (1, 2)]
    + [(number, 2, True) for number in range(1, 2 * LARGE_REQUESTS + 1, 2)],
)
def test_whatever_request_is_under_way_nothing_half_done_remains(
    faulty: Faulty, faults: FaultServer, number: int, times: int, twin: bool
) -> None:
    """No multipart upload, no staged object, no task, however often it is cancelled."""
    store = faulty()

    async def body() -> set[asyncio.Task[object]]:
        await store.probe()
        cancelling = _CancelAt(faults, number, times)
        task = asyncio.create_task(_store_film(store, twin))
        cancelling.watch(task)
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(body()) == set()
    # A request that was given up is still answered.
    time.sleep(2 * _ANSWER_SECONDS)
    ends_at = time.monotonic() + 60
    while _half_done(faults) and time.monotonic() < ends_at:
        time.sleep(_ANSWER_SECONDS)
    assert _half_done(faults) == []


def _half_done(faults: FaultServer) -> list[str]:
    """Return uploads that are open, and keys of objects that are not what they are called."""
    stored = dict(faults.objects)
    visible = [key for key in faults.visible_keys() if key in stored]
    wrong = [key for key in visible if Path(key).stem != sha256(stored[key][0]).hexdigest()]
    return [*faults.uploads, *wrong]
