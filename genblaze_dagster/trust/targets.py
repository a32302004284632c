"""What a path or URL names: a local file, one stored object, or everything below a place."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urlsplit

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

    @property
    def name(self) -> str:
        """The name of the file, without folders."""
        return self.path.name

    @property
    def url(self) -> str:
        """The file as a person names it."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object; `in_store` says that its store may know which run it is of."""

    store: "MediaStore"
    key: str
    size_bytes: int
    in_store: bool = True

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
    """A prefix, bucket or directory with everything below it; `path` is that of a directory."""

    store: "MediaStore"
    path: Path | None = None


Target = LocalFile | StoredObject | WholeStore


def url_problem(target: str) -> str | None:
    """Return why a target is a URL that is not read here, None when it is a path or one that is."""
    if "://" not in target:
        return None
    try:
        parts = urlsplit(target)
    except ValueError:
        return "not a valid URL; give a path, or a file://, s3:// or b2:// URL"
    if parts.scheme not in _SCHEMES:
        return f"{parts.scheme}:// URLs are not read; give a path, or a file://, s3:// or b2:// URL"
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        return "file:// URLs need an absolute path: file:///absolute/path"
    return None


async def locate(target: str | Path, *, endpoint_url: str | None = None) -> Target:
    """Find out what a path or URL names.

    Raises:
        NotFoundError: nothing is there.
        ConfigError: no such kind of URL, or credentials or settings are missing.
        StorageError: the store cannot be reached or read.
    """
    path = _local_path(target)
    if path is None:
        return await _locate_remote(str(target), endpoint_url)
    if path.is_dir():
        return WholeStore(open_store(path), path)
    if not path.exists():
        raise NotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ConfigError(f"{path}: not a regular file; name a file, a directory or a URL")
    return LocalFile(path)


def open_store(url: str | Path, *, endpoint_url: str | None = None) -> "MediaStore":
    """Open a store by URL; a plain path is a directory.

    Raises:
        NotFoundError: the directory does not exist.
        ConfigError: no such kind of URL, or credentials or settings are missing.
    """
    from genblaze_dagster.storage.store import MediaStore

    path = _local_path(url)
    if path is None:
        return MediaStore(str(url), endpoint_url=endpoint_url)
    if not path.is_dir():
        raise NotFoundError(
            f"{path}: no such directory, so there is no store; correct --store or GENBLAZE_STORE"
        )
    return MediaStore(path.absolute().as_uri())


async def reachable_store(url: str | Path, *, endpoint_url: str | None = None) -> "MediaStore":
    """Open a store that will be searched, and find out first whether it can be.

    Raises:
        StorageError: it is not there, cannot be reached or may not be read.
        ConfigError: no such kind of URL, or credentials or settings are missing.
    """
    store = open_store(url, endpoint_url=endpoint_url)
    await store.check_access(write=False)
    return store


def store_root(path: str) -> tuple[str, str] | None:
    """Return where the store of a path or key begins, and the key in it, as far as the name tells.

    None when stores do not use such names.
    """
    match = _LAYOUT.fullmatch(path)
    return None if match is None else (match["root"], match["key"])


def bucket_store(store: "MediaStore", root: str, endpoint_url: str | None) -> "MediaStore":
    """Return the store at another prefix of the bucket a store is in."""
    location = store.client.location
    url = f"{location.scheme}://{location.root}/{quote(root)}"
    return open_store(url, endpoint_url=endpoint_url)


def _local_path(target: str | Path) -> Path | None:
    """Return the path of a path or file:// URL, None for an object store's URL."""
    if isinstance(target, Path) or "://" not in target:
        return Path(target)
    problem = url_problem(target)
    if problem is not None:
        raise ConfigError(problem)
    parts = urlsplit(target)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


async def _locate_remote(url: str, endpoint_url: str | None) -> Target:
    store = open_store(url, endpoint_url=endpoint_url)
    # A key may be allowed to read objects and not to list them.
    with suppress(AccessDeniedError):
        # Fails within seconds, where reading an object would retry for long.
        await store.check_access(write=False)
    if not store.prefix or url.endswith("/"):
        return WholeStore(store)
    return await _locate_object(store, endpoint_url) or await _locate_prefix(store)


async def _locate_object(named: "MediaStore", endpoint_url: str | None) -> StoredObject | None:
    root, key = store_root(named.prefix) or ("", named.prefix)
    store = bucket_store(named, root, endpoint_url)
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
