"""Manifests as the Runner writes them, without running anything."""

import asyncio
import hashlib
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from genblaze_dagster.core.enums import Modality, RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.index.catalog import IndexCatalog
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.refs import write_ref
from genblaze_dagster.storage.store import MediaStore

START = datetime(2026, 3, 1, tzinfo=UTC)
_numbers = itertools.count(1)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def new_id() -> str:
    """A time-ordered id, like UUIDv7 but readable in a failure."""
    return f"01990000-0000-7000-8000-{next(_numbers):012x}"


def media(content: str, media_type: str = "image/png", **facts: Any) -> Asset:
    return Asset(
        asset_id=new_id(),
        url=f"file:///store/{digest(content)}",
        media_type=media_type,
        sha256=digest(content),
        size_bytes=len(content),
        **facts,
    )


def generation(
    outputs: Sequence[Asset],
    *,
    upstream: Sequence[Manifest] = (),
    run_id: str | None = None,
    parent_run_id: str | None = None,
    **step: Any,
) -> Manifest:
    """One materialisation: the executed step last, the steps of its inputs before it."""
    run_id = run_id or new_id()
    before = [known for manifest in upstream for known in manifest.run.steps]
    facts = {
        "provider": "local",
        "model": "local-image",
        "modality": Modality.IMAGE,
        "prompt": "a fox",
        "cost_usd": 0.25,
        **step,
    }
    inputs = [asset for manifest in upstream for asset in manifest.run.steps[-1].assets]
    executed = Step(
        step_id=new_id(),
        run_id=run_id,
        status=StepStatus.SUCCEEDED,
        inputs=inputs,
        assets=list(outputs),
        step_index=len(before),
        **facts,
    )
    run = Run(
        run_id=run_id,
        parent_run_id=parent_run_id,
        status=RunStatus.COMPLETED,
        steps=[*before, executed],
        created_at=START + timedelta(seconds=next(_numbers)),
    )
    return Manifest.from_run(run)


def reference(manifest: Manifest, key: str, asset_key: str, partition: str | None) -> MediaRef:
    step = manifest.run.steps[-1]
    return MediaRef(
        asset_key=asset_key,
        partition_key=partition,
        run_id=manifest.run.run_id,
        step_id=step.step_id,
        manifest_key=key,
        manifest_url=f"file:///store/{key}",
        canonical_hash=manifest.canonical_hash,
        generation_key="g" * 64,
        provider=step.provider,
        model=step.model,
        modality=step.modality.value,
        cost_usd=step.cost_usd,
        created_at=manifest.run.created_at.isoformat(),
        media=tuple(
            MediaObject(a.asset_id, a.sha256 or "", a.size_bytes or 0, a.media_type, "k", a.url)
            for a in step.assets
        ),
    )


async def keep(
    store: MediaStore,
    writer: SegmentWriter,
    manifest: Manifest,
    asset_key: str = "media/image",
    partition: str | None = None,
) -> str:
    """Store a manifest and its reference and add it to the segment, in the Runner's order."""
    key = await write_manifest(store, manifest)
    await write_ref(store, reference(manifest, key, asset_key, partition))
    writer.add(manifest, asset_key=asset_key, partition_key=partition, manifest_key=key)
    return key


def indexed(store: MediaStore, *manifests: Manifest) -> IndexCatalog:
    """Write the manifests as one segment and return the loaded catalogue."""

    async def write() -> IndexCatalog:
        writer = SegmentWriter(store)
        for manifest in manifests:
            writer.add(manifest, asset_key="media/image", partition_key="fox")
        await writer.flush()
        catalog = IndexCatalog(store)
        await catalog.load()
        return catalog

    return asyncio.run(write())
