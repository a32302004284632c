"""SHA-256 of files and stored objects, in pieces and beside the event loop."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from genblaze_dagster.trust.os_errors import storage_error
from genblaze_dagster.trust.progress import Advance, Progress, silent

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

_CHUNK_BYTES: Final = 1 << 20


async def hash_file(path: Path, *, progress: Progress = silent) -> str:
    """Return the SHA-256 of a file in lower-case hex.

    Raises:
        StorageError: it cannot be read.
    """
    # A thread cannot be cancelled, and nobody waits for the end of a film to see Ctrl-C work.
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_hash_file, path, progress, given_up)
    finally:
        given_up.set()


async def hash_object(
    store: "MediaStore", key: str, *, advance: Advance, into: BinaryIO | None = None
) -> str:
    """Return the SHA-256 of a stored object in lower-case hex; `into` gets its bytes.

    Raises:
        NotFoundError: there is no such object.
        StorageError: the store failed.
        OSError: `into` cannot be written.
    """
    return await hash_stream(store.stream(key), advance=advance, into=into)


async def hash_stream(
    chunks: AsyncIterator[bytes], *, advance: Advance, into: BinaryIO | None = None
) -> str:
    """Return the SHA-256 of a stream in lower-case hex; `into` gets its bytes."""
    digest = hashlib.sha256()

    def take(chunk: bytes) -> None:
        digest.update(chunk)
        if into is not None:
            into.write(chunk)

    async for chunk in chunks:
        await asyncio.to_thread(take, chunk)
        advance(len(chunk))
    return digest.hexdigest()


def _hash_file(path: Path, progress: Progress, given_up: threading.Event) -> str:
    digest = hashlib.sha256()
    try:
        with (
            path.open("rb", 0) as file,
            progress(path.name, total=path.stat().st_size, in_bytes=True) as advance,
        ):
            while not given_up.is_set() and (chunk := file.read(_CHUNK_BYTES)):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as exc:
        raise storage_error(exc, path) from exc
    return digest.hexdigest()
