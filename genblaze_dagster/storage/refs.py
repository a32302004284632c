"""References: small mutable objects that lead from asset and partition to the media of now.

`refs/<asset>/<partition>.json`, and `refs/<asset>/@.json` for an asset without partitions. Every
name is percent-escaped, so `@` and `/` inside one cannot be mistaken for ours.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any, cast
from urllib.parse import quote

import orjson

from genblaze_dagster.core.reference import REF_VERSION, MediaRef
from genblaze_dagster.errors import (
    ConflictError,
    GenblazeError,
    NotFoundError,
    SchemaError,
    StorageError,
)
from genblaze_dagster.storage.store import MediaStore

FOLDER = "refs"
UNPARTITIONED = "@"

_MAX_NAME = 180
_MAX_BYTES = 1024 * 1024
_CONCURRENCY = 32
_TEXTS = (
    "asset_key",
    "run_id",
    "step_id",
    "manifest_key",
    "manifest_url",
    "canonical_hash",
    "generation_key",
    "model",
    "modality",
    "created_at",
)
_MEDIA_TEXTS = ("asset_id", "sha256", "media_type", "key", "url")
_RENDITION_TEXTS = ("sha256", "key", "url")

OnDamaged = Callable[[str, GenblazeError], None]
"""Called with the key of a reference that cannot be read, and why."""


def ref_key(asset_key: str, partition_key: str | None) -> str:
    """Return the key of a reference; different pairs have different keys, also on a file system."""
    name = UNPARTITIONED if partition_key is None else _escaped(partition_key)
    return f"{_folder(asset_key)}/{name}.json"


async def write_ref(store: MediaStore, ref: MediaRef) -> None:
    """Point asset and partition to a finished generation; the last writer wins.

    Raises:
        StorageError: it could not be stored; the old reference stays.
    """
    await store.put(
        ref_key(ref.asset_key, ref.partition_key),
        orjson.dumps(ref.to_dict()),
        media_type="application/json",
        cache_control="no-cache",
    )


async def read_ref(store: MediaStore, asset_key: str, partition_key: str | None) -> MediaRef | None:
    """Return the reference of an asset and partition, None when there is none.

    Raises:
        SchemaError: the stored object is not a reference this release reads.
        ConflictError: it belongs to another asset or partition (a file system that ignores case).
    """
    key = ref_key(asset_key, partition_key)
    ref = await _read(store, key)
    if ref is not None and (ref.asset_key, ref.partition_key) != (asset_key, partition_key):
        raise ConflictError(
            f"{store.url}: {key} belongs to {ref.asset_key} [{ref.partition_key}]; "
            "the file system takes two names for one, rename the asset or partition",
            key=key,
        )
    return ref


async def read_refs(
    store: MediaStore, asset_key: str, partition_keys: Iterable[str]
) -> dict[str, MediaRef]:
    """Return the references of several partitions, read at the same time; missing ones are absent.

    Raises:
        SchemaError: a stored object is not a reference this release reads.
    """
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def one(partition_key: str) -> tuple[str, MediaRef | None]:
        async with slots:
            return partition_key, await read_ref(store, asset_key, partition_key)

    found = await asyncio.gather(*(one(key) for key in dict.fromkeys(partition_keys)))
    return {key: ref for key, ref in found if ref is not None}


async def list_refs(
    store: MediaStore, asset_key: str | None = None, *, damaged: OnDamaged | None = None
) -> AsyncGenerator[MediaRef, None]:
    """Yield the references of one asset, or all of the store, in no particular order.

    Args:
        store: where they are.
        asset_key: the asset; None for all.
        damaged: told about each reference that cannot be read, which is then left out. Without
            it the first one ends the listing.

    Raises:
        SchemaError: a stored object is not a reference this release reads.
        StorageError: the store failed.
    """
    folder = FOLDER if asset_key is None else _folder(asset_key)
    batch: list[str] = []
    async for info in store.list(folder):
        batch.append(info.key)
        if len(batch) == _CONCURRENCY:
            async for ref in _read_all(store, batch, asset_key, damaged):
                yield ref
            batch = []
    async for ref in _read_all(store, batch, asset_key, damaged):
        yield ref


async def _read_all(
    store: MediaStore, keys: list[str], asset_key: str | None, damaged: OnDamaged | None
) -> AsyncGenerator[MediaRef, None]:
    for ref in await asyncio.gather(*(_read_or_tell(store, key, damaged) for key in keys)):
        # The folder of asset `a` also holds that of asset `a/b`.
        if ref is not None and asset_key in (None, ref.asset_key):
            yield ref


async def _read_or_tell(store: MediaStore, key: str, damaged: OnDamaged | None) -> MediaRef | None:
    try:
        return await _read(store, key)
    except (SchemaError, StorageError) as exc:
        # A transient error is about the store, any other about this one object.
        if damaged is None or exc.transient:
            raise
        damaged(key, exc)
        return None


async def _read(store: MediaStore, key: str) -> MediaRef | None:
    try:
        data = await store.get(key, max_bytes=_MAX_BYTES)
    except NotFoundError:
        return None
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise SchemaError(f"{store.url}: {key} is not JSON; materialise it again") from exc
    if not isinstance(document, dict):
        raise SchemaError(f"{store.url}: {key} is not a reference; materialise it again")
    fields = cast(dict[str, Any], document)
    if fields.get("version") == REF_VERSION and not _is_well_formed(fields):
        raise SchemaError(f"{store.url}: {key} is not a reference; materialise it again")
    try:
        return MediaRef.from_dict(fields)
    except SchemaError as exc:
        raise SchemaError(f"{store.url}: {key}: {exc}; materialise it again") from exc


def _is_well_formed(fields: Mapping[str, Any]) -> bool:
    """Whether every text is one; the rest of the code takes that for granted."""
    media = fields.get("media")
    return (
        _has_texts(fields, _TEXTS)
        and isinstance(fields.get("partition_key"), str | None)
        and isinstance(media, list)
        and all(
            _has_texts(item, _MEDIA_TEXTS)
            and (item.get("embedded") is None or _has_texts(item["embedded"], _RENDITION_TEXTS))
            for item in cast(list[Any], media)
        )
    )


def _has_texts(value: object, names: tuple[str, ...]) -> bool:
    if not isinstance(value, dict):
        return False
    fields = cast(dict[str, object], value)
    return all(isinstance(fields.get(name), str) for name in names)


def _folder(asset_key: str) -> str:
    # A dot would make `.` and `..` segments, and a folder that looks like a file of ours.
    segments = (_escaped(segment).replace(".", "%2E") for segment in asset_key.split("/"))
    return "/".join((FOLDER, *segments))


def _escaped(name: str) -> str:
    escaped = quote(name, safe="")
    if len(escaped) <= _MAX_NAME:
        return escaped
    # File systems end a name at 255 bytes. `@` is never part of an escaped name.
    return f"{escaped[:100]}@{hashlib.sha256(name.encode()).hexdigest()[:32]}"
