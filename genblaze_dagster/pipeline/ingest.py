"""Media from elsewhere into the store, with a manifest that says where it came from."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uuid_utils import compat as uuid_utils

from genblaze_dagster.core.enums import Modality, RunStatus, StepStatus, StepType
from genblaze_dagster.core.manifest import Manifest, check_json
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.provenance import asset_provenance_key
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.net.redact import find_secret
from genblaze_dagster.pipeline.environment import default_store_url
from genblaze_dagster.pipeline.execution import Indexer, Sink
from genblaze_dagster.pipeline.inputs import named_roots
from genblaze_dagster.pipeline.intake import Ingestible, Intake, Kept
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.storage.fetch import AssetFetcher, Fetch
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.store import MediaStore

DEFAULT_CONCURRENCY = 16

_INGESTING = (StepType.INGEST, StepType.IMPORT)


async def aingest(
    assets: Sequence[Ingestible],
    *,
    source: str,
    source_metadata: Mapping[str, Any] | None = None,
    sink: Sink | None = None,
    store: MediaStore | str | None = None,
    index: Indexer | None = None,
    name: str | None = None,
    tenant_id: str | None = None,
    project_id: str | None = None,
    step_type: StepType | str = StepType.INGEST,
    input_roots: Sequence[Path] | None = None,
    max_concurrency: int = DEFAULT_CONCURRENCY,
    fetch: Fetch | None = None,
) -> PipelineResult:
    """Store media that no step made, and return a result like that of a run.

    The manifest has one succeeded step per asset, without provider and cost, its model is
    `source`. Steps stand in an order that follows from their content, so the canonical hash does
    not depend on the order of `assets`. What the bytes prove (type, size, duration) is recorded
    where a record does not say it; a record's sha256 and size must be those of the bytes. In the
    result the steps are called by what they are: `image`, `image_2`, `video`.

    Media that is a later step's input brings the whole manifest along, so things that do not belong
    together are better ingested one by one.

    Args:
        assets: what to store. URLs go through the SSRF guard, file:// URLs must lie below a root.
        source: where it comes from, such as a camera, a stock library or a person.
        source_metadata: more about that; hashed into the manifest.
        sink: where media and manifest go, as in the genblaze guides.
        store: the same as a `MediaStore` or its URL; the default one when neither is given.
        index: collects the manifest; flushed at the end.
        name: of the run.
        tenant_id: stripped; an empty one is none.
        project_id: free text, hashed into the manifest.
        step_type: ingest or import.
        input_roots: folders whose files file:// URLs may name, besides the temporary one; those of
            GENBLAZE_INPUT_ROOTS when left out.
        max_concurrency: assets transferred at the same time.
        fetch: opens a URL; the guarded downloader unless a test injects another.

    Raises:
        ConfigError: no assets, an argument that cannot be used, or a secret in what is recorded.
        ManifestError: metadata cannot stand in a manifest.
        SinkError: assets could not be stored; those that could are, and the manifest is not.
        StorageError: the manifest could not be stored.
    """
    _check(assets, source, source_metadata or {}, max_concurrency)
    if sink is not None and store is not None:
        raise ConfigError("sink and store both say where media goes; give one of them")
    kind = _ingesting(step_type)
    if sink is not None:
        destination = sink.store
    else:
        destination = (
            store if isinstance(store, MediaStore) else MediaStore(store or default_store_url())
        )
    run = Run(
        run_id=str(uuid_utils.uuid7()),
        tenant_id=(tenant_id or "").strip() or None,
        project_id=project_id,
        name=name,
        status=RunStatus.COMPLETED,
        created_at=datetime.now(UTC),
        started_at=datetime.now(UTC),
    )
    intake = Intake(
        destination, run, AssetFetcher(named_roots() if input_roots is None else input_roots, fetch)
    )
    kept = await intake.keep(assets, max_concurrency)
    kept.sort(key=lambda one: asset_provenance_key(one.asset))
    metadata = {**(source_metadata or {}), "source": source}
    run.completed_at = datetime.now(UTC)
    run.steps = [
        Step(
            run_id=run.run_id,
            step_index=number,
            provider=None,
            model=source,
            step_type=kind,
            modality=_modality(one.asset.media_type),
            status=StepStatus.SUCCEEDED,
            assets=[one.asset],
            started_at=run.started_at,
            completed_at=run.completed_at,
            metadata=dict(metadata),
        )
        for number, one in enumerate(kept)
    ]
    manifest = Manifest.from_run(run)
    key = await write_manifest(destination, manifest)
    if index is not None:
        index.add(manifest, manifest_key=key)
        await index.flush()
    return PipelineResult(run, manifest, destination, _outcomes(kept, manifest, key))


def ingest(assets: Sequence[Ingestible], *, source: str, **options: Any) -> PipelineResult:
    """Store media from sync code; see `aingest` for the options."""
    return run_sync(aingest(assets, source=source, **options))


def _check(
    assets: Sequence[Ingestible],
    source: str,
    source_metadata: Mapping[str, Any],
    max_concurrency: int,
) -> None:
    if isinstance(assets, str | bytes | Path | Asset):
        raise ConfigError("assets is a single thing; give a list")
    if not assets:
        raise ConfigError("assets is empty; give at least one, or leave the call out")
    for number, item in enumerate(assets):
        if isinstance(item, str) and "://" not in item:
            raise ConfigError(f"asset {number} is a text and no URL; write a path as Path(...)")
        if isinstance(item, Asset):
            check_json(item.metadata, where=f"metadata of asset {number}")
    if not source.strip():
        raise ConfigError("source is empty; say where the media comes from")
    if max_concurrency < 1:
        raise ConfigError(f"max_concurrency is {max_concurrency}; give at least 1")
    check_json(dict(source_metadata), where="source_metadata")
    for named, value in (("source", source), ("source_metadata", source_metadata)):
        where = find_secret(value)
        if where is not None:
            raise ConfigError(f"{named} holds what looks like a secret at {where}; leave it out")


def _ingesting(step_type: StepType | str) -> StepType:
    if step_type in _INGESTING:
        return StepType(step_type)
    raise ConfigError(f"step_type is {str(step_type)!r:.40}; media is taken in by ingest or import")


def _modality(media_type: str) -> Modality:
    main = media_type.partition("/")[0]
    return next((one for one in Modality if one.value == main), Modality.IMAGE)


def _outcomes(kept: Sequence[Kept], manifest: Manifest, key: str) -> dict[str, StepOutcome]:
    """Return what each step gave, by names as a pipeline would give them."""
    outcomes: dict[str, StepOutcome] = {}
    counted: dict[str, int] = {}
    for one, step in zip(kept, manifest.run.steps, strict=True):
        kind = step.modality.value
        counted[kind] = counted.get(kind, 0) + 1
        step_name = kind if counted[kind] == 1 else f"{kind}_{counted[kind]}"
        ref = _ref(one, step, manifest, key, f"{manifest.run.name or 'ingest'}/{step_name}")
        outcomes[step_name] = StepOutcome(ref, manifest, Origin.FINISHED, 0.0, 0)
    return outcomes


def _ref(one: Kept, step: Step, manifest: Manifest, key: str, asset_key: str) -> MediaRef:
    asset = one.asset
    return MediaRef(
        asset_key=asset_key,
        partition_key=None,
        run_id=manifest.run.run_id,
        step_id=step.step_id,
        manifest_key=key,
        manifest_url=manifest.manifest_uri or "",
        canonical_hash=manifest.canonical_hash,
        generation_key=asset.sha256 or "",
        provider=None,
        model=step.model,
        modality=step.modality.value,
        cost_usd=None,
        created_at=manifest.run.created_at.isoformat(),
        media=(
            MediaObject(
                asset_id=asset.asset_id,
                sha256=asset.sha256 or "",
                size_bytes=asset.size_bytes or 0,
                media_type=asset.media_type,
                key=one.key,
                url=asset.url,
                width=asset.width,
                height=asset.height,
                duration=asset.duration,
            ),
        ),
    )
