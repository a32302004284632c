"""Reading segments back: concurrently, checked, complete."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from genblaze_dagster.errors import IndexQueryError, NotFoundError
from genblaze_dagster.index.schema import SCHEMA_VERSION, TableName, arrow_schema
from genblaze_dagster.index.segment import FACTS, FOLDER, segment_key
from genblaze_dagster.storage.store import MediaStore

if TYPE_CHECKING:
    import pyarrow as pa

_CONCURRENCY = 32
_ATTEMPTS = 3

REBUILD = "genblaze_dagster.index.catalog.rebuild(store)"


@dataclass(frozen=True, slots=True)
class Segment:
    """One complete segment; tables without rows are missing."""

    id: str
    tables: Mapping[TableName, "pa.Table"]


async def read_segments(store: MediaStore) -> list[Segment]:
    """Read every complete segment, oldest first.

    Raises:
        IndexQueryError: a segment is damaged, incomplete or of a newer release; names it.
        StorageError: the store cannot be read.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return await _read_listed(store)
        except NotFoundError:
            # A rebuild or compaction has replaced segments since they were listed.
            continue
    try:
        return await _read_listed(store)
    except NotFoundError as exc:
        raise IndexQueryError(
            f"{store.url}: index segment {exc.key} is missing although its run table lists it; "
            f"rebuild the index with {REBUILD}"
        ) from exc


async def _read_listed(store: MediaStore) -> list[Segment]:
    listed = {info.key async for info in store.list(f"{FOLDER}/{TableName.RUNS.value}")}
    stems = {PurePosixPath(key).stem for key in listed}
    ids = sorted(stem for stem in stems if segment_key(TableName.RUNS, stem) in listed)
    slots = asyncio.Semaphore(_CONCURRENCY)

    async def one(segment_id: str) -> Segment:
        async with slots:
            return await _read_segment(store, segment_id)

    return list(await asyncio.gather(*(one(segment_id) for segment_id in ids)))


async def _read_segment(store: MediaStore, segment_id: str) -> Segment:
    runs, facts = await _read_table(store, TableName.RUNS, segment_id)
    others = [
        table
        for table in TableName
        if table is not TableName.RUNS and facts["rows"].get(table.value)
    ]
    read = await asyncio.gather(*(_read_table(store, table, segment_id) for table in others))
    tables = {TableName.RUNS: runs}
    tables |= {table: found for table, (found, _) in zip(others, read, strict=True)}
    return Segment(segment_id, tables)


async def _read_table(
    store: MediaStore, table: TableName, segment_id: str
) -> tuple["pa.Table", dict[str, Any]]:
    key = segment_key(table, segment_id)
    data = await store.get(key)
    return await asyncio.to_thread(_parse, data, table, f"{store.url}: index segment {key}")


def _parse(data: bytes, table: TableName, name: str) -> tuple["pa.Table", dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as exc:
        raise IndexQueryError(f"{name} is damaged; rebuild the index with {REBUILD}") from exc
    facts = _facts(found.schema.metadata)
    version = facts.get("version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise IndexQueryError(
            f"{name} has version {version} and this release reads {SCHEMA_VERSION}; upgrade "
            f"genblaze-dagster, or rebuild the index with {REBUILD}"
        )
    if version != SCHEMA_VERSION or not found.schema.equals(arrow_schema(table)):
        raise IndexQueryError(
            f"{name} was not written by this package; rebuild the index with {REBUILD}"
        )
    return found.replace_schema_metadata(None), facts


def _facts(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    try:
        facts = json.loads((metadata or {}).get(FACTS, b"{}"))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) and isinstance(facts.get("rows"), dict) else {}
