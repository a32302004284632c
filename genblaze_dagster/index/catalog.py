"""Asking the index: DuckDB in memory over what the store's segments hold."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genblaze_dagster.errors import IndexQueryError
from genblaze_dagster.index.reading import Segment, read_segments
from genblaze_dagster.index.rebuild import RebuildReport, rebuild
from genblaze_dagster.index.schema import TableName, arrow_schema
from genblaze_dagster.storage.store import MediaStore

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["IndexCatalog", "RebuildReport", "rebuild"]

# SQL may come from anybody: after loading it reaches neither files nor the network nor Python
# objects, and cannot change that.
_SEALED = (
    "SET TimeZone = 'UTC'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


class IndexCatalog:
    """The provenance of everything in a store, as SQL tables `runs`, `steps`, `assets`, `inputs`.

    `load` reads the segments; a run that was written several times appears as in the latest one.
    Columns are in `genblaze_dagster.index.schema`. Sum costs and sizes only `where executed`.

    Args:
        store: where manifests and index are.
    """

    def __init__(self, store: MediaStore) -> None:
        self._store = store
        self._tables: dict[TableName, pa.Table] = {}
        self._connection: duckdb.DuckDBPyConnection | None = None

    async def load(self) -> None:
        """Read the index as it is now; call it again to see what was written since.

        Raises:
            IndexQueryError: a segment cannot be used; names it and the remedy.
            StorageError: the store cannot be read.
        """
        segments = await read_segments(self._store)
        self._tables = {table: _concatenated(segments, table) for table in TableName}
        self._connection = None

    def connect(self) -> "duckdb.DuckDBPyConnection":
        """Return a database of the caller's own with the tables of the last `load`.

        It is in memory and has no access to files or the network. Close it.

        Raises:
            IndexQueryError: nothing is loaded.
        """
        import duckdb

        if not self._tables:
            raise IndexQueryError("the index is not loaded; await load() first")
        connection = duckdb.connect(":memory:")
        for table, found in self._tables.items():
            connection.register(f"written_{table}", found)
        connection.execute(
            "CREATE TEMP TABLE latest AS"
            " SELECT run_id, max(segment) AS segment FROM written_runs GROUP BY run_id"
        )
        for table in self._tables:
            order = "run_id" if table is TableName.RUNS else "run_id, step_index"
            connection.execute(
                f"CREATE TABLE {table} AS SELECT * EXCLUDE (segment) FROM written_{table}"  # noqa: S608
                f" SEMI JOIN latest USING (run_id, segment) ORDER BY {order}"
            )
            connection.unregister(f"written_{table}")
        connection.execute("DROP TABLE latest")
        for setting in _SEALED:
            connection.execute(setting)
        return connection

    def query(self, sql: str, parameters: Sequence[object] | None = None) -> "pa.Table":
        """Run one SELECT (DuckDB's SQL) and return its rows.

        Args:
            sql: the query; `?` stands for a parameter.
            parameters: values of the parameters.

        Raises:
            IndexQueryError: nothing is loaded, it is not a single SELECT, or DuckDB's explanation
                of what is wrong with it.
        """
        import duckdb

        if self._connection is None:
            self._connection = self.connect()
        # Every query has a cursor of its own, so threads may ask at the same time.
        cursor = self._connection.cursor()
        try:
            _check_reads_only(duckdb.extract_statements(sql))
            return cursor.sql(sql, params=list(parameters or ())).to_arrow_table()
        except duckdb.Error as exc:
            raise IndexQueryError(f"query of the index failed: {exc}") from exc
        finally:
            cursor.close()


def _check_reads_only(statements: Sequence["duckdb.Statement"]) -> None:
    import duckdb

    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise IndexQueryError(
            "query of the index is not a single SELECT; ask one question at a time, the index is "
            "read-only"
        )


def _concatenated(segments: Sequence[Segment], table: TableName) -> "pa.Table":
    import pyarrow as pa

    column = pa.field("segment", pa.int64())
    parts = [arrow_schema(table).append(column).empty_table()]
    for number, segment in enumerate(segments):
        found = segment.tables.get(table)
        if found is not None:
            numbers = pa.repeat(pa.scalar(number, pa.int64()), found.num_rows)
            parts.append(found.append_column(column, numbers))
    return pa.concat_tables(parts)
