import csv
import io

import pytest

from genblaze_dagster.index.schema import COLUMNS, TableName


@pytest.fixture
def indexed(shelf):
    """Three images in a store with an index."""
    shelf.add("north")
    shelf.add("south", prompt="a harbour, \x1b[31mred\x1b[0m")
    shelf.add("west", prompt="a harbour, at dusk")
    shelf.index()
    return shelf


QUERY = "select partition_key, cost_usd, parent_run_id from runs order by partition_key"


def test_a_query_answers_as_a_table(indexed, launch) -> None:
    """A person gets a table and a count; nothing is cut in a pipe."""
    query = "select canonical_hash as the_hash, * from runs"
    ended = launch("sql", query, "--store", indexed.store.url)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout.rstrip().endswith("3 row(s)")
    for stored in indexed.stored:
        assert ended.stdout.count(stored.manifest.canonical_hash) == 2
        assert stored.ref.run_id in ended.stdout


def test_a_query_answers_as_json(indexed, invoke) -> None:
    """--json and --format json are the same document: columns with types, rows as objects."""
    ended = invoke("sql", QUERY, "--json", "--store", indexed.store.url)
    assert ended.status == 0
    assert ended.document["columns"] == [
        {"name": "partition_key", "type": "string"},
        {"name": "cost_usd", "type": "double"},
        {"name": "parent_run_id", "type": "string"},
    ]
    assert ended.document["rows"] == [
        {"partition_key": name, "cost_usd": 0.5, "parent_run_id": None}
        for name in ("north", "south", "west")
    ]
    same = invoke("sql", QUERY, "--format", "json", "--store", indexed.store.url)
    assert same.stdout == ended.stdout


def test_a_query_answers_as_csv(indexed, invoke) -> None:
    """CSV that Python's own reader takes apart; NULL is an empty field."""
    query = QUERY.replace("cost_usd", "cost_usd, run_id like '%1' as odd")
    ended = invoke("sql", query, "--format", "csv", "--store", indexed.store.url)
    assert list(csv.reader(io.StringIO(ended.stdout))) == [
        ["partition_key", "cost_usd", "odd", "parent_run_id"],
        ["north", "0.5", "false", ""],
        ["south", "0.5", "true", ""],
        ["west", "0.5", "false", ""],
    ]


def test_every_type_has_a_json_form(indexed, invoke) -> None:
    """Dates, decimals, bytes, lists, NaN and repeated names come out as plain JSON."""
    query = (
        "select 1.50::decimal(5,2) d, 170141183460469231731687303715884105727::hugeint h,"
        " 'nan'::double n, 'ab'::blob b, date '2026-01-02' t, timestamp '2026-01-02 03:04:05' ts,"
        " [1, 2] l, {'k': 1.5} s, true y, 7 twice, 8 twice, interval 1 day i"
    )
    ended = invoke("sql", query, "--json", "--store", indexed.store.url)
    (row,) = ended.document["rows"]
    assert row.pop("i")
    assert row == {
        "d": 1.5,
        "h": 170141183460469231731687303715884105727,
        "n": None,
        "b": "6162",
        "t": "2026-01-02",
        "ts": "2026-01-02T03:04:05",
        "l": [1, 2],
        "s": {"k": 1.5},
        "y": True,
        "twice": 7,
        "twice_2": 8,
    }


def test_a_prompt_cannot_steer_the_terminal(indexed, invoke) -> None:
    """What is in the index was written by anybody; a table shows its escapes."""
    query = "select prompt from steps"
    ended = invoke("sql", query, "--store", indexed.store.url)
    assert "\x1b" not in ended.stdout
    assert "a harbour, \\x1b[31mred" in ended.stdout


def test_cost_per_model_is_a_question(indexed, invoke) -> None:
    """The named question sums what each model cost."""
    ended = invoke("sql", "--question", "cost-per-model", "--json", "--store", indexed.store.url)
    (row,) = ended.document["rows"]
    assert (row["model"], row["generations"], row["cost_usd"]) == ("local-image", 3, 1.5)


def test_lineage_is_a_question_about_bytes_or_a_run(indexed, invoke) -> None:
    """The same answer for the SHA-256 of an output and for its run."""
    ref = indexed.stored[0].ref
    answers = [
        invoke("sql", "--question", "lineage", "--of", of, "--json", "--store", indexed.store.url)
        for of in (ref.data_version, ref.run_id)
    ]
    for ended in answers:
        (row,) = ended.document["rows"]
        assert (row["run_id"], row["sha256"]) == (ref.run_id, ref.data_version)


def test_outputs_of_a_prompt_is_a_question(indexed, invoke) -> None:
    """The outputs of exactly this prompt, and of no other."""
    words = ("sql", "--question", "outputs-of-prompt", "--json", "--store", indexed.store.url)
    ended = invoke(*words, "--prompt", "a harbour, at dusk")
    assert [row["partition_key"] for row in ended.document["rows"]] == ["west"]
    assert invoke(*words, "--prompt", "a harbour").document["rows"] == []


def test_tables_lists_every_column_without_a_store(invoke) -> None:
    """What can be queried is known before there is anything to query."""
    rows = invoke("sql", "--tables", "--json").document["rows"]
    assert {(row["table"], row["column"]) for row in rows} == {
        (table.value, column) for table, columns in COLUMNS.items() for column in columns
    }


@pytest.mark.parametrize(
    "query",
    [
        "select nothing from runs",
        "selct 1",
        "select * from no_such_table",
        "drop table runs",
        "select 1; select 2",
        "",
        "copy runs to 'out.csv'",
        "select * from read_csv('/etc/passwd')",
    ],
)
def test_wrong_sql_ends_with_5(query: str, indexed, invoke) -> None:
    """DuckDB's explanation on stderr, nothing on stdout, and an error document with --json."""
    ended = invoke("sql", query, "--store", indexed.store.url)
    assert (ended.status, ended.stdout) == (5, "")
    assert ended.stderr.startswith("error: ")
    ended = invoke("sql", query, "--json", "--store", indexed.store.url)
    assert ended.document["error"]["type"] == "IndexQueryError"


def test_the_explanation_keeps_its_lines(indexed, invoke) -> None:
    """The caret under the mistake stays where DuckDB put it."""
    ended = invoke("sql", "select nothing from runs", "--store", indexed.store.url)
    assert ended.status == 5
    assert "nothing" in ended.stderr
    assert "\\n" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("select 1", "--tables"),
        ("select 1", "--question", "cost-per-model"),
        ("--json",),
        ("--question", "lineage"),
        ("--question", "outputs-of-prompt"),
        ("--question", "cost-per-model", "--of", "x"),
        ("select 1", "--prompt", "x"),
        ("--question", "weather"),
    ],
)
def test_contradicting_options_are_a_usage_error(
    arguments: tuple[str, ...], indexed, invoke
) -> None:
    """One question at a time, with the options that belong to it."""
    assert invoke("sql", *arguments, "--store", indexed.store.url).status == 2


def test_the_default_store_comes_from_the_environment(indexed, invoke) -> None:
    """GENBLAZE_STORE names the store when nobody else does."""
    ended = invoke("sql", QUERY, "--json", env={"GENBLAZE_STORE": indexed.store.url})
    assert len(ended.document["rows"]) == 3


def test_without_any_store_the_message_says_how_to_name_one(launch) -> None:
    """No --store, no variable, no .genblaze folder: status 4 and the remedy."""
    ended = launch("sql", "select 1")
    assert ended.status == 4
    assert "GENBLAZE_STORE" in ended.stderr
    assert "--store" in ended.stderr


def test_a_store_without_an_index_has_empty_tables(shelf, invoke) -> None:
    """An empty index is an empty answer, not an error."""
    ended = invoke("sql", "select * from assets", "--json", "--store", shelf.store.url)
    assert ended.status == 0
    assert ended.document["rows"] == []
    assert len(ended.document["columns"]) == len(COLUMNS[TableName.ASSETS])


def test_an_index_in_a_bucket_is_queried(s3_server, s3_bucket: str, on_s3, invoke) -> None:
    """The index is read from an S3 store like from a directory."""
    shelf = on_s3(s3_bucket)
    shelf.add("p")
    shelf.index()
    url = f"s3://{s3_bucket}/media"
    ended = invoke("sql", QUERY, "--json", "--store", url, env=s3_server.environment())
    assert ended.status == 0, ended.stderr
    assert [row["partition_key"] for row in ended.document["rows"]] == ["p"]


def test_a_missing_bucket_ends_with_4(s3_server, invoke) -> None:
    """An unreachable store is no SQL error."""
    ended = invoke("sql", "select 1", "--store", "s3://nowhere", env=s3_server.environment())
    assert ended.status == 4
    assert "bucket does not exist" in ended.stderr
