"""What a ParquetSink wrote, and the runs of the vectors to write."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.index.parquet_sink import ParquetSink

PLAIN_ID = "7a000000-0000-4000-8000-000000000001"


def expected(vectors: Path) -> dict[str, Any]:
    return json.loads((vectors / "genblaze" / "parquet_expected.json").read_text())


def vector_manifests(vectors: Path) -> list[Manifest]:
    runs = expected(vectors)["input_runs"]
    return [Manifest.from_run(Run.model_validate(run)) for run in runs]


def files(base: Path) -> list[str]:
    return sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.is_file())


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.ParquetFile(path).read().to_pylist()


def table(base: Path, name: str) -> list[dict[str, Any]]:
    found = ParquetSink(base).dataset(name).to_table().to_pylist()
    return sorted(found, key=lambda row: (row["run_id"], row.get("step_id", "")))


def changed(manifest: Manifest, **run: Any) -> Manifest:
    """The manifest with fields of its run replaced that its hash does not cover."""
    return manifest.model_copy(update={"run": manifest.run.model_copy(update=run)})


def copy_tree(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
