"""The second copy of a large upload, from its first piece to its end or its disappearance."""

import asyncio
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from genblaze_dagster.errors import ProviderUnavailableError, StorageUnavailableError
from genblaze_dagster.media.append import tail
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original
from genblaze_dagster.storage.keys import KeyStrategy, Placement
from genblaze_dagster.storage.options import MIB
from genblaze_dagster.storage.store import MediaStore, StoredMedia
from tests.storage.faults import Answer, FaultServer, Request
from tests.storage.films import box, endless_film, film, pieces, stalling

Faulty = Callable[..., MediaStore]
PAYLOAD = b'{"a manifest":true}'
# A part and a half, so that one part is on its way before the end is known.
FILM = film(7 * MIB)
SHA256 = hashlib.sha256(FILM).hexdigest()
END = tail(PAYLOAD)


async def put(
    store: MediaStore, source: bytes | Path | AsyncIterator[bytes], **options: object
) -> StoredMedia:
    return await store.put_media(
        source,
        media_type="video/mp4",
        extension=".mp4",
        placement=Placement("r", "a"),
        twin=True,
        **options,  # type: ignore[arg-type]
    )


async def keys(store: MediaStore) -> list[str]:
    return sorted([info.key async for info in store.list("") if ".probe/" not in info.key])


def is_of_copy(request: Request) -> bool:
    return "/.tmp/rendition." in request.key


@pytest.mark.parametrize("kind", ["bytes", "path", "stream"])
def test_the_copy_is_the_film_and_its_end(store: MediaStore, tmp_path: Path, kind: str) -> None:
    """From any source: two objects, each under its hash, and nothing staged is left."""
    (tmp_path / "film.mp4").write_bytes(FILM)
    sources = {"bytes": FILM, "path": tmp_path / "film.mp4", "stream": pieces(FILM)}

    async def body() -> None:
        stored = await put(store, sources[kind])
        assert stored.sha256 == SHA256
        assert stored.twin is not None
        made = await stored.twin.complete(END)
        assert made.sha256 == hashlib.sha256(FILM + END).hexdigest()
        assert (made.size_bytes, made.url) == (len(FILM + END), store.durable_url(made.key))
        assert await store.get(made.key) == FILM + END
        assert await store.get(stored.key) == FILM
        assert await keys(store) == sorted([stored.key, made.key])
        assert made.sha256 in made.key
        with Source.open(await store.get(made.key)) as source:
            assert find_original(source, {SHA256}).matches

    asyncio.run(body())


def test_the_copy_goes_up_at_the_same_time(faulty: Faulty, faults: FaultServer) -> None:
    """Parts of both uploads arrive mixed, and nothing is read back."""

    async def body() -> None:
        stored = await put(faulty(), pieces(film(16 * MIB)))
        assert stored.twin is not None
        await stored.twin.complete(END)

    asyncio.run(body())
    parts = [r for r in faults.requests if "partNumber" in r.query]
    order = [is_of_copy(r) for r in parts]
    assert order not in (sorted(order), sorted(order, reverse=True))
    staged = {r.key for r in parts}
    assert not any(r.method == "GET" and r.key in staged for r in faults.requests)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(endless_film(MIB), id="last-box-without-size"),
        pytest.param(film(MIB) + b"junk", id="bytes-behind-the-last-box"),
        pytest.param(film(MIB)[:-1], id="truncated"),
        pytest.param(film(MIB) + END, id="holds-a-manifest"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(MIB), id="no-film"),
        pytest.param(box(b"free", bytes(MIB)), id="ftyp-is-not-first"),
    ],
)
def test_media_that_takes_no_end_has_no_copy(
    faulty: Faulty, faults: FaultServer, data: bytes
) -> None:
    """It is stored as ever; what was sent of a copy is gone."""
    stored = asyncio.run(put(faulty(), pieces(data)))
    assert stored.twin is None
    assert faults.visible_keys() == [stored.key]
    assert faults.uploads == {}


def test_small_media_stays_in_memory_instead(store: MediaStore) -> None:
    """What is one request needs no copy: it comes back with the answer."""
    data = film(1000)
    stored = asyncio.run(put(store, pieces(data, 100)))
    assert stored.twin is None
    assert stored.data == data


def test_a_dropped_copy_leaves_nothing(faulty: Faulty, faults: FaultServer) -> None:
    """The multipart upload is aborted; dropping again is fine."""

    async def body() -> StoredMedia:
        stored = await put(faulty(), FILM)
        assert stored.twin is not None
        await stored.twin.drop()
        await stored.twin.drop()
        return stored

    stored = asyncio.run(body())
    assert faults.visible_keys() == [stored.key]
    assert faults.uploads == {}


@pytest.mark.parametrize("what", ["part", "create"])
def test_a_copy_that_fails_does_not_touch_the_upload(
    faulty: Faulty, faults: FaultServer, what: str
) -> None:
    """The service refuses to begin the copy, or a part of it: the film is stored, without one."""
    refused = {"create": "uploads", "part": "partNumber"}[what]
    store = faulty()
    asyncio.run(store.probe())
    faults.rule = lambda r: (
        Answer(503, "SlowDown") if is_of_copy(r) and refused in r.query else None
    )

    async def body() -> StoredMedia:
        stored = await put(store, pieces(FILM))
        # A part may still be on its way when the film is through.
        if stored.twin is not None:
            with pytest.raises(StorageUnavailableError, match="SlowDown"):
                await stored.twin.complete(END)
        return stored

    stored = asyncio.run(body())
    assert stored.sha256 == SHA256
    assert faults.visible_keys() == [stored.key]
    assert faults.uploads == {}


def test_an_end_that_cannot_be_sent_is_the_copys_error(faulty: Faulty, faults: FaultServer) -> None:
    """Completing raises what the store said; nothing of the copy remains, the film does."""
    store = faulty()

    async def body() -> StoredMedia:
        stored = await put(store, FILM)
        assert stored.twin is not None
        faults.rule = lambda r: Answer(503, "SlowDown") if r.method == "POST" else None
        with pytest.raises(StorageUnavailableError, match="SlowDown"):
            await stored.twin.complete(END)
        return stored

    stored = asyncio.run(body())
    assert faults.visible_keys() == [stored.key]
    assert faults.uploads == {}


def test_a_source_that_breaks_off_leaves_neither(faulty: Faulty, faults: FaultServer) -> None:
    """Both uploads are aborted, and the source's own error comes out."""

    async def breaking() -> AsyncIterator[bytes]:
        async for piece in pieces(FILM):
            yield piece
        raise ProviderUnavailableError("the download broke off")

    with pytest.raises(ProviderUnavailableError, match="broke off"):
        asyncio.run(put(faulty(), breaking()))
    assert faults.uploads == {}
    assert faults.visible_keys() == []


def test_a_cancelled_transfer_leaves_neither(faulty: Faulty, faults: FaultServer) -> None:
    """Cancelled while the source is silent, both uploads are aborted before it returns."""

    async def body() -> None:
        reached = asyncio.Event()
        upload = asyncio.ensure_future(put(faulty(), stalling(FILM, reached)))
        await reached.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(body())
    assert faults.uploads == {}
    assert faults.visible_keys() == []


def test_a_slow_copy_holds_the_source_back(faulty: Faulty, faults: FaultServer) -> None:
    """While no part of the copy is taken, only so much of the film is read as parts are in flight."""
    gate = threading.Event()
    waiting: list[str] = []

    def slow(request: Request) -> Answer | None:
        if "partNumber" in request.query and is_of_copy(request):
            waiting.append(request.key)
            gate.wait(120)
        return None

    faults.rule = slow
    read = 0
    whole = film(64 * MIB)

    async def counted() -> AsyncIterator[bytes]:
        nonlocal read
        async for piece in pieces(whole, MIB):
            read += len(piece)
            yield piece

    async def body() -> None:
        upload = asyncio.ensure_future(put(faulty(), counted()))
        settled, before = 0, -1
        while settled < 5:
            await asyncio.sleep(0.1)
            settled = settled + 1 if read == before and waiting else 0
            before = read
        # Three parts of 5 MiB in flight, one being filled, a piece here and there.
        assert read <= 26 * MIB
        gate.set()
        stored = await upload
        assert stored.twin is not None
        await stored.twin.drop()

    asyncio.run(body())
    assert read == len(whole)


def test_several_open_copies_do_not_wait_for_each_other(
    faulty: Faulty, faults: FaultServer
) -> None:
    """One large transfer at a time is allowed: an open copy is not a transfer any more."""
    store = faulty(large_transfers=1)

    async def body() -> None:
        films = [film(MIB, seed) for seed in range(3)]
        stored = [await asyncio.wait_for(put(store, data), 60) for data in films]
        for one in stored:
            assert one.twin is not None
            await one.twin.complete(END)

    asyncio.run(body())
    assert len(faults.visible_keys()) == 6


def test_the_copy_has_a_content_address_in_every_layout(store: MediaStore) -> None:
    """Sorted by run or not: a rendition's key is its hash, below the folder of assets."""
    by_run = store.below("", key_strategy=KeyStrategy.HIERARCHICAL)

    async def body() -> None:
        stored = await put(by_run, FILM)
        assert stored.twin is not None
        made = await stored.twin.complete(END)
        assert stored.key == "runs/assets/a.mp4"
        assert made.key == f"assets/{made.sha256[:2]}/{made.sha256[2:4]}/{made.sha256}.mp4"

    asyncio.run(body())


def test_a_promised_hash_is_that_of_the_film(store: MediaStore) -> None:
    """The end is no part of what the caller expects."""

    async def body() -> None:
        stored = await put(store, FILM, sha256=SHA256, size_bytes=len(FILM))
        assert stored.twin is not None
        made = await stored.twin.complete(END)
        assert made.sha256 != SHA256

    asyncio.run(body())


KILLED = """
import asyncio, sys
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.options import StoreOptions
from genblaze_dagster.storage.store import MediaStore
from tests.storage.films import film, stalling

async def main(url, stage):
    store = MediaStore(url, options=StoreOptions(single_put_bytes=65536, part_bytes=65536))
    data = film(2_000_000)
    reached = asyncio.Event()
    source = stalling(data, reached) if stage == "passing" else data
    upload = asyncio.ensure_future(store.put_media(
        source, media_type="video/mp4", extension=".mp4", placement=Placement("r", "a"), twin=True
    ))
    await asyncio.wait({upload, asyncio.ensure_future(reached.wait())}, return_when="FIRST_COMPLETED")
    print("there", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("stage", ["passing", "waiting for its end"])
def test_a_killed_process_leaves_whole_objects_or_none(tmp_path: Path, stage: str) -> None:
    """Killed while the film passes, or while the copy is open: no half of either is visible."""
    url = (tmp_path / "store").as_uri()
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, url, stage], stdout=subprocess.PIPE, cwd=root
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        time.sleep(0.1)
        process.kill()
    store = MediaStore(url)
    data = film(2_000_000)
    found = asyncio.run(keys(store))
    if stage == "passing":
        assert found == []
    else:
        (key,) = found
        assert hashlib.sha256(data).hexdigest() in key
        assert asyncio.run(store.get(key)) == data
