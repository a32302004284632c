"""Readers of prompt rows: CSV, JSON lines and Parquet, with the row number in every complaint."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from genblaze_dagster.errors import ConfigError

NumberedRows = Iterator[tuple[int, dict[str, Any]]]


def read(path: Path) -> NumberedRows:
    """Yield `(row number, row)` of a prompt file, chosen by its extension.

    Numbers count data rows from 1 for Parquet, and are line numbers for CSV and JSON lines.

    Raises:
        ConfigError: the file is missing, of another kind, ragged or not decodable.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path.name} is not a prompt file; use one of {', '.join(_READERS)}")
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; correct the path of the prompt file")
    try:
        yield from reader(path)
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"{path.name} is not UTF-8 at byte {exc.start}; save it as UTF-8"
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror or exc}") from exc


def json_row(row: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return a row with JSON values only; dates become ISO 8601 text.

    Raises:
        ConfigError: a value has no JSON form; names the column.
    """
    return {
        str(name): _json_value(value, f"{where}, column {name!r}") for name, value in row.items()
    }


def _json_value(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(k): _json_value(v, where) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item, where) for item in value]
    raise ConfigError(
        f"{where} holds a {type(value).__name__} without a JSON form; use text or a finite number"
    )


def _csv(path: Path) -> NumberedRows:
    # utf-8-sig: spreadsheets write a byte order mark that would become part of the first name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) != len(header) or "" in header:
                raise ConfigError(f"{path.name} has an empty or repeated column name; rename it")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise ConfigError(
                        f"{path.name}, line {reader.line_num} has {len(cells)} cells where the "
                        f"header has {len(header)}; quote cells that hold commas"
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
        except csv.Error as exc:
            raise ConfigError(f"{path.name}, line {reader.line_num} is broken: {exc}") from exc


def _json_lines(path: Path) -> NumberedRows:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as exc:
                raise ConfigError(
                    f"{path.name}, line {number} is not JSON ({exc.msg}); correct or remove it"
                ) from exc
            if not isinstance(row, dict):
                raise ConfigError(f"{path.name}, line {number} is not a JSON object; use {{...}}")
            yield number, row


def _parquet(path: Path) -> NumberedRows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as exc:
        raise ConfigError(f"{path.name} is not a readable Parquet file; write it again") from exc
    yield from enumerate(table.to_pylist(), start=1)


_READERS: dict[str, Callable[[Path], NumberedRows]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
