"""Finish submissions as runs of a Dagster deployment."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from genblaze_dagster.cli.deployment import DeployedAsset, Deployment
from genblaze_dagster.cli.ledger_batches import Progress, RunBatch, Started, batches, by_asset
from genblaze_dagster.cli.output import progress
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.ledger.submission import LedgerRow
from genblaze_dagster.pipeline.resuming import RESUME_ONLY_TAG

_PARTITION_TAG: Final = "dagster/partition"
_FIRST_TAG: Final = "dagster/asset_partition_range_start"
_LAST_TAG: Final = "dagster/asset_partition_range_end"
_PARTITIONS_PER_RUN: Final = 50


async def launch(
    rows: Sequence[LedgerRow],
    deployment: Deployment,
    *,
    location: str | None,
    wait: bool,
    regenerate: bool,
) -> Progress:
    """Start runs for exactly the asset partitions of submissions.

    Args:
        rows: open ones with a job that nobody works on, in the deployment's own ledger.
        deployment: where.
        location: the code location, when several have the assets.
        wait: follow the runs to their end.
        regenerate: let them submit what has changed since.

    Raises:
        ConfigError: the deployment cannot be asked, or refuses a run.
    """
    work = Progress()
    of_assets = by_asset(rows)
    found = await deployment.assets([*of_assets], location)
    tags = {} if regenerate else {RESUME_ONLY_TAG: "true"}
    for key, of_asset in of_assets.items():
        asset = _only(found, key)
        if asset is None:
            work.leave(of_asset, "the deployment has no such asset; run the pipeline again")
            continue
        for batch in _batches(asset, of_asset, work):
            run_id = await deployment.materialize(asset, {**tags, **_tags(asset, batch)})
            work.runs.append(Started(run_id, None, deployment.run_url(run_id)))
    if wait:
        with progress("runs", total=len(work.runs)) as advance:
            for place, run in enumerate(work.runs):
                work.runs[place] = replace(run, status=await deployment.follow(run.run_id))
                advance(1)
    return work


def _only(found: Sequence[DeployedAsset], key: str) -> DeployedAsset | None:
    assets = [asset for asset in found if asset.key == key]
    if len(assets) > 1:
        names = ", ".join(sorted({asset.job.location for asset in assets}))
        raise ConfigError(
            f"{key} is in {len(assets)} code locations ({names}); name one by --location"
        )
    return assets[0] if assets else None


def _batches(asset: DeployedAsset, rows: Sequence[LedgerRow], work: Progress) -> Sequence[RunBatch]:
    order = asset.partition_keys
    known = set(order) if order is not None else {None}
    gone = [row for row in rows if row.partition_key not in known]
    work.leave(gone, "its asset has no such partition any more")
    there = [row for row in rows if row.partition_key in known]
    # The first and the last key of several dimensions span a rectangle.
    most = 1 if asset.dimensions else asset.partitions_per_run or _PARTITIONS_PER_RUN
    return batches(asset.key, there, order, most=most) if there else []


def _tags(asset: DeployedAsset, batch: RunBatch) -> Mapping[str, str]:
    """Return how Dagster is told the partitions of a run."""
    if len(batch.partitions) > 1:
        return {_FIRST_TAG: str(batch.partitions[0]), _LAST_TAG: str(batch.partitions[-1])}
    if batch.one is None:
        return {}
    # Dagster writes the keys of several dimensions in the order of their names.
    names, keys = sorted(asset.dimensions), batch.one.split("|")
    of_dimensions = zip(names, keys, strict=True) if names else ()
    return {
        _PARTITION_TAG: batch.one,
        **{f"{_PARTITION_TAG}/{name}": key for name, key in of_dimensions},
    }
