"""Manifests in a store: written once per run id, read with a size limit and verified."""

import logging
from collections.abc import AsyncGenerator

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES, parse_manifest
from genblaze_dagster.errors import (
    AlreadyExistsError,
    ConflictError,
    IntegrityError,
    ManifestError,
    NotFoundError,
    UnverifiedAssetError,
)
from genblaze_dagster.storage.keys import KeyStrategy, join_key
from genblaze_dagster.storage.options import PutMode
from genblaze_dagster.storage.store import MediaStore

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/json"


async def write_manifest(store: MediaStore, manifest: Manifest) -> str:
    """Store a manifest under its run id and return the key; sets `manifest.manifest_uri`.

    Writing the same content again is fine, whatever its times and cost. The stored document always
    has `manifest_uri` null, so that it does not depend on where it lies.

    Raises:
        ConflictError: another content is stored for this run id; it stays as it is.
        IntegrityError: the manifest was changed after it was hashed.
        StorageError: it could not be stored.
    """
    _check_hash(manifest)
    run = manifest.run
    key = store.layout.manifest_key(run.run_id, created_at=run.created_at, tenant_id=run.tenant_id)
    body = manifest.model_copy(update={"manifest_uri": None}).to_canonical_json().encode()
    try:
        await store.put(key, body, media_type=MEDIA_TYPE, mode=PutMode.CREATE)
        written_atomically = (await store.probe()).create_only
    except AlreadyExistsError:
        written_atomically = False
    if not written_atomically:
        # Somebody else's, an earlier attempt's, or a race on a store that cannot create-only.
        await _check_stored(store, key, manifest, body)
    manifest.manifest_uri = store.durable_url(key)
    return key


async def read_manifest(
    store: MediaStore, key_or_run_id: str, *, verify: bool = True, strict: bool = False
) -> Manifest:
    """Read a manifest by its key or its run id.

    In a hierarchical store a run id alone is searched for by listing all runs.

    Args:
        store: where it is.
        key_or_run_id: a key ends in `.json`.
        verify: recompute its hash.
        strict: refuse outputs without a valid sha256 instead of logging a warning.

    Raises:
        NotFoundError: there is none.
        IntegrityError: its content does not hash to its `canonical_hash`.
        UnverifiedAssetError: `strict`, and outputs carry no valid sha256.
        ManifestError: it is not a manifest we can read.
        StorageError: it cannot be read, or is larger than 16 MiB.
    """
    key = key_or_run_id
    if not key.endswith(".json"):
        key = await _find(store, key_or_run_id)
    manifest = parse_manifest(await store.get(key, max_bytes=MAX_MANIFEST_BYTES))
    if verify:
        _verify(manifest, key, strict=strict)
    if manifest.manifest_uri is None:
        manifest.manifest_uri = store.durable_url(key)
    return manifest


async def manifest_keys(store: MediaStore) -> AsyncGenerator[str, None]:
    """Yield the keys of all manifests of a store, in no particular order."""
    layout = store.layout
    async for info in store.list(layout.manifest_folder()):
        if layout.is_manifest_key(info.key):
            yield info.key


async def _find(store: MediaStore, run_id: str) -> str:
    layout = store.layout
    if layout.strategy is KeyStrategy.CONTENT_ADDRESSABLE:
        return join_key("", layout.manifest_folder(), f"{run_id}.json")
    async for key in manifest_keys(store):
        if key.split("/")[-2] == run_id:
            return key
    raise NotFoundError(f"{store.url}: no manifest of run {run_id}; check the run id and tenant")


async def _check_stored(store: MediaStore, key: str, manifest: Manifest, body: bytes) -> None:
    data = await store.get(key, max_bytes=MAX_MANIFEST_BYTES)
    if data == body:
        return
    try:
        stored = parse_manifest(data)
        same = stored.canonical_hash == manifest.canonical_hash and stored.verify_hash()
    except ManifestError:
        same = False
    if not same:
        raise ConflictError(
            f"{store.url}: {key} holds another manifest of run {manifest.run.run_id}; "
            "nothing was overwritten, give the new content a run id of its own",
            key=key,
        )


def _check_hash(manifest: Manifest) -> None:
    if not manifest.canonical_hash:
        manifest.compute_hash()
    elif not manifest.verify_hash():
        raise IntegrityError(
            f"manifest of run {manifest.run.run_id} was changed after it was hashed; "
            "call compute_hash() before storing it",
            expected=manifest.canonical_hash,
        )


def _verify(manifest: Manifest, key: str, *, strict: bool) -> None:
    if not manifest.verify_hash():
        raise IntegrityError(
            f"manifest {key} does not hash to its canonical_hash; it was changed after it was "
            "written, restore it or generate again",
            expected=manifest.canonical_hash,
        )
    missing = manifest.output_asset_ids_missing_sha256()
    if missing and strict:
        raise UnverifiedAssetError(missing)
    if missing:
        logger.warning("manifest %s: %d output(s) without a valid sha256", key, len(missing))
