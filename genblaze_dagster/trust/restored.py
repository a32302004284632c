"""A file with an embedded manifest, and the file it was before."""

import asyncio
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.containers import container_of
from genblaze_dagster.media.edit import Edit, EditedSource
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original
from genblaze_dagster.trust.os_errors import storage_error


@dataclass(frozen=True, slots=True)
class Restored:
    """What a file is without its first manifest.

    Attributes:
        sha256: of the file before, in lower-case hex; None when nobody can say what it was.
        is_certain: it can have been no other file.
        holds_another: there is another manifest behind the first.
    """

    sha256: str | None
    is_certain: bool
    holds_another: bool


class _Interruptible(Source):
    """A file whose reading ends when nobody waits for the result any more."""

    def __init__(self, file: BinaryIO, given_up: threading.Event) -> None:
        super().__init__(file)
        self._given_up = given_up

    def at(self, offset: int, length: int) -> bytes:
        if self._given_up.is_set():
            raise InterruptedError("verification was given up")
        return super().at(offset, length)


async def restored_from(path: Path, sha256s: Collection[str]) -> Restored:
    """Take the embedded manifest out of a file in thought; one of `sha256s` if that is possible.

    Reads the file in pieces, once for every way its manifest may have been put in.

    Raises:
        EmbeddingError: the embedded manifest is broken.
        StorageError: the file cannot be read.
    """
    given_up = threading.Event()
    try:
        return await asyncio.to_thread(_restored, path, sha256s, given_up)
    finally:
        given_up.set()


def _restored(path: Path, sha256s: Collection[str], given_up: threading.Event) -> Restored:
    try:
        with path.open("rb") as file:
            source = _Interruptible(file, given_up)
            found = find_original(source, sha256s)
            if found.original is None:
                return Restored(None, is_certain=False, holds_another=False)
            return Restored(
                sha256=found.sha256,
                is_certain=found.original.certain,
                holds_another=_holds_manifest(source, found.original.undo),
            )
    except OSError as exc:
        raise storage_error(exc, path) from exc


def _holds_manifest(source: Source, undo: Edit) -> bool:
    before = EditedSource(source, undo)
    container = container_of(before)
    try:
        return container is not None and container.format.read_payload(before) is not None
    except EmbeddingError:
        # Broken, but there.
        return True
