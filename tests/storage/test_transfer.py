"""Transfers when the service, the source or the caller gives up half way."""

import asyncio
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from genblaze_dagster.errors import (
    ConflictError,
    IntegrityError,
    ProviderUnavailableError,
    StorageError,
    StorageUnavailableError,
)
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.options import MIB
from genblaze_dagster.storage.store import MediaStore
from tests.storage.faults import Answer, FaultServer, Request

Faulty = Callable[..., MediaStore]
LARGE = 11 * MIB

MEMORY_LIMIT_BYTES = 64_000_000
MEASURE = """
import asyncio, hashlib, os, sys, threading
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.store import MediaStore

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

async def pieces(count):
    block = os.urandom(256 * 1024)
    ftyp = (24).to_bytes(4) + b"ftypisom" + bytes(4) + b"isommp42"
    start = ftyp + (count * len(block) - len(ftyp)).to_bytes(4) + b"mdat"
    yield start + block[len(start):]
    for number in range(1, count):
        yield number.to_bytes(8) + block[8:]

async def main(url, count, twin):
    store = MediaStore(url, endpoint_url=os.environ["ENDPOINT"] or None)
    async def put(n):
        stored = await store.put_media(
            pieces(n), media_type="video/mp4", extension=".mp4", placement=Placement("r", "a"),
            twin=twin,
        )
        assert (stored.twin is not None) == (twin and n > 2)
        if stored.twin:
            await stored.twin.complete(b"the end")
        return stored
    await put(2)
    start = peak = resident()
    stop = threading.Event()
    def watch():
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, resident())
    watcher = threading.Thread(target=watch)
    watcher.start()
    stored = await put(count)
    stop.set()
    watcher.join()
    assert stored.size_bytes == count * 256 * 1024
    print(peak - start)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "twin"))
"""


async def _pieces(count: int, size: int = MIB) -> AsyncIterator[bytes]:
    for number in range(count):
        yield bytes([number]) * size


async def _put(store: MediaStore, source: bytes | Path | AsyncIterator[bytes]) -> str:
    stored = await store.put_media(
        source, media_type="video/mp4", extension=".mp4", placement=Placement("r", "a")
    )
    return stored.key


def test_the_signature_of_a_small_object_is_its_address(
    faulty: Faulty, faults: FaultServer
) -> None:
    """The hash in the signed request is the content address, and creation is conditional."""
    data = b"small media"
    sha256 = hashlib.sha256(data).hexdigest()
    asyncio.run(_put(faulty(), data))
    request = next(r for r in faults.requests if r.is_object_write and "assets" in r.key)
    assert request.headers["x-amz-content-sha256"] == sha256
    assert request.headers["if-none-match"] == "*"
    assert request.headers["content-type"] == "video/mp4"
    assert request.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert len([r for r in faults.requests if "assets" in r.key]) == 1


def test_a_large_object_goes_up_in_parts_and_is_published_by_copy(
    faulty: Faulty, faults: FaultServer
) -> None:
    """Parts to a staging key, one copy to the content address, then the staged object is gone."""
    key = asyncio.run(_put(faulty("p"), _pieces(11)))
    assert faults.visible_keys() == [f"p/{key}"]
    content, headers = faults.objects[f"p/{key}"]
    assert hashlib.sha256(content).hexdigest() in key
    assert headers["content-type"] == "video/mp4"
    parts = [len(r.body) for r in faults.requests if "partNumber" in r.query]
    assert sorted(parts) == [MIB, 5 * MIB, 5 * MIB]
    staged = {r.key for r in faults.requests if "partNumber" in r.query}
    assert re.fullmatch(r"p/assets/\.tmp/a\.[0-9a-f]{12}\.mp4", staged.pop())
    assert not staged
    assert faults.uploads == {}


def test_parts_are_signed_when_asked(faulty: Faulty, faults: FaultServer) -> None:
    """`sign_parts` puts every part's hash into its signature; on loopback the default does not."""
    asyncio.run(_put(faulty(sign_parts=True), _pieces(6)))
    asyncio.run(_put(faulty(), _pieces(7)))
    signed = [r.headers["x-amz-content-sha256"] for r in faults.requests if "partNumber" in r.query]
    assert [len(value) == 64 for value in signed] == [True, True, False, False]


def test_a_source_that_breaks_off_leaves_nothing(faulty: Faulty, faults: FaultServer) -> None:
    """The source's own error comes out; the multipart upload is aborted, nothing is staged."""

    async def breaking() -> AsyncIterator[bytes]:
        async for piece in _pieces(8):
            yield piece
        raise ProviderUnavailableError("the download broke off")

    with pytest.raises(ProviderUnavailableError, match="broke off"):
        asyncio.run(_put(faulty(), breaking()))
    assert faults.uploads == {}
    assert faults.visible_keys() == []


def test_a_cancelled_transfer_leaves_nothing(faulty: Faulty, faults: FaultServer) -> None:
    """Cancelling while the source is silent aborts the multipart upload and closes the source."""
    closed = False

    async def stalling(started: asyncio.Event) -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            async for piece in _pieces(12):
                yield piece
            started.set()
            await asyncio.sleep(60)
        finally:
            closed = True

    async def body() -> None:
        started = asyncio.Event()
        upload = asyncio.ensure_future(_put(faulty(), stalling(started)))
        await started.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload

    asyncio.run(body())
    assert closed
    assert faults.uploads == {}
    assert faults.visible_keys() == []


@pytest.mark.parametrize(
    "fails",
    [
        lambda r: "partNumber" in r.query,
        lambda r: "x-amz-copy-source" in r.headers,
        lambda r: r.method == "POST" and "uploadId" in r.query,
    ],
    ids=["a part", "the copy", "the completion"],
)
def test_a_service_that_fails_half_way_leaves_nothing(
    faulty: Faulty, faults: FaultServer, fails: Callable[[Request], bool]
) -> None:
    """Whatever request fails, the error is typed and transient and nothing is visible."""
    store = faulty()
    asyncio.run(store.probe())
    faults.rule = lambda r: Answer(503, "SlowDown") if fails(r) else None
    with pytest.raises(StorageUnavailableError, match="SlowDown"):
        asyncio.run(_put(store, _pieces(11)))
    assert faults.uploads == {}
    assert faults.visible_keys() == []


def test_a_service_that_loses_bytes_is_found_out(faulty: Faulty, faults: FaultServer) -> None:
    """A staged object of another size than was sent is never published or acknowledged."""

    def truncate(request: Request) -> Answer | None:
        if "partNumber" in request.query:
            request.body = request.body[:-1]
        return None

    faults.rule = truncate
    with pytest.raises(StorageError, match="not to be trusted"):
        asyncio.run(_put(faulty(), _pieces(11)))
    assert faults.visible_keys() == []


def test_a_copy_that_did_not_happen_is_found_out(faulty: Faulty, faults: FaultServer) -> None:
    """A 200 for a copy that stored nothing is not an acknowledgement."""
    nothing = Answer(200, body=b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
    faults.rule = lambda r: nothing if "x-amz-copy-source" in r.headers else None
    with pytest.raises(StorageError, match="nothing is stored"):
        asyncio.run(_put(faulty(), _pieces(11)))
    assert faults.visible_keys() == []


def test_a_damaged_body_is_refused_by_the_signature(faulty: Faulty, faults: FaultServer) -> None:
    """One flipped bit on the way of a small object is an error, and nothing is stored."""
    store = faulty()
    asyncio.run(store.probe())

    def flip(request: Request) -> Answer | None:
        if request.is_object_write:
            request.body = bytes([request.body[0] ^ 1]) + request.body[1:]
        return None

    faults.rule = flip
    with pytest.raises(StorageError, match="XAmzContentSHA256Mismatch"):
        asyncio.run(_put(store, b"media"))
    assert faults.visible_keys() == []


def test_media_above_the_copy_limit_is_published_through_this_process(
    faulty: Faulty, faults: FaultServer
) -> None:
    """What the service cannot copy is read back, hashed again and written in parts."""
    key = asyncio.run(_put(faulty(copy_limit_bytes=MIB), _pieces(11)))
    assert faults.visible_keys() == [key]
    assert hashlib.sha256(faults.objects[key][0]).hexdigest() in key
    assert faults.objects[key][1]["content-type"] == "video/mp4"
    assert not any("x-amz-copy-source" in r.headers for r in faults.requests)


def test_a_staged_object_that_changed_is_not_published(faulty: Faulty, faults: FaultServer) -> None:
    """Above the copy limit the second reading is compared with the first hash."""

    def damage(request: Request) -> Answer | None:
        if request.method == "GET" and ".tmp" in request.key:
            content, headers = faults.objects[request.key]
            faults.objects[request.key] = (b"\xff" + content[1:], headers)
        return None

    faults.rule = damage
    with pytest.raises(IntegrityError, match="do not hash"):
        asyncio.run(_put(faulty(copy_limit_bytes=MIB), _pieces(11)))
    assert faults.visible_keys() == []


def test_a_damaged_object_under_the_address_is_a_conflict(
    faulty: Faulty, faults: FaultServer
) -> None:
    """An object of another size under the content address is reported and not replaced."""
    store = faulty()
    key = asyncio.run(_put(store, b"media"))
    faults.objects[key] = (b"med", {})
    with pytest.raises(ConflictError, match="nothing was overwritten"):
        asyncio.run(_put(store, b"media"))
    assert faults.objects[key][0] == b"med"


def test_a_conflict_answer_is_tried_again(faulty: Faulty, faults: FaultServer) -> None:
    """409 ConditionalRequestConflict means neither stored nor taken; the write is repeated."""
    store = faulty()
    asyncio.run(store.probe())
    conflicts = iter([Answer(409, "ConditionalRequestConflict")] * 2)
    faults.rule = lambda r: next(conflicts, None) if r.is_object_write else None
    key = asyncio.run(_put(store, b"media"))
    assert faults.objects[key][0] == b"media"


def test_a_lost_answer_is_not_a_failure(faulty: Faulty, faults: FaultServer) -> None:
    """Stored, answered 500, repeated, found taken: the same bytes count as stored."""
    store = faulty(max_retries=1)
    asyncio.run(store.probe())
    lost = iter([Answer(500, "InternalError")])

    def store_and_forget(request: Request) -> Answer | None:
        if request.is_object_write and (answer := next(lost, None)):
            faults.objects[request.key] = (request.body, {})
            return answer
        return None

    faults.rule = store_and_forget
    key = asyncio.run(_put(store, b"media"))
    assert faults.objects[key][0] == b"media"


def test_a_missing_local_file_is_the_callers_error(store: MediaStore, tmp_path: Path) -> None:
    """A path that does not exist is a FileNotFoundError of that path, not a storage error."""
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        asyncio.run(_put(store, tmp_path / "nowhere.mp4"))


def test_a_bounded_number_of_large_transfers_run(faulty: Faulty, faults: FaultServer) -> None:
    """Large uploads wait for each other, so that memory does not grow with their number."""
    store = faulty(large_transfers=1)
    running = most = 0

    async def counted(first: int) -> AsyncIterator[bytes]:
        nonlocal running, most
        yield bytes([first]) * MIB
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        yield bytes(MIB)
        running -= 1

    async def body() -> None:
        await asyncio.gather(*(_put(store, counted(number)) for number in range(3)))

    asyncio.run(body())
    assert len(faults.visible_keys()) == 3
    assert most == 1


def _added_memory(url: str, endpoint: str, mebibytes: int, twin: str = "") -> int:
    environment = {
        **os.environ,
        "ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, url, str(mebibytes * 4), twin],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_memory_of_a_transfer_is_bounded(tmp_path: Path) -> None:
    """200 MiB from an iterator add at most 64 MB, in a process of its own."""
    assert _added_memory(tmp_path.as_uri(), "", 200) <= MEMORY_LIMIT_BYTES


@pytest.mark.slow
def test_memory_does_not_grow_with_size(discarding_s3: str, tmp_path: Path) -> None:
    """1 GiB to a directory and to an S3 server process adds at most 64 MB."""
    assert _added_memory(tmp_path.as_uri(), "", 1024) <= MEMORY_LIMIT_BYTES
    assert _added_memory("s3://bench/p", discarding_s3, 1024) <= MEMORY_LIMIT_BYTES


@pytest.mark.slow
def test_a_second_copy_is_not_held_in_memory(discarding_s3: str, tmp_path: Path) -> None:
    """1 GiB with a twin adds at most twice as much as without."""
    assert _added_memory(tmp_path.as_uri(), "", 1024, "twin") <= 2 * MEMORY_LIMIT_BYTES
    assert _added_memory("s3://bench/p", discarding_s3, 1024, "twin") <= 2 * MEMORY_LIMIT_BYTES
