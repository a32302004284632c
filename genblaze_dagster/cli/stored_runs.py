"""Which run of a store made given bytes."""

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import NotFoundError

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

# In the hierarchical layout the manifest lies beside its assets; the other one names them by hash.
_BESIDE_MANIFEST: Final = re.compile(r"(runs/(?:[^/]+/)*\d{4}-\d{2}-\d{2}/[^/]+)/assets/[^/]+")
_CONTENT_ADDRESS: Final = re.compile(r"assets/[0-9a-f]{2}/[0-9a-f]{2}/([0-9a-f]{64})(?:\.[^/]+)?")


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A manifest in a store; not verified."""

    manifest: Manifest
    manifest_key: str


async def find_stored_run(
    store: "MediaStore", sha256: str, *, key: str | None = None
) -> StoredRun | None:
    """Return the run that put out bytes of this hash, None when the store knows none.

    `key` is where the bytes lie in the store, None when they do not: then the run that put the
    object there is looked for, even if its bytes have changed since. Looks beside the object, then
    into the index, which knows every run, then through all references, which know the newest run
    of each asset and partition.

    Raises:
        ManifestError: the run's manifest cannot be read.
        IndexQueryError: the index cannot be read.
        StorageError: the store cannot be read.
    """
    from genblaze_dagster.storage.manifests import read_manifest

    address = _CONTENT_ADDRESS.fullmatch(key or "")
    wanted = address[1] if address else sha256
    async for manifest_key in _candidates(store, wanted, key):
        with suppress(NotFoundError):
            return StoredRun(await read_manifest(store, manifest_key, verify=False), manifest_key)
    return None


async def _candidates(store: "MediaStore", sha256: str, key: str | None) -> AsyncIterator[str]:
    from genblaze_dagster.storage.refs import list_refs

    if beside := _BESIDE_MANIFEST.fullmatch(key or ""):
        yield f"{beside[1]}/manifest.json"
    for manifest_key in await _in_index(store, sha256):
        yield manifest_key
    async for ref in list_refs(store):
        if any(media.sha256 == sha256 for media in ref.media):
            yield ref.manifest_key


async def _in_index(store: "MediaStore", sha256: str) -> list[str]:
    from genblaze_dagster.index.catalog import IndexCatalog

    catalog = IndexCatalog(store)
    await catalog.load()
    found = catalog.query(
        "SELECT DISTINCT coalesce(manifest_key, run_id) AS manifest"
        " FROM assets JOIN runs USING (run_id) WHERE sha256 = ? AND executed ORDER BY manifest",
        [sha256],
    )
    return found.column("manifest").to_pylist()
