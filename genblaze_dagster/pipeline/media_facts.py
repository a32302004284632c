"""What media is: by its first bytes before it is stored, and by all it proves afterwards."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel

from genblaze_dagster.media.probe import probe
from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.storage.store import MediaStore, StoredMedia
from genblaze_dagster.storage.transfer import MediaSource

UNKNOWN_MEDIA_TYPE: Final = "application/octet-stream"

_SNIFFED_BYTES = 64
# Facts that need the whole file are read back from the store up to this size; above it the
# provider's own word has to do.
_READ_BACK_BYTES = 64 * 1024 * 1024
# Headers in memory are read in 0.1 ms, less than handing them to a thread takes.
_INLINE_BYTES = 512 * 1024
# Facts of an `Asset` that have fields of their own.
_RECORDS: Final = ("audio", "video")


async def sniffed(source: MediaSource, *, said: str | None = None) -> tuple[str, MediaSource]:
    """Return the media type of a source, and the whole of it.

    Args:
        source: an iterator is read as far as needed; go on with the source that is returned.
        said: the Content-Type it came with, for bytes that prove nothing.
    """
    head, whole = await _peek(source)
    arrived = (said or "").partition(";")[0].strip()
    return sniff_media_type(head) or arrived or UNKNOWN_MEDIA_TYPE, whole


async def proven_facts(
    store: MediaStore, stored: StoredMedia, local: bytes | Path | None = None
) -> dict[str, Any]:
    """Return the fields of an `Asset` that stored media prove; `local` is the same media.

    Raises:
        StorageError: it cannot be read back.
        OSError: the local file cannot be read.
    """
    media_type = stored.media_type or UNKNOWN_MEDIA_TYPE
    source = stored.data if stored.data is not None else local
    if source is None:
        whole = not media_type.startswith("image/") and stored.size_bytes <= _READ_BACK_BYTES
        source = await store.get(stored.key) if whole else stored.head
    if isinstance(source, bytes) and len(source) <= _INLINE_BYTES:
        return probe(source, media_type)
    return await asyncio.to_thread(probe, source, media_type)


def merged_facts(proven: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of media: field by field what the provider says, else what is proven."""
    facts = {**proven, **_known(said)}
    for name in _RECORDS:
        record = said.get(name)
        fields = record.model_dump() if isinstance(record, BaseModel) else record
        if name in proven and isinstance(fields, Mapping):
            facts[name] = {**proven[name], **_known(cast(Mapping[str, Any], fields))}
    return facts


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fact for name, fact in facts.items() if fact is not None}


async def _peek(source: MediaSource) -> tuple[bytes, MediaSource]:
    if isinstance(source, bytes):
        return source[:_SNIFFED_BYTES], source
    if isinstance(source, Path):
        return await asyncio.to_thread(_head, source), source
    start = b""
    while len(start) < _SNIFFED_BYTES and (piece := await anext(source, b"")):
        start += piece
    return start[:_SNIFFED_BYTES], _joined(start, source)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SNIFFED_BYTES)


async def _joined(start: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield start
    async for piece in rest:
        yield piece
