"""Is a stored rendition its output and a manifest, and nothing else?"""

import asyncio
import hashlib
import tempfile
from pathlib import Path

from genblaze_dagster.core.reference import MediaObject, Rendition
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original
from genblaze_dagster.storage.media import StoredFile
from genblaze_dagster.storage.store import MediaStore

_IN_MEMORY_BYTES = 16 * 1024 * 1024


class RenditionCheck:
    """Looks at a rendition while somebody else reads and hashes it.

    A film has its manifest at the end: the hash of its start is enough, however large it is. Of
    anything else the manifest is taken out, in memory where it is small.

    Args:
        store: where it is.
        media: the output it was made from.
        rendition: what is read.
    """

    def __init__(self, store: MediaStore, media: MediaObject, rendition: Rendition) -> None:
        self._stored = StoredFile(store, rendition, media.media_type)
        self._sha256 = media.sha256
        self._left = media.size_bytes
        self._start = hashlib.sha256()
        self._kept: bytearray | None = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes."""
        self._start.update(chunk[: self._left])
        self._left = max(self._left - len(chunk), 0)
        if self._kept is not None:
            self._kept += chunk
            if len(self._kept) > _IN_MEMORY_BYTES:
                self._kept = None

    async def problem(self) -> str | None:
        """Return what is wrong, now that all of it was read; None when nothing is.

        Raises:
            IntegrityError: it changed since.
            StorageError: it cannot be read again.
            OSError: a large one finds no room in the folder for temporary files.
        """
        if self._left == 0 and self._start.hexdigest() == self._sha256:
            return None
        if self._kept is not None:
            return await asyncio.to_thread(_other_than, self._sha256, bytes(self._kept))
        with tempfile.TemporaryDirectory(prefix="genblaze-") as folder:
            path = Path(folder) / "rendition"
            await self._stored.adownload(path)
            return await asyncio.to_thread(_other_than, self._sha256, path)


def _other_than(sha256: str, data: bytes | Path) -> str | None:
    try:
        with Source.open(data) as source:
            found = find_original(source, {sha256})
    except EmbeddingError as exc:
        return f"its embedded manifest is broken: {exc}"
    return None if found.matches else "without its manifest it is not the output it was made from"
