"""A table of the index as text for people, as JSON or as CSV."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from genblaze_dagster.cli.output import json_value, print_json, printable, stdout_console

if TYPE_CHECKING:
    import pyarrow as pa


class Form(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def print_table(table: "pa.Table", form: Form) -> None:
    """Print an answer on stdout.

    Numbers stay numbers in JSON; times are ISO 8601, NaN and infinities null, bytes hex.
    """
    if form is Form.JSON:
        _print_json(table)
    elif form is Form.CSV:
        _print_csv(table)
    else:
        _print_text(table)


def _rows(table: "pa.Table") -> Iterator[tuple[Any, ...]]:
    # Not `to_pylist`, which loses all but one of several columns of one name.
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _print_json(table: "pa.Table") -> None:
    names = _distinct(table.column_names)
    types = [str(field.type) for field in table.schema]
    print_json(
        {
            "columns": [
                {"name": name, "type": kind} for name, kind in zip(names, types, strict=True)
            ],
            "rows": [dict(zip(names, row, strict=True)) for row in _rows(table)],
        }
    )


def _print_csv(table: "pa.Table") -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows([_cell(value) for value in row] for row in _rows(table))


def _print_text(table: "pa.Table") -> None:
    shown = Table()
    for field in table.schema:
        numeric = str(field.type).startswith(("int", "uint", "double", "float", "decimal"))
        shown.add_column(Text(printable(field.name)), justify="right" if numeric else "left")
    for row in _rows(table):
        shown.add_row(*(_text(value) for value in row))
    console = stdout_console()
    console.print(shown)
    console.print(f"{table.num_rows:,} row(s)")


def _distinct(names: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in names:
        number, unique = 1, name
        while unique in found:
            number += 1
            unique = f"{name}_{number}"
        found[unique] = None
    return list(found)


def _cell(value: Any) -> Any:
    plain = json_value(value)
    if isinstance(plain, (dict, list)):
        return json.dumps(plain, ensure_ascii=False)
    return str(plain).lower() if isinstance(plain, bool) else plain


def _text(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    return Text(printable(str(_cell(value))))
