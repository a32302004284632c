"""The file or object that is looked at, here on disk."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path, PurePosixPath

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import AccessDeniedError, NotFoundError
from genblaze_dagster.media.sidecar import sidecar_path
from genblaze_dagster.trust.hashing import hash_file, hash_object
from genblaze_dagster.trust.os_errors import storage_error
from genblaze_dagster.trust.progress import Progress, silent
from genblaze_dagster.trust.targets import LocalFile, StoredObject


class Subject:
    """One file's bytes, and where they are from.

    Attributes:
        path: the file; a temporary one for a stored object.
        origin: what the file is, or is a copy of.
    """

    def __init__(
        self,
        path: Path,
        origin: LocalFile | StoredObject,
        *,
        sha256: str | None = None,
        progress: Progress = silent,
    ) -> None:
        self.path = path
        self.origin = origin
        self.known_sha256 = sha256
        self._progress = progress

    @property
    def name(self) -> str:
        """The name of the file or object, without folders."""
        return self.origin.name

    async def sha256(self) -> str:
        """Return the SHA-256 of the whole file in lower-case hex; reads it once.

        Raises:
            StorageError: it cannot be read.
        """
        if self.known_sha256 is None:
            self.known_sha256 = await hash_file(self.path, progress=self._progress)
        return self.known_sha256

    def named(self, message: str) -> str:
        """Return a message about the file with the name its user knows."""
        return message.replace(str(self.path), self.origin.url)


@asynccontextmanager
async def opened(
    target: LocalFile | StoredObject, *, progress: Progress = silent
) -> AsyncGenerator[Subject]:
    """Give access to the bytes of a target; those of a stored object are on disk meanwhile.

    Raises:
        StorageError: the file or object cannot be read.
    """
    if isinstance(target, LocalFile):
        await asyncio.to_thread(_check_readable, target.path)
        yield Subject(target.path, target, progress=progress)
        return
    with tempfile.TemporaryDirectory(prefix="genblaze-") as folder:
        # Only the extension of a key matters; the rest may be no name for a file here.
        path = Path(folder) / f"object{PurePosixPath(target.name).suffix[:16]}"
        sha256 = await _fetch(target, path, progress)
        await _fetch_sidecar(target, sidecar_path(path))
        yield Subject(path, target, sha256=sha256)


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb", 0) as file:
            file.read(1)
    except OSError as exc:
        raise storage_error(exc, path) from exc


async def _fetch(target: StoredObject, path: Path, progress: Progress) -> str:
    try:
        with (
            path.open("wb") as file,
            progress(target.name, total=target.size_bytes, in_bytes=True) as advance,
        ):
            return await hash_object(target.store, target.key, advance=advance, into=file)
    except OSError as exc:
        raise storage_error(exc, path) from exc


async def _fetch_sidecar(target: StoredObject, path: Path) -> None:
    key = target.key.removesuffix(target.name) + sidecar_path(Path(target.name)).name
    # A key that may not list is told "denied" about what is not there.
    with suppress(NotFoundError, AccessDeniedError):
        data = await target.store.get(key, max_bytes=MAX_MANIFEST_BYTES)
        await asyncio.to_thread(path.write_bytes, data)
