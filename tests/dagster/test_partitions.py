from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.errors import ConfigError, PartitionKeyError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.partitions import PromptRows, PromptTable, derived_key, partition_key
from genblaze_dagster.storage.store import MediaStore

ROWS = [
    {"key": "fox", "subject": "a red fox", "seed": 7},
    {"key": "owl", "subject": "an owl, at night", "seed": 8},
]


@pytest.fixture
def store(request: pytest.FixtureRequest) -> MediaStore:
    return MediaStore(f"memory://{request.node.name}")


def write_csv(path: Path) -> Path:
    file = path / "prompts.csv"
    file.write_text('key,subject,seed\nfox,a red fox,7\nowl,"an owl, at night",8\n')
    return file


def write_jsonl(path: Path) -> Path:
    file = path / "prompts.jsonl"
    file.write_text(
        '{"key": "fox", "subject": "a red fox", "seed": 7}\n\n'
        '{"key": "owl", "subject": "an owl, at night", "seed": 8}\n'
    )
    return file


def write_parquet(path: Path) -> Path:
    file = path / "prompts.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_a_file_of_any_kind_gives_one_row_per_partition_in_file_order(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    """CSV, JSON lines and Parquet give the same keys and rows."""
    table = PromptTable.from_file(write(tmp_path))
    assert table.keys == ["fox", "owl"]
    assert table.row("owl")["subject"] == "an owl, at night"
    assert [int(str(table.row(key)["seed"])) for key in table] == [7, 8]
    assert table.static_partitions().get_partition_keys() == ["fox", "owl"]


def test_a_byte_order_mark_and_blank_lines_are_no_data(tmp_path: Path) -> None:
    """A CSV file as spreadsheets write it has the columns one sees."""
    file = tmp_path / "p.csv"
    file.write_bytes("\ufeffkey,subject\r\n\r\na,b\r\n".encode())
    assert PromptTable.from_file(file).row("a") == {"key": "a", "subject": "b"}


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("p.csv", b"key,a\nx,1,2\n", "line 2 has 3 cells"),
        ("p.csv", b"key,key\nx,1\n", "repeated column"),
        ("p.csv", b'key,a\nx,"1\n', "line 2 is broken"),
        ("p.csv", b"key,a\n\xff\xfe,1\n", "not UTF-8"),
        ("p.jsonl", b'{"key": "a"}\n{"key": \n', "line 2 is not JSON"),
        ("p.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("p.parquet", b"PAR1 no", "not a readable Parquet"),
        ("p.txt", b"fox", "not a prompt file"),
    ],
)
def test_a_broken_file_is_refused_with_its_line_and_the_remedy(
    tmp_path: Path, name: str, content: bytes, named: str
) -> None:
    """The error says which file, which line, and what is wrong."""
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=named) as caught:
        PromptTable.from_file(file)
    assert name in str(caught.value)


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    """The path is in the message."""
    with pytest.raises(ConfigError, match=r"gone\.csv does not exist"):
        PromptTable.from_file(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "has no rows"),
        ([{"subject": "x"}], "has no column 'key'"),
        ([{"key": ""}], "row 1, column 'key' is empty"),
        ([{"key": None}], "is empty"),
        ([{"key": 1.5}], "is a float"),
        ([{"key": True}], "is a bool"),
        ([{"key": "a"}, {"key": "b"}, {"key": " a "}], "row 3 repeats .* row 1"),
        ([{"key": "a b"}], "not usable"),
        ([{"key": "..."}], "not usable"),
        ([{"key": ".."}], "not usable"),
        ([{"key": "x" * 121}], "121 characters"),
        ([{"key": "ключ"}], "not usable"),
    ],
)
def test_unusable_keys_are_refused_with_the_row(rows: list[dict[str, object]], named: str) -> None:
    """Empty, duplicate and unusable keys name the row and what to do."""
    with pytest.raises(PartitionKeyError, match=named):
        PromptTable.from_rows(rows)


def test_a_value_without_a_json_form_is_refused_with_its_column() -> None:
    """Rows are persisted as JSON, so a value that has no such form is refused at once."""
    with pytest.raises(ConfigError, match="row 1, column 'x' holds a bytes"):
        PromptTable.from_rows([{"key": "a", "x": b"1"}])


def test_whole_numbers_are_keys() -> None:
    """A Parquet column of integers is a fine key column."""
    assert PromptTable.from_rows([{"id": 7}, {"id": 8}], key="id").keys == ["7", "8"]


def test_derived_keys_are_readable_stable_and_depend_on_the_whole_row() -> None:
    """Two rows that differ in one column get two keys that start alike."""
    table = PromptTable.from_rows(
        [
            {"prompt": "A red Fox, running!", "seed": 1},
            {"prompt": "A red Fox, running!", "seed": 2},
        ],
        key=None,
    )
    first, second = table.keys
    assert first.startswith("a-red-fox-running-")
    assert first != second
    assert first == derived_key({"seed": 1, "prompt": "A red Fox, running!"})


def test_equal_rows_without_a_key_column_are_duplicates() -> None:
    """Derived keys do not hide a row that is there twice."""
    with pytest.raises(PartitionKeyError, match="repeats"):
        PromptTable.from_rows([{"prompt": "x"}, {"prompt": "x"}], key=None)


@given(st.text() | st.integers())
def test_a_key_that_is_accepted_works_for_dagster_and_for_paths(value: str | int) -> None:
    """Whatever passes is accepted by Dagster, is stable, and cannot leave its directory."""
    try:
        key = partition_key(value)
    except PartitionKeyError:
        return
    dg.StaticPartitionsDefinition([key])
    assert partition_key(key) == key
    assert Path("refs", key).name == key
    assert len(key.encode()) <= 120


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none()))
def test_every_row_has_a_usable_derived_key(row: dict[str, object]) -> None:
    """Derived keys pass the same rule as given ones."""
    key = derived_key(row)
    assert partition_key(key) == key


def test_rows_of_dynamic_partitions_are_found_by_another_process(store: MediaStore) -> None:
    """add_to stores the rows before Dagster learns the keys; a body finds them by key alone."""
    with dg.DagsterInstance.ephemeral() as instance:
        PromptTable.from_rows(ROWS).add_to(instance, "prompts", store=store)
        assert instance.get_dynamic_partitions("prompts") == ["fox", "owl"]
    rows = PromptRows(PromptTable.dynamic_partitions("prompts"))
    assert run_sync(rows.load(store, "owl")) == {"partition_key": "owl", **ROWS[1]}
    assert run_sync(rows.load(store, "by-hand")) == {"partition_key": "by-hand"}
    assert run_sync(rows.load(store, "../by hand")) == {"partition_key": "../by hand"}


def test_adding_a_known_key_replaces_its_row(store: MediaStore) -> None:
    """A corrected prompt reaches the next run."""
    with dg.DagsterInstance.ephemeral() as instance:
        PromptTable.from_rows(ROWS).add_to(instance, "prompts", store=store)
        changed = PromptTable.from_rows([{**ROWS[0], "subject": "a fennec"}])
        changed.add_to(instance, "prompts", store=store)
        assert instance.get_dynamic_partitions("prompts") == ["fox", "owl"]
    rows = PromptRows(PromptTable.dynamic_partitions("prompts"))
    assert run_sync(rows.load(store, "fox"))["subject"] == "a fennec"


@pytest.mark.slow
def test_more_keys_than_one_call_carries_all_arrive(store: MediaStore) -> None:
    """Keys go to Dagster in chunks; none is lost at a seam."""
    table = PromptTable({f"k{i}": {} for i in range(10_001)})
    with dg.DagsterInstance.ephemeral() as instance:
        table.add_to(instance, "many", store=store)
        assert instance.get_dynamic_partitions("many") == table.keys


def test_other_partitions_have_their_key_and_dimensions_as_variables(store: MediaStore) -> None:
    """Without a table a template can still use the key, and the dimensions of a combined one."""
    static = dg.StaticPartitionsDefinition(["a"])
    assert run_sync(PromptRows(static).load(store, "a")) == {"partition_key": "a"}
    both = dg.MultiPartitionsDefinition(
        {"model": static, "prompt": dg.StaticPartitionsDefinition(["x"])}
    )
    key = dg.MultiPartitionKey({"model": "a", "prompt": "x"})
    assert run_sync(PromptRows(both).load(store, key)) == {
        "partition_key": "a|x",
        "model": "a",
        "prompt": "x",
    }
    assert run_sync(PromptRows(None).load(store, None)) == {}


def test_a_key_that_left_the_table_is_named() -> None:
    """A run of a partition whose row was removed says so."""
    with pytest.raises(PartitionKeyError, match="has no row 'cat'"):
        PromptTable.from_rows(ROWS).row("cat")
