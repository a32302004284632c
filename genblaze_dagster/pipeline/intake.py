"""Take media from elsewhere into a store: bytes under their hash, and a record of each."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from genblaze_dagster.core.models import Asset, Run, is_valid_sha256
from genblaze_dagster.errors import ConfigError, GenblazeError, SchemaError, SinkError
from genblaze_dagster.media.sniff import extension_for, media_type_for_extension
from genblaze_dagster.net.local_path import check_local_path
from genblaze_dagster.pipeline.field_errors import field_errors
from genblaze_dagster.pipeline.media_facts import proven_facts, sniffed
from genblaze_dagster.storage.fetch import AssetFetcher, OpenAsset
from genblaze_dagster.storage.keys import Placement, url_extension
from genblaze_dagster.storage.store import MediaStore, StoredMedia

Ingestible = Asset | str | Path | bytes
"""A record with a URL, an https:// or file:// URL, a local file, or the bytes themselves."""

_SHOWN_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Kept:
    """Stored media: its record and the object that holds it."""

    asset: Asset
    key: str


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes media into the store for one run."""

    store: MediaStore
    run: Run
    fetcher: AssetFetcher

    async def keep(self, assets: Sequence[Ingestible], at_once: int) -> list[Kept]:
        """Store all of it and return it in the order given.

        Raises:
            SinkError: some could not be stored.
        """
        slots = asyncio.Semaphore(at_once)
        errors: dict[int, Exception] = {}

        async def one(number: int, item: Ingestible) -> Kept | None:
            async with slots:
                try:
                    return await self._keep_one(item)
                except (GenblazeError, OSError) as exc:
                    errors[number] = exc
                    return None

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(n, item)) for n, item in enumerate(assets)]
        if errors:
            raise _failure(assets, errors)
        return [kept for task in tasks if (kept := task.result()) is not None]

    async def _keep_one(self, item: Ingestible) -> Kept:
        record = item if isinstance(item, Asset) else None
        sha256 = record.sha256 if record and is_valid_sha256(record.sha256) else None
        async with self._open(item) as (opened, address):
            proven, media = await sniffed(opened.source, said=opened.content_type)
            media_type = record.media_type if record else proven
            stored = await self.store.put_media(
                media,
                media_type=media_type,
                extension=_extension(address, media_type),
                # A stranger's id may be no part of a key.
                placement=Placement(
                    self.run.run_id, str(uuid.uuid4()), self.run.tenant_id, self.run.created_at
                ),
                sha256=sha256,
                size_bytes=record.size_bytes if record else None,
            )
        if stored.size_bytes == 0:
            raise ConfigError("it is empty; there is nothing to ingest")
        local = media if isinstance(media, bytes | Path) else None
        facts = await proven_facts(self.store, stored, local)
        return Kept(_record(record, stored, media_type, facts), stored.key)

    @asynccontextmanager
    async def _open(self, item: Ingestible) -> AsyncGenerator[tuple[OpenAsset, str]]:
        """Open media; also give the address whose ending may tell its type."""
        if isinstance(item, bytes):
            yield OpenAsset(item, None, len(item)), ""
            return
        if isinstance(item, Path):
            # The caller's own code names it; places of the system and of credentials stay shut.
            path = await asyncio.to_thread(_own_file, item)
            yield OpenAsset(path, media_type_for_extension(path.suffix), None), path.name
            return
        url = item.url if isinstance(item, Asset) else item
        key = self.store.key_from_url(url)
        if key is not None:
            yield OpenAsset(self.store.stream(key), None, None), url
            return
        files = await asyncio.to_thread(self.fetcher.local_files, [url])
        async with self.fetcher.open(url, files) as opened:
            yield opened, url


def _own_file(path: Path) -> Path:
    whole = path.absolute()
    return check_local_path(whole, [Path(whole.anchor)])


def _extension(address: str, media_type: str) -> str | None:
    if "://" in address:
        return url_extension(address, media_type) or None
    return extension_for(media_type) or None


def _record(
    record: Asset | None, stored: StoredMedia, media_type: str, facts: Mapping[str, Any]
) -> Asset:
    """Return the record of stored media: what was said of it, and what its bytes prove besides."""
    said: dict[str, Any] = {}
    if record is not None:
        said = {k: v for k, v in record.model_dump().items() if v is not None}
    else:
        # The same bytes are the same asset, whenever they come.
        said["asset_id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, stored.sha256))
    try:
        return Asset.model_validate(
            {
                **facts,
                **said,
                "media_type": media_type,
                "url": stored.url,
                "sha256": stored.sha256,
                "size_bytes": stored.size_bytes,
            }
        )
    except ValidationError as exc:
        raise SchemaError(f"its record is not valid: {field_errors(exc)}") from None


def _failure(assets: Sequence[Ingestible], errors: Mapping[int, Exception]) -> SinkError:
    shown = "; ".join(
        f"asset {number}: {errors[number]}" for number in sorted(errors)[:_SHOWN_ERRORS]
    )
    more = "; ..." if len(errors) > _SHOWN_ERRORS else ""
    failed = [assets[number] for number in sorted(errors)]
    error = SinkError(
        f"{len(errors)} of {len(assets)} asset(s) could not be ingested ({shown}{more}); the others "
        "are stored, the manifest is not, and ingesting again continues",
        failed_asset_ids=[item.asset_id for item in failed if isinstance(item, Asset)],
    )
    error.__cause__ = errors[min(errors)]
    return error
