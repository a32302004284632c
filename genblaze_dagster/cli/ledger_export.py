"""`genblaze-dagster ledger export`: every attempt with its cost, for accounts and other tools."""

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from genblaze_dagster.cli import ledger_words as words
from genblaze_dagster.cli.ledger_options import ledger_option
from genblaze_dagster.cli.ledger_records import Attempt, Records, Wanted
from genblaze_dagster.cli.output import (
    json_option,
    json_value,
    print_json,
    print_lines,
    printable,
    progress,
)
from genblaze_dagster.trust.progress import Advance

_ROWS_AT_ONCE: Final = 5_000

COLUMNS: Final[dict[str, type]] = {
    "submission_id": str,
    "attempt": int,
    "is_current": bool,
    "state": str,
    "asset_key": str,
    "partition_key": str,
    "scope": str,
    "tenant_id": str,
    "run_id": str,
    "generation_key": str,
    "provider": str,
    "model": str,
    "account": str,
    "job_id": str,
    "cost_usd": float,
    "reserved_usd": float,
    "estimated_cost_usd": float,
    "created_at": datetime,
    "claimed_at": datetime,
    "sending_at": datetime,
    "submitted_at": datetime,
    "finished_at": datetime,
    "error_code": str,
}
"""Names and types of the columns; docs/cli.md promises them. Any may be null but the first four."""


class Form(StrEnum):
    """What is written."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Form]),
    default=Form.CSV.value,
    show_default=True,
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Written whole or not at all.",
)
@ledger_option
@json_option
def export(form: str, output: Path, ledger_url: str | None, as_json: bool) -> None:
    """Write one row for every attempt of every submission, oldest submission first.

    The sum of cost_usd is what was paid, as far as it is known. Failed attempts that were followed
    by another are rows of their own; their cost counts.

    \b
    genblaze-dagster ledger export -o costs.csv
    genblaze-dagster ledger export --format parquet -o costs.parquet
    """
    if not output.name:
        raise click.UsageError("-o is empty; give the file to write")
    with Records(ledger_url) as records:
        totals = records.totals(Wanted())
        with (
            progress("submissions", total=totals.count) as advance,
            _written_whole(output) as part,
        ):
            _WRITERS[Form(form)](part, _rows(records, advance))
    if as_json:
        print_json({"path": str(output), "totals": words.totals_document(totals)})
        return
    print_lines([Text(f"{words.totals_line(totals)}  {printable(str(output))}")])


def _rows(records: Records, advance: Advance) -> Iterator[dict[str, Any]]:
    for attempt in records.attempts(Wanted()):
        if attempt.past is None:
            advance(1)
        yield _row(attempt)


def _row(attempt: Attempt) -> dict[str, Any]:
    row, past = attempt.submission, attempt.past
    one = past or row
    return {
        "submission_id": row.id,
        "attempt": one.attempt,
        "is_current": past is None,
        "state": row.state.value if past is None else "failed",
        "asset_key": row.asset_key,
        "partition_key": row.partition_key,
        "scope": row.scope,
        "tenant_id": row.tenant_id,
        "run_id": row.run_id,
        "generation_key": row.generation_key,
        "provider": row.provider,
        "model": row.model,
        "account": row.account,
        "job_id": one.job_id,
        "cost_usd": one.cost_usd,
        "reserved_usd": words.reserved_usd(one),
        "estimated_cost_usd": one.estimated_cost_usd,
        "created_at": row.created_at,
        "claimed_at": one.claimed_at,
        "sending_at": one.sending_at,
        "submitted_at": one.submitted_at,
        "finished_at": one.finished_at,
        "error_code": one.error_code,
    }


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Give a path beside the wanted one, and rename it at the end; a failure leaves the old file."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(json_value(row), ensure_ascii=False) + "\n")


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            plain = json_value(row)
            writer.writerow({**plain, "is_current": str(plain["is_current"]).lower()})


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        str: pa.string(),
        int: pa.int64(),
        bool: pa.bool_(),
        float: pa.float64(),
        datetime: pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting = iter(rows)
        while group := list(islice(waiting, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


_WRITERS: Final = {
    Form.JSONL: _write_jsonl,
    Form.CSV: _write_csv,
    Form.PARQUET: _write_parquet,
}
