"""What the store has of a submission, whatever the ledger had time to say about it.

A process that dies while it stores an answer leaves bytes, then a manifest, then a reference. From
the manifest on the answer is whole: the reference can be written by anybody.
"""

import asyncio
from datetime import datetime, timedelta

from genblaze_dagster.core.enums import RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import NotFoundError
from genblaze_dagster.ledger.submission import LedgerRow
from genblaze_dagster.pipeline.recording import record_ids
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.refs import read_ref, write_ref
from genblaze_dagster.storage.store import MediaStore

# A manifest lies under the day on which it was written. The ledger's clock and that of the machine
# may disagree about the day, and an answer may come after midnight.
_DAYS = (0, 1, -1)


async def stored_result(store: MediaStore, row: LedgerRow) -> MediaRef | None:
    """Return the reference of what a submission has made, None when not all of it is stored.

    A reference that was not written any more is written now.

    Raises:
        StorageError: the store cannot say.
        ManifestError: what is stored under the submission's name is damaged.
    """
    ref = await read_ref(store, row.asset_key, row.partition_key or None)
    if ref is not None and ref.run_id == row.run_id:
        return ref if await _is_there(store, ref, manifest_too=True) else None
    ref = await _recorded(store, row)
    if ref is None or not await _is_there(store, ref, manifest_too=False):
        return None
    await write_ref(store, ref)
    return ref


async def _is_there(store: MediaStore, ref: MediaRef, *, manifest_too: bool) -> bool:
    found = await asyncio.gather(*(store.head(media.key) for media in ref.media))
    if manifest_too and await store.head(ref.manifest_key) is None:
        return False
    return all(
        info is not None and info.size_bytes == media.size_bytes
        for info, media in zip(found, ref.media, strict=True)
    )


async def _recorded(store: MediaStore, row: LedgerRow) -> MediaRef | None:
    """Return the reference that follows from a submission's manifest, None when there is none."""
    sent = row.sending_at or row.claimed_at
    days = (sent + timedelta(days=days) for days in _DAYS)
    # Where keys have no date, all days are one.
    for day in {_key(store, row, row.run_id, day): day for day in days}.values():
        ref = await _recorded_on(store, row, day)
        if ref is not None:
            return ref
    return None


def _key(store: MediaStore, row: LedgerRow, run_id: str, day: datetime) -> str:
    return store.layout.manifest_key(run_id, created_at=day, tenant_id=row.tenant_id)


async def _recorded_on(store: MediaStore, row: LedgerRow, day: datetime) -> MediaRef | None:
    # What is recorded under one may have failed, or be of an attempt before.
    for run_id in record_ids(row.run_id):
        key = _key(store, row, run_id, day)
        try:
            manifest = await read_manifest(store, key, strict=True)
        except NotFoundError:
            return None
        ref = _reference(store, row, key, manifest)
        if ref is not None:
            return ref
    return None


def _reference(store: MediaStore, row: LedgerRow, key: str, manifest: Manifest) -> MediaRef | None:
    """Return what `Recording` would have written, without renditions of the outputs."""
    run = manifest.run
    step = run.steps[-1] if run.steps else None
    if step is None or run.status is not RunStatus.COMPLETED or not _is_of(row, step):
        return None
    completed_at = run.completed_at
    if completed_at is None or not _is_of_attempt(row, completed_at):
        return None
    media = [_media(store, asset) for asset in step.assets]
    known = tuple(each for each in media if each is not None)
    if not known or len(known) < len(media):
        return None
    return MediaRef(
        asset_key=row.asset_key,
        partition_key=row.partition_key or None,
        run_id=run.run_id,
        step_id=step.step_id,
        manifest_key=key,
        manifest_url=store.durable_url(key),
        canonical_hash=manifest.canonical_hash,
        generation_key=row.generation_key,
        provider=step.provider,
        model=step.model,
        modality=step.modality.value,
        cost_usd=step.cost_usd,
        created_at=completed_at.isoformat(),
        media=known,
    )


def _is_of(row: LedgerRow, step: Step) -> bool:
    made = (step.step_id, step.provider, step.model)
    return step.status is StepStatus.SUCCEEDED and made == (row.step_id, row.provider, row.model)


def _is_of_attempt(row: LedgerRow, completed_at: datetime) -> bool:
    """Whether no attempt before the current one has written it; they share one run id."""
    return row.attempt == 1 or row.sending_at is None or completed_at >= row.sending_at


def _media(store: MediaStore, asset: Asset) -> MediaObject | None:
    key = store.key_from_url(asset.url)
    if key is None or asset.sha256 is None or asset.size_bytes is None:
        return None
    return MediaObject(
        asset_id=asset.asset_id,
        sha256=asset.sha256,
        size_bytes=asset.size_bytes,
        media_type=asset.media_type,
        key=key,
        url=asset.url,
        width=asset.width,
        height=asset.height,
        duration=asset.duration,
    )
