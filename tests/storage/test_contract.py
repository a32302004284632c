"""What every store does, whatever it is made of."""

import asyncio
import hashlib
import os
import pickle
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from genblaze_dagster.errors import (
    AlreadyExistsError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StorageError,
)
from genblaze_dagster.storage.keys import KeyStrategy, Placement
from genblaze_dagster.storage.options import MIB, PutMode
from genblaze_dagster.storage.store import MediaStore

LARGE = 5 * MIB + 4321


async def _in_pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def _keys(store: MediaStore, folder: str = "") -> list[str]:
    return sorted([info.key async for info in store.list(folder)])


def test_an_object_reads_back(store: MediaStore) -> None:
    """Bytes, size and media type of a stored object are those that were given."""

    async def body() -> None:
        key = "folder/ä b+%?#&=~.png"
        await store.put(key, b"content", media_type="image/png")
        assert await store.get(key) == b"content"
        info = await store.head(key)
        assert info is not None
        assert (info.key, info.size_bytes, info.media_type) == (key, 7, "image/png")
        assert [chunk async for chunk in store.stream(key)] == [b"content"]
        assert await store.client.get_range(key, 2, 3) == b"nte"
        assert await _keys(store) == [key]
        await store.put(key, b"", media_type=None)
        assert await store.get(key) == b""

    asyncio.run(body())


def test_missing_objects_are_none_or_not_found(store: MediaStore) -> None:
    """`head` gives None, reading raises, deleting is fine, listing is empty; before any write."""

    async def body() -> None:
        assert await store.head("a/b") is None
        with pytest.raises(NotFoundError, match="a/b"):
            await store.get("a/b")
        with pytest.raises(NotFoundError, match="a/b"):
            await anext(store.stream("a/b"))
        await store.delete("a/b")
        assert await _keys(store) == []

    asyncio.run(body())


def test_create_never_replaces(store: MediaStore) -> None:
    """The second create-only write fails and the first content stays; overwrite replaces."""

    async def body() -> None:
        await store.put("k", b"first", media_type=None, mode=PutMode.CREATE)
        with pytest.raises(AlreadyExistsError, match="k"):
            await store.put("k", b"second", media_type=None, mode=PutMode.CREATE)
        assert await store.get("k") == b"first"
        await store.put("k", b"third", media_type=None)
        assert await store.get("k") == b"third"

    asyncio.run(body())


def test_of_many_creators_one_wins(store: MediaStore) -> None:
    """Eight writers at once: exactly one succeeds, and its content is there."""

    async def attempt(number: int) -> int | None:
        try:
            await store.put("k", b"%d" % number, media_type=None, mode=PutMode.CREATE)
        except AlreadyExistsError:
            return None
        return number

    async def body() -> None:
        outcomes = await asyncio.gather(*(attempt(number) for number in range(8)))
        winners = [number for number in outcomes if number is not None]
        assert len(winners) == 1
        assert await store.get("k") == b"%d" % winners[0]

    asyncio.run(body())


def test_listing_is_by_whole_segments(store: MediaStore) -> None:
    """`a` lists `a/...` and not `ab/...`."""

    async def body() -> None:
        for key in ("a/1", "a/b/2", "ab/3"):
            await store.put(key, b"x", media_type=None)
        assert await _keys(store, "a") == ["a/1", "a/b/2"]
        assert await _keys(store) == ["a/1", "a/b/2", "ab/3"]

    asyncio.run(body())


def test_copies_are_independent(store: MediaStore) -> None:
    """Replacing or deleting the source leaves the copy as it was."""

    async def body() -> None:
        await store.put("a", b"one", media_type="text/plain")
        await store.copy("a", "b")
        await store.put("a", b"two", media_type="text/plain")
        assert await store.get("b") == b"one"
        await store.delete("a")
        assert await store.get("b") == b"one"

    asyncio.run(body())


def test_reading_has_a_limit(store: MediaStore) -> None:
    """An object above `max_bytes` is refused by its size and named."""

    async def body() -> None:
        await store.put("k", b"12345", media_type=None)
        assert await store.get("k", max_bytes=5) == b"12345"
        with pytest.raises(StorageError, match="5 bytes"):
            await store.get("k", max_bytes=4)

    asyncio.run(body())


def test_a_wrong_digest_is_not_sent(store: MediaStore) -> None:
    """`put` compares with the digest it is given and stores nothing on a mismatch."""

    async def body() -> None:
        with pytest.raises(IntegrityError):
            await store.put("k", b"data", media_type=None, sha256="0" * 64)
        assert await store.head("k") is None

    asyncio.run(body())


@pytest.mark.parametrize("size", [0, 1000, LARGE])
@pytest.mark.parametrize("kind", ["bytes", "path", "iterator"])
def test_media_lands_under_its_hash(
    store: MediaStore, placement: Placement, tmp_path: Path, size: int, kind: str
) -> None:
    """Any source of any size is stored once under its content address and nothing else remains."""
    data = os.urandom(size)
    file = tmp_path / "source.bin"
    file.write_bytes(data)

    def source() -> bytes | Path | AsyncIterator[bytes]:
        return {"bytes": data, "path": file, "iterator": _in_pieces(data)}[kind]

    async def body() -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        for already_there in (False, True):
            stored = await store.put_media(
                source(), media_type="video/mp4", extension=".MP4", placement=placement
            )
            assert stored.key == f"assets/{sha256[:2]}/{sha256[2:4]}/{sha256}.mp4"
            assert (stored.sha256, stored.size_bytes) == (sha256, size)
            assert (stored.media_type, stored.head) == ("video/mp4", data[:65536])
            assert stored.already_there is already_there
            assert store.key_from_url(stored.url) == stored.key
            assert await _keys(store) == [stored.key]
        info = await store.head(stored.key)
        assert info is not None
        assert info.media_type == "video/mp4"
        assert hashlib.sha256(await store.get(stored.key)).hexdigest() == sha256

    asyncio.run(body())


@pytest.mark.parametrize("size", [1000, LARGE])
def test_media_that_is_not_what_was_promised_leaves_nothing(
    store: MediaStore, placement: Placement, size: int
) -> None:
    """A wrong sha256 or size is an IntegrityError before anything is visible."""
    data = os.urandom(size)

    async def body() -> None:
        for promise in ({"sha256": "0" * 64}, {"size_bytes": size + 1}):
            with pytest.raises(IntegrityError) as caught:
                await store.put_media(
                    _in_pieces(data),
                    media_type=None,
                    extension=None,
                    placement=placement,
                    **promise,
                )
            assert caught.value.expected == str(next(iter(promise.values())))
        assert await _keys(store) == []

    asyncio.run(body())


@pytest.mark.parametrize("size", [1000, LARGE])
def test_hierarchical_media_is_never_replaced_by_other_content(
    store: MediaStore, placement: Placement, size: int
) -> None:
    """The same run and asset id with other bytes is a conflict; with the same bytes it is fine."""
    first, second = os.urandom(size), os.urandom(size)
    layout = store.below("", key_strategy=KeyStrategy.HIERARCHICAL)

    async def body() -> None:
        stored = await layout.put_media(
            first, media_type=None, extension=".bin", placement=placement
        )
        assert stored.key == (f"runs/2026-11-20/{placement.run_id}/assets/{placement.asset_id}.bin")
        again = await layout.put_media(
            first, media_type=None, extension=".bin", placement=placement
        )
        assert again.already_there
        with pytest.raises(ConflictError, match="nothing was overwritten"):
            await layout.put_media(second, media_type=None, extension=".bin", placement=placement)
        assert await layout.get(stored.key) == first
        assert await _keys(layout) == [stored.key]

    asyncio.run(body())


def test_the_same_media_many_times_at_once(store: MediaStore, placement: Placement) -> None:
    """Equal media in flight at the same time ends as one object and no error."""
    data = os.urandom(2000)

    async def body() -> None:
        stored = await asyncio.gather(
            *(
                store.put_media(data, media_type=None, extension=None, placement=placement)
                for _ in range(6)
            )
        )
        assert sum(not one.already_there for one in stored) == 1
        assert await _keys(store) == [stored[0].key]

    asyncio.run(body())


def test_a_store_works_in_any_loop_and_after_pickling(store: MediaStore) -> None:
    """One object serves several event loops; a pickled one reads the same objects."""
    asyncio.run(store.put("k", b"x", media_type=None))
    assert asyncio.run(store.get("k")) == b"x"
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    assert repr(copy) == repr(store)
    assert asyncio.run(copy.get("k")) == b"x"


def test_access_of_a_good_store_is_confirmed(store: MediaStore) -> None:
    """The check passes and leaves no object behind; so does the probe."""

    async def body() -> None:
        await store.check_access()
        assert (await store.probe()).create_only
        assert not (await store.probe()).hides_missing
        assert await _keys(store) == []

    asyncio.run(body())
