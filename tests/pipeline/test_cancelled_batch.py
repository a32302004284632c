"""A batch that is cancelled while its outputs go up to a real S3 server."""

import asyncio
import gc
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.pipeline.batch import BatchOutcome, stream_batch
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.storage.manifests import manifest_keys, read_manifest
from genblaze_dagster.storage.options import MIB, StoreOptions
from genblaze_dagster.storage.refs import list_refs
from genblaze_dagster.storage.store import MediaStore
from tests.support.providers import CountingProvider
from tests.support.s3 import S3Server

RUNS = 6
SIZE = 6 * MIB
# The jobs of these are over; those of the others would run for ever.
READY = ("0", "1", "2", "3")
ESTABLISHED = "01"


class _Bucket:
    """The bucket as its server sees it."""

    def __init__(self, server: S3Server, name: str) -> None:
        self._server = server
        self._name = name

    def store(self) -> MediaStore:
        return MediaStore(
            f"s3://{self._name}/media",
            endpoint_url=self._server.url,
            access_key_id=self._server.access_key,
            secret_access_key=self._server.secret_key,
            options=StoreOptions(single_put_bytes=MIB, part_bytes=5 * MIB),
        )

    def uploads(self) -> int:
        """How many multipart uploads have begun and not ended."""
        request = urllib.request.Request(
            f"{self._server.url}/{self._name}?uploads",
            headers={"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/x"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().count(b"<Upload>")

    def connections_left(self) -> int:
        """How many clients' sockets to the server are open, a moment after they should not be."""
        gc.collect()
        port = urlsplit(self._server.url).port
        deadline = time.monotonic() + 60
        while True:
            rows = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
            fields = [row.split() for row in rows]
            count = sum(1 for f in fields if f[2].endswith(f":{port:04X}") and f[3] == ESTABLISHED)
            if count == 0 or time.monotonic() > deadline:
                return count
            time.sleep(0.02)


End = Callable[[AsyncGenerator[BatchOutcome], _Bucket], Awaitable[None]]


async def _cancel(batch: AsyncGenerator[BatchOutcome], bucket: _Bucket) -> None:
    """Cancel whoever consumes it, twice, while uploads are under way."""

    async def consume() -> None:
        async for _ in batch:
            pass

    task = asyncio.create_task(consume())
    while not await asyncio.to_thread(bucket.uploads):
        assert not task.done()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task


async def _leave(batch: AsyncGenerator[BatchOutcome], _: _Bucket) -> None:
    """Leave the loop with the first outcome."""
    async with aclosing(batch):
        async for outcome in batch:
            assert outcome.error is None
            break


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are read from /proc")
@pytest.mark.parametrize("end", [_cancel, _leave], ids=["cancelled", "left"])
def test_nothing_half_done_is_left(
    end: End, s3_server: S3Server, s3_bucket: str, ledger: Ledger
) -> None:
    """No task, thread, socket, open upload, staged object, or object that nothing knows of."""
    bucket = _Bucket(s3_server, s3_bucket)
    provider = CountingProvider(jobs=True, size_bytes=SIZE, gate=lambda prompt: prompt in READY)
    pipeline = Pipeline("p").step(provider, model="m", modality="video", prompt="?")
    threads = set(threading.enumerate())

    def batch() -> AsyncGenerator[BatchOutcome]:
        store, options = bucket.store(), {"max_concurrency": RUNS, "scope": "s"}
        return stream_batch(pipeline, map(str, range(RUNS)), store=store, ledger=ledger, **options)

    async def body() -> set[asyncio.Task[object]]:
        await end(batch(), bucket)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(body()) == set()
    assert [t for t in threading.enumerate() if t not in threads and not t.daemon] == []
    assert bucket.uploads() == 0
    assert bucket.connections_left() == 0
    asyncio.run(_check(bucket.store(), ledger))

    async def again() -> list[BatchOutcome]:
        return [outcome async for outcome in batch()]

    provider.gate, provider.size_bytes = None, 0
    assert not [outcome.error for outcome in asyncio.run(again()) if outcome.error]
    # Only jobs that were stopped at the vendor are asked for again.
    assert provider.submitted == RUNS + len(provider.cancelled)


async def _check(store: MediaStore, ledger: Ledger) -> None:
    keys = {info.key async for info in store.list()}
    assert not [key for key in keys if ".tmp" in key]
    manifests: list[Manifest] = [
        await read_manifest(store, key) async for key in manifest_keys(store)
    ]
    known = {
        asset.sha256
        for manifest in manifests
        for step in manifest.run.steps
        for asset in step.assets
    }
    media = {Path(key).stem for key in keys if key.startswith("assets/")}
    stored = [row for row in ledger.rows() if row.state is SubmissionState.STORED]
    # The uploads under way were paid for, and are finished although the batch is cancelled.
    assert stored
    assert media == known
    assert {m.run.run_id for m in manifests} == {row.run_id for row in stored}
    assert {ref.run_id async for ref in list_refs(store)} == {row.run_id for row in stored}
    assert not [row for row in ledger.rows() if row.lease_expires_at is not None]
