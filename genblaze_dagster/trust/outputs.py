"""The outputs that a manifest names."""

from collections.abc import Iterable, Mapping

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Step, is_valid_sha256


def outputs_by_sha256(manifest: Manifest) -> Mapping[str, Step]:
    """Return the step that put out each hash, for outputs with a valid one."""
    return {
        asset.sha256: step
        for step in manifest.run.steps
        for asset in step.assets
        if asset.sha256 is not None and is_valid_sha256(asset.sha256)
    }


def hashed_outputs(manifest: Manifest) -> list[Asset]:
    """Return the outputs that declare a valid sha256, each place and hash once."""
    return list(
        {
            (asset.sha256, asset.url): asset
            for step in manifest.run.steps
            for asset in step.assets
            if is_valid_sha256(asset.sha256)
        }.values()
    )


def total_bytes(outputs: Iterable[Asset]) -> int | None:
    """Return how many bytes outputs say they have, for a progress bar; None when they do not."""
    total = sum(asset.size_bytes or 0 for asset in outputs)
    return total if total > 0 else None
