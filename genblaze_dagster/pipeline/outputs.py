"""Store what a provider returned: bytes under their hash, facts into the asset record."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from genblaze_dagster.core.models import Asset
from genblaze_dagster.core.reference import MediaObject
from genblaze_dagster.errors import OutputError
from genblaze_dagster.media.sniff import extension_for
from genblaze_dagster.net.download import stream_download
from genblaze_dagster.pipeline.media_facts import (
    UNKNOWN_MEDIA_TYPE,
    merged_facts,
    proven_facts,
    sniffed,
)
from genblaze_dagster.providers.protocol import Output
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.rendition import Renditions
from genblaze_dagster.storage.store import MediaStore, StoredMedia
from genblaze_dagster.storage.transfer import MediaSource


@dataclass(frozen=True, slots=True)
class OutputStorage:
    """Where the outputs of one run go; `renditions` is told what they can be made from."""

    store: MediaStore
    run_id: str
    tenant_id: str | None
    created_at: datetime
    renditions: Renditions

    async def keep(self, outputs: Sequence[Output]) -> list[tuple[Asset, MediaObject]]:
        """Store all outputs and return their records, in order.

        Raises:
            OutputError: there is no output, or one of them is empty or cut off.
            StorageError: the store failed; what was stored before stays.
        """
        if not outputs:
            raise OutputError("the provider reports success but returned no output")
        try:
            return [await self._keep_one(output, index) for index, output in enumerate(outputs)]
        except BaseException:
            # They are stored anew, if at all.
            await self.renditions.drop()
            raise

    async def _keep_one(self, output: Output, index: int) -> tuple[Asset, MediaObject]:
        # Derived, so that storing the same run again after a crash gives the same record.
        asset_id = str(uuid.uuid5(_namespace(self.run_id), str(index)))
        placement = Placement(
            run_id=self.run_id,
            asset_id=asset_id,
            tenant_id=self.tenant_id,
            created_at=self.created_at,
        )
        if output.url is not None:
            stored = await self._keep_url(output, output.url, placement)
        else:
            stored = await self._keep_local(output, placement)
        if stored.size_bytes == 0:
            raise OutputError(f"output {index} is empty; nothing usable was generated")
        proven = await proven_facts(self.store, stored, _local(output))
        return _records(asset_id, stored, merged_facts(proven, output.facts))

    async def _keep_local(self, output: Output, placement: Placement) -> StoredMedia:
        source = _local(output)
        if source is None:
            raise OutputError("the provider returned an output without data, path or url")
        media_type = output.media_type or (await sniffed(source))[0]
        return await self._put(source, source, media_type, placement)

    async def _keep_url(self, output: Output, url: str, placement: Placement) -> StoredMedia:
        async with stream_download(url, headers=output.headers) as download:
            proven, source = await sniffed(download.media(), said=download.content_type)
            return await self._put(source, None, output.media_type or proven, placement)

    async def _put(
        self,
        source: MediaSource,
        local: bytes | Path | None,
        media_type: str,
        placement: Placement,
    ) -> StoredMedia:
        stored = await self.store.put_media(
            source,
            media_type=media_type,
            extension=extension_for(media_type) or None,
            placement=placement,
            twin=self.renditions.wanted,
        )
        self.renditions.remember(placement.asset_id, stored, local)
        return stored


def _records(
    asset_id: str, stored: StoredMedia, facts: Mapping[str, Any]
) -> tuple[Asset, MediaObject]:
    media_type = stored.media_type or UNKNOWN_MEDIA_TYPE
    asset = Asset.model_validate(
        {
            **facts,
            "asset_id": asset_id,
            "url": stored.url,
            "media_type": media_type,
            "sha256": stored.sha256,
            "size_bytes": stored.size_bytes,
        }
    )
    media = MediaObject(
        asset_id=asset_id,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        media_type=media_type,
        key=stored.key,
        url=stored.url,
        width=asset.width,
        height=asset.height,
        duration=asset.duration,
    )
    return asset, media


def _local(output: Output) -> bytes | Path | None:
    return output.data if output.data is not None else output.path


def _namespace(run_id: str) -> uuid.UUID:
    """Return what the ids of a run's outputs are derived from; a run may be named by its caller."""
    try:
        return uuid.UUID(run_id)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_URL, run_id)
