"""Runs into a bucket, as genblaze lays them out: assets first, then the manifest."""

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, is_valid_sha256
from genblaze_dagster.errors import ConfigError, GenblazeError, SinkError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.asset_index import AssetIndex
from genblaze_dagster.storage.backend import S3StorageBackend
from genblaze_dagster.storage.fetch import AssetFetcher, Fetch, OpenAsset
from genblaze_dagster.storage.keys import KeyStrategy, Placement, url_extension
from genblaze_dagster.storage.manifests import read_manifest, write_manifest
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.storage.urls import URLPolicy

logger = logging.getLogger(__name__)

STRICT_READS_VARIABLE = "GENBLAZE_STRICT_MANIFEST_READS"

_TRUE = frozenset({"1", "true", "yes", "on"})
_SHOWN_IDS = 5

_warned_buckets: set[str] = set()


class ObjectStorageSink:
    """Writes runs: every output asset, then the manifest that names them.

    A run id is written once: the same content again is fine, other content is a ConflictError and
    nothing is replaced.

    Args:
        backend: the bucket, or any MediaStore.
        prefix: folder inside it.
        key_strategy: how assets and manifests are named.
        asset_url_policy: PUBLIC insists on a public base for asset URLs; AUTO warns once without one.
        allowed_roots: folders whose files may be stored, besides the temporary one.
        strict_manifest_reads: refuse manifests with unhashed outputs; from
            GENBLAZE_STRICT_MANIFEST_READS when not given.
        concurrency: assets transferred at the same time.
        fetch: opens remote assets; the guarded downloader unless a test injects another.

    Raises:
        ConfigError: `asset_url_policy` is PRESIGNED, or PUBLIC without a public base.
    """

    def __init__(
        self,
        backend: S3StorageBackend | MediaStore,
        *,
        prefix: str = "genblaze",
        key_strategy: KeyStrategy | str = KeyStrategy.CONTENT_ADDRESSABLE,
        asset_url_policy: URLPolicy | str = URLPolicy.AUTO,
        allowed_roots: Sequence[str | Path] = (),
        strict_manifest_reads: bool | None = None,
        concurrency: int = 32,
        fetch: Fetch | None = None,
    ) -> None:
        base = backend.store if isinstance(backend, S3StorageBackend) else backend
        _check_policy(base, URLPolicy(asset_url_policy))
        self.store = base.below(prefix, key_strategy=key_strategy)
        self._fetcher = AssetFetcher([Path(root) for root in allowed_roots], fetch)
        self._index = AssetIndex(self.store)
        self._concurrency = concurrency
        if strict_manifest_reads is None:
            strict_manifest_reads = os.environ.get(STRICT_READS_VARIABLE, "").lower() in _TRUE
        self._strict = strict_manifest_reads

    def __repr__(self) -> str:
        return f"ObjectStorageSink({self.store!r})"

    def manifest_key_for(self, run: Run) -> str:
        """Return the manifest's object key in the bucket; pure."""
        return self.store.client.object_key(self._manifest_key(run))

    def manifest_url_for(self, run: Run) -> str:
        """Return the manifest's durable URL; pure."""
        return self.store.durable_url(self._manifest_key(run))

    async def awrite_run(self, run: Run, manifest: Manifest) -> None:
        """Store the outputs of a run and then its manifest.

        Assets get `sha256`, `size_bytes` and their durable `url`; the manifest gets its hash
        anew and `manifest_uri`. Assets that are in this store already are not read again.

        Raises:
            SinkError: `failed_asset_ids` could not be stored. Those before them are, and the
                manifest is not.
            ConflictError: other content is stored for this run id; nothing was replaced.
            StorageError: the manifest could not be stored.
        """
        if manifest.run is not run:
            manifest.run = run
        # Raises for read-only schema versions, before anything is stored.
        manifest.to_canonical_json()
        assets = [asset for asset in _outputs(run) if not self._is_here(asset)]
        failed = await self._store_all(
            assets,
            [Placement(run.run_id, a.asset_id, run.tenant_id, run.created_at) for a in assets],
        )
        manifest.transfer_failures = list(failed)
        manifest.compute_hash()
        if failed:
            raise _failure(run, failed)
        await write_manifest(self.store, manifest)

    def write_run(self, run: Run, manifest: Manifest) -> None:
        """Store a run from sync code; see `awrite_run`."""
        run_sync(self.awrite_run(run, manifest))

    async def aread_manifest(self, run: Run | str, *, verify: bool = True) -> Manifest:
        """Read the manifest of a run or run id and verify its hash.

        Raises:
            NotFoundError: there is none.
            IntegrityError: its content does not hash to its `canonical_hash`.
            UnverifiedAssetError: strict reads, and outputs carry no valid sha256.
        """
        key = run if isinstance(run, str) else self._manifest_key(run)
        return await read_manifest(self.store, key, verify=verify, strict=self._strict)

    def read_manifest(self, run: Run | str, *, verify: bool = True) -> Manifest:
        """Read a manifest from sync code; see `aread_manifest`."""
        return run_sync(self.aread_manifest(run, verify=verify))

    async def aput_asset(
        self, asset: Asset, *, manifest_uri: str | None = None, tenant_id: str | None = None
    ) -> Asset:
        """Store one asset outside a run and return it with its hash, size and durable URL.

        With `manifest_uri`, `tenant_id` is needed, and an index entry leads from the asset id to
        that manifest.

        Raises:
            SinkError: it could not be stored, or its id leads to another manifest already.
        """
        tenant = (tenant_id or "").strip() or None
        if manifest_uri is not None:
            tenant = self._index.check_tenant(tenant_id)
            self._index.check_asset_id(asset.asset_id)
        placement = Placement(None, asset.asset_id, tenant)
        wanted = [] if self._is_here(asset) else [asset]
        failed = await self._store_all(wanted, [placement])
        if error := failed.get(asset.asset_id):
            raise SinkError(
                f"asset {asset.asset_id} could not be stored: {error}",
                failed_asset_ids=[asset.asset_id],
            ) from error
        if manifest_uri is not None and tenant is not None:
            await self._index.write(asset.asset_id, tenant, manifest_uri)
        return asset

    def put_asset(
        self, asset: Asset, *, manifest_uri: str | None = None, tenant_id: str | None = None
    ) -> Asset:
        """Store one asset from sync code; see `aput_asset`."""
        return run_sync(self.aput_asset(asset, manifest_uri=manifest_uri, tenant_id=tenant_id))

    async def aread_manifest_for_asset(self, asset_id: str, *, tenant_id: str) -> Manifest | None:
        """Return the manifest an asset id leads to, None when there is none for this tenant.

        Raises:
            SinkError: the asset id is not a UUID, or the tenant is empty.
            ManifestError: the manifest cannot be read or does not verify.
        """
        return await self._index.read(asset_id, tenant_id, strict=self._strict)

    def read_manifest_for_asset(self, asset_id: str, *, tenant_id: str) -> Manifest | None:
        """Read from sync code; see `aread_manifest_for_asset`."""
        return run_sync(self.aread_manifest_for_asset(asset_id, tenant_id=tenant_id))

    def _manifest_key(self, run: Run) -> str:
        return self.store.layout.manifest_key(
            run.run_id, created_at=run.created_at, tenant_id=run.tenant_id
        )

    async def _store_all(
        self, assets: Sequence[Asset], placements: Sequence[Placement]
    ) -> dict[str, Exception]:
        """Store assets at the same time; return what went wrong, by asset id."""
        files = await asyncio.to_thread(self._fetcher.local_files, [a.url for a in assets])
        slots = asyncio.Semaphore(self._concurrency)
        failed: dict[str, Exception] = {}

        async def store(asset: Asset, placement: Placement) -> None:
            async with slots:
                try:
                    async with self._fetcher.open(asset.url, files) as opened:
                        await self._store(asset, opened, placement)
                except (GenblazeError, OSError) as exc:
                    failed[asset.asset_id] = exc

        await asyncio.gather(*map(store, assets, placements))
        return {a.asset_id: failed[a.asset_id] for a in assets if a.asset_id in failed}

    async def _store(self, asset: Asset, opened: OpenAsset, placement: Placement) -> None:
        stored = await self.store.put_media(
            opened.source,
            media_type=opened.content_type,
            extension=url_extension(asset.url, opened.content_type),
            placement=placement,
            sha256=asset.sha256 if is_valid_sha256(asset.sha256) else None,
            size_bytes=opened.size_bytes,
        )
        asset.sha256 = stored.sha256
        asset.size_bytes = stored.size_bytes
        asset.url = stored.url

    def _is_here(self, asset: Asset) -> bool:
        known = is_valid_sha256(asset.sha256) and asset.size_bytes is not None
        return known and self.store.key_from_url(asset.url) is not None


def _outputs(run: Run) -> Iterator[Asset]:
    """Yield every output asset object once."""
    seen: set[int] = set()
    for step in run.steps:
        for asset in step.assets:
            if id(asset) not in seen:
                seen.add(id(asset))
                yield asset


def _failure(run: Run, failed: dict[str, Exception]) -> SinkError:
    shown = ", ".join(list(failed)[:_SHOWN_IDS])
    more = ", ..." if len(failed) > _SHOWN_IDS else ""
    reason = next(iter(failed.values()))
    error = SinkError(
        f"run {run.run_id}: {len(failed)} asset(s) could not be stored ({shown}{more}); the others "
        f"are, the manifest is not, and writing the run again continues; first reason: {reason}",
        failed_asset_ids=list(failed),
    )
    error.__cause__ = reason
    return error


def _check_policy(store: MediaStore, policy: URLPolicy) -> None:
    if policy is URLPolicy.PRESIGNED:
        raise ConfigError(
            "URLPolicy.PRESIGNED would put expiring URLs into manifests; use AUTO or PUBLIC and "
            "presign when reading"
        )
    if store.public_url_base is not None:
        return
    if policy is URLPolicy.PUBLIC:
        raise ConfigError("URLPolicy.PUBLIC needs public_url_base; set it on the backend")
    if store.client.location.is_remote and store.url not in _warned_buckets:
        _warned_buckets.add(store.url)
        logger.warning(
            "%s has no public_url_base: URLs in manifests need credentials unless the bucket is "
            "public",
            store.url,
        )
