"""The tables of `ParquetSink`: genblaze's columns, each with one Arrow type in every file.

The rows are those of the index, cut to these columns. Three columns are dictionaries, because
pyarrow reads the folder names of the same name (`tenant_id=...`) as dictionaries and refuses to
open a folder whose files hold anything else.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final

import orjson

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.redaction import redacted_run
from genblaze_dagster.errors import ManifestError
from genblaze_dagster.index.rows import Row, manifest_rows
from genblaze_dagster.index.schema import TableName, arrow_types

if TYPE_CHECKING:
    import pyarrow as pa

SinkRows = Mapping[TableName, list[Row]]

NO_TENANT: Final = "default"
"""Stands for a missing tenant, in the column and in the folder's name."""

_FORM: Final = 1
"""Part of every digest: raise it when the same rows are to be written differently."""

_DICTIONARY: Final = "dictionary"

# In the order in which the files of a run are written: `runs` completes it.
COLUMNS: Final[dict[TableName, Mapping[str, str]]] = {
    TableName.STEPS: {
        "run_id": "string",
        "step_id": "string",
        "provider": _DICTIONARY,
        "model": "string",
        "step_type": "string",
        "modality": _DICTIONARY,
        "status": "string",
        "prompt": "string",
        "seed": "int64",
        "params_json": "string",
        "asset_count": "int64",
        "retries": "int64",
        "cost_usd": "double",
        "error": "string",
        "error_code": "string",
        "started_at": "string",
        "completed_at": "string",
    },
    TableName.ASSETS: {
        "run_id": "string",
        "step_id": "string",
        "asset_id": "string",
        "url": "string",
        "media_type": "string",
        "sha256": "string",
        "size_bytes": "int64",
        "width": "int64",
        "height": "int64",
        "duration": "double",
        "frame_rate": "double",
        "video_codec": "string",
        "video_bitrate": "int64",
        "color_space": "string",
        "has_audio": "bool",
        "sample_rate": "int64",
        "channels": "int64",
        "audio_codec": "string",
        "track_count": "int64",
    },
    TableName.RUNS: {
        "run_id": "string",
        "parent_run_id": "string",
        "tenant_id": _DICTIONARY,
        "project_id": "string",
        "name": "string",
        "status": "string",
        "step_count": "int64",
        "canonical_hash": "string",
        "created_at": "string",
    },
}


@cache
def sink_schema(table: TableName) -> "pa.Schema":
    """Return the Arrow schema of a table: `runs`, `steps` or `assets`."""
    import pyarrow as pa

    types = {**arrow_types(), _DICTIONARY: pa.dictionary(pa.int32(), pa.string())}
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS[table].items()])


def sink_rows(manifest: Manifest, policy: EmbedPolicy) -> SinkRows:
    """Return what a manifest adds to each table, under a policy.

    A prompt is empty unless its step and the policy make it public, and is not quoted in another
    column either. URLs come without signatures, those that hold the media itself are missing, and
    so is a number too large for its column.

    Raises:
        ManifestError: parameters or metadata cannot be written as JSON.
    """
    shown = redacted_run(manifest.run, policy, canonical_hash=manifest.canonical_hash)
    if shown is not None:
        manifest = manifest.model_copy(update={"run": shown})
    found = manifest_rows(manifest, asset_key=None, partition_key=None, manifest_key=None)
    spelled = {
        TableName.RUNS: [_run(row) for row in found[TableName.RUNS]],
        TableName.STEPS: [_step(row) for row in found[TableName.STEPS]],
        TableName.ASSETS: found[TableName.ASSETS],
    }
    return {
        table: [{name: row.get(name) for name in columns} for row in spelled[table]]
        for table, columns in COLUMNS.items()
    }


def rows_digest(rows: SinkRows) -> bytes:
    """Return the SHA-256, in hex, of everything a run adds: another one means writing it again."""
    text = orjson.dumps([_FORM, *({table.value: rows[table]} for table in COLUMNS)])
    return hashlib.sha256(text).hexdigest().encode()


def sink_table(table: TableName, rows: list[Row]) -> "pa.Table":
    """Return rows as an Arrow table of the fixed schema.

    Raises:
        ManifestError: a value that was assigned, not validated, does not fit its column.
    """
    import pyarrow as pa

    schema = sink_schema(table)
    try:
        # One conversion for all columns: half the time of `Table.from_pylist` for a few rows.
        return pa.Table.from_struct_array(pa.array(rows, type=pa.struct(list(schema))))
    except (pa.ArrowException, OverflowError):
        # Arrow would quote the value, which may be anything.
        raise ManifestError(
            f"run {rows[0]['run_id']}: a value of its {table} has another type than its field; "
            "load the manifest with parse_manifest"
        ) from None


def _run(row: Row) -> Row:
    return {
        **row,
        "tenant_id": row["tenant_id"] or NO_TENANT,
        "name": row["name"] or "",
        "created_at": _iso(row["created_at"]),
    }


def _step(row: Row) -> Row:
    return {
        **row,
        # The index keeps no prompt that its step does not make public.
        "prompt": row["prompt"] or "",
        "started_at": _iso(row["started_at"]),
        "completed_at": _iso(row["completed_at"]),
    }


def _iso(time: datetime | None) -> str:
    return "" if time is None else time.isoformat()
