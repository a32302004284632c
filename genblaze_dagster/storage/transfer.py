"""Media into the store in one pass: hash once, bounded memory, nothing on disk.

Small media is one create-only request to its content address. Larger media goes up in parts to a
staging key while it is hashed, is published under its address by a copy inside the store, and the
staged object is deleted. Until that copy is confirmed nothing is acknowledged.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

from genblaze_dagster.errors import AlreadyExistsError, ConflictError
from genblaze_dagster.storage import staging
from genblaze_dagster.storage.options import PutMode
from genblaze_dagster.storage.staging import HEAD_BYTES, PIECE_BYTES, Destination
from genblaze_dagster.storage.twin import Twin

if TYPE_CHECKING:
    from _hashlib import HASH

MediaSource = bytes | Path | AsyncIterator[bytes]

_CREATE_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """Media that is stored: `key` in the store, durable `url`, the first 64 KiB as `head`.

    `already_there` means that the same bytes were stored before; nothing was written. `data` is
    all of it where it was small enough to be in memory anyway, `twin` the open second copy that
    was asked for: whoever gets one completes or drops it.
    """

    key: str
    sha256: str
    size_bytes: int
    url: str
    media_type: str | None
    head: bytes = field(repr=False)
    already_there: bool
    data: bytes | None = field(default=None, repr=False)
    twin: Twin | None = field(default=None, repr=False)


async def transfer(
    source: MediaSource, to: Destination, *, turns: asyncio.Semaphore, twin: bool = False
) -> StoredMedia:
    """Store media; see `MediaStore.put_media`. Large uploads take their turn at `turns`."""
    options = to.store.options
    known_size = len(source) if isinstance(source, bytes) else None
    if isinstance(source, Path):
        known_size, small = await asyncio.to_thread(_read_small, source, options.single_put_bytes)
        if small is not None:
            return await _put_small(small, to)
    elif isinstance(source, bytes) and len(source) <= options.single_put_bytes:
        return await _put_small(await _Small.of(source), to)
    digest = hashlib.sha256()
    async with contextlib.aclosing(_pieces(source, digest.update)) as pieces:
        start: list[bytes] = []
        if known_size is None:
            start = await _take(pieces, options.single_put_bytes)
            if sum(map(len, start)) <= options.single_put_bytes:
                return await _put_small(_Small(b"".join(start), digest.hexdigest()), to)
        part_bytes = to.part_bytes(known_size)
        async with turns:
            copy = Twin(to, part_bytes) if twin else None
            try:
                async with contextlib.aclosing(_passing(start, pieces, copy)) as passing:
                    stored = await _put_large(passing, digest, to, part_bytes)
                sealed = copy is not None and await copy.seal(digest, stored.size_bytes)
            except BaseException:
                if copy is not None:
                    await copy.drop()
                raise
    return replace(stored, twin=copy if sealed else None)


@dataclass(frozen=True, slots=True)
class _Small:
    """Media that is in memory as a whole, and its hash."""

    data: bytes
    sha256: str

    @classmethod
    async def of(cls, data: bytes) -> "_Small":
        digest = hashlib.sha256()
        await staging.update(digest.update, data)
        return cls(data, digest.hexdigest())


def _read_small(path: Path, limit: int) -> tuple[int, _Small | None]:
    """Return a file's size, and its content unless that is larger than `limit`."""
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            return size, None
        data = file.readall()
    return size, _Small(data, hashlib.sha256(data).hexdigest())


async def _put_small(media: _Small, to: Destination) -> StoredMedia:
    data, sha256 = media.data, media.sha256
    to.check(sha256, len(data))
    key = to.key(sha256)
    for _ in range(_CREATE_ATTEMPTS):
        try:
            await to.store.put(key, data, media_type=to.media_type, mode=PutMode.CREATE)
        except AlreadyExistsError:
            already_there = await staging.is_stored(to, key, sha256, len(data))
            if not already_there:
                # Deleted between the two requests, or a conflict reported as existence: once more.
                continue
        else:
            already_there = False
        return StoredMedia(
            key,
            sha256,
            len(data),
            to.store.durable_url(key),
            to.media_type,
            data[:HEAD_BYTES],
            already_there,
            data=data,
        )
    raise ConflictError(
        f"{to.store.url}: {key} exists when written and is missing when read; "
        "something else deletes it, try again",
        key=key,
    )


async def _put_large(
    pieces: AsyncIterator[bytes], digest: "HASH", to: Destination, part_bytes: int
) -> StoredMedia:
    staged = to.staging_key()
    intake = staging.Intake(pieces, lambda size: to.check(digest.hexdigest(), size))
    try:
        await staging.upload(intake, to, staged, part_bytes)
        sha256, size = digest.hexdigest(), intake.size
        key, already_there = await staging.publish(to, staged, sha256, size)
    finally:
        await staging.discard(to.store, staged)
    url = to.store.durable_url(key)
    return StoredMedia(key, sha256, size, url, to.media_type, intake.head, already_there)


async def _take(pieces: AsyncIterator[bytes], limit: int) -> list[bytes]:
    """Return the first pieces until they are more than `limit` bytes or the end is reached."""
    taken: list[bytes] = []
    size = 0
    async for piece in pieces:
        taken.append(piece)
        size += len(piece)
        if size > limit:
            break
    return taken


async def _passing(
    start: list[bytes], rest: AsyncIterator[bytes], copy: Twin | None
) -> AsyncGenerator[bytes, None]:
    """Yield the pieces of an upload, each sent to its second copy first."""
    while start:
        piece = start.pop(0)
        if copy is not None:
            await copy.feed(piece)
        yield piece
    async for piece in rest:
        if copy is not None:
            await copy.feed(piece)
        yield piece


def _pieces(source: MediaSource, update: Callable[[bytes], None]) -> AsyncGenerator[bytes, None]:
    """Yield the source in pieces, each hashed with `update`."""
    if isinstance(source, bytes):
        return _pieces_of_bytes(source, update)
    if isinstance(source, Path):
        return _pieces_of_file(source, update)
    return staging.hashed(source, update)


async def _pieces_of_bytes(
    data: bytes, update: Callable[[bytes], None]
) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        await staging.update(update, piece)
        yield piece


async def _pieces_of_file(
    path: Path, update: Callable[[bytes], None]
) -> AsyncGenerator[bytes, None]:
    file = await asyncio.to_thread(path.open, "rb", 0)
    try:
        while piece := await asyncio.to_thread(_read_hashed, file, update):
            yield piece
    finally:
        file.close()


def _read_hashed(file: RawIOBase, update: Callable[[bytes], None]) -> bytes:
    piece = file.read(PIECE_BYTES) or b""
    update(piece)
    return piece
