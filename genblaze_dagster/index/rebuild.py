"""Recreating the index from the manifests, which are the source of truth."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import ManifestError, NotFoundError
from genblaze_dagster.index.segment import FOLDER, SegmentWriter
from genblaze_dagster.storage.keys import KeyStrategy
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.refs import list_refs
from genblaze_dagster.storage.store import MediaStore

_PER_SEGMENT = 1000
_CONCURRENCY = 32


@dataclass(frozen=True, slots=True)
class SkippedManifest:
    """A manifest that is not in the index, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild did: `runs` indexed, `segments` written, `removed` old objects."""

    runs: int
    segments: int
    removed: int
    skipped: tuple[SkippedManifest, ...]


async def list_manifests(store: MediaStore) -> tuple[list[str], list[SkippedManifest]]:
    """Return the keys of a store's manifests, in no particular order, and those too large to read.

    Raises:
        StorageError: the store cannot be listed.
    """
    layout = store.layout
    keys: list[str] = []
    skipped: list[SkippedManifest] = []
    async for info in store.list(layout.manifest_folder()):
        if not layout.is_manifest_key(info.key):
            continue
        if info.size_bytes > MAX_MANIFEST_BYTES:
            reason = f"{info.size_bytes} bytes are more than a manifest may have"
            skipped.append(SkippedManifest(info.key, reason))
        else:
            keys.append(info.key)
    return keys, skipped


async def rebuild(store: MediaStore) -> RebuildReport:
    """Recreate the index from every manifest in the store.

    New segments are complete before old ones are deleted, and segments written meanwhile stay; a
    rebuild that is interrupted leaves a correct index. A manifest that cannot be read or does not
    verify is skipped and reported. Asset and partition come from the references in the store and
    reach older runs through their `parent_run_id`.

    Raises:
        StorageError: the store failed; old segments are still there.
        SchemaError: a reference is damaged; names it.
    """
    old = [info.key async for info in store.list(FOLDER)]
    work = _Rebuild(store)
    await work.run()
    for start in range(0, len(old), _CONCURRENCY):
        await asyncio.gather(*(store.delete(key) for key in old[start : start + _CONCURRENCY]))
    return RebuildReport(len(work.indexed), work.segments, len(old), tuple(work.skipped))


@dataclass(slots=True)
class _Rebuild:
    store: MediaStore
    skipped: list[SkippedManifest] = field(default_factory=list)
    indexed: set[str] = field(default_factory=set)
    segments: int = 0
    # run id → asset and partition it was made for
    owners: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    # run id → key of a manifest that is indexed without them
    orphans: dict[str, str] = field(default_factory=dict)

    async def run(self) -> None:
        async for ref in list_refs(self.store):
            self.owners[ref.run_id] = (ref.asset_key, ref.partition_key)
        keys = await self._manifest_keys()
        while keys:
            for start in range(0, len(keys), _PER_SEGMENT):
                await self._write(keys[start : start + _PER_SEGMENT])
            # A run may be older than the one it refines; its later row replaces the first.
            found = self.orphans.keys() & self.owners.keys()
            keys = [self.orphans.pop(run_id) for run_id in sorted(found)]

    async def _manifest_keys(self) -> list[str]:
        """Return the keys of all manifests, newest first: a run comes before its parent."""
        keys, skipped = await list_manifests(self.store)
        self.skipped += skipped
        return sorted(keys, key=self._run_id, reverse=True)

    def _run_id(self, key: str) -> str:
        path = PurePosixPath(key)
        by_hash = self.store.key_strategy is KeyStrategy.CONTENT_ADDRESSABLE
        return path.stem if by_hash else path.parent.name

    async def _write(self, keys: Sequence[str]) -> None:
        writer = SegmentWriter(self.store)
        slots = asyncio.Semaphore(_CONCURRENCY)
        manifests = await asyncio.gather(*(self._read(key, slots) for key in keys))
        for key, manifest in zip(keys, manifests, strict=True):
            if manifest is not None:
                self._add(writer, key, manifest)
        self.segments += bool(await writer.flush())

    async def _read(self, key: str, slots: asyncio.Semaphore) -> Manifest | None:
        async with slots:
            try:
                return await read_manifest(self.store, key)
            except (ManifestError, NotFoundError) as exc:
                self.skipped.append(SkippedManifest(key, f"{type(exc).__name__}: {exc}"))
                return None

    def _add(self, writer: SegmentWriter, key: str, manifest: Manifest) -> None:
        run = manifest.run
        owner = self.owners.get(run.run_id)
        if owner is None:
            self.orphans[run.run_id] = key
        elif run.parent_run_id is not None:
            self.owners.setdefault(run.parent_run_id, owner)
        asset_key, partition_key = owner or (None, None)
        writer.add(manifest, asset_key=asset_key, partition_key=partition_key, manifest_key=key)
        self.indexed.add(run.run_id)
