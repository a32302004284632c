"""The media store: bytes, manifests, references and index segments in one bucket or directory."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from genblaze_dagster.errors import (
    AlreadyExistsError,
    ConfigError,
    IntegrityError,
    NotFoundError,
)
from genblaze_dagster.storage.capabilities import (
    StoreCapabilities,
    check_access,
    known_capabilities,
    missing_named,
    probe_capabilities,
)
from genblaze_dagster.storage.client import ObjectClient, ObjectInfo
from genblaze_dagster.storage.keys import KeyStrategy, Layout, Placement, join_key
from genblaze_dagster.storage.location import (
    Location,
    S3Access,
    parse_location,
    s3_access,
    url_space,
)
from genblaze_dagster.storage.options import MIB, PutMode, StoreOptions
from genblaze_dagster.storage.staging import Destination
from genblaze_dagster.storage.transfer import MediaSource, StoredMedia, transfer
from genblaze_dagster.storage.urls import MAX_PRESIGN_SECONDS, PresignedURL, UrlSpace

if TYPE_CHECKING:
    from obstore import Attributes

__all__ = ["MediaStore", "ObjectInfo", "PutMode", "StoreOptions", "StoredMedia"]

DEFAULT_STREAM_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class _Config:
    """Everything a store is made of; this is what is pickled."""

    location: Location
    access: S3Access | None
    urls: UrlSpace
    key_strategy: KeyStrategy
    options: StoreOptions


@dataclass(frozen=True, slots=True)
class _Turns:
    """What the users of a store in one event loop take turns at."""

    probing: asyncio.Lock
    large: asyncio.Semaphore


class MediaStore:
    """Objects in a bucket, a directory or memory, under keys relative to the store's prefix.

    `s3://bucket/prefix` and `b2://bucket/prefix` speak the S3 protocol with path-style addressing;
    `file:///directory` survives a kill in any moment, not a power cut; `memory://name` lives as
    long as the process and is shared by stores of the same name. Any event loop and thread may use
    one store. Pickling keeps the configuration, static credentials included.

    Credentials come from the arguments, else from `s3` (a dagster-aws S3Resource), else from
    AWS_ACCESS_KEY_ID and friends or the AWS profile; for b2:// from B2_KEY_ID and B2_APP_KEY.

    Args:
        url: where the store is.
        endpoint_url: S3 endpoint; http:// is used only when it says so. AWS_ENDPOINT_URL or
            B2_ENDPOINT_URL when not given, AWS itself when neither is set.
        region: AWS_REGION or B2_REGION when not given.
        access_key_id: with `secret_access_key`, static credentials.
        secret_access_key: the other half.
        session_token: of temporary credentials.
        public_url_base: base of durable URLs, such as a CDN in front of the bucket.
        key_strategy: how assets and manifests are named.
        s3: a dagster-aws S3Resource.
        options: timeouts, retries and sizes.

    Raises:
        ConfigError: the URL or a setting is unusable; names it and the fix.
    """

    def __init__(
        self,
        url: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        public_url_base: str | None = None,
        key_strategy: KeyStrategy | str = KeyStrategy.CONTENT_ADDRESSABLE,
        s3: object | None = None,
        options: StoreOptions | None = None,
    ) -> None:
        location = parse_location(url)
        access = None
        if location.is_remote:
            access = s3_access(
                location.scheme,
                endpoint_url=endpoint_url,
                region=region,
                access_key_id=access_key_id,
                secret_access_key=secret_access_key,
                session_token=session_token,
                resource=s3,
            )
        urls = url_space(location, access, public_url_base)
        strategy = KeyStrategy(key_strategy)
        self.__setstate__(_Config(location, access, urls, strategy, options or StoreOptions()))

    def __getstate__(self) -> _Config:
        return self._config

    def __setstate__(self, config: _Config) -> None:
        self._config = config
        self.client = ObjectClient(config.location, config.access, config.options)
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"MediaStore({self.client.name!r}, key_strategy={self.key_strategy.value!r})"

    @property
    def url(self) -> str:
        """The store's URL without credentials."""
        return self._config.location.url

    @property
    def prefix(self) -> str:
        """The prefix inside the bucket, without slashes around it; empty when there is none."""
        return self._config.location.prefix

    @property
    def key_strategy(self) -> KeyStrategy:
        """How assets and manifests are named."""
        return self._config.key_strategy

    @property
    def options(self) -> StoreOptions:
        """Timeouts, retries and sizes."""
        return self._config.options

    def below(self, prefix: str, *, key_strategy: KeyStrategy | str | None = None) -> "MediaStore":
        """Return a store in a folder of this one, with the same access."""
        config = self._config
        location = replace(config.location, prefix=join_key("", config.location.prefix, prefix))
        strategy = KeyStrategy(key_strategy) if key_strategy is not None else config.key_strategy
        store = MediaStore.__new__(MediaStore)
        store.__setstate__(replace(config, location=location, key_strategy=strategy))
        return store

    @property
    def layout(self) -> Layout:
        """The keys of assets and manifests in this store."""
        return Layout(self.prefix, self.key_strategy)

    def attributes(self, media_type: str | None, cache_control: str | None = None) -> "Attributes":
        """Return the headers stored with an object; `put` says what the arguments mean."""
        found: Attributes = {}
        if cache_control != "":
            found["Cache-Control"] = cache_control or self.key_strategy.cache_control
        if media_type is not None:
            found["Content-Type"] = media_type
        return found

    # Objects

    async def put(
        self,
        key: str,
        data: bytes,
        *,
        media_type: str | None,
        cache_control: str | None = None,
        mode: PutMode = PutMode.OVERWRITE,
        sha256: str | None = None,
    ) -> None:
        """Store an object in one request.

        Args:
            key: relative to the prefix.
            data: the body; its hash is part of the signed request.
            media_type: Content-Type; None stores none.
            cache_control: that of the key strategy when not given; empty stores none.
            mode: CREATE never replaces an object. Where the service cannot promise that, it is
                looked up first, which leaves a moment for another writer.
            sha256: compared with the body before anything is sent.

        Raises:
            AlreadyExistsError: CREATE on a taken key.
            IntegrityError: the body does not hash to `sha256`.
            StorageError: it could not be stored; nothing half-written is visible.
        """
        if sha256 is not None:
            actual = (await asyncio.to_thread(hashlib.sha256, data)).hexdigest()
            if actual != sha256:
                raise IntegrityError(
                    f"{key}: the body does not hash to the given sha256; nothing was sent",
                    expected=sha256,
                    actual=actual,
                )
        create = PutMode(mode) is PutMode.CREATE
        if create and not (await self.probe()).create_only:
            if await self.head(key) is not None:
                raise AlreadyExistsError(f"{self.url}: {key} exists already", key=key)
            create = False
        attributes = self.attributes(media_type, cache_control)
        await self.client.put(key, data, attributes=attributes, create=create)

    async def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        """Return a whole object.

        Raises:
            NotFoundError: there is none.
            StorageError: it is larger than `max_bytes`, or the store failed.
        """
        async with missing_named(self.probe, self.client, key):
            return await self.client.get(key, max_bytes=max_bytes)

    async def stream(
        self, key: str, *, chunk: int = DEFAULT_STREAM_BYTES
    ) -> AsyncGenerator[bytes, None]:
        """Yield an object in pieces of at least `chunk` bytes, but for the last.

        Raises:
            NotFoundError: there is none; raised by the first step of the iteration.
        """
        async with (
            missing_named(self.probe, self.client, key),
            aclosing(self.client.stream(key, chunk)) as pieces,
        ):
            async for piece in pieces:
                yield piece

    async def head(self, key: str) -> ObjectInfo | None:
        """Return what is known about an object, None when it is missing.

        Raises:
            AccessDeniedError: looking it up is not allowed, and this store answers so for objects
                that exist.
        """
        try:
            async with missing_named(self.probe, self.client, key):
                return await self.client.head(key)
        except NotFoundError:
            return None

    def list(self, folder: str = "") -> AsyncGenerator[ObjectInfo, None]:
        """Yield all objects below a folder (whole path segments), in no particular order."""
        return self.client.list(folder)

    async def delete(self, key: str) -> None:
        """Delete an object; a missing one is fine."""
        await self.client.delete(key)

    async def copy(self, source: str, target: str) -> None:
        """Copy an object inside the store, up to the service's limit (5 GB on S3)."""
        await self.client.copy(source, target)

    async def put_media(
        self,
        source: MediaSource,
        *,
        media_type: str | None,
        extension: str | None,
        placement: Placement | None,
        sha256: str | None = None,
        size_bytes: int | None = None,
        twin: bool = False,
    ) -> StoredMedia:
        """Store media under the key its strategy and hash give it, in one pass over the source.

        One transfer adds at most 64 MB of memory whatever the size, with a twin twice that. Above
        the service's copy limit (5 GiB) publishing reads the staged object back through this
        process.

        Args:
            source: the bytes, a local file, or an iterator that is read once.
            media_type: Content-Type to store, None for none.
            extension: with its dot, None or empty for none.
            placement: run and asset it belongs to; None stores under the hash with any strategy.
            sha256: compared before the object becomes visible.
            size_bytes: the same for the size.
            twin: also send large media of a kind that takes a manifest at its end to a second
                object that stays open for it.

        Raises:
            IntegrityError: other bytes arrived than `sha256` or `size_bytes` say.
            ConflictError: other content is stored under the key.
            StorageError: it could not be stored; nothing is visible, the staged object is gone.
            OSError: the local file cannot be read.
        """
        destination = Destination(
            store=self,
            placement=placement,
            media_type=media_type,
            extension=extension or "",
            expected_sha256=sha256,
            expected_size=size_bytes,
        )
        return await transfer(source, destination, turns=self._take_turns().large, twin=twin)

    # URLs

    def durable_url(self, key: str) -> str:
        """Return the URL under which an object stays; it holds no credentials."""
        return self._config.urls.durable_url(self.client.object_key(key))

    def key_from_url(self, url: str) -> str | None:
        """Return the key of a URL of this store, None for any other; no network."""
        object_key = self._config.urls.object_key(url)
        if object_key is None or not self.prefix:
            return object_key
        key = object_key.removeprefix(f"{self.prefix}/")
        return None if key == object_key else key

    @property
    def public_url_base(self) -> str | None:
        """The base of public URLs, None when there is none."""
        return self._config.urls.public_base

    def presigned_get(self, key: str, expires_in: int = 3600) -> PresignedURL:
        """Return a URL with which anybody may read an object for `expires_in` seconds.

        Raises:
            ConfigError: `expires_in` is not within 1 second and 7 days.
            StorageError: a file or memory store has no such URLs.
        """
        return self._presigned("GET", key, expires_in)

    def presigned_put(
        self, key: str, expires_in: int = 3600, *, media_type: str | None = None
    ) -> PresignedURL:
        """Return a URL with which anybody may write an object for `expires_in` seconds.

        `media_type` is not bound by the signature; it is in `headers`, for the client to send.

        Raises:
            ConfigError: `expires_in` is not within 1 second and 7 days.
            StorageError: a file or memory store has no such URLs.
        """
        headers = (("Content-Type", media_type),) if media_type else ()
        return self._presigned("PUT", key, expires_in, headers)

    # Behaviour

    async def probe(self) -> StoreCapabilities:
        """Find out what the store can do, by doing it; once per bucket and process.

        Raises:
            StorageError: the store cannot be written.
        """
        known = known_capabilities(self.client)
        if known is not None:
            return known
        async with self._take_turns().probing:
            return known_capabilities(self.client) or await probe_capabilities(self.client)

    async def check_access(self, *, write: bool = True) -> None:
        """Find out quickly whether the store can be used; the error says what to change.

        Raises:
            NotFoundError: the bucket or directory does not exist.
            AccessDeniedError: wrong credentials, or read-only although `write`.
            StorageFullError: nothing more can be stored.
            StorageUnavailableError: the endpoint cannot be reached.
        """
        await check_access(self.client, write=write)

    def _take_turns(self) -> _Turns:
        loop = asyncio.get_running_loop()
        if loop not in self._turns:
            for ended in [other for other in self._turns if other.is_closed()]:
                del self._turns[ended]
            slots = asyncio.Semaphore(self.options.large_transfers)
            self._turns[loop] = _Turns(asyncio.Lock(), slots)
        return self._turns[loop]

    def _presigned(
        self, method: str, key: str, expires_in: int, headers: tuple[tuple[str, str], ...] = ()
    ) -> PresignedURL:
        if not 1 <= expires_in <= MAX_PRESIGN_SECONDS:
            raise ConfigError(
                f"expires_in is {expires_in}; it must be between 1 and {MAX_PRESIGN_SECONDS} "
                "seconds (7 days)"
            )
        return PresignedURL(self.client.sign(key, method, expires_in), method, expires_in, headers)
