import csv
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from genblaze_dagster.ledger.budgets import BudgetScope
from tests.cli.conftest import Call
from tests.support.submissions import Book, book


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """A ledger with every kind of submission that costs something."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    monkeypatch.setenv("GENBLAZE_LEDGER", url)
    with book(url) as opened:
        opened.stored("a", 0.1)
        opened.stored("b", 0.2, tenant_id="acme")
        opened.failed("c", job="job-1", cost=0.01)
        opened.stored("c", 0.05)
        opened.failed("d")
        opened.held("e")
        opened.stored("f", None, estimated_cost_usd=None)
        opened.expiring("g", datetime(2030, 1, 1, tzinfo=UTC), "job-3")
        yield opened


def test_every_attempt_is_a_row_and_what_was_paid_is_their_sum(
    kept: Book, invoke: Call, tmp_path: Path
) -> None:
    """To the cent what the ledger itself says was spent, past attempts included."""
    path = tmp_path / "out.csv"
    assert invoke("ledger", "export", "-o", path).status == 0
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    spent = kept.ledger.spend(BudgetScope.PROVIDER, "vendor")
    paid = sum(float(row["cost_usd"]) for row in rows if row["cost_usd"])
    reserved = sum(float(row["reserved_usd"]) for row in rows if row["reserved_usd"])
    assert round(paid, 9) == spent.paid_usd == 0.36
    assert round(reserved, 9) == spent.reserved_usd == 0.08
    failed, again = [row for row in rows if row["partition_key"] == "c"]
    assert (failed["attempt"], failed["is_current"], failed["state"]) == ("1", "false", "failed")
    assert (failed["job_id"], failed["error_code"]) == ("job-1", "model_error")
    assert (again["attempt"], again["is_current"], again["state"]) == ("2", "true", "stored")
    assert failed["submission_id"] == again["submission_id"]


def test_the_three_forms_say_the_same(kept: Book, invoke: Call, tmp_path: Path) -> None:
    """Parquet with types, JSON lines with nulls, CSV with empty fields."""
    for form in ("csv", "jsonl", "parquet"):
        ended = invoke("ledger", "export", "--format", form, "-o", tmp_path / form, "--json")
        assert ended.status == 0
        assert ended.document["totals"]["paid_usd"] == 0.36
    lines = [json.loads(line) for line in (tmp_path / "jsonl").read_text("utf-8").splitlines()]
    with (tmp_path / "csv").open(encoding="utf-8", newline="") as file:
        fields = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "parquet")
    assert table.column_names == list(lines[0]) == list(fields[0])
    assert str(table.schema.field("claimed_at").type) == "timestamp[us, tz=UTC]"
    assert str(table.schema.field("cost_usd").type) == "double"
    for line, field, row in zip(lines, fields, table.to_pylist(), strict=True):
        assert row["claimed_at"].isoformat() == line["claimed_at"] == field["claimed_at"]
        for name in ("cost_usd", "tenant_id", "job_id", "account", "run_id", "submission_id"):
            assert row[name] == line[name]
            assert field[name] == ("" if line[name] is None else str(line[name]))


def test_a_failed_export_leaves_the_old_file(kept: Book, invoke: Call, tmp_path: Path) -> None:
    """The file is replaced when it is whole; nothing else stays behind."""
    path = tmp_path / "sheets" / "out.csv"
    path.parent.mkdir()
    path.write_text("last month")
    # The ledger itself is damaged: what was read before the damage is not the whole.
    kept.ledger.close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE past_attempts SET claimed_at = 'never'")
    connection.close()
    assert invoke("ledger", "export", "-o", path).status != 0
    assert path.read_text() == "last month"
    assert [each.name for each in path.parent.iterdir()] == ["out.csv"]


def test_a_file_without_a_name_is_refused(kept: Book, invoke: Call) -> None:
    """As an unset variable of a script gives it."""
    ended = invoke("ledger", "export", "-o", "")
    assert ended.status == 2, ended
    assert "-o is empty" in ended.stderr


def test_a_folder_that_is_not_there_is_an_error(kept: Book, invoke: Call, tmp_path: Path) -> None:
    """It names the file."""
    ended = invoke("ledger", "export", "-o", tmp_path / "nowhere" / "out.csv")
    assert ended.status == 4
    assert "nowhere" in ended.stderr


def test_the_installed_program_exports(kept: Book, launch: Call, tmp_path: Path) -> None:
    """In a process of its own, into the working directory."""
    ended = launch("ledger", "export", "--format", "parquet", "-o", "costs.parquet")
    assert (ended.status, ended.stderr) == (0, "")
    assert "7 submissions" in ended.stdout
    assert pq.read_metadata(tmp_path / "costs.parquet").num_rows == 8


_PEAK = """
import resource, sys
from genblaze_dagster.cli.app import cli
try:
    cli.main(["ledger", "export", "--format", sys.argv[1], "-o", sys.argv[2], "--ledger", sys.argv[3]])
except SystemExit as end:
    assert end.code == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def _peak(form: str, url: str, out: Path) -> int:
    command = [sys.executable, "-c", _PEAK, form, str(out), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_ledger(tmp_path: Path, form: str) -> None:
    """200,000 submissions take at most 30 MB more than one."""
    small, large = tmp_path / "small.db", tmp_path / "large.db"
    for path in (small, large):
        with book(f"sqlite:///{path}") as opened:
            opened.stored("a")
    with sqlite3.connect(large) as connection:
        names = [row[1] for row in connection.execute("PRAGMA table_info(submissions)")]
        fresh = {"id": "printf('00000000-0000-7000-8000-%012d', n)", "run_id": "'r' || n"}
        columns = ", ".join(fresh.get(name, name) for name in names)
        query = (
            "WITH RECURSIVE counter(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter"
            " WHERE n < 200000) INSERT INTO submissions SELECT {} FROM submissions, counter"
        )
        connection.execute(query.format(columns))
    connection.close()
    more = _peak(form, str(large), tmp_path / "large") - _peak(form, str(small), tmp_path / "small")
    assert more < 30
    assert os.path.getsize(tmp_path / "large") > 1_000_000
