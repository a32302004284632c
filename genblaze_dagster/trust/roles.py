"""What a file in a folder is to verification, found out with as little reading as possible."""

import asyncio
import json
from enum import StrEnum, auto
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import NotFoundError
from genblaze_dagster.media.containers import SNIFFED_BYTES
from genblaze_dagster.media.sidecar import SUFFIX
from genblaze_dagster.media.sniff import media_type_for_extension, sniff_media_type
from genblaze_dagster.trust.os_errors import storage_error
from genblaze_dagster.trust.targets import LocalFile, StoredObject, store_root

_KINDS_OF_MEDIA: Final = ("image", "video", "audio", "model")
# Canonical text sorts its keys, so every stored manifest begins like this.
_BEGINNING: Final = b'{"canonical_hash"'


class Role(StrEnum):
    """What a file is, as far as its name, first bytes and neighbours tell."""

    MEDIA = auto()
    MANIFEST = auto()
    """Named as stores and sidecars name manifests; JSON of another kind is none all the same."""
    DOCUMENT = auto()
    """JSON: a manifest if it looks like one inside."""
    SIDECAR = auto()
    """Belongs to the media file it is named after, and is looked at with it."""
    OTHER = auto()


async def role_of(target: LocalFile | StoredObject) -> Role:
    """Return the role of a file; at most 64 bytes of it are read.

    Raises:
        StorageError: it cannot be read.
    """
    if target.name.endswith(SUFFIX):
        beside = await _is_there(target, target.name.removesuffix(SUFFIX))
        return Role.SIDECAR if beside else Role.MANIFEST
    if (key := _key_in_store(target)) is not None:
        is_asset = "assets" in key.split("/")[:-1]
        return Role.MEDIA if is_asset else Role.MANIFEST
    head = await _head(target)
    if _is_media(head, target.name) or await _is_there(target, target.name + SUFFIX):
        return Role.MEDIA
    if target.name.lower().endswith(".json") or head.lstrip()[:1] == b"{":
        return Role.DOCUMENT
    return Role.OTHER


def holds_manifest(path: Path, *, or_damaged: bool = False) -> bool:
    """Whether a file is a manifest or a pointer to one, valid or not; blocking.

    `or_damaged` also takes what is no JSON at all for what is left of one.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as exc:
        raise storage_error(exc, path) from exc
    if data.startswith(_BEGINNING):
        return True
    if len(data) > MAX_MANIFEST_BYTES:
        return or_damaged
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return or_damaged
    return isinstance(document, dict) and _is_manifest(cast(dict[str, Any], document))


def _is_manifest(document: dict[str, Any]) -> bool:
    run = document.get("run")
    if not isinstance(run, dict):
        # Other documents lead to a manifest, too; a pointer also says which.
        names = ("manifest_uri", "canonical_hash")
        return "run" not in document and all(isinstance(document.get(n), str) for n in names)
    return "canonical_hash" in document or "schema_version" in document or "steps" in run


def _key_in_store(target: LocalFile | StoredObject) -> str | None:
    if isinstance(target, StoredObject):
        return target.key if target.in_store else None
    place = store_root(target.path.absolute().as_posix())
    return None if place is None else place[1]


def _is_media(head: bytes, name: str) -> bool:
    types = (sniff_media_type(head), media_type_for_extension(PurePosixPath(name).suffix))
    return any(found is not None and found.split("/")[0] in _KINDS_OF_MEDIA for found in types)


async def _head(target: LocalFile | StoredObject) -> bytes:
    if isinstance(target, LocalFile):
        return await asyncio.to_thread(_read_head, target.path)
    if target.size_bytes == 0:
        # There is no range of an empty object.
        return b""
    length = min(SNIFFED_BYTES, target.size_bytes)
    return await target.store.client.get_range(target.key, 0, length)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb", 0) as file:
            return file.read(SNIFFED_BYTES)
    except OSError as exc:
        raise storage_error(exc, path) from exc


async def _is_there(target: LocalFile | StoredObject, name: str) -> bool:
    if not name:
        return False
    if isinstance(target, LocalFile):
        return await asyncio.to_thread(target.path.with_name(name).is_file)
    key = target.key.removesuffix(target.name) + name
    try:
        return await target.store.client.head(key) is not None
    except NotFoundError:
        return False
