"""The tables of the index: names, columns and types, fixed and versioned.

A manifest carries the step its run executed and, before it, the steps that led to its inputs. All
of them are rows of `steps`, in every run that carries them; `executed` marks the ones the row's own
run performed (the step's run id is the run's, or is missing as in manifests of other writers).
Sums over `steps`, `assets` or `inputs` are right only `where executed`.

Types are the same in every file, whatever values it holds. Times are UTC. A prompt that is not
public is NULL; its SHA-256 is kept, so that who has the prompt can find its outputs. A number that
does not fit its column (a seed above 63 bits, NaN) is NULL; the manifest has it.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1


class TableName(StrEnum):
    """The tables, in the order in which a segment's files are written: `runs` completes it."""

    INPUTS = "inputs"
    ASSETS = "assets"
    STEPS = "steps"
    RUNS = "runs"


_MEDIA = {
    "asset_id": "string",
    "sha256": "string",
    "media_type": "string",
    "size_bytes": "int64",
}

_STEP = {
    "run_id": "string",
    "step_id": "string",
    "step_index": "int64",
    "executed": "bool",
}

COLUMNS: Mapping[TableName, Mapping[str, str]] = {
    TableName.RUNS: {
        "run_id": "string",
        "parent_run_id": "string",
        "tenant_id": "string",
        "project_id": "string",
        "name": "string",
        "status": "string",
        "asset_key": "string",
        "partition_key": "string",
        "step_count": "int64",
        "cost_usd": "double",
        "schema_version": "string",
        "canonical_hash": "string",
        "manifest_key": "string",
        "metadata_json": "string",
        "created_at": "timestamp",
        "started_at": "timestamp",
        "completed_at": "timestamp",
    },
    TableName.STEPS: {
        **_STEP,
        "executed_in": "string",
        "provider": "string",
        "model": "string",
        "model_version": "string",
        "step_type": "string",
        "modality": "string",
        "status": "string",
        "prompt": "string",
        "negative_prompt": "string",
        "prompt_sha256": "string",
        "prompt_visibility": "string",
        "seed": "int64",
        "params_json": "string",
        "metadata_json": "string",
        "input_count": "int64",
        "asset_count": "int64",
        "retries": "int64",
        "cost_usd": "double",
        "error": "string",
        "error_code": "string",
        "started_at": "timestamp",
        "completed_at": "timestamp",
    },
    TableName.ASSETS: {
        **_STEP,
        "position": "int64",
        **_MEDIA,
        "url": "string",
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
        "audio_bitrate": "int64",
        "track_count": "int64",
    },
    TableName.INPUTS: {
        **_STEP,
        "position": "int64",
        **_MEDIA,
        "from_step_id": "string",
        "from_run_id": "string",
    },
}


@cache
def arrow_types() -> Mapping[str, "pa.DataType"]:
    """Return the Arrow type of every column type named in `COLUMNS`."""
    import pyarrow as pa

    return {
        "string": pa.string(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }


@cache
def arrow_schema(table: TableName) -> "pa.Schema":
    """Return the Arrow schema of a table."""
    import pyarrow as pa

    types = arrow_types()
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS[table].items()])
