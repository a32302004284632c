"""Runs as Parquet files in a directory, laid out as genblaze does."""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.errors import ConfigError, ManifestError, SinkError
from genblaze_dagster.index.parquet_layout import (
    INDEX_FOLDER,
    is_partition,
    run_file_stem,
    run_partition,
)
from genblaze_dagster.index.parquet_rows import (
    COLUMNS,
    SinkRows,
    rows_digest,
    sink_rows,
    sink_schema,
    sink_table,
)
from genblaze_dagster.index.schema import TableName
from genblaze_dagster.media.whole import replacing

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds

_DIGEST_KEY: Final = b"genblaze.rows"
"""Parquet metadata of a run's `runs` file: the digest of its rows in all tables."""

_LONGEST_PARTITION: Final = 1024
_THREADS: Final = min(4, os.cpu_count() or 1)


class ParquetSink:
    """Writes runs as `{runs,steps,assets}/dt=/tenant_id=/modality=/provider=/<run id>.parquet`.

    Layout and columns are genblaze's, and both may write into the same directory; every column
    has one type in every file. A run that is written again replaces its files when anything in
    its rows has changed, status and cost included, and leaves them alone otherwise.

    Each file appears whole or not at all, `runs` last. A kill at any moment leaves readable files,
    and writing the run again completes them; a run that changes its folders is in both for a
    moment, never in none. A power cut may cost the last files.

    Readers that turn folder names into columns replace `tenant_id`, `modality` and `provider` by
    them; `dataset` gives the recorded values.

    Args:
        base_dir: directory of the tables; made when the first run is written.
        policy: what the rows may show: prompts only when public, params, seeds.

    Raises:
        ConfigError: `base_dir` is a URL.
    """

    def __init__(self, base_dir: str | Path, *, policy: EmbedPolicy | None = None) -> None:
        if "://" in str(base_dir):
            raise ConfigError("base_dir of a ParquetSink is a URL; name a local directory")
        self.base_dir = Path(base_dir)
        self._policy = policy or EmbedPolicy()

    def __repr__(self) -> str:
        return f"ParquetSink({str(self.base_dir)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: every run is complete when the call that writes it returns."""

    def write_run(self, run: Run, manifest: Manifest) -> None:
        """Write a run with the hash of its manifest; see `write`."""
        if manifest.run is not run:
            manifest = manifest.model_copy(update={"run": run})
        self.write(manifest)

    def write(self, manifest: Manifest) -> bool:
        """Write the run of a manifest and return whether anything changed. Nothing is verified.

        Raises:
            ManifestError: a value cannot be written; nothing was.
            SinkError: the directory cannot be written. What was complete before still is.
        """
        return bool(self.write_many([manifest]))

    def write_many(
        self,
        manifests: Iterable[Manifest],
        *,
        on_error: Callable[[Manifest, ManifestError], None] | None = None,
    ) -> set[str]:
        """Write manifests, a few at the same time, and return the run ids that changed anything.

        Of several manifests of one run the last one stays. `manifests` may be an iterator over
        any number of them: no more than are being written are held.

        Args:
            manifests: what to write.
            on_error: told of a manifest that cannot be written; the others are written.

        Raises:
            ManifestError: as `write`, when there is no `on_error`; those before are written.
            SinkError: as `write`; some of the others are written.
        """
        changed: set[str] = set()
        writing: dict[str, Future[None]] = {}
        with ThreadPoolExecutor(_THREADS, "genblaze-parquet") as pool:
            for manifest in manifests:
                run_id = manifest.run.run_id
                if run_id in writing or len(writing) == _THREADS:
                    first = run_id if run_id in writing else next(iter(writing))
                    writing.pop(first).result()
                try:
                    files = _RunFiles(self.base_dir, manifest, self._policy)
                    if not files.are_current():
                        writing[run_id] = pool.submit(files.write, files.tables())
                        changed.add(run_id)
                except ManifestError as exc:
                    if on_error is None:
                        raise
                    on_error(manifest, exc)
            for future in writing.values():
                future.result()
        return changed

    def dataset(self, table: TableName | str) -> "ds.Dataset":
        """Return `runs`, `steps` or `assets` as recorded, in their fixed types.

        The files of genblaze are read along with ours, whatever types they have.

        Raises:
            ConfigError: no such table.
        """
        import pyarrow.dataset as ds

        if table not in tuple(COLUMNS):
            raise ConfigError(f"table {table!r} is none of the sink's; use runs, steps or assets")
        schema = sink_schema(TableName(table))
        folder = self.base_dir / table
        if not folder.is_dir():
            return ds.dataset(schema.empty_table())
        return ds.dataset(folder, schema=schema, format="parquet")


class _RunFiles:
    """The files of one run: as they are to be, and as they are."""

    def __init__(self, base_dir: Path, manifest: Manifest, policy: EmbedPolicy) -> None:
        run = manifest.run
        self._base = base_dir
        self._run_id = run.run_id
        self._rows: SinkRows = sink_rows(manifest, policy)
        self._digest = rows_digest(self._rows)
        self._partition = run_partition(run)
        self._stem = run_file_stem(run.run_id)
        self._entry = base_dir / INDEX_FOLDER / f"{self._stem}.partition"
        # Where the files go, until they are all there: what a kill leaves can so be found.
        self._move = base_dir / INDEX_FOLDER / f"{self._stem}.moving"

    def are_current(self) -> bool:
        """Whether everything is there already.

        Raises:
            SinkError: the directory cannot be read.
        """
        with self._reporting():
            return (
                _recorded_partition(self._entry) == self._partition
                and not self._move.exists()
                and all(
                    self._path(table, self._partition).is_file() == bool(rows)
                    for table, rows in self._rows.items()
                )
                and _recorded_digest(self._path(TableName.RUNS, self._partition)) == self._digest
            )

    def tables(self) -> "dict[TableName, pa.Table]":
        """Return the tables that have rows, in the order of their files.

        Raises:
            ManifestError: a value does not fit its column.
        """
        found = {table: sink_table(table, rows) for table, rows in self._rows.items() if rows}
        runs = found[TableName.RUNS]
        found[TableName.RUNS] = runs.replace_schema_metadata({_DIGEST_KEY: self._digest})
        return found

    def write(self, tables: "Mapping[TableName, pa.Table]") -> None:
        """Write the tables and take away the files of earlier ones.

        Raises:
            SinkError: the directory cannot be written.
        """
        with self._reporting():
            earlier = self._settled_partition()
            if earlier != self._partition:
                with replacing(self._move) as part:
                    part.write_text(self._partition, encoding="ascii")
            for table, content in tables.items():
                with replacing(self._path(table, self._partition)) as part:
                    part.write_bytes(_parquet(content))
            self._remove(self._partition, COLUMNS.keys() - tables.keys())
            if earlier != self._partition:
                self._end_move(earlier)

    def _settled_partition(self) -> str | None:
        """Return where the files are, after ending or undoing a move that a kill interrupted."""
        here, there = _recorded_partition(self._entry), _recorded_partition(self._move)
        if there is None:
            return here
        if self._path(TableName.RUNS, there).is_file():
            self._end_move(here if here != there else None)
            return there
        if here != there:
            self._remove(there, COLUMNS)
        self._move.unlink(missing_ok=True)
        return here

    def _end_move(self, earlier: str | None) -> None:
        if earlier is not None:
            self._remove(earlier, COLUMNS)
        # Another process that writes the same run may have done it.
        with suppress(FileNotFoundError):
            self._move.replace(self._entry)

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise SinkError(
                f"run {self._run_id[:80]!r} cannot be written below {self._base} "
                f"({exc.strerror or type(exc).__name__}); make room or allow writing there"
            ) from exc

    def _path(self, table: TableName, partition: str) -> Path:
        return self._base / table / partition / f"{self._stem}.parquet"

    def _remove(self, partition: str, tables: Collection[TableName]) -> None:
        # `runs` first, as it was written last: it says that the others are there.
        for table in reversed(COLUMNS):
            if table in tables:
                self._path(table, partition).unlink(missing_ok=True)


def _recorded_partition(entry: Path) -> str | None:
    """Return the partition an index entry names, None when there is no usable entry."""
    try:
        with entry.open("rb") as file:
            text = file.read(_LONGEST_PARTITION + 1).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    return text if is_partition(text) else None


def _recorded_digest(path: Path) -> bytes | None:
    """Return the digest of a run's rows; None when a file is damaged or genblaze's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with suppress(pa.ArrowException, OSError):
        return (pq.read_metadata(path).metadata or {}).get(_DIGEST_KEY)
    return None


def _parquet(table: "pa.Table") -> "pa.Buffer":
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    # The few rows of one run: a dictionary and statistics would cost more than they save.
    pq.write_table(table, sink, compression="snappy", use_dictionary=False, write_statistics=False)
    return sink.getvalue()
