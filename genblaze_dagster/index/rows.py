"""From a manifest to rows of the index."""

import hashlib
import math
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from genblaze_dagster.core.canonical import canonical_json
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step, is_valid_sha256
from genblaze_dagster.core.urls import strip_credentials
from genblaze_dagster.errors import ManifestError
from genblaze_dagster.index.schema import TableName

Row = dict[str, Any]

_INT64 = 2**63


def manifest_rows(
    manifest: Manifest,
    *,
    asset_key: str | None,
    partition_key: str | None,
    manifest_key: str | None,
) -> dict[TableName, list[Row]]:
    """Return what a manifest adds to each table.

    Raises:
        ManifestError: parameters or metadata cannot be written as JSON.
    """
    run = manifest.run
    steps = list(enumerate(run.steps))
    rows = {
        TableName.RUNS: [
            {
                **_run(run),
                "asset_key": asset_key,
                "partition_key": partition_key,
                "schema_version": manifest.schema_version,
                "canonical_hash": manifest.canonical_hash or None,
                "manifest_key": manifest_key,
            }
        ],
        TableName.STEPS: [_step(run, index, step) for index, step in steps],
        TableName.ASSETS: [row for index, step in steps for row in _assets(run, index, step)],
        TableName.INPUTS: list(_inputs(run)),
    }
    return {
        table: [{name: _storable(value) for name, value in row.items()} for row in found]
        for table, found in rows.items()
    }


def prompt_sha256(prompt: str) -> str:
    """Return the SHA-256 of a prompt's NFC text: how a prompt is recognised without being kept."""
    text = unicodedata.normalize("NFC", prompt)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _run(run: Run) -> Row:
    return {
        "run_id": run.run_id,
        "parent_run_id": run.parent_run_id,
        "tenant_id": run.tenant_id,
        "project_id": run.project_id,
        "name": run.name,
        "status": run.status.value,
        "step_count": len(run.steps),
        "cost_usd": _cost(run),
        "metadata_json": canonical_json(run.metadata),
        "created_at": run.created_at,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
    }


def _executed_in(run: Run, step: Step) -> str:
    return run.run_id if step.run_id is None else step.run_id


def _cost(run: Run) -> float | None:
    """Return what the run itself cost; unknown as soon as one of its own steps is."""
    costs = [step.cost_usd for step in run.steps if _executed_in(run, step) == run.run_id]
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known and len(known) == len(costs) else None


def _identity(run: Run, index: int, step: Step) -> Row:
    return {
        "run_id": run.run_id,
        "step_id": step.step_id,
        "step_index": index,
        "executed": _executed_in(run, step) == run.run_id,
    }


def _step(run: Run, index: int, step: Step) -> Row:
    public = step.prompt_visibility is PromptVisibility.PUBLIC
    return {
        **_identity(run, index, step),
        "executed_in": _executed_in(run, step),
        "provider": step.provider,
        "model": step.model,
        "model_version": step.model_version,
        "step_type": step.step_type.value,
        "modality": step.modality.value,
        "status": step.status.value,
        "prompt": step.prompt if public else None,
        "negative_prompt": step.negative_prompt if public else None,
        "prompt_sha256": _recognisable(step),
        "prompt_visibility": step.prompt_visibility.value,
        "seed": step.seed,
        "params_json": canonical_json(step.params),
        "metadata_json": canonical_json(step.metadata),
        "input_count": len(step.inputs),
        "asset_count": len(step.assets),
        "retries": step.retries,
        "cost_usd": step.cost_usd,
        "error": step.error,
        "error_code": None if step.error_code is None else step.error_code.value,
        "started_at": step.started_at,
        "completed_at": step.completed_at,
    }


def _recognisable(step: Step) -> str | None:
    if step.prompt is not None:
        return prompt_sha256(step.prompt)
    # The Runner replaces a prompt that is not public by its hash in the step's metadata.
    recorded = step.metadata.get("prompt_sha256")
    return recorded if is_valid_sha256(recorded) else None


def _media(asset: Asset) -> Row:
    return {
        "asset_id": asset.asset_id,
        "sha256": asset.sha256,
        "media_type": asset.media_type,
        "size_bytes": asset.size_bytes,
    }


def _assets(run: Run, index: int, step: Step) -> Iterator[Row]:
    for position, asset in enumerate(step.assets):
        yield {
            **_identity(run, index, step),
            "position": position,
            **_media(asset),
            "url": _lasting_url(asset.url),
            "width": asset.width,
            "height": asset.height,
            "duration": asset.duration,
            **_video(asset),
            **_audio(asset),
            "track_count": None if asset.tracks is None else len(asset.tracks),
        }


def _video(asset: Asset) -> Row:
    video = asset.video
    if video is None:
        return {}
    return {
        "frame_rate": video.frame_rate,
        "video_codec": video.codec,
        "video_bitrate": video.bitrate,
        "color_space": video.color_space,
        "has_audio": video.has_audio,
    }


def _audio(asset: Asset) -> Row:
    audio = asset.audio
    if audio is None:
        return {}
    return {
        "sample_rate": audio.sample_rate,
        "channels": audio.channels,
        "audio_codec": audio.codec,
        "audio_bitrate": audio.bitrate,
    }


def _inputs(run: Run) -> Iterator[Row]:
    makers: dict[str, Step] = {}
    for index, step in enumerate(run.steps):
        for position, asset in enumerate(step.inputs):
            maker = makers.get(asset.sha256 or "")
            yield {
                **_identity(run, index, step),
                "position": position,
                **_media(asset),
                "from_step_id": None if maker is None else maker.step_id,
                "from_run_id": None if maker is None else _executed_in(run, maker),
            }
        for asset in step.assets:
            if asset.sha256 is not None and is_valid_sha256(asset.sha256):
                makers[asset.sha256] = step


def _lasting_url(url: str) -> str | None:
    """Return where the asset is, without signatures; None for a URL that holds the media itself."""
    if url.startswith("data:"):
        return None
    if "?" not in url and "@" not in url and "#" not in url:
        return url
    try:
        return strip_credentials(url)
    except ManifestError:
        return None


def _storable(value: Any) -> Any:
    """Return the value as its column can hold it; see the module `schema`."""
    match value:
        case str():
            # A lone surrogate, which JSON can hold, has no UTF-8 form.
            return value if value.isascii() else value.encode("utf-8", "replace").decode()
        case bool() | None:
            return value
        case int():
            return value if -_INT64 <= value < _INT64 else None
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value
        case _:
            return value
