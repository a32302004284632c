"""Backfills as Dagster's server requests them, for a daemon in another process."""

import uuid
from collections.abc import Mapping, Sequence

import dagster as dg
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.storage.tags import (
    PARENT_BACKFILL_ID_TAG,
    ROOT_BACKFILL_ID_TAG,
    WILL_RETRY_TAG,
)
from dagster._time import get_current_timestamp

from genblaze_dagster._compat import asset_graph

_OVER = (
    BulkActionStatus.COMPLETED_SUCCESS,
    BulkActionStatus.COMPLETED_FAILED,
    BulkActionStatus.COMPLETED,
    BulkActionStatus.FAILED,
    BulkActionStatus.CANCELED,
)


def request_backfill(
    instance: dg.DagsterInstance,
    assets: Sequence[dg.AssetsDefinition],
    partitions: Sequence[str],
    *,
    tags: Mapping[str, str],
    retry_of: str | None = None,
) -> str:
    """Request a backfill of every asset; `retry_of` is the backfill it executes again."""
    backfill_id = uuid.uuid4().hex[:8]
    again = {}
    if retry_of is not None:
        again = {PARENT_BACKFILL_ID_TAG: retry_of, ROOT_BACKFILL_ID_TAG: retry_of}
    instance.add_backfill(
        PartitionBackfill.from_asset_partitions(
            backfill_id=backfill_id,
            asset_graph=asset_graph(assets),
            partition_names=list(partitions),
            asset_selection=[key for one in assets for key in one.keys],
            backfill_timestamp=get_current_timestamp(),
            tags={**tags, **again},
            dynamic_partitions_store=instance,
            all_partitions=False,
            title=None,
            description=None,
            run_config=None,
        )
    )
    return backfill_id


def backfill_status(instance: dg.DagsterInstance, backfill_id: str) -> str | None:
    """Return how a backfill ended, None while it is under way."""
    found = instance.get_backfill(backfill_id)
    assert found is not None
    return found.status.value if found.status in _OVER else None


def cancel_backfill(instance: dg.DagsterInstance, backfill_id: str) -> None:
    """End a backfill whose runs are all over."""
    found = instance.get_backfill(backfill_id)
    assert found is not None
    instance.update_backfill(found.with_status(BulkActionStatus.CANCELED))


def retry_is_promised(runs: Sequence[dg.DagsterRun]) -> bool:
    """Return whether all runs are over, and one was to be followed by a retry that is not there."""
    followed = {run.parent_run_id for run in runs}
    return all(run.is_finished for run in runs) and any(
        run.status is dg.DagsterRunStatus.FAILURE
        and run.tags.get(WILL_RETRY_TAG) == "true"
        and run.run_id not in followed
        for run in runs
    )
