"""`genblaze-dagster index`: verified manifests into Parquet tables on this machine."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.text import Text

from genblaze_dagster.cli.exit_codes import exit_code, gravest
from genblaze_dagster.cli.index_sources import Found, manifests_of
from genblaze_dagster.cli.output import (
    endpoint_option,
    error_document,
    json_option,
    print_error,
    print_json,
    print_lines,
    printable,
    progress,
)
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.redaction import RECORD
from genblaze_dagster.errors import GenblazeError, IntegrityError, ManifestError, SinkError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.trust.os_errors import storage_error
from genblaze_dagster.trust.progress import Advance
from genblaze_dagster.trust.targets import locate, url_problem

if TYPE_CHECKING:
    from genblaze_dagster.index.parquet_sink import ParquetSink

_AT_ONCE: Final = 32
"""Manifests handed to the sink in one go, while more are read."""

_SHOWN: Final = 100


@click.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default="genblaze_index",
    show_default=True,
    help="Directory of the tables.",
)
@endpoint_option
@json_option
@click.pass_context
def index(
    ctx: click.Context,
    targets: Sequence[str],
    output: Path,
    endpoint_url: str | None,
    as_json: bool,
) -> None:
    """Write the runs of manifests as Parquet tables runs, steps and assets.

    TARGET is a manifest, a media file that carries one or has a sidecar, a directory (with all
    that is below it), or a file://, s3:// or b2:// URL of an object, a store or a prefix. Every
    manifest is verified first. What cannot be read or does not verify is reported and skipped;
    the rest is indexed. A run that is indexed already is updated when anything in it changed.

    \b
    Exit status: 0 all indexed, 1 something does not verify or is damaged, 3 something
    cannot be decided (no manifest, a pointer), 4 storage or configuration error.
    """
    from genblaze_dagster.index.parquet_sink import ParquetSink

    for target in targets:
        if (problem := url_problem(target)) is not None:
            raise click.UsageError(f"{target}: {problem}")
    with ParquetSink(output) as sink, progress("manifests", total=None) as advance:
        work = _Indexing(sink, advance)
        run_sync(work.index(targets, endpoint_url))
    if as_json:
        print_json(work.document())
    else:
        work.print()
    ctx.exit(gravest(exit_code(skipped.error) for skipped in work.skipped))


@dataclass(frozen=True, slots=True)
class _Skipped:
    """What is not in the tables, and why."""

    where: str
    error: GenblazeError


@dataclass(frozen=True, slots=True)
class _Source:
    """The manifest a run was taken from; `whole` is the hash of the one it was redacted from."""

    where: str
    canonical_hash: str
    whole: str | None


@dataclass(slots=True)
class _Indexing:
    """One call of the command: what was found, written and skipped so far."""

    sink: "ParquetSink"
    advance: Advance
    skipped: list[_Skipped] = field(default_factory=list[_Skipped])
    changed: set[str] = field(default_factory=set[str])
    # run id → the manifest its rows are from
    sources: dict[str, _Source] = field(default_factory=dict[str, _Source])

    async def index(self, targets: Sequence[str], endpoint_url: str | None) -> None:
        """Index every target; what is wrong with one does not stop the others.

        Raises:
            SinkError: the tables cannot be written.
        """
        for target in targets:
            try:
                await self._index(target, endpoint_url)
            except SinkError:
                raise
            except GenblazeError as exc:
                self._skip(target, exc)
            except OSError as exc:
                self._skip(target, storage_error(exc))

    async def _index(self, target: str, endpoint_url: str | None) -> None:
        located = await locate(target, endpoint_url=endpoint_url)
        batch: list[Manifest] = []
        try:
            async with aclosing(manifests_of(located, endpoint_url=endpoint_url)) as found:
                async for one in found:
                    self.advance(1)
                    batch += self._accepted(one)
                    if len(batch) >= _AT_ONCE:
                        full, batch = batch, []
                        await self._write(full)
        finally:
            # What was read before a store failed is indexed all the same.
            await self._write(batch)

    async def _write(self, batch: Sequence[Manifest]) -> None:
        self.changed |= await asyncio.to_thread(
            self.sink.write_many, batch, on_error=self._cannot_be_written
        )

    def _cannot_be_written(self, manifest: Manifest, error: ManifestError) -> None:
        source = self.sources.pop(manifest.run.run_id)
        self._skip(source.where, error)

    def _skip(self, where: str, error: GenblazeError) -> None:
        self.skipped.append(_Skipped(where, error))

    def _accepted(self, found: Found) -> list[Manifest]:
        """Return the manifest if it verifies and its run is not indexed from another place yet."""
        try:
            manifest = _verified(found)
            run_id = manifest.run.run_id
            source = _Source(found.where, manifest.canonical_hash, _redacted_from(manifest))
            if not self._is_news(run_id, source):
                return []
        except GenblazeError as exc:
            self._skip(found.where, exc)
            return []
        self.sources[run_id] = source
        return [manifest]

    def _is_news(self, run_id: str, source: _Source) -> bool:
        earlier = self.sources.get(run_id)
        if earlier is None or earlier.whole == source.canonical_hash:
            return True
        if earlier.canonical_hash in (source.canonical_hash, source.whole):
            return False
        raise IntegrityError(
            f"{source.where}: run {run_id[:80]} has another content in {earlier.where}, which is "
            "indexed; keep one of the two",
            expected=earlier.canonical_hash,
            actual=source.canonical_hash,
        )

    @property
    def unchanged(self) -> int:
        """How many runs were in the tables already, as they are."""
        return len(self.sources.keys() - self.changed)

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "output": str(self.sink.base_dir),
            "indexed": len(self.changed),
            "unchanged": self.unchanged,
            "skipped": [
                {"target": skipped.where, **error_document(skipped.error)}
                for skipped in self.skipped
            ],
        }

    def print(self) -> None:
        """Print the counts, and what was skipped on stderr."""
        for skipped in self.skipped[:_SHOWN]:
            message = str(skipped.error)
            named = skipped.where in message
            print_error(message if named else f"{skipped.where}: {message}")
        if (hidden := len(self.skipped) - _SHOWN) > 0:
            print_error(f"and {hidden:,} more were skipped; --json lists all")
        counts = (
            f"{len(self.changed):,} indexed, {self.unchanged:,} unchanged, "
            f"{len(self.skipped):,} skipped"
        )
        print_lines([Text(f"{counts}  {printable(str(self.sink.base_dir))}")])


def _verified(found: Found) -> Manifest:
    if isinstance(found.outcome, GenblazeError):
        raise found.outcome
    if not found.outcome.verify_hash():
        raise IntegrityError(
            f"{found.where}: the manifest does not hash to its canonical_hash; it was changed "
            "after it was written, restore it or generate again",
            expected=found.outcome.canonical_hash,
        )
    return found.outcome


def _redacted_from(manifest: Manifest) -> str | None:
    record = manifest.run.metadata.get(RECORD)
    whole = record.get("canonical_hash") if isinstance(record, dict) else None
    return whole if isinstance(whole, str) else None
