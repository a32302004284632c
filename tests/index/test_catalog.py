"""Loading and asking: empty, damaged, rewritten and hostile."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genblaze_dagster.errors import IndexQueryError
from genblaze_dagster.index.catalog import IndexCatalog
from genblaze_dagster.index.schema import COLUMNS, TableName, arrow_schema
from genblaze_dagster.index.segment import SegmentWriter, segment_key
from genblaze_dagster.storage.store import MediaStore
from tests.index.making import digest, generation, indexed, media, new_id


def load(store: MediaStore) -> IndexCatalog:
    catalog = IndexCatalog(store)
    asyncio.run(catalog.load())
    return catalog


def write(store: MediaStore, *manifests) -> list[str]:
    writer = SegmentWriter(store)
    for manifest in manifests:
        writer.add(manifest)
    return asyncio.run(writer.flush())


def put(store: MediaStore, key: str, data: bytes) -> None:
    asyncio.run(store.put(key, data, media_type=None))


@pytest.mark.parametrize("table", list(TableName))
def test_an_empty_index_has_typed_empty_tables(store, table):
    """A store nobody has written to answers with the right columns and no rows."""
    answer = load(store).query(f"from {table}")
    assert answer.num_rows == 0
    assert answer.column_names == list(COLUMNS[table])
    plain = [str(kind).replace("tz=Etc/UTC", "tz=UTC") for kind in answer.schema.types]
    assert plain == [str(kind) for kind in arrow_schema(table).types]


def test_asking_before_loading_is_an_error(store):
    """The message says what to await."""
    with pytest.raises(IndexQueryError, match="await load"):
        IndexCatalog(store).query("select 1")


def test_loading_again_sees_what_was_written_since(store):
    """A catalogue shows the index as of its last load."""
    write(store, generation([media("1")]))
    catalog = load(store)
    write(store, generation([media("2")]))
    count = "select count(*) as n from runs"
    assert catalog.query(count).to_pylist() == [{"n": 1}]
    asyncio.run(catalog.load())
    assert catalog.query(count).to_pylist() == [{"n": 2}]


def test_the_latest_segment_of_a_run_wins_in_every_table(store):
    """A rewritten run appears once, with none of the rows it had before."""
    run_id = new_id()
    source = generation([media("source")])
    write(store, generation([media("a"), media("b")], run_id=run_id, upstream=[source]))
    write(store, generation([media("c")], run_id=run_id, cost_usd=0.5))
    catalog = load(store)

    def rows(table: str) -> list[dict[str, object]]:
        return catalog.query(f"from {table} where run_id = ?", [run_id]).to_pylist()

    assert [row["cost_usd"] for row in rows("runs")] == [0.5]
    assert len(rows("steps")) == 1
    assert [row["sha256"] for row in rows("assets")] == [digest("c")]
    assert rows("inputs") == []


def test_segments_with_all_null_columns_load_together(store):
    """Type drift between files, fatal with genblaze's own layout, cannot happen."""
    write(store, generation([media("1")], prompt=None, cost_usd=None))
    write(store, generation([media("2", width=5, height=6)], seed=1))
    answer = load(store).query("select prompt, seed from steps order by run_id").to_pylist()
    assert answer == [{"prompt": None, "seed": None}, {"prompt": "a fox", "seed": 1}]


def test_a_segment_without_its_run_table_does_not_count(store):
    """A writer that died half-way leaves nothing a reader sees."""
    keys = write(store, generation([media("1")]))
    asyncio.run(store.delete(keys[-1]))
    assert load(store).query("select * from assets").num_rows == 0


def test_a_lost_table_is_named(store):
    """A segment whose run table promises rows that are gone is an error, not a smaller answer."""
    keys = write(store, generation([media("1")]))
    asyncio.run(store.delete(keys[0]))
    with pytest.raises(IndexQueryError, match=rf"{keys[0]} is missing .*rebuild"):
        load(store)


@pytest.mark.parametrize("damage", ["truncated", "not parquet", "empty"])
@pytest.mark.parametrize("table", [TableName.RUNS, TableName.STEPS])
def test_a_damaged_segment_is_named_with_the_remedy(store, damage, table):
    """Bytes that are no Parquet file give a typed error naming the object."""
    keys = write(store, generation([media("1")]))
    key = next(key for key in keys if f"/{table}/" in key)
    data = asyncio.run(store.get(key))
    put(
        store,
        key,
        {"truncated": data[: len(data) // 2], "not parquet": b"x" * 500}.get(damage, b""),
    )
    with pytest.raises(IndexQueryError, match=rf"{key} is damaged; rebuild the index"):
        load(store)


def parquet(schema: pa.Schema, facts: object) -> bytes:
    sink = pa.BufferOutputStream()
    described = schema.with_metadata({b"genblaze.index": json.dumps(facts).encode()})
    pq.write_table(described.empty_table(), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("schema", "facts"),
    [
        (pa.schema([("run_id", pa.string())]), {"version": 1, "rows": {}}),
        (arrow_schema(TableName.RUNS), {}),
        (arrow_schema(TableName.RUNS), ["not", "an", "object"]),
        (arrow_schema(TableName.RUNS), {"version": 1}),
        (arrow_schema(TableName.STEPS), {"version": 1, "rows": {}}),
    ],
)
def test_a_foreign_parquet_file_is_named(store, schema, facts):
    """A file somebody else put there is not taken for a segment."""
    put(store, segment_key(TableName.RUNS, "foreign"), parquet(schema, facts))
    with pytest.raises(IndexQueryError, match=r"foreign.parquet was not written by this package"):
        load(store)


def test_other_objects_below_the_index_are_not_segments(store):
    """Notes and folders somebody keeps there are not read."""
    write(store, generation([media("1")]))
    put(store, "index/v1/runs/README.md", b"hello")
    put(store, "index/v1/runs/backup/old.parquet", b"hello")
    assert load(store).query("from runs").num_rows == 1


def test_a_newer_segment_asks_for_an_upgrade(store):
    """A segment of a later release is refused with both versions, not misread."""
    newer = parquet(pa.schema([("other", pa.int8())]), {"version": 9, "rows": {}})
    put(store, segment_key(TableName.RUNS, "new"), newer)
    with pytest.raises(IndexQueryError, match=r"new.parquet has version 9 .* reads 1; upgrade"):
        load(store)


OUTSIDE = [
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('/etc/passwd')",
    "select * from glob('/etc/*')",
    "select * from read_parquet('https://example.com/x.parquet')",
    "select * from python_variable",
    "select content from query('select content from read_text(''/etc/passwd'')')",
]
CHANGES = [
    "copy runs to '{path}'",
    "export database '{path}'",
    "attach '{path}' as other",
    "install httpfs",
    "load httpfs",
    "set enable_external_access = true",
    "drop table runs",
    "insert into runs select * from runs",
    "create table x as select 1",
    "explain analyze drop table runs",
    "prepare x as select 1",
    "call pragma_version()",
    "select 1; drop table runs",
    "",
]


@pytest.mark.parametrize("sql", OUTSIDE)
def test_sql_cannot_reach_files_network_or_python(store, sql):
    """Anything outside the index is a typed error with DuckDB's explanation."""
    python_variable = pa.table({"secret": [1]})
    assert python_variable.num_rows == 1
    with pytest.raises(IndexQueryError, match="query of the index failed"):
        indexed(store, generation([media("1")])).query(sql)


@pytest.mark.parametrize("sql", CHANGES)
def test_sql_cannot_change_anything(tmp_path, store, sql):
    """Only a single SELECT runs, and the tables stay as they are."""
    catalog = indexed(store, generation([media("1")]))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(IndexQueryError):
        catalog.query(sql.format(path=tmp_path / "out"))
    assert catalog.query("from runs").num_rows == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_connection_of_ones_own_is_sealed_too(store):
    """`connect` allows scratch tables, and neither files nor changed settings."""
    import duckdb

    catalog = indexed(store, generation([media("1")]))
    with catalog.connect() as connection:
        connection.execute("create table mine as select run_id from runs")
        assert connection.execute("select count(*) from mine").fetchone() == (1,)
        for sql in ("select * from read_csv('/etc/passwd')", "set enable_external_access = true"):
            with pytest.raises(duckdb.Error):
                connection.execute(sql)
    assert catalog.query("select * from runs").num_rows == 1


def test_a_mistake_in_sql_gets_duckdbs_explanation(store):
    """A typo is explained, with DuckDB's proposal."""
    catalog = load(store)
    with pytest.raises(IndexQueryError, match="modell") as failed:
        catalog.query("select modell from steps")
    assert "model" in str(failed.value)
    with pytest.raises(IndexQueryError):
        catalog.query("selct 1")


def test_parameters_are_values_never_sql(store):
    """A parameter with quotes is compared, not executed."""
    catalog = indexed(store, generation([media("1")], prompt="it's; drop table runs --"))
    found = catalog.query("select prompt from steps where prompt = ?", ["it's; drop table runs --"])
    assert found.num_rows == 1


def test_threads_may_ask_at_the_same_time(store):
    """Every query has a cursor of its own."""
    catalog = indexed(store, *(generation([media(str(n))]) for n in range(20)))
    with ThreadPoolExecutor(8) as pool:
        counts = pool.map(
            lambda n: catalog.query("select count(*) + ? as n from runs", [n]).to_pylist(),
            range(40),
        )
        assert [count[0]["n"] for count in counts] == [20 + n for n in range(40)]


def test_an_index_in_a_bucket_is_the_same(s3_server, s3_bucket):
    """Segments are read through the store: no DuckDB extension, no local file."""
    store = MediaStore(
        f"s3://{s3_bucket}/some/prefix",
        endpoint_url=s3_server.url,
        region="us-east-1",
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
    )
    image = generation([media("1")])
    catalog = indexed(store, image, generation([media("2")], upstream=[image]))
    assert catalog.query("select count(*) as n from steps").to_pylist() == [{"n": 3}]
