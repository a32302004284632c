"""Stored media as an upstream asset receives it: a reference, and its bytes only when asked."""

import asyncio
import hashlib
import io
import tempfile
import weakref
from collections.abc import AsyncGenerator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.reference import MediaObject, MediaRef, Rendition
from genblaze_dagster.errors import IntegrityError
from genblaze_dagster.media.whole import replacing
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.store import MediaStore

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import ReadableFile

_BUFFER_BYTES = 1024 * 1024

# Inside Media the name `bytes` is the method.
_Bytes = bytes


class StoredFile:
    """An object of the store, read lazily.

    Whole reads are hashed and compared with what was stored. A temporary file made by `path()` is
    deleted when the object is closed, used as a context manager, or no longer referenced.
    Pickling keeps where the object is, never bytes.

    Args:
        store: where it is.
        stored: what is known about it.
        media_type: such as `image/png`.
    """

    def __init__(self, store: MediaStore, stored: MediaObject | Rendition, media_type: str) -> None:
        self.store = store
        self._stored = stored
        self._media_type = media_type
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r}, media_type={self.media_type!r})"

    def __getstate__(self) -> tuple[object, ...]:
        return self.store, self._stored, self._media_type

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.__init__(*state)  # pyright: ignore[reportArgumentType]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def key(self) -> str:
        """Key in the store."""
        return self._stored.key

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes."""
        return self._stored.sha256

    @property
    def media_type(self) -> str:
        """Media type, such as `image/png`."""
        return self._media_type

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""
        return self._stored.size_bytes

    @property
    def url(self) -> str:
        """Durable URL without credentials."""
        return self._stored.url

    def bytes(self) -> _Bytes:
        """Return the whole content.

        Raises:
            IntegrityError: the bytes are not those that were stored.
            StorageError: they cannot be read.
        """
        return run_sync(self.aread())

    async def aread(self) -> _Bytes:
        """Return the whole content, in async code; raises as `bytes`."""
        data = await self.store.get(self.key)
        self._check(hashlib.sha256(data).hexdigest())
        return data

    async def astream(self) -> AsyncGenerator[_Bytes, None]:
        """Yield the content in pieces.

        Raises:
            IntegrityError: after the last piece, when the bytes are not those that were stored.
            StorageError: they cannot be read.
        """
        digest = hashlib.sha256()
        async for chunk in self.store.stream(self.key):
            digest.update(chunk)
            yield chunk
        self._check(digest.hexdigest())

    def open(self) -> BinaryIO:
        """Open the content as a seekable binary file that reads on demand; not hashed."""
        raw = _ObjectFile(self.store.client.open_reader(self.key))
        return cast(BinaryIO, io.BufferedReader(raw, _BUFFER_BYTES))

    def path(self) -> Path:
        """Return a temporary file with the content, for tools that want a path.

        Raises:
            IntegrityError: the bytes are not those that were stored.
            StorageError: they cannot be read.
        """
        if self._folder is None:
            folder = tempfile.TemporaryDirectory(prefix="genblaze-", ignore_cleanup_errors=True)
            self._folder = folder
            weakref.finalize(self, folder.cleanup)
        target = Path(self._folder.name) / PurePosixPath(self.key).name
        if not target.exists():
            run_sync(self.adownload(target))
        return target

    async def adownload(self, target: Path) -> None:
        """Write the content to a file, which is there whole or not at all; raises as `path`."""
        with replacing(target) as part, part.open("wb") as file:
            async for chunk in self.astream():
                await asyncio.to_thread(file.write, chunk)

    def close(self) -> None:
        """Delete the temporary file, if any."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _check(self, actual: str) -> None:
        if actual != self.sha256:
            raise IntegrityError(
                f"{self.store.url}: {self.key} does not hold the bytes of its reference; "
                "restore the object or generate it again",
                expected=self.sha256,
                actual=actual,
            )


class Media(StoredFile):
    """One stored output, read lazily; `media[1]` is the second output of the same step.

    `media.embedded` is the same with the manifest inside, where the store keeps such files.
    """

    def __init__(self, ref: MediaRef, store: MediaStore, *, index: int = 0) -> None:
        super().__init__(store, ref.media[index], ref.media[index].media_type)
        self.ref = ref
        self._index = index
        self._manifest: Manifest | None = None
        self._embedded: StoredFile | None = None

    def __len__(self) -> int:
        return len(self.ref.media)

    def __getitem__(self, index: int) -> "Media":
        size = len(self.ref.media)
        if not -size <= index < size:
            raise IndexError(f"{self.ref.asset_key} has {size} output(s), not one at {index}")
        return Media(self.ref, self.store, index=index)

    def __getstate__(self) -> tuple[object, ...]:
        return self.ref, self.store, self._index

    def __setstate__(self, state: tuple[object, ...]) -> None:
        ref, store, index = cast(tuple[MediaRef, MediaStore, int], state)
        self.__init__(ref, store, index=index)

    @property
    def object(self) -> MediaObject:
        """The stored object: key, size and known facts."""
        return self.ref.media[self._index]

    @property
    def embedded(self) -> StoredFile | None:
        """The output with its manifest inside; None when there is no such file.

        `media.object.not_embedded` then says why, if one was asked for.
        """
        rendition = self.object.embedded
        if self._embedded is None and rendition is not None:
            # One object, so that a temporary file of it lives as long as this one.
            self._embedded = StoredFile(self.store, rendition, self.media_type)
        return self._embedded

    @property
    def manifest(self) -> Manifest:
        """The manifest that proves this media; read and verified once.

        Raises:
            IntegrityError: it is not the manifest the reference was made with.
            StorageError: it cannot be read.
        """
        return run_sync(self.amanifest())

    async def amanifest(self) -> Manifest:
        """Read `manifest` in async code."""
        if self._manifest is None:
            manifest = await read_manifest(self.store, self.ref.manifest_key)
            if manifest.canonical_hash != self.ref.canonical_hash:
                raise IntegrityError(
                    f"manifest {self.ref.manifest_key} is not the one its reference was made "
                    f"with; materialise {self.ref.asset_key} again",
                    expected=self.ref.canonical_hash,
                    actual=manifest.canonical_hash,
                )
            self._manifest = manifest
        return self._manifest

    def close(self) -> None:
        """Delete the temporary files, if any."""
        super().close()
        if self._embedded is not None:
            self._embedded.close()


class _ObjectFile(io.RawIOBase):
    """obstore's reader as a Python raw file."""

    def __init__(self, reader: "ReadableFile") -> None:
        super().__init__()
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._reader.read(len(view))
        view[: len(data)] = memoryview(data)
        return len(data)
