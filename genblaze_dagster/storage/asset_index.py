"""From an asset id to its manifest: the small entries genblaze keeps under `_index/`."""

import json
import uuid

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import AlreadyExistsError, NotFoundError, SinkError
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.options import PutMode
from genblaze_dagster.storage.store import MediaStore

_MAX_ENTRY_BYTES = 64 * 1024


class AssetIndex:
    """Entries per tenant, each with the flat copy older readers look for."""

    def __init__(self, store: MediaStore) -> None:
        self._store = store

    @staticmethod
    def check_tenant(tenant_id: str | None) -> str:
        """Return the tenant without spaces around it.

        Raises:
            SinkError: there is none.
        """
        tenant = (tenant_id or "").strip()
        if not tenant:
            raise SinkError("an index entry needs a tenant; pass tenant_id")
        return tenant

    @staticmethod
    def check_asset_id(asset_id: str) -> None:
        """Refuse what could lead out of the index folder.

        Raises:
            SinkError: the id is not a UUID.
        """
        try:
            uuid.UUID(asset_id)
        except ValueError:
            raise SinkError(
                f"asset id {asset_id!r} is not a UUID; index entries need one",
                failed_asset_ids=[asset_id],
            ) from None

    async def write(self, asset_id: str, tenant: str, manifest_uri: str) -> None:
        """Write the entry of a tenant and its flat copy, once.

        Raises:
            SinkError: the id leads to another manifest already.
        """
        body = json.dumps({"manifest_uri": manifest_uri, "tenant_id": tenant}).encode()
        for key in self._keys(asset_id, tenant):
            try:
                await self._store.put(
                    key, body, media_type="application/json", cache_control="", mode=PutMode.CREATE
                )
            except AlreadyExistsError:
                if await self._store.get(key, max_bytes=_MAX_ENTRY_BYTES) != body:
                    raise SinkError(
                        f"asset {asset_id} leads to another manifest already; give the asset a "
                        "new id",
                        failed_asset_ids=[asset_id],
                    ) from None

    async def read(self, asset_id: str, tenant_id: str, *, strict: bool) -> Manifest | None:
        """Return the manifest of an asset, None when there is none for the tenant.

        Raises:
            SinkError: the id is not a UUID, or the tenant is empty.
            ManifestError: the manifest cannot be read or does not verify.
        """
        self.check_asset_id(asset_id)
        tenant = self.check_tenant(tenant_id)
        key = await self._manifest_key(asset_id, tenant)
        if key is None:
            return None
        try:
            manifest = await read_manifest(self._store, key, strict=strict)
        except NotFoundError:
            return None
        outputs = {asset.asset_id for step in manifest.run.steps for asset in step.assets}
        matches = asset_id in outputs and (manifest.run.tenant_id or "").strip() == tenant
        return manifest if matches else None

    async def _manifest_key(self, asset_id: str, tenant: str) -> str | None:
        for key in self._keys(asset_id, tenant):
            try:
                data = await self._store.get(key, max_bytes=_MAX_ENTRY_BYTES)
            except NotFoundError:
                continue
            entry = _parse(data)
            if entry is not None and entry[1] == tenant:
                return self._store.key_from_url(entry[0])
        return None

    def _keys(self, asset_id: str, tenant: str) -> tuple[str, str]:
        layout = self._store.layout
        return layout.index_key(asset_id, tenant), layout.index_key(asset_id)


def _parse(data: bytes) -> tuple[str, str] | None:
    try:
        entry = json.loads(data)
        return str(entry["manifest_uri"]), str(entry["tenant_id"])
    except (ValueError, KeyError, TypeError):
        return None
