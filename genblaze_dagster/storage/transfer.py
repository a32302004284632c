"""Media into the store in one pass: hash once, bounded memory, nothing on disk.

Small media is one create-only request to its content address. Larger media goes up in parts to a
staging key while it is hashed, is published under its address by a copy inside the store, and the
staged object is deleted. Until that copy is confirmed nothing is acknowledged.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

from genblaze_dagster.errors import (
    AlreadyExistsError,
    ConflictError,
    IntegrityError,
    StorageError,
)
from genblaze_dagster.storage.keys import KeyStrategy, Placement
from genblaze_dagster.storage.options import PutMode

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

logger = logging.getLogger(__name__)

MediaSource = bytes | Path | AsyncIterator[bytes]

HEAD_BYTES = 64 * 1024
PIECE_BYTES = 2 * 1024 * 1024
# Hashing this much takes about 0.4 ms, less than handing it to a thread is worth.
_INLINE_HASH_BYTES = 512 * 1024
# S3 takes at most 10,000 parts.
_MAX_PARTS = 9_500
_CREATE_ATTEMPTS = 3
_ABORT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """Media that is stored: `key` in the store, durable `url`, the first 64 KiB as `head`.

    `already_there` means that the same bytes were stored before; nothing was written.
    """

    key: str
    sha256: str
    size_bytes: int
    url: str
    media_type: str | None
    head: bytes = field(repr=False)
    already_there: bool


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one media object goes and what is known about it beforehand."""

    store: "MediaStore"
    placement: Placement
    media_type: str | None
    extension: str
    expected_sha256: str | None
    expected_size: int | None
    large_turns: asyncio.Semaphore

    def key(self, sha256: str) -> str:
        """Return the final key."""
        return self.store.layout.asset_key(self.placement, sha256=sha256, extension=self.extension)

    def check(self, sha256: str, size: int) -> None:
        """Compare with what was promised.

        Raises:
            IntegrityError: other bytes arrived than expected.
        """
        if self.expected_size is not None and size != self.expected_size:
            raise IntegrityError(
                f"media {self.placement.asset_id}: {size} bytes arrived, {self.expected_size} were "
                "expected; nothing was stored, fetch it again",
                expected=str(self.expected_size),
                actual=str(size),
            )
        if self.expected_sha256 is not None and sha256 != self.expected_sha256:
            raise IntegrityError(
                f"media {self.placement.asset_id}: the bytes do not hash to the expected sha256; "
                "nothing was stored, fetch it again",
                expected=self.expected_sha256,
                actual=sha256,
            )

    def stored(
        self, key: str, sha256: str, size: int, head: bytes, *, already_there: bool
    ) -> StoredMedia:
        """Return the acknowledgement."""
        url = self.store.durable_url(key)
        return StoredMedia(key, sha256, size, url, self.media_type, head, already_there)


async def transfer(source: MediaSource, to: Destination) -> StoredMedia:
    """Store media; see `MediaStore.put_media`."""
    options = to.store.options
    known_size = len(source) if isinstance(source, bytes) else None
    if isinstance(source, Path):
        known_size, small = await asyncio.to_thread(_read_small, source, options.single_put_bytes)
        if small is not None:
            return await _put_small(small, to)
    elif isinstance(source, bytes) and len(source) <= options.single_put_bytes:
        return await _put_small(await _Small.of(source), to)
    part_bytes = max(options.part_bytes, (known_size or 0) // _MAX_PARTS + 1)
    digest = hashlib.sha256()
    async with contextlib.aclosing(_pieces(source, digest.update)) as pieces:
        start: list[bytes] = []
        if known_size is None:
            start = await _take(pieces, options.single_put_bytes)
            if sum(map(len, start)) <= options.single_put_bytes:
                return await _put_small(_Small(b"".join(start), digest.hexdigest()), to)
        async with to.large_turns:
            intake = _Intake(start, pieces, lambda size: to.check(digest.hexdigest(), size))
            return await _put_large(intake, digest.hexdigest, to, part_bytes)


@dataclass(frozen=True, slots=True)
class _Small:
    """Media that is in memory as a whole, and its hash."""

    data: bytes
    sha256: str

    @classmethod
    async def of(cls, data: bytes) -> "_Small":
        digest = hashlib.sha256()
        await _hash(digest.update, data)
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
            if await _is_stored(to, key, sha256, len(data)):
                return to.stored(key, sha256, len(data), data[:HEAD_BYTES], already_there=True)
            # Deleted between the two requests, or a conflict reported as existence: once more.
        else:
            return to.stored(key, sha256, len(data), data[:HEAD_BYTES], already_there=False)
    raise ConflictError(
        f"{to.store.url}: {key} exists when written and is missing when read; "
        "something else deletes it, try again",
        key=key,
    )


async def _put_large(
    intake: "_Intake", digest: Callable[[], str], to: Destination, part_bytes: int
) -> StoredMedia:
    store = to.store
    staged = store.layout.staging_key(
        f"{to.placement.asset_id}.{uuid.uuid4().hex[:12]}{to.extension}"
    )
    try:
        await _upload(intake, to, staged, part_bytes)
        sha256, size = digest(), intake.size
        await _confirm(to, staged, size)
        key = to.key(sha256)
        already_there = await _is_stored(to, key, sha256, size)
        if not already_there:
            await _publish(to, staged, key, sha256, size)
    finally:
        await asyncio.shield(asyncio.ensure_future(_discard(store, staged)))
    return to.stored(key, sha256, size, intake.head, already_there=already_there)


async def _upload(intake: "_Intake", to: Destination, key: str, part_bytes: int) -> None:
    # obstore aborts a multipart upload when its source fails, and leaves it behind when it is
    # cancelled itself. So a cancellation stops the source and waits.
    upload = asyncio.ensure_future(
        to.store.client.put_parts(
            key, intake, attributes=to.store.attributes(to.media_type), part_bytes=part_bytes
        )
    )
    try:
        await asyncio.shield(upload)
    except asyncio.CancelledError:
        intake.stop()
        await asyncio.wait({upload}, timeout=_ABORT_SECONDS)
        if upload.done() and not upload.cancelled():
            upload.exception()
        raise
    finally:
        await intake.close()


async def _publish(to: Destination, staged: str, key: str, sha256: str, size: int) -> None:
    options, client = to.store.options, to.store.client
    if size <= options.copy_limit_bytes:
        await client.publish(staged, key)
    else:
        # Larger than the service copies in one call: through this process, hashed once more.
        promised = replace(to, expected_sha256=sha256, expected_size=size)
        part_bytes = max(options.part_bytes, size // _MAX_PARTS + 1)
        digest = hashlib.sha256()
        stream = client.stream(staged, PIECE_BYTES)
        async with contextlib.aclosing(_pieces(stream, digest.update)) as pieces:
            again = _Intake([], pieces, lambda size: promised.check(digest.hexdigest(), size))
            await _upload(again, to, key, part_bytes)
    await _confirm(to, key, size)


async def _confirm(to: Destination, key: str, size: int) -> None:
    info = await to.store.head(key)
    if info is None or info.size_bytes != size:
        kept = "nothing" if info is None else f"{info.size_bytes} bytes"
        raise StorageError(
            f"{to.store.url}: {size} bytes of {key} were sent and {kept} is stored; "
            "the service is not to be trusted, try again or report it",
            key=key,
        )


async def _is_stored(to: Destination, key: str, sha256: str, size: int) -> bool:
    """Whether these very bytes are at `key` already; ConflictError when others are."""
    info = await to.store.head(key)
    if info is None:
        return False
    same = info.size_bytes == size
    if same and to.store.key_strategy is not KeyStrategy.CONTENT_ADDRESSABLE:
        digest = hashlib.sha256()
        async for chunk in to.store.stream(key):
            await _hash(digest.update, chunk)
        same = digest.hexdigest() == sha256
    if not same:
        raise ConflictError(
            f"{to.store.url}: {key} holds other content; nothing was overwritten, "
            "verify the stored object or choose another run id",
            key=key,
        )
    return True


async def _discard(store: "MediaStore", staged: str) -> None:
    try:
        await store.delete(staged)
    except StorageError as exc:
        logger.warning("%s; a staged object may remain", exc)


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


async def _pieces(
    source: MediaSource, update: Callable[[bytes], None]
) -> AsyncGenerator[bytes, None]:
    """Yield the source in pieces, each hashed with `update`."""
    if isinstance(source, bytes):
        for start in range(0, len(source), PIECE_BYTES):
            piece = source[start : start + PIECE_BYTES]
            await _hash(update, piece)
            yield piece
    elif isinstance(source, Path):
        file = await asyncio.to_thread(source.open, "rb", 0)
        try:
            while piece := await asyncio.to_thread(_read_hashed, file, update):
                yield piece
        finally:
            file.close()
    else:
        async for piece in source:
            await _hash(update, piece)
            yield piece


def _read_hashed(file: RawIOBase, update: Callable[[bytes], None]) -> bytes:
    piece = file.read(PIECE_BYTES) or b""
    update(piece)
    return piece


async def _hash(update: Callable[[bytes], None], data: bytes) -> None:
    if len(data) <= _INLINE_HASH_BYTES:
        update(data)
    else:
        await asyncio.to_thread(update, data)


class _Intake:
    """The pieces of one upload on their way to obstore: one ahead, counted, and stoppable.

    `check` gets the size after the last piece. What it raises aborts the upload, so that an object
    that is not as promised never becomes visible.
    """

    def __init__(
        self, start: list[bytes], rest: AsyncIterator[bytes], check: Callable[[int], None]
    ) -> None:
        self._start = start
        self._rest = rest
        self._check = check
        self._next: asyncio.Future[bytes] | None = None
        self._stopped = asyncio.get_running_loop().create_future()
        self.size = 0
        self.head = b""

    def __aiter__(self) -> "_Intake":
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = self._start.pop(0) if self._start else await self._pull()
        except StopAsyncIteration:
            self._check(self.size)
            raise
        self.size += len(piece)
        if len(self.head) < HEAD_BYTES:
            self.head += piece[: HEAD_BYTES - len(self.head)]
        return piece

    def stop(self) -> None:
        """Make the next pull fail, also one that is waiting."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def close(self) -> None:
        """Give up the piece that is being read ahead, so that its source can be closed."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)

    async def _pull(self) -> bytes:
        coming = self._next or self._read_ahead()
        await asyncio.wait({coming, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            raise _UploadStoppedError
        piece = coming.result()
        self._read_ahead()
        return piece

    def _read_ahead(self) -> asyncio.Future[bytes]:
        self._next = asyncio.ensure_future(anext(self._rest))
        return self._next


class _UploadStoppedError(Exception):
    """The upload was cancelled; never seen outside this module."""
