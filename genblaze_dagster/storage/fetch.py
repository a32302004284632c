"""Where a sink gets the bytes of an asset: the web through the SSRF guard, or a local folder."""

import mimetypes
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from genblaze_dagster.errors import UnsafeUrlError
from genblaze_dagster.net.download import stream_download
from genblaze_dagster.net.local_path import check_local_path
from genblaze_dagster.storage.transfer import MediaSource

_LOCAL_TYPES = mimetypes.MimeTypes()


class RemoteFile(Protocol):
    """An open download."""

    @property
    def content_type(self) -> str | None:
        """The Content-Type header as sent."""
        ...

    @property
    def content_length(self) -> int | None:
        """The size in bytes when the server says."""
        ...

    def aiter(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        ...


Fetch = Callable[[str], AbstractAsyncContextManager[RemoteFile]]


@dataclass(frozen=True, slots=True)
class OpenAsset:
    """The bytes of an asset and the Content-Type they came with."""

    source: MediaSource
    content_type: str | None
    size_bytes: int | None


class AssetFetcher:
    """Opens asset URLs: https, and files below the allowed roots.

    Args:
        allowed_roots: folders besides the temporary one whose files may be read.
        fetch: opens a remote URL; the guarded downloader unless a test injects another.
    """

    def __init__(self, allowed_roots: Sequence[Path] = (), fetch: Fetch | None = None) -> None:
        temporary = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108 - as genblaze
        self._roots = tuple(dict.fromkeys((*temporary, *allowed_roots)))
        self._fetch = fetch or stream_download

    def local_files(self, urls: Iterable[str]) -> dict[str, Path | UnsafeUrlError]:
        """Return the file each file:// URL leads to, or why it is refused; blocking.

        For many URLs at once: the look-ups on disk cost more than sending a small file does.
        """
        found: dict[str, Path | UnsafeUrlError] = {}
        for url in urls:
            if url.startswith("file:"):
                try:
                    found[url] = check_local_path(url, self._roots)
                except UnsafeUrlError as exc:
                    found[url] = exc
        return found

    @asynccontextmanager
    async def open(
        self, url: str, local_files: Mapping[str, Path | UnsafeUrlError]
    ) -> AsyncGenerator[OpenAsset]:
        """Open an asset by its URL; `local_files` is what the method of that name found.

        Raises:
            UnsafeUrlError: the scheme, address or path is refused.
            ProviderError: the download failed.
        """
        local = local_files.get(url)
        if isinstance(local, UnsafeUrlError):
            raise local
        if local is not None:
            yield OpenAsset(local, _LOCAL_TYPES.guess_type(local.name)[0], None)
            return
        scheme = urlsplit(url).scheme
        if scheme != "https":
            raise UnsafeUrlError(
                f"asset URL has scheme {scheme or 'none'!r}; it must be https:// or a file:// "
                "below the temporary folder or allowed_roots"
            )
        async with self._fetch(url) as remote:
            yield OpenAsset(remote.aiter(), remote.content_type, remote.content_length)
