"""Statements that run many times: compiled once, run on the driver itself.

Compiling and wrapping costs SQLAlchemy several times what SQLite needs to run such a statement.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Dialect, Select
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase

from genblaze_dagster.errors import LedgerError

_Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """SQL of one database, and what turns Python's values into those of its driver."""

    sql: str
    # By position where the driver counts parameters (SQLite), by name otherwise.
    positions: tuple[str, ...] | None
    constants: Mapping[str, Any]
    converters: tuple[tuple[str, _Convert], ...]


@dataclass(frozen=True, slots=True)
class _Reader:
    """The columns of the result, and what turns the driver's values into Python's."""

    columns: tuple[str, ...]
    converters: tuple[tuple[str, _Convert], ...]

    def read(self, values: tuple[Any, ...]) -> dict[str, Any]:
        row = dict(zip(self.columns, values, strict=True))
        for name, convert in self.converters:
            row[name] = convert(row[name])
        return row


class Statement:
    """A query or change with bound parameters, to be run often.

    Args:
        statement: built with `bindparam`. An insert or update also sets the columns that the
            parameters name.
    """

    def __init__(self, statement: Select[Any] | UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[tuple[str, tuple[str, ...]], _Compiled] = {}
        self._readers: dict[str, _Reader] = {}

    def run(self, connection: Connection, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Run it and return its rows; none when it returns nothing.

        The driver's errors come as they are; `Database` explains them.

        Raises:
            LedgerError: a value cannot be kept.
        """
        dialect = connection.dialect
        # What is compiled for a database does not depend on the engine that runs it.
        key = (dialect.name, tuple(parameters))
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = _compile(self._statement, dialect, parameters)
        cursor: Any = connection.connection.cursor()
        try:
            _execute(cursor, compiled, parameters)
            if cursor.description is None:
                return []
            reader = self._readers.get(dialect.name)
            if reader is None:
                reader = _reader(self._statement, dialect, cursor.description)
                self._readers[dialect.name] = reader
            return [reader.read(values) for values in cursor.fetchall()]
        finally:
            cursor.close()

    def first(self, connection: Connection, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
        """Run it and return its first row, None when there is none."""
        rows = self.run(connection, parameters)
        return rows[0] if rows else None


def _execute(cursor: Any, compiled: _Compiled, parameters: Mapping[str, Any]) -> None:
    values = {**compiled.constants, **parameters}
    try:
        for name, convert in compiled.converters:
            values[name] = convert(values[name])
        positions = compiled.positions
        bound = values if positions is None else [values[name] for name in positions]
        cursor.execute(compiled.sql, bound)
    except (TypeError, ValueError, OverflowError) as exc:
        # No text of a database, no JSON, no number it has: drivers find out at different points.
        raise LedgerError(f"the ledger cannot keep this value: {exc}") from exc


def _compile(
    statement: Select[Any] | UpdateBase, dialect: Dialect, parameters: Mapping[str, Any]
) -> _Compiled:
    keys = list(parameters) if isinstance(statement, UpdateBase) else None
    compiled = statement.compile(dialect=dialect, column_keys=keys)
    assert isinstance(compiled, SQLCompiler)  # noqa: S101 - for the type checker
    # Lists of states are written out here, once.
    state = compiled.construct_expanded_state(dict(parameters))
    converters = (
        (name, bind.type.dialect_impl(dialect).bind_processor(dialect))
        for name, bind in compiled.binds.items()
        if name in parameters
    )
    return _Compiled(
        sql=state.statement,
        positions=None if state.positiontup is None else tuple(state.positiontup),
        constants={
            name: value.value if isinstance(value, Enum) else value
            for name, value in state.parameters.items()
            if name not in parameters
        },
        converters=tuple((name, convert) for name, convert in converters if convert is not None),
    )


def _reader(statement: Select[Any] | UpdateBase, dialect: Dialect, description: Any) -> _Reader:
    columns = [(str(column.key), column) for column in statement.exported_columns]
    converters = (
        (name, column.type.dialect_impl(dialect).result_processor(dialect, described[1]))
        for (name, column), described in zip(columns, description, strict=True)
    )
    return _Reader(
        columns=tuple(name for name, _ in columns),
        converters=tuple((name, convert) for name, convert in converters if convert is not None),
    )
