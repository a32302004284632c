"""A second copy of a large upload, open at its end for what is known only later.

A manifest names the hash of its media, so it can be written only when the media is stored. An
embedded rendition of a film would then need a second pass over it. Where the manifest simply goes
behind the film, the bytes are sent twice while they pass instead; the copy waits for its end, and
its hash is that of the film continued.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING

from genblaze_dagster.core.reference import Rendition
from genblaze_dagster.errors import StorageError
from genblaze_dagster.media.append import AppendCheck
from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.storage import staging
from genblaze_dagster.storage.staging import Destination

if TYPE_CHECKING:
    from _hashlib import HASH

logger = logging.getLogger(__name__)

_APPENDED = ("video/mp4", "video/quicktime", "audio/mp4")
"""Media types whose manifest goes behind everything else."""


class Twin:
    """The open copy of one upload: fed, sealed, then completed or dropped.

    The first upload waits until the copy has room for a piece, so that a slow copy never piles up
    in memory. Whatever else happens to the copy does not touch the first upload.

    Args:
        original: where the first upload goes.
        part_bytes: size of the parts of both.
    """

    def __init__(self, original: Destination, part_bytes: int) -> None:
        self._to = replace(original, placement=None, expected_sha256=None, expected_size=None)
        self._part_bytes = part_bytes
        self._staged = self._to.staging_key()
        self._check = AppendCheck()
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._upload: asyncio.Task[None] | None = None
        self._over = False
        self._digest = hashlib.sha256()
        self._size = 0

    async def feed(self, piece: bytes) -> None:
        """Send a piece of the media to the copy as well; returns when there is room for more."""
        if self._upload is None and not self._over:
            self._over = sniff_media_type(piece[:64]) not in _APPENDED
            if not self._over:
                self._upload = asyncio.create_task(self._send())
        if not self._over:
            self._check.feed(piece)
            self._over = not await self._hand_over(piece)

    async def seal(self, digest: "HASH", size: int) -> bool:
        """Say that the media is complete; whether the copy can be completed, else it is dropped.

        Args:
            digest: SHA-256 of the media.
            size: its size in bytes.
        """
        self._digest, self._size = digest.copy(), size
        if self._upload is None or self._over or not self._check.allows(size):
            await self.drop()
            return False
        return True

    async def complete(self, end: bytes) -> Rendition:
        """Append the end and make the copy visible under its content address; once.

        Raises:
            StorageError: the store failed; nothing of the copy remains.
        """
        if self._upload is None:
            raise StorageError("second copy of an upload was dropped before; upload it again")
        try:
            await self._hand_over(end)
            await self._hand_over(None)
            await self._upload
            self._digest.update(end)
            sha256, size = self._digest.hexdigest(), self._size + len(end)
            key, _ = await staging.publish(self._to, self._staged, sha256, size)
        finally:
            await self.drop()
        return Rendition(sha256, size, key, self._to.store.durable_url(key))

    async def drop(self) -> None:
        """Give the copy up; nothing of it remains. Fine at any time, and more than once."""
        self._over = True
        if self._upload is not None:
            upload, self._upload = self._upload, None
            await staging.outlast(asyncio.ensure_future(self._discard(upload)))

    async def _discard(self, upload: asyncio.Task[None]) -> None:
        upload.cancel()
        await asyncio.wait({upload})
        if not upload.cancelled() and (error := upload.exception()) is not None:
            logger.warning("second copy of an upload given up: %s", error)
        await staging.discard(self._to.store, self._staged)

    async def _send(self) -> None:
        pieces = self._pieces()
        intake = staging.Intake(pieces, lambda _: None)
        await staging.upload(intake, self._to, self._staged, self._part_bytes)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        while (piece := await self._waiting.get()) is not None:
            yield piece

    async def _hand_over(self, piece: bytes | None) -> bool:
        """Wait until the upload takes a piece; False when it has ended instead."""
        if self._upload is None:
            return False
        putting = asyncio.ensure_future(self._waiting.put(piece))
        try:
            await asyncio.wait({putting, self._upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        return not self._upload.done()
