"""SHA-256 of a file or a stored object, with a progress bar where somebody watches."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from genblaze_dagster.cli.exit_codes import storage_error
from genblaze_dagster.cli.output import Advance, progress

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

_CHUNK_BYTES: Final = 1 << 20


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in lower-case hex.

    Raises:
        StorageError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with (
            path.open("rb") as file,
            progress(path.name, total=path.stat().st_size, in_bytes=True) as advance,
        ):
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                advance(len(chunk))
    except OSError as exc:
        raise storage_error(exc, path) from exc
    return digest.hexdigest()


async def hash_object(
    store: "MediaStore", key: str, *, advance: Advance, into: BinaryIO | None = None
) -> str:
    """Return the SHA-256 of a stored object in lower-case hex; `into` gets its bytes.

    Raises:
        NotFoundError: there is no such object.
        StorageError: the store failed.
    """
    digest = hashlib.sha256()
    async for chunk in store.stream(key):
        digest.update(chunk)
        advance(len(chunk))
        if into is not None:
            into.write(chunk)
    return digest.hexdigest()
