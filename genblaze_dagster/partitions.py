"""Prompt tables: one row is one Dagster partition.

The row's key column is the partition key, every other column a variable of the prompt templates.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Self

import dagster as dg
import orjson

from genblaze_dagster import _prompt_files
from genblaze_dagster.core.canonical import canonical_json
from genblaze_dagster.errors import ConfigError, NotFoundError, PartitionKeyError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.environment import default_store_url
from genblaze_dagster.storage.store import MediaStore

Row = Mapping[str, object]

KEY_RULE = "1 to 120 letters, digits, '.', '_' or '-'"
KEY_VARIABLE = "partition_key"
ADD_CHUNK = 10_000
_KEY = re.compile(r"[A-Za-z0-9._-]{1,120}", re.ASCII)
_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+", re.ASCII)
_SLUG_CHARS = 40
_STORE_CONCURRENCY = 32


def partition_key(value: object, *, where: str = "partition key") -> str:
    """Return `value` as a partition key, without surrounding white space.

    The one place that decides what a key may be: Dagster, object keys and file names must all
    carry it unchanged.

    Args:
        value: text or a whole number.
        where: what to name in the message, such as `prompts.csv, row 3`.

    Raises:
        PartitionKeyError: the key is empty, too long or has other characters.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PartitionKeyError(f"{where} is {_kind(value)}; a partition key is {KEY_RULE}")
    key = str(value).strip()
    if not key:
        raise PartitionKeyError(f"{where} is empty; give every row a key of {KEY_RULE}")
    # Dagster reads '...' as a range, and a path made of dots leaves its directory.
    if not _KEY.fullmatch(key) or "..." in key or not key.strip("."):
        shown = key if len(key) <= 60 else f"{key[:60]}... ({len(key)} characters)"
        raise PartitionKeyError(
            f"{where} is {shown!r}, which is not usable; a partition key is {KEY_RULE}. "
            "Use key=None to derive keys from the rows"
        )
    return key


def derived_key(row: Row) -> str:
    """Return `<slug>-<8 hex>` for a row without a key column: readable, and stable by content."""
    text = row.get("prompt")
    if not isinstance(text, str):
        text = next((value for value in row.values() if isinstance(value, str) and value), "row")
    slug = _NOT_IN_SLUG.sub("-", text.lower()).strip("-")[:_SLUG_CHARS].strip("-") or "row"
    return f"{slug}-{sha256(canonical_json(dict(row)).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class PromptTable:
    """Prompt rows by partition key, in file order.

    Build one with `from_file` or `from_rows`, and give it to `Pipeline.to_assets(partitions=...)`
    or `generation_asset(partitions=...)`.

    Attributes:
        rows: partition key to row; values are JSON values.
        source: where the rows came from, for messages.
    """

    rows: Mapping[str, Row]
    source: str = "prompt rows"

    @classmethod
    def from_file(cls, path: str | Path, *, key: str | None = "key") -> Self:
        """Read a `.csv`, `.jsonl`/`.ndjson` or `.parquet` file.

        Args:
            path: the file; CSV is UTF-8 with a header line, JSONL one object per line.
            key: the column with the partition keys; None derives a key from each row.

        Raises:
            ConfigError: the file is missing, of another kind, ragged or not decodable.
            PartitionKeyError: no rows, no such key column, or an empty, duplicate or unusable key.
        """
        file = Path(path)
        return cls._from_numbered(_prompt_files.read(file), key=key, source=file.name)

    @classmethod
    def from_rows(
        cls, rows: Iterable[Row], *, key: str | None = "key", source: str = "prompt rows"
    ) -> Self:
        """Take rows from any iterable of mappings; see `from_file`."""
        return cls._from_numbered(enumerate(rows, start=1), key=key, source=source)

    @classmethod
    def _from_numbered(
        cls, numbered: Iterable[tuple[int, Row]], *, key: str | None, source: str
    ) -> Self:
        rows: dict[str, Row] = {}
        first_seen: dict[str, int] = {}
        for number, raw in numbered:
            where = f"{source}, row {number}"
            row = _prompt_files.json_row(raw, where=where)
            row_key = _row_key(row, key, where)
            if row_key in rows:
                raise PartitionKeyError(
                    f"{where} repeats the partition key {row_key!r} of row {first_seen[row_key]}; "
                    "keys are unique, remove or rename one"
                )
            rows[row_key] = row
            first_seen[row_key] = number
        if not rows:
            raise PartitionKeyError(f"{source} has no rows; add at least one prompt row")
        return cls(rows, source)

    @property
    def keys(self) -> list[str]:
        """Partition keys in file order."""
        return list(self.rows)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Names that at least one row has."""
        return frozenset().union(*self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def row(self, key: str) -> Row:
        """Return one row.

        Raises:
            PartitionKeyError: there is no such key.
        """
        try:
            return self.rows[key]
        except KeyError:
            raise PartitionKeyError(
                f"{self.source} has no row {key!r}; the partition was removed from the table"
            ) from None

    def static_partitions(self) -> dg.StaticPartitionsDefinition:
        """Return the keys as partitions that change only with the code."""
        return dg.StaticPartitionsDefinition(self.keys)

    @staticmethod
    def dynamic_partitions(name: str) -> dg.DynamicPartitionsDefinition:
        """Return partitions that grow while Dagster runs; fill them with `add_to`."""
        return dg.DynamicPartitionsDefinition(name=partition_key(name, where="partitions name"))

    def add_to(
        self, instance: dg.DagsterInstance, name: str, *, store: MediaStore | None = None
    ) -> None:
        """Add every row to the dynamic partitions `name`; a row of a known key replaces the old.

        The rows are stored first (`prompts/<name>/<key>.json`), so that no run can meet a key
        without its row. Dagster is told in chunks of 10,000 keys.

        Args:
            instance: the Dagster instance that keeps the keys.
            name: the name given to `dynamic_partitions`.
            store: the store of the assets' IO manager; the one of GENBLAZE_STORE when left out.

        Raises:
            StorageError: the rows could not be stored; no partition was added then.
        """
        partition_key(name, where="partitions name")
        run_sync(_save_rows(store or MediaStore(default_store_url()), name, self.rows))
        keys = self.keys
        for start in range(0, len(keys), ADD_CHUNK):
            instance.add_dynamic_partitions(name, keys[start : start + ADD_CHUNK])


class PromptRows:
    """The variables of one partition, wherever they are kept.

    A table given in code is read from memory; rows of dynamic partitions from the store; any other
    partitions (and no partitions at all) have no row.
    """

    def __init__(self, partitions: PromptTable | dg.PartitionsDefinition | None) -> None:
        self._table: PromptTable | None = None
        self.definition: dg.PartitionsDefinition | None
        if isinstance(partitions, PromptTable):
            self._table = partitions
            self.definition = partitions.static_partitions()
        else:
            self.definition = partitions

    @property
    def columns(self) -> frozenset[str] | None:
        """Variables that rows can have, None when that is not known before a run."""
        return None if self._table is None else self._table.columns | {KEY_VARIABLE}

    @property
    def example(self) -> Row:
        """Some row with its key, empty when that is not known before a run."""
        if self._table is None:
            return {}
        key = self._table.keys[0]
        return {KEY_VARIABLE: key, **self._table.row(key)}

    async def load(self, store: MediaStore, key: str | None) -> dict[str, object]:
        """Return the row of a partition with its key as `partition_key`.

        A key added by hand, without a row, has `partition_key` alone; the dimensions of a
        multi-partition key are variables as well.

        Raises:
            PartitionKeyError: the table has no such row.
            StorageError: the stored row could not be read.
        """
        if key is None:
            return {}
        return {KEY_VARIABLE: str(key), **await self._row(store, key)}

    async def _row(self, store: MediaStore, key: str) -> Row:
        if self._table is not None:
            return self._table.row(key)
        if isinstance(key, dg.MultiPartitionKey):
            return key.keys_by_dimension
        name = getattr(self.definition, "name", None)
        if isinstance(self.definition, dg.DynamicPartitionsDefinition) and name:
            return await load_row(store, name, key) or {}
        return {}


@dataclass(frozen=True, slots=True)
class WantedPartitions:
    """Partitions somebody has named, by keys or by a range; all of them when by neither.

    `instance` knows the keys of dynamic partitions.
    """

    keys: Sequence[str] | None
    range: tuple[str, str] | None
    instance: dg.DagsterInstance | None

    def of(self, definition: dg.PartitionsDefinition | None) -> list[str | None]:
        """Return the wanted keys an asset has, in order; [None] for an asset without partitions.

        Raises:
            ConfigError: nobody knows them.
        """
        if definition is None:
            return [None]
        if self.instance is None and _is_dynamic(definition):
            raise ConfigError(
                "the keys of dynamic partitions are in a Dagster instance; give instance=..., or set "
                "DAGSTER_HOME for the command"
            )
        with dg.partition_loading_context(dynamic_partitions_store=self.instance):
            if self.range is None and self.keys is None:
                return [*definition.get_partition_keys()]
            if self.range is not None:
                if not all(map(definition.has_partition_key, self.range)):
                    return []
                wanted = dg.PartitionKeyRange(*self.range)
                return [*definition.get_partition_keys_in_range(wanted)]
            return [key for key in self.keys or () if definition.has_partition_key(key)]

    def check(self, wanted: Iterable[Sequence[str | None]]) -> None:
        """Refuse keys that no asset has.

        Raises:
            PartitionKeyError: names the first of them, or the range.
        """
        known = {key for keys in wanted for key in keys}
        if self.range is not None and not known.issuperset(self.range):
            raise PartitionKeyError(
                f"no selected asset has partitions from {self.range[0]!r} to {self.range[1]!r}; look "
                "at the keys and their order in the UI, or select another asset"
            )
        missing = [key for key in self.keys or () if key not in known]
        if missing:
            raise PartitionKeyError(
                f"no selected asset has the partition {missing[0]!r}; look at the keys in the UI, or "
                "select another asset"
            )


def _is_dynamic(definition: dg.PartitionsDefinition) -> bool:
    """Whether keys of partitions, or of one of their dimensions, are kept in a Dagster instance."""
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return any(
            _is_dynamic(dimension.partitions_def) for dimension in definition.partitions_defs
        )
    return isinstance(definition, dg.DynamicPartitionsDefinition)


async def load_row(store: MediaStore, name: str, key: str) -> Row | None:
    """Read the stored row of a dynamic partition; None when the key was added without one."""
    # The UI lets people add any text as a key; only keys of ours have rows.
    if not _KEY.fullmatch(key):
        return None
    try:
        return orjson.loads(await store.get(_object_key(name, key)))
    except NotFoundError:
        return None
    except orjson.JSONDecodeError as exc:
        raise PartitionKeyError(
            f"the stored row of partition {key!r} of {name!r} is not JSON; add the row again"
        ) from exc


async def _save_rows(store: MediaStore, name: str, rows: Mapping[str, Row]) -> None:
    limit = asyncio.Semaphore(_STORE_CONCURRENCY)

    async def save(key: str, row: Row) -> None:
        async with limit:
            body = canonical_json(dict(row)).encode()
            await store.put(_object_key(name, key), body, media_type="application/json")

    await asyncio.gather(*(save(key, row) for key, row in rows.items()))


def _object_key(name: str, key: str) -> str:
    return f"prompts/{name}/{key}.json"


def _row_key(row: Row, column: str | None, where: str) -> str:
    if column is None:
        return derived_key(row)
    if column not in row:
        raise PartitionKeyError(
            f"{where} has no column {column!r} (it has: {', '.join(sorted(row)) or 'none'}); name "
            "the key column with key=..., or use key=None to derive keys from the rows"
        )
    return partition_key(row[column], where=f"{where}, column {column!r}")


def _kind(value: object) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
