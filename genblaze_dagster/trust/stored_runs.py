"""Which run of a store made given bytes."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import is_valid_sha256
from genblaze_dagster.errors import GenblazeError, ManifestError, NotFoundError, StorageError
from genblaze_dagster.trust.batches import batches
from genblaze_dagster.trust.outputs import outputs_by_sha256

if TYPE_CHECKING:
    from genblaze_dagster.index.catalog import IndexCatalog
    from genblaze_dagster.storage.store import MediaStore

# In the hierarchical layout the manifest lies beside its assets; the other one names them by hash.
_BESIDE_MANIFEST: Final = re.compile(r"(runs/(?:[^/]+/)*\d{4}-\d{2}-\d{2}/[^/]+)/assets/[^/]+")
_RUN_OF: Final = (
    "SELECT DISTINCT coalesce(manifest_key, run_id) AS manifest"
    " FROM assets JOIN runs USING (run_id) WHERE sha256 = ? AND executed ORDER BY manifest"
)
_CONTENT_ADDRESS: Final = re.compile(r"assets/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})(?:\.[^/]+)?")

# Manifests are read whole.
_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A manifest in a store; not verified."""

    manifest: Manifest
    manifest_key: str


class StoredRuns:
    """The runs of a store by the bytes they put out.

    Index, references and manifests are read when they are first needed, and once.
    """

    def __init__(self, store: "MediaStore") -> None:
        self.store = store
        self._reading = asyncio.Lock()
        self._catalog: IndexCatalog | None = None
        # sha256 -> manifest key; hashes as bytes, there may be many
        self._outputs: dict[bytes, str] | None = None
        self._damaged: GenblazeError | None = None

    async def find(self, sha256: str, *, key: str | None = None) -> StoredRun | None:
        """Return the run that put out bytes of this hash, None when the store knows none.

        `key` is where the bytes lie in the store, None when they do not: then the run that put the
        object there is looked for, even if its bytes have changed since. Looks beside the object,
        then into the index, which knows every run, then through all references, which know the
        newest run of each asset and partition, or all manifests where there are none.

        Raises:
            ManifestError: the run's manifest cannot be read, or what might lead to it.
            IndexQueryError: the index cannot be read.
            StorageError: the store cannot be read.
        """
        from genblaze_dagster.storage.manifests import read_manifest

        address = _CONTENT_ADDRESS.fullmatch(key or "")
        wanted = address[1] if address else sha256
        async for manifest_key in self._candidates(wanted, key):
            with suppress(NotFoundError):
                manifest = await read_manifest(self.store, manifest_key, verify=False)
                return StoredRun(manifest, manifest_key)
        if self._damaged is not None:
            # "None" may only be said when everything could be read. Raised often, so without the
            # trace of the last time.
            raise self._damaged.with_traceback(None)
        return None

    async def _candidates(self, sha256: str, key: str | None) -> AsyncIterator[str]:
        if beside := _BESIDE_MANIFEST.fullmatch(key or ""):
            yield f"{beside[1]}/manifest.json"
        for manifest_key in await self._in_index(sha256):
            yield manifest_key
        outputs = await self._by_output()
        if (manifest_key := outputs.get(bytes.fromhex(sha256))) is not None:
            yield manifest_key

    async def _in_index(self, sha256: str) -> list[str]:
        from genblaze_dagster.index.catalog import IndexCatalog

        async with self._reading:
            if self._catalog is None:
                catalog = IndexCatalog(self.store)
                await catalog.load()
                self._catalog = catalog
            # pyarrow has no types.
            catalog = cast(Any, self._catalog)
            found = await asyncio.to_thread(catalog.query, _RUN_OF, [sha256])
        return found.column("manifest").to_pylist()

    async def _by_output(self) -> Mapping[bytes, str]:
        async with self._reading:
            if self._outputs is None:
                # A store that others wrote has no references; its manifests say the same.
                self._outputs = await self._in_references() or await self._in_manifests()
        return self._outputs

    async def _in_references(self) -> dict[bytes, str]:
        from genblaze_dagster.storage.refs import list_refs

        found: dict[bytes, str] = {}
        async for ref in list_refs(self.store, damaged=self._note_damage):
            for media in ref.media:
                if is_valid_sha256(media.sha256):
                    found[bytes.fromhex(media.sha256)] = ref.manifest_key
        return found

    async def _in_manifests(self) -> dict[bytes, str]:
        from genblaze_dagster.storage.manifests import manifest_keys

        found: dict[bytes, str] = {}
        async for keys in batches(manifest_keys(self.store), _BATCH):
            for key, hashes in zip(
                keys, await asyncio.gather(*map(self._hashes, keys)), strict=True
            ):
                found |= dict.fromkeys(hashes, key)
        return found

    async def _hashes(self, manifest_key: str) -> list[bytes]:
        from genblaze_dagster.storage.manifests import read_manifest

        try:
            manifest = await read_manifest(self.store, manifest_key, verify=False)
        except (ManifestError, StorageError) as exc:
            if exc.transient:
                raise
            self._note_damage(manifest_key, exc)
            return []
        return [bytes.fromhex(sha256) for sha256 in outputs_by_sha256(manifest)]

    def _note_damage(self, _key: str, error: GenblazeError) -> None:
        self._damaged = self._damaged or error
