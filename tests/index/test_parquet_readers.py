"""What others make of a ParquetSink's folder: pyarrow, DuckDB, and genblaze's own sink."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from genblaze_dagster.index.parquet_rows import COLUMNS, sink_schema
from genblaze_dagster.index.parquet_sink import ParquetSink
from tests.index.making import generation, media
from tests.index.sinking import changed, copy_tree, expected, files, rows, table, vector_manifests


def test_every_file_has_the_fixed_types(vectors, tmp_path) -> None:
    """Also where a column is null in every row."""
    ParquetSink(tmp_path).write_many(vector_manifests(vectors))
    for name in COLUMNS:
        paths = list((tmp_path / name).rglob("*.parquet"))
        assert len(paths) >= 2
        for path in paths:
            assert pq.ParquetFile(path).schema_arrow.equals(sink_schema(name))


def test_pyarrow_and_duckdb_read_the_folders(tmp_path) -> None:
    """Tables, datasets and globs open; names that need no sanitising come back as recorded."""
    error = {"error": "refused", "cost_usd": None}
    made = [generation([media("a")]), generation([], **error), generation([media("b")], seed=7)]
    assert len(ParquetSink(tmp_path).write_many(made)) == 3
    folder = tmp_path / "steps"
    wanted = sorted((m.run.run_id, "local", "image", m.run.steps[0].error) for m in made)
    columns = ["run_id", "provider", "modality", "error"]
    discovered = ds.HivePartitioning.discover(infer_dictionary=True)
    for found in (
        pq.read_table(folder),
        pq.read_table(folder, partitioning=None),
        ds.dataset(folder).to_table(),
        ds.dataset(folder, partitioning=discovered).to_table(),
        ParquetSink(tmp_path).dataset("steps").to_table(),
    ):
        read = found.select(columns).to_pylist()
        assert sorted(tuple(row.values()) for row in read) == wanted
    for hive in (True, False):
        relation = duckdb.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=hive)
        read = relation.select(*columns).fetchall()
        assert sorted(read) == wanted


def test_recorded_values_are_there_where_folder_names_differ(vectors, tmp_path) -> None:
    """`dataset`, and readers told not to use folder names, give what the manifest says."""
    ParquetSink(tmp_path).write_many(vector_manifests(vectors))
    wanted = {("acme", "image"), ("acme", "video"), ("open ai/2", "text"), (None, "audio")}
    read = table(tmp_path, "steps")
    assert {(row["provider"], row["modality"]) for row in read} == wanted
    sql = "select provider, modality from read_parquet(?, hive_partitioning=false)"
    found = duckdb.sql(sql, params=[f"{tmp_path}/steps/**/*.parquet"]).fetchall()
    assert set(found) == wanted
    assert {row["tenant_id"] for row in table(tmp_path, "runs")} == {
        run["tenant_id"] or "default" for run in expected(vectors)["input_runs"]
    }


def test_a_folder_that_genblaze_wrote_into_is_read_as_one(vectors, tmp_path) -> None:
    """Its files with null columns stand before and after ours; pyarrow and DuckDB read all."""
    theirs = vectors / "genblaze" / "parquet"
    copy_tree(theirs, tmp_path)
    full = generation([media("x", width=4, height=4)], error="e", seed=1)
    for day in (datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)):
        run_id = f"7b000000-0000-4000-8000-{day.year:012d}"
        ParquetSink(tmp_path).write(changed(full, run_id=run_id, created_at=day))
    for name in COLUMNS:
        theirs_count = len([row for p in (theirs / name).rglob("*.parquet") for row in rows(p)])
        found = table(tmp_path, name)
        assert len(found) == theirs_count + 2
        sql = "select * from read_parquet(?, union_by_name=true, hive_partitioning=false)"
        read = duckdb.sql(sql, params=[f"{tmp_path}/{name}/**/*.parquet"]).to_arrow_table()
        assert sorted(map(json.dumps, read.to_pylist())) == sorted(map(json.dumps, found))


def test_indexing_what_genblaze_wrote_gives_its_files_types(vectors, tmp_path) -> None:
    """The same runs again replace genblaze's files at their places; plain readers then work."""
    copy_tree(vectors / "genblaze" / "parquet", tmp_path)
    before = files(tmp_path)
    with pytest.raises(Exception, match="incompatible types"):
        pq.read_table(tmp_path / "steps")
    assert len(ParquetSink(tmp_path).write_many(vector_manifests(vectors))) == 3
    assert files(tmp_path) == before
    assert pq.read_table(tmp_path / "steps").num_rows == 5


def test_an_empty_sink_has_empty_tables(tmp_path) -> None:
    """Before the first run every table is there, with its columns and no rows."""
    for name in COLUMNS:
        found = ParquetSink(tmp_path / "none").dataset(name).to_table()
        assert (found.num_rows, found.schema) == (0, sink_schema(name))


def test_genblaze_takes_our_files_for_its_own(vectors, tmp_path) -> None:
    """Its sink, given runs that we wrote, leaves our tables alone, and so do we afterwards."""
    manifests = vector_manifests(vectors)
    sink = ParquetSink(tmp_path)
    assert len(sink.write_many(manifests)) == 3
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", THEIRS, str(tmp_path)],
        input=json.dumps(expected(vectors)["input_runs"]).encode(),
        check=True,
        timeout=300,
    )
    after = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    tables = [name for name in before if not name.startswith("_run_index")]
    assert {name: after[name] for name in tables} == {name: before[name] for name in tables}
    assert after.keys() == before.keys()
    assert not sink.write_many(manifests)


THEIRS = """
import json, sys
from genblaze_core.models import Manifest, Run
from genblaze_core.sinks.parquet import ParquetSink

sink = ParquetSink(sys.argv[1])
for document in json.load(sys.stdin):
    run = Run.model_validate(document)
    sink.write_run(run, Manifest.from_run(run))
sink.close()
"""
