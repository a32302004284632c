"""A temporary folder in which ffmpeg works: inputs come in from the store, the output goes out."""

import asyncio
import hashlib
import shutil
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Self

from genblaze_dagster.core.models import is_valid_sha256
from genblaze_dagster.errors import InvalidRequestError, OutputError, ProviderError
from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.providers.ffmpeg.containers import DEMUXERS
from genblaze_dagster.providers.protocol import InputMedia

_SNIFF_BYTES = 64

# Python 3.11 cannot derive from Path itself.
_PlatformPath = Path if TYPE_CHECKING else type(Path())


class _KeptPath(_PlatformPath):
    """A path that can be watched: its folder is deleted when nobody holds the path any more."""


class Workspace:
    """Use as an async context manager; leaving it deletes the folder unless `output` gave it away.

    Args:
        max_bytes: size of the largest input or output.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._folder = tempfile.TemporaryDirectory(
            prefix="genblaze-ffmpeg-", ignore_cleanup_errors=True
        )
        self._given_away = False

    @property
    def folder(self) -> Path:
        """The working directory of ffmpeg."""
        return Path(self._folder.name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._given_away:
            await asyncio.to_thread(self._folder.cleanup)

    async def save(self, name: str, media: InputMedia) -> str:
        """Write an input under a name and return the ffmpeg reader its bytes call for.

        Raises:
            InvalidRequestError: it is too large, of a kind that cannot be read, or not what its
                record says.
            StorageError: the store cannot be read.
            ProviderError: the temporary folder cannot be written.
        """
        asset = media.asset
        try:
            head, sha256 = await self._write(self.folder / name, media)
        except OSError as exc:
            raise unwritable(self.folder, exc) from exc
        if is_valid_sha256(asset.sha256) and sha256 != asset.sha256:
            raise InvalidRequestError(
                f"input {asset.asset_id} is not the bytes of its record; restore it or generate "
                "it again",
                sent=False,
            )
        proven = sniff_media_type(head)
        if proven not in DEMUXERS:
            raise InvalidRequestError(
                f"input {asset.asset_id} is declared as {asset.media_type[:80]!r}, and its bytes "
                f"are {proven or 'of no known format'}; what is read is "
                f"{', '.join(sorted(DEMUXERS))}",
                sent=False,
            )
        return DEMUXERS[proven]

    async def _write(self, target: Path, media: InputMedia) -> tuple[bytes, str]:
        """Write an input; return its first bytes and its SHA-256."""
        digest, size, head = hashlib.sha256(), 0, b""
        with target.open("wb") as file:
            async for chunk in media.stream():
                size += len(chunk)
                if size > self._max_bytes:
                    raise InvalidRequestError(
                        f"input {media.asset.asset_id} has more than the allowed "
                        f"{self._max_bytes} bytes",
                        sent=False,
                    )
                head = (head + chunk)[:_SNIFF_BYTES] if len(head) < _SNIFF_BYTES else head
                await asyncio.to_thread(file.write, chunk)
                await asyncio.to_thread(digest.update, chunk)
        return head, digest.hexdigest()

    def output(self, name: str) -> Path:
        """Return the finished file, which lives as long as the path object; all else is deleted.

        Raises:
            OutputError: it is missing, empty, or as large as ffmpeg was allowed to make it.
        """
        path = _KeptPath(self.folder / name)
        size = path.stat().st_size if path.exists() else 0
        if size == 0:
            raise OutputError("ffmpeg ended well and wrote nothing; check the input", sent=False)
        if size >= self._max_bytes:
            raise OutputError(
                f"output has more than the allowed {self._max_bytes} bytes; raise max_bytes of "
                "the provider or ask for less",
                sent=False,
            )
        for other in self.folder.iterdir():
            if other.name != name:
                other.unlink()
        weakref.finalize(path, self._folder.cleanup)
        self._given_away = True
        return path


def publish(path: Path, directory: Path) -> Path:
    """Move a finished file to a directory, named by its SHA-256, and return where it is.

    Raises:
        ProviderError: the directory cannot be written.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"{sha256}{path.suffix}"
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.part")
        shutil.move(path, part)
        part.replace(target)
    except OSError as exc:
        raise unwritable(directory, exc) from exc
    return target


def unwritable(folder: Path, error: OSError) -> ProviderError:
    """Return the error of a folder that cannot take a file."""
    return ProviderError(
        f"{folder}: cannot be written ({error.strerror}); free space or set another folder",
        sent=False,
    )
