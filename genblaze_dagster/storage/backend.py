"""The store under genblaze's name for it: a bucket with blocking methods."""

import os
from collections.abc import Iterator
from typing import Self

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.client import ObjectInfo
from genblaze_dagster.storage.options import MIB, PutMode, StoreOptions
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.storage.urls import PresignedURL, URLPolicy

DEFAULT_EXPIRY_SECONDS = 3600


class S3StorageBackend:
    """A bucket behind an S3 endpoint. `store` is the same bucket with async methods.

    Args:
        bucket: its name.
        endpoint_url: AWS_ENDPOINT_URL, else AWS itself, when not given.
        region: AWS_REGION, else us-east-1, when not given.
        public_url_base: base of durable URLs, such as a CDN in front of the bucket.
        aws_access_key_id: with `aws_secret_access_key`, static credentials; the environment or
            the AWS profile when not given.
        aws_secret_access_key: the other half.
        access_key_id: another name of `aws_access_key_id`.
        secret_access_key: another name of `aws_secret_access_key`.
        options: timeouts, retries and sizes.

    Raises:
        ConfigError: one credential is given under both names, or a setting is unusable.
    """

    def __init__(
        self,
        bucket: str,
        endpoint_url: str | None = None,
        region: str | None = None,
        public_url_base: str | None = None,
        *,
        aws_access_key_id: str | None = None,
        aws_secret_access_key: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        options: StoreOptions | None = None,
    ) -> None:
        self.bucket = bucket
        self.store = MediaStore(
            f"s3://{bucket}",
            endpoint_url=endpoint_url,
            region=region,
            public_url_base=public_url_base,
            access_key_id=_one("access_key_id", aws_access_key_id, access_key_id),
            secret_access_key=_one("secret_access_key", aws_secret_access_key, secret_access_key),
            options=options,
        )

    @classmethod
    def for_backblaze(
        cls,
        bucket: str | None = None,
        *,
        region: str | None = None,
        key_id: str | None = None,
        app_key: str | None = None,
        public_url_base: str | None = None,
        preflight: bool = True,
        options: StoreOptions | None = None,
    ) -> Self:
        """Return a Backblaze B2 bucket.

        Args:
            bucket: B2_BUCKET when not given.
            region: B2_REGION, else us-west-004, when not given. B2_ENDPOINT_URL replaces the
                endpoint that follows from it.
            key_id: B2_KEY_ID when not given.
            app_key: B2_APP_KEY when not given.
            public_url_base: such as `https://f004.backblazeb2.com/file/<bucket>`.
            preflight: look at the bucket now and not at the first use.
            options: timeouts, retries and sizes.

        Raises:
            ConfigError: bucket or credentials are missing; names the variable.
            StorageError: `preflight`, and the bucket cannot be read; says what to change.
        """
        backend = cls.__new__(cls)
        backend.store = MediaStore(
            f"b2://{bucket or os.environ.get('B2_BUCKET', '')}",
            region=region,
            access_key_id=key_id or os.environ.get("B2_KEY_ID"),
            secret_access_key=app_key or os.environ.get("B2_APP_KEY"),
            public_url_base=public_url_base,
            options=options,
        )
        backend.bucket = backend.store.url.removeprefix("b2://")
        if preflight:
            run_sync(backend.store.check_access(write=False))
        return backend

    def __repr__(self) -> str:
        return f"S3StorageBackend({self.store.client.name!r})"

    def put(
        self,
        key: str,
        data: bytes,
        *,
        content_type: str | None = None,
        cache_control: str | None = None,
        mode: PutMode = PutMode.OVERWRITE,
    ) -> str:
        """Store an object and return its key.

        Raises:
            AlreadyExistsError: mode CREATE on a taken key.
            StorageError: it could not be stored.
        """
        run_sync(
            self.store.put(
                key, data, media_type=content_type, cache_control=cache_control, mode=mode
            )
        )
        return key

    def get(self, key: str) -> bytes:
        """Return a whole object.

        Raises:
            NotFoundError: there is none.
        """
        return run_sync(self.store.get(key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes of an object from `start` on.

        Raises:
            NotFoundError: there is none.
        """
        return run_sync(self.store.client.get_range(key, start, length))

    def stream(self, key: str, *, chunk: int = 4 * MIB) -> Iterator[bytes]:
        """Yield an object in pieces of `chunk` bytes, but for the last.

        Raises:
            NotFoundError: there is none.
        """
        reader = self.store.client.open_reader(key)
        while data := bytes(reader.read(chunk)):
            yield data

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is known about an object, None when it is missing."""
        return run_sync(self.store.head(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object of that key."""
        return self.head(key) is not None

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Return the objects whose key starts with `prefix`, sorted by key."""
        return run_sync(self._list(prefix))

    def delete(self, key: str) -> None:
        """Delete an object; a missing one is fine."""
        run_sync(self.store.delete(key))

    def copy(self, source: str, target: str) -> None:
        """Copy an object inside the bucket, up to the service's limit (5 GB)."""
        run_sync(self.store.copy(source, target))

    def durable_url(self, key: str) -> str:
        """Return the URL under which an object stays; it holds no credentials."""
        return self.store.durable_url(key)

    def key_from_url(self, url: str) -> str | None:
        """Return the key of a URL of this bucket, None for any other; no network."""
        return self.store.key_from_url(url)

    def presigned_get(self, key: str, expires_in: int = DEFAULT_EXPIRY_SECONDS) -> PresignedURL:
        """Return a URL with which anybody may read an object for `expires_in` seconds."""
        return self.store.presigned_get(key, expires_in)

    def presigned_put(
        self,
        key: str,
        expires_in: int = DEFAULT_EXPIRY_SECONDS,
        content_type: str | None = None,
    ) -> PresignedURL:
        """Return a URL with which anybody may write an object for `expires_in` seconds."""
        return self.store.presigned_put(key, expires_in, media_type=content_type)

    def get_url(
        self,
        key: str,
        *,
        policy: URLPolicy | str = URLPolicy.AUTO,
        expires_in: int | None = None,
    ) -> str:
        """Return a URL to hand out: the public one, or one that is presigned.

        AUTO is public when there is a public base, else presigned for an hour.

        Raises:
            ConfigError: PUBLIC without a public base, or with an expiry it cannot have.
        """
        wanted = URLPolicy(policy)
        public = self.store.public_url_base is not None
        if wanted is URLPolicy.PUBLIC:
            if not public:
                raise ConfigError("URLPolicy.PUBLIC needs public_url_base; set it, or use AUTO")
            if expires_in is not None:
                raise ConfigError("a public URL does not expire; drop expires_in, or use PRESIGNED")
        if wanted is not URLPolicy.PRESIGNED and public:
            return self.durable_url(key)
        return self.presigned_get(key, expires_in or DEFAULT_EXPIRY_SECONDS).url

    async def _list(self, prefix: str) -> "list[ObjectInfo]":
        folder = prefix.rpartition("/")[0]
        found = [info async for info in self.store.list(folder) if info.key.startswith(prefix)]
        return sorted(found, key=lambda info: info.key)


def _one(name: str, aws_name_value: str | None, short_name_value: str | None) -> str | None:
    if aws_name_value is not None and short_name_value is not None:
        raise ConfigError(f"aws_{name} and {name} are the same setting; give one of them")
    return aws_name_value or short_name_value
