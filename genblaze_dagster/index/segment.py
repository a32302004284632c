"""Writing the index: one segment per Dagster step or in-process run, never one per asset."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uuid_utils

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.index.rows import Row, manifest_rows
from genblaze_dagster.index.schema import SCHEMA_VERSION, TableName, arrow_schema
from genblaze_dagster.storage.keys import join_key
from genblaze_dagster.storage.store import MediaStore

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = f"index/v{SCHEMA_VERSION}"
MEDIA_TYPE = "application/vnd.apache.parquet"
FACTS = b"genblaze.index"
"""Parquet metadata key under which every file says its version, segment and sibling files."""

_SEGMENT_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


def segment_key(table: TableName, segment_id: str) -> str:
    """Return the key of one table of a segment."""
    return join_key("", FOLDER, table.value, f"{segment_id}.parquet")


class SegmentWriter:
    """Collects manifests and writes them as one Parquet object per table.

    A run that is added again replaces its earlier rows; across segments the latest segment wins.
    Ids of segments are time-ordered and never made from a manifest's content.

    Args:
        store: where manifests and index are.
        segment_id: names the next segment; minted when left out. Letters, digits, `-` and `_`.

    Raises:
        ConfigError: `segment_id` cannot be part of a key.
    """

    def __init__(self, store: MediaStore, *, segment_id: str | None = None) -> None:
        if segment_id is not None and not _SEGMENT_ID.fullmatch(segment_id):
            raise ConfigError(
                f"segment id {segment_id[:80]!r} is not usable; give up to 64 letters, digits, - or _"
            )
        self._store = store
        self._segment_id = segment_id
        self._pending: dict[str, dict[TableName, list[Row]]] = {}

    def add(
        self,
        manifest: Manifest,
        *,
        asset_key: str | None = None,
        partition_key: str | None = None,
        manifest_key: str | None = None,
    ) -> None:
        """Collect one manifest; nothing is written before `flush`.

        Args:
            manifest: what was stored.
            asset_key: the Dagster asset key joined with `/`, or `<pipeline>/<step>`.
            partition_key: None for an unpartitioned asset.
            manifest_key: where the manifest is in the store.

        Raises:
            ManifestError: parameters or metadata cannot be written as JSON.
        """
        self._pending[manifest.run.run_id] = manifest_rows(
            manifest,
            asset_key=asset_key,
            partition_key=partition_key,
            manifest_key=manifest_key,
        )

    async def flush(self) -> list[str]:
        """Write what was collected and return the keys; nothing when there is nothing.

        A table without rows has no object. `runs` is written last: without it the segment does
        not count. After a failure everything is kept, and the next flush writes the same segment.

        Raises:
            StorageError: it could not be stored; readers do not see a part of it.
        """
        if not self._pending:
            return []
        segment_id = self._segment_id or str(uuid_utils.uuid7())
        self._segment_id = segment_id
        written, self._pending = self._pending, {}
        try:
            files = await asyncio.to_thread(_files, segment_id, list(written.values()))
            runs = files.pop(TableName.RUNS)
            await asyncio.gather(
                *(self._put(segment_key(table, segment_id), data) for table, data in files.items())
            )
            await self._put(segment_key(TableName.RUNS, segment_id), runs)
        except BaseException:
            self._pending = written | self._pending
            raise
        self._segment_id = None
        return [segment_key(table, segment_id) for table in (*files, TableName.RUNS)]

    async def _put(self, key: str, data: bytes) -> None:
        await self._store.put(key, data, media_type=MEDIA_TYPE)


def _files(
    segment_id: str, manifests: Sequence[dict[TableName, list[Row]]]
) -> dict[TableName, bytes]:
    """Return the Parquet file of every table that has rows."""
    import pyarrow as pa

    rows = {table: [row for found in manifests for row in found[table]] for table in TableName}
    facts = {
        "version": SCHEMA_VERSION,
        "segment": segment_id,
        "rows": {table.value: len(found) for table, found in rows.items()},
    }
    files: dict[TableName, bytes] = {}
    for table, found in rows.items():
        if found:
            schema = arrow_schema(table).with_metadata({FACTS: json.dumps(facts).encode()})
            files[table] = _parquet(pa.Table.from_pylist(found, schema=schema))
    return files


def _parquet(table: "pa.Table") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
