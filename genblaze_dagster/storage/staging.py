"""Large objects on their way: in parts to a staging key, then published by a copy in the store."""

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from genblaze_dagster.errors import ConflictError, IntegrityError, StorageError
from genblaze_dagster.storage.keys import KeyStrategy, Layout, Placement

if TYPE_CHECKING:
    from obstore import Attributes

    from genblaze_dagster.storage.store import MediaStore

T = TypeVar("T")

logger = logging.getLogger(__name__)

HEAD_BYTES = 64 * 1024
PIECE_BYTES = 2 * 1024 * 1024
# Hashing this much takes about 0.4 ms, less than handing it to a thread is worth.
_INLINE_HASH_BYTES = 512 * 1024
# S3 takes at most 10,000 parts.
_MAX_PARTS = 9_500
_ABORT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one media object goes and what is known about it beforehand.

    Without a `placement` the key is the content address, whatever the store's strategy.
    """

    store: "MediaStore"
    placement: Placement | None
    media_type: str | None
    extension: str
    expected_sha256: str | None = None
    expected_size: int | None = None

    @property
    def name(self) -> str:
        """What messages and staging keys call the object."""
        return self.placement.asset_id if self.placement is not None else "rendition"

    @property
    def strategy(self) -> KeyStrategy:
        """How its key is made."""
        if self.placement is None:
            return KeyStrategy.CONTENT_ADDRESSABLE
        return self.store.key_strategy

    @property
    def attributes(self) -> "Attributes":
        """The headers stored with it."""
        return self.store.attributes(self.media_type, self.strategy.cache_control)

    def key(self, sha256: str) -> str:
        """Return the final key."""
        placement = self.placement or Placement(run_id=None, asset_id=self.name)
        layout = Layout(self.store.prefix, self.strategy)
        return layout.asset_key(placement, sha256=sha256, extension=self.extension)

    def staging_key(self) -> str:
        """Return a key of its own for bytes whose hash is not known yet."""
        name = f"{self.name}.{uuid.uuid4().hex[:12]}{self.extension}"
        return self.store.layout.staging_key(name)

    def part_bytes(self, size: int | None) -> int:
        """Return the size of parts for an object of `size` bytes, None when that is unknown."""
        return max(self.store.options.part_bytes, (size or 0) // _MAX_PARTS + 1)

    def check(self, sha256: str, size: int) -> None:
        """Compare with what was promised.

        Raises:
            IntegrityError: other bytes arrived than expected.
        """
        if self.expected_size is not None and size != self.expected_size:
            raise IntegrityError(
                f"media {self.name}: {size} bytes arrived, {self.expected_size} were "
                "expected; nothing was stored, fetch it again",
                expected=str(self.expected_size),
                actual=str(size),
            )
        if self.expected_sha256 is not None and sha256 != self.expected_sha256:
            raise IntegrityError(
                f"media {self.name}: the bytes do not hash to the expected sha256; "
                "nothing was stored, fetch it again",
                expected=self.expected_sha256,
                actual=sha256,
            )


async def upload(intake: "Intake", to: Destination, key: str, part_bytes: int) -> None:
    """Send what an intake delivers to a key; cancelled or failed, nothing of it remains."""
    # obstore aborts a multipart upload when its source fails, and leaves it behind when it is
    # cancelled itself. So a cancellation stops the source and waits.
    sending = asyncio.ensure_future(
        to.store.client.put_parts(key, intake, attributes=to.attributes, part_bytes=part_bytes)
    )
    try:
        await outlast(sending, hurry=intake.stop)
    finally:
        await intake.close()


async def publish(to: Destination, staged: str, sha256: str, size: int) -> tuple[str, bool]:
    """Make a staged object visible under its address.

    Returns:
        The key, and whether these very bytes were there before.

    Raises:
        ConflictError: other content is stored under the key.
        StorageError: the service lost bytes on the way, or failed.
    """
    await _confirm(to, staged, size)
    key = to.key(sha256)
    already_there = await is_stored(to, key, sha256, size)
    if not already_there:
        await _move(to, staged, key, sha256, size)
    return key, already_there


async def _move(to: Destination, staged: str, key: str, sha256: str, size: int) -> None:
    client = to.store.client
    if size <= to.store.options.copy_limit_bytes:
        await client.publish(staged, key)
    else:
        # Larger than the service copies in one call: through this process, hashed once more.
        promised = Destination(to.store, to.placement, to.media_type, to.extension, sha256, size)
        digest = hashlib.sha256()
        async with contextlib.aclosing(
            hashed(client.stream(staged, PIECE_BYTES), digest.update)
        ) as pieces:
            again = Intake(pieces, lambda size: promised.check(digest.hexdigest(), size))
            await upload(again, to, key, to.part_bytes(size))
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


async def is_stored(to: Destination, key: str, sha256: str, size: int) -> bool:
    """Whether these very bytes are at `key` already.

    Raises:
        ConflictError: others are.
    """
    info = await to.store.head(key)
    if info is None:
        return False
    same = info.size_bytes == size
    if same and to.strategy is not KeyStrategy.CONTENT_ADDRESSABLE:
        digest = hashlib.sha256()
        async for chunk in to.store.stream(key):
            await update(digest.update, chunk)
        same = digest.hexdigest() == sha256
    if not same:
        raise ConflictError(
            f"{to.store.url}: {key} holds other content; nothing was overwritten, "
            "verify the stored object or choose another run id",
            key=key,
        )
    return True


async def discard(store: "MediaStore", staged: str) -> None:
    """Delete a staged object, whatever else happens; a failure is logged."""
    await outlast(asyncio.ensure_future(_delete(store, staged)))


async def _delete(store: "MediaStore", staged: str) -> None:
    try:
        await store.delete(staged)
    except StorageError as exc:
        logger.warning("%s; a staged object may remain", exc)


async def outlast(task: asyncio.Future[T], *, hurry: Callable[[], object] = lambda: None) -> T:
    """Return the result of a task that must end in order, however often its caller is cancelled.

    The cancellation goes on when the task is over. 30 s after it the task is given up.

    Args:
        task: what is waited for.
        hurry: called at the first cancellation.
    """
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        hurry()
        if not await ends(task, within=_ABORT_SECONDS):
            task.cancel()
        elif not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("failed while its caller was cancelled: %s", error)
        raise
    return task.result()


async def ends(task: asyncio.Future[Any], *, within: float | None = None) -> bool:
    """Wait for a task of a caller that is cancelled, however often that is said again.

    Args:
        task: what is waited for; it goes on when the time is over.
        within: seconds; None for as long as it takes.

    Returns:
        Whether it is over.
    """
    clock = asyncio.get_running_loop().time
    ends_at = None if within is None else clock() + within
    while not task.done():
        left = None if ends_at is None else ends_at - clock()
        if left is not None and left <= 0:
            return False
        # The caller knows already that it is cancelled, and does so after this.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=left)
    return True


async def hashed(
    pieces: AsyncIterator[bytes], hash_update: Callable[[bytes], None]
) -> AsyncGenerator[bytes, None]:
    """Yield pieces, each hashed."""
    async for piece in pieces:
        await update(hash_update, piece)
        yield piece


async def update(hash_update: Callable[[bytes], None], data: bytes) -> None:
    """Hash bytes, in a thread when there are many."""
    if len(data) <= _INLINE_HASH_BYTES:
        hash_update(data)
    else:
        await asyncio.to_thread(hash_update, data)


class Intake:
    """The pieces of one upload on their way to obstore: one ahead, counted, and stoppable.

    `check` gets the size after the last piece. What it raises aborts the upload, so that an object
    that is not as promised never becomes visible.
    """

    def __init__(self, pieces: AsyncIterator[bytes], check: Callable[[int], None]) -> None:
        self._pieces = pieces
        self._check = check
        self._next: asyncio.Future[bytes] | None = None
        self._stopped = asyncio.get_running_loop().create_future()
        self.size = 0
        self.head = b""

    def __aiter__(self) -> "Intake":
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._pull()
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
            await outlast(asyncio.gather(self._next, return_exceptions=True))

    async def _pull(self) -> bytes:
        coming = self._next or self._read_ahead()
        await asyncio.wait({coming, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
        if self._stopped.done():
            raise _UploadStoppedError
        piece = coming.result()
        self._read_ahead()
        return piece

    def _read_ahead(self) -> asyncio.Future[bytes]:
        self._next = asyncio.ensure_future(anext(self._pieces))
        return self._next


class _UploadStoppedError(Exception):
    """The upload was cancelled; never seen outside this module."""
