"""What a command line argument names: a local file, one stored object, or a whole store."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

import click

from genblaze_dagster.errors import AccessDeniedError, ConfigError, NotFoundError

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

# The keys media and manifests have in a store (storage/keys.py); what stands before is the store.
_LAYOUT: Final = re.compile(
    r"""(?P<root>|.*/)(?P<key>
        assets/[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{64}(?:\.[^/]+)?
      | manifests/[^/]+\.json
      | runs/(?:[^/]+/)*\d{4}-\d{2}-\d{2}/[^/]+/(?:manifest\.json|assets/[^/]+)
    )""",
    re.VERBOSE,
)
_SCHEMES: Final = ("s3", "b2", "file")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object; `store` is the store that wrote it as far as its key tells, else the bucket."""

    store: "MediaStore"
    key: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The last segment of the key."""
        return self.key.rpartition("/")[2]

    @property
    def url(self) -> str:
        """The object as a person names it."""
        return f"{self.store.url}/{self.key}"


@dataclass(frozen=True, slots=True)
class WholeStore:
    """A prefix, bucket or directory with everything below it."""

    store: "MediaStore"


Target = LocalFile | StoredObject | WholeStore


async def locate(target: str, *, endpoint_url: str | None = None) -> Target:
    """Find out what a path or URL names.

    Raises:
        NotFoundError: nothing is there.
        UsageError: no such kind of URL.
        StorageError: the store cannot be reached or read.
        ConfigError: credentials or settings are missing.
    """
    path = _local_path(target)
    if path is None:
        return await _locate_remote(target, endpoint_url)
    if path.is_dir():
        return WholeStore(open_store(target))
    if not path.exists():
        raise NotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ConfigError(f"{path}: not a regular file; name a file, a directory or a URL")
    return LocalFile(path)


def open_store(url: str, *, endpoint_url: str | None = None) -> "MediaStore":
    """Open a store by URL; a plain path is a directory.

    Raises:
        NotFoundError: the directory does not exist.
        UsageError: no such kind of URL.
        ConfigError: credentials or settings are missing.
    """
    from genblaze_dagster.storage.store import MediaStore

    path = _local_path(url)
    if path is None:
        return MediaStore(url, endpoint_url=endpoint_url)
    if not path.is_dir():
        raise NotFoundError(
            f"{path}: no such directory, so there is no store; correct --store or GENBLAZE_STORE"
        )
    return MediaStore(path.absolute().as_uri())


async def reachable_store(url: str, *, endpoint_url: str | None = None) -> "MediaStore":
    """Open a store that will be searched, and find out first whether it can be.

    Raises:
        StorageError: it is not there, cannot be reached or may not be read.
        ConfigError: credentials or settings are missing.
    """
    store = open_store(url, endpoint_url=endpoint_url)
    await store.check_access(write=False)
    return store


def surrounding_store(path: Path) -> "MediaStore | None":
    """Return the store a local file lies in, judging by its path; None when it looks like none."""
    match = _LAYOUT.fullmatch(path.absolute().as_posix())
    return open_store(match["root"]) if match is not None else None


def _local_path(target: str) -> Path | None:
    """Return the path of a path or file:// URL, None for an object store's URL."""
    if "://" not in target:
        return Path(target)
    parts = urlsplit(target)
    if parts.scheme not in _SCHEMES:
        raise click.UsageError(
            f"{parts.scheme}:// URLs are not read; give a path, or a file://, s3:// or b2:// URL"
        )
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise click.UsageError("file:// URLs need an absolute path: file:///absolute/path")
    return Path(unquote(parts.path))


async def _locate_remote(url: str, endpoint_url: str | None) -> Target:
    store = open_store(url, endpoint_url=endpoint_url)
    # A key may be allowed to read objects and not to list them.
    with suppress(AccessDeniedError):
        # Fails within seconds, where reading an object would retry for long.
        await store.check_access(write=False)
    if not store.prefix or url.endswith("/"):
        return WholeStore(store)
    return await _locate_object(url, endpoint_url) or await _locate_prefix(store)


async def _locate_object(url: str, endpoint_url: str | None) -> StoredObject | None:
    from genblaze_dagster.storage.location import parse_location

    location = parse_location(url)
    match = _LAYOUT.fullmatch(location.prefix)
    root, key = (match["root"], match["key"]) if match else ("", location.prefix)
    bucket = f"{location.scheme}://{location.root}"
    store = open_store(f"{bucket}/{quote(root)}", endpoint_url=endpoint_url)
    # Not `store.head`, which may write a probe object to find out what a refusal means.
    try:
        info = await store.client.head(key)
    except AccessDeniedError:
        return None
    return StoredObject(store, key, info.size_bytes) if info is not None else None


async def _locate_prefix(store: "MediaStore") -> WholeStore:
    async for _ in store.list():
        return WholeStore(store)
    raise NotFoundError(f"{store.url}: no such object, and nothing is stored below it")
