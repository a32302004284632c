"""obstore behind one small async surface: keys below the store's prefix, our errors."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, cast

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from genblaze_dagster.errors import NotFoundError, StorageError
from genblaze_dagster.media.sniff import media_type_for_extension
from genblaze_dagster.storage.credentials import AwsConfigCredentials
from genblaze_dagster.storage.failures import Failure, invalid_key, storage_error
from genblaze_dagster.storage.handles import connect, connect_s3
from genblaze_dagster.storage.keys import join_key
from genblaze_dagster.storage.location import Location, S3Access, Scheme
from genblaze_dagster.storage.options import StoreOptions

if TYPE_CHECKING:
    from obstore import Attributes, GetResult, ReadableFile
    from obstore.store import ObjectStore

_LIST_BATCH = 1000
_CONFLICT_PAUSES = (0.05, 0.1, 0.2, 0.4)
# obstore raises its own classes and a few of Python's.
_RAISED = (BaseError, OSError, NotImplementedError, ValueError)


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object. `media_type` is known from `head` only, never from a listing."""

    key: str
    size_bytes: int
    last_modified: datetime
    etag: str | None = None
    media_type: str | None = None


class ObjectClient:
    """The object operations of one store; safe to use from any event loop and thread."""

    def __init__(self, location: Location, access: S3Access | None, options: StoreOptions) -> None:
        self.location = location
        self.access = access
        self.options = options
        self._handle: ObjectStore | None = None
        self._parts_handle: ObjectStore | None = None

    @property
    def name(self) -> str:
        """How messages name the store."""
        if self.access is None:
            return self.location.url
        return f"{self.location.url} at {self.access.display_endpoint}"

    def with_options(self, **changes: float) -> "ObjectClient":
        """Return a client of the same store with other timeouts or retries."""
        return ObjectClient(self.location, self.access, replace(self.options, **changes))

    def object_key(self, key: str) -> str:
        """Return the key in the bucket for a key of this store.

        Raises:
            StorageError: no store can hold such a key.
        """
        if (error := invalid_key(key)) is not None:
            raise error
        return f"{self.location.prefix}/{key}" if self.location.prefix else key

    async def put(self, key: str, data: bytes, *, attributes: "Attributes", create: bool) -> None:
        """Store an object in one request; `create` fails with AlreadyExistsError on a taken key."""
        for pause in (*_CONFLICT_PAUSES, None):
            failure = await self.try_put(key, data, attributes=attributes, create=create)
            if failure is None:
                return
            if pause is None or not failure.is_write_conflict:
                raise self.error(failure, "write", key)
            await asyncio.sleep(pause)

    async def try_put(
        self, key: str, data: bytes, *, attributes: "Attributes", create: bool
    ) -> Failure | None:
        """Store an object in one request and return why that failed instead of raising."""
        path = self.object_key(key)
        handle = await self._open(write=True)
        try:
            await obstore.put_async(
                handle,
                path,
                data,
                attributes=self._attributes(attributes),
                mode="create" if create else "overwrite",
                use_multipart=False,
            )
        except _RAISED as exc:
            return Failure.of(exc)
        return None

    async def put_parts(
        self, key: str, chunks: AsyncIterator[bytes], *, attributes: "Attributes", part_bytes: int
    ) -> None:
        """Store an object in parts while `chunks` delivers it; its errors are raised as they are.

        When `chunks` raises, the upload is aborted and nothing remains.
        """
        source = _Source(chunks)
        path = self.object_key(key)
        await self._open(write=True)
        try:
            await obstore.put_async(
                self._open_for_parts(),
                path,
                source,
                attributes=self._attributes(attributes),
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=self.options.parts_in_flight,
            )
        except _RAISED as exc:
            if source.error is not None:
                raise source.error from None
            raise self.error(Failure.of(exc), "write", key) from None

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return a whole object.

        Raises:
            NotFoundError: there is none.
            StorageError: it is larger than `max_bytes`.
        """
        with self._reporting("read", key):
            result = await self._get(key)
            if max_bytes is not None and result.meta["size"] > max_bytes:
                raise StorageError(
                    f"{self.name}: {key} has {result.meta['size']} bytes, more than the "
                    f"{max_bytes} allowed here; it is not what this reader expects",
                    key=key,
                )
            return bytes(await result.bytes_async())

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` on, fewer at the end of the object."""
        path = self.object_key(key)
        handle = await self._open(write=False, action="read", key=key)
        with self._reporting("read", key):
            return bytes(await obstore.get_range_async(handle, path, start=start, length=length))

    async def stream(self, key: str, chunk_bytes: int) -> AsyncGenerator[bytes, None]:
        """Yield an object in pieces of at least `chunk_bytes`, but for the last."""
        with self._reporting("read", key):
            result = await self._get(key)
            async for chunk in result.stream(min_chunk_size=chunk_bytes):
                yield bytes(chunk)

    async def head(self, key: str) -> ObjectInfo | None:
        """Return what is known about an object, None when it is missing."""
        try:
            with self._reporting("look up", key):
                result = await self._get(key, head=True)
        except NotFoundError:
            return None
        meta, attributes = result.meta, result.attributes
        return ObjectInfo(
            key=key,
            size_bytes=meta["size"],
            last_modified=meta["last_modified"],
            etag=meta["e_tag"],
            media_type=attributes.get("Content-Type") or self._type_by_name(key),
        )

    async def list(self, folder: str) -> AsyncGenerator[ObjectInfo, None]:
        """Yield the objects below a folder, in no particular order."""
        path = join_key("", self.location.prefix, folder)
        skip = len(self.location.prefix) + 1 if self.location.prefix else 0
        try:
            handle = await self._open(write=False, action="list", key=None)
        except NotFoundError:
            return
        with self._reporting("list", folder or None):
            # Its Arrow overloads name a package that is not installed.
            batches = obstore.list(handle, path or None, chunk_size=_LIST_BATCH)  # pyright: ignore[reportUnknownMemberType]
            async for batch in batches:
                for meta in batch:
                    yield ObjectInfo(
                        key=meta["path"][skip:],
                        size_bytes=meta["size"],
                        last_modified=meta["last_modified"],
                        etag=meta["e_tag"],
                    )

    async def delete(self, key: str) -> None:
        """Delete an object; a missing one is fine."""
        path = self.object_key(key)
        try:
            handle = await self._open(write=False, action="delete", key=key)
            with self._reporting("delete", key):
                await obstore.delete_async(handle, path)
        except NotFoundError as exc:
            if self.access is not None:
                # S3 says yes to deleting what is not there: this is a missing bucket.
                raise exc from None

    async def copy(self, source: str, target: str) -> None:
        """Copy inside the store, attributes included; what is at `target` is replaced."""
        from_path, to_path = self.object_key(source), self.object_key(target)
        handle = await self._open(write=True)
        with self._reporting("copy", source):
            await obstore.copy_async(handle, from_path, to_path)

    async def publish(self, staged: str, target: str) -> None:
        """Make a staged object visible at `target`; the staged one may or may not remain."""
        if self.location.scheme is not Scheme.FILE:
            await self.copy(staged, target)
            return
        handle = await self._open(write=True)
        with self._reporting("write", target):
            await obstore.rename_async(handle, self.object_key(staged), self.object_key(target))

    def sign(self, key: str, method: str, expires_in: int) -> str:
        """Return a SigV4 presigned URL; local work only.

        Raises:
            StorageError: the store is not behind an S3 endpoint.
        """
        path = self.object_key(key)
        if self.access is None:
            raise StorageError(
                f"{self.location.url}: a {self.location.scheme} store has no presigned URLs; "
                "read the object through the store, or use s3:// or b2://",
                key=key,
            )
        self._find_credentials()
        handle = cast(S3Store, self._open_now(write=True))
        with self._reporting("sign a URL for", key):
            verb = "PUT" if method == "PUT" else "GET"
            return obstore.sign(handle, verb, path, timedelta(seconds=expires_in))

    def open_reader(self, key: str) -> "ReadableFile":
        """Return obstore's seekable file over an object; blocking."""
        path = self.object_key(key)
        self._find_credentials()
        with self._reporting("open", key):
            return obstore.open_reader(self._open_now(write=False), path)

    def error(self, failure: Failure, action: str, key: str | None) -> StorageError:
        """Return our error for a failed operation on this store."""
        return storage_error(failure, action=action, key=key, store=self.name)

    async def _get(self, key: str, *, head: bool = False) -> "GetResult":
        path = self.object_key(key)
        handle = await self._open(write=False, action="read", key=key)
        return await obstore.get_async(handle, path, options={"head": head})

    async def _open(
        self, *, write: bool, action: str = "write", key: str | None = None
    ) -> "ObjectStore":
        if self._handle is None:
            await asyncio.to_thread(self._find_credentials)
        with self._reporting(action, key):
            return self._open_now(write=write)

    def _find_credentials(self) -> None:
        # Once outside obstore, whose error would hide which setting is missing.
        if self.access is not None and isinstance(self.access.credentials, AwsConfigCredentials):
            self.access.credentials()

    def _open_now(self, *, write: bool) -> "ObjectStore":
        if self._handle is None:
            self._handle = connect(self.location, self.access, self.options, write=write)
        return self._handle

    def _open_for_parts(self) -> "ObjectStore":
        if self.access is None:
            return self._open_now(write=True)
        if self._parts_handle is None:
            self._parts_handle = connect_s3(
                self.location.root, self.access, self.options, for_parts=True
            )
        return self._parts_handle

    def _attributes(self, attributes: "Attributes") -> "Attributes | None":
        # A file system has nowhere to keep them; obstore refuses rather than drops them.
        return None if self.location.scheme is Scheme.FILE else attributes

    def _type_by_name(self, key: str) -> str | None:
        if self.location.scheme is not Scheme.FILE:
            return None
        return media_type_for_extension(PurePosixPath(key).suffix)

    @contextmanager
    def _reporting(self, action: str, key: str | None) -> Generator[None]:
        try:
            yield
        except _RAISED as exc:
            raise self.error(Failure.of(exc), action, key) from None


class _Source:
    """An iterator for obstore that remembers what its own side raised."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.error: BaseException | None = None

    def __aiter__(self) -> "_Source":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StopAsyncIteration:
            raise
        except BaseException as exc:
            self.error = exc
            raise
