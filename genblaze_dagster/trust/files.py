"""The files below a directory or prefix, as many as there may be."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from genblaze_dagster.trust.targets import LocalFile, StoredObject, bucket_store, store_root

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder or file that cannot be looked at, and why."""

    path: Path
    reason: str


Entry = LocalFile | StoredObject | Unreadable


async def local_files(root: Path) -> AsyncGenerator[Entry]:
    """Yield the regular files below a directory, in no particular order.

    Hidden files and folders are left out. A symbolic link to a file is followed when it stays
    below the directory, one to a folder never is: what it leads to is found at its own place.
    """
    found = _walk(root)
    while batch := await asyncio.to_thread(lambda: list(islice(found, _BATCH))):
        for entry in batch:
            yield entry


async def stored_files(store: "MediaStore", *, endpoint_url: str | None) -> AsyncGenerator[Entry]:
    """Yield the objects below a prefix, in no particular order; hidden ones are left out.

    Raises:
        StorageError: the store cannot be listed.
    """
    roots: dict[str, MediaStore] = {}
    async for info in store.list():
        if any(segment.startswith(".") for segment in info.key.split("/")):
            continue
        whole_key = f"{store.prefix}/{info.key}" if store.prefix else info.key
        place = store_root(whole_key)
        if place is None:
            yield StoredObject(store, info.key, info.size_bytes, in_store=False)
            continue
        root, key = place
        if root not in roots:
            roots[root] = bucket_store(store, root, endpoint_url)
        yield StoredObject(roots[root], key, info.size_bytes)


def _walk(root: Path) -> Iterator[Entry]:
    real_root = root.resolve()
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    elif _is_file_below(entry, real_root):
                        yield LocalFile(Path(entry.path))
        except OSError as exc:
            yield Unreadable(folder, exc.strerror or str(exc))


def _is_file_below(entry: "os.DirEntry[str]", real_root: Path) -> bool:
    if not entry.is_symlink():
        return entry.is_file(follow_symlinks=False)
    try:
        real = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):
        # Leads nowhere, or in a circle.
        return False
    return real.is_file() and real.is_relative_to(real_root)
