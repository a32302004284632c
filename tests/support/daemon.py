"""Dagster's private test machinery: the backfill daemon and the staleness resolver of its UI."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.execution.asset_backfill import AssetBackfillData
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.instance_for_test import instance_for_test
from dagster._core.loader import LoadingContextForTest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._time import get_current_timestamp

Daemon = WorkspaceProcessContext
"""What the daemon works with; `.instance` is the Dagster instance."""

_log = logging.getLogger("tests.daemon")
_MOST_TICKS = 20


@contextmanager
def sqlite_instance(**overrides: object) -> Iterator[dg.DagsterInstance]:
    """A persistent instance in a directory of its own, runs executed where they are submitted."""
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        instance_for_test(
            # A code server imports Dagster first, which takes a slow machine minutes.
            overrides={"code_servers": {"local_startup_timeout": 600}, **overrides},
            temp_dir=folder,
            synchronous_run_coordinator=True,
            synchronous_run_launcher=True,
        ) as instance,
    ):
        yield instance


@contextmanager
def daemon(definitions: Path, instance: dg.DagsterInstance) -> Iterator[Daemon]:
    """The daemon's view of a definitions file, served by a code server process."""
    target = PythonFileTarget(
        python_file=str(definitions),
        attribute=None,
        working_directory=str(Path(__file__).parents[2]),
        location_name="under_test",
    )
    with create_test_daemon_workspace_context(target, instance) as workspace:
        yield workspace


def backfill(
    workspace: Daemon, keys: Sequence[dg.AssetKey], partitions: Sequence[str]
) -> tuple[str, AssetBackfillData]:
    """Request a backfill, let the daemon tick until it is over; return status and what it counted."""
    instance = workspace.instance
    graph = workspace.create_request_context().asset_graph
    request = PartitionBackfill.from_asset_partitions(
        backfill_id=f"backfill-{len(instance.get_backfills())}",
        asset_graph=graph,
        partition_names=partitions,
        asset_selection=list(keys),
        backfill_timestamp=get_current_timestamp(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(request)
    for _ in range(_MOST_TICKS):
        errors = [e for e in execute_backfill_iteration(workspace, _log) if e is not None]
        assert not errors, errors
        found = instance.get_backfill(request.backfill_id)
        assert found is not None
        if found.status is not BulkActionStatus.REQUESTED:
            assert found.asset_backfill_data is not None
            return found.status.value, found.asset_backfill_data
    raise AssertionError(f"the backfill was not over after {_MOST_TICKS} ticks")


def keys_of(subset: AssetGraphSubset) -> set[tuple[str, str | None]]:
    """Asset and partition pairs of a backfill's subset, as plain text."""
    return {
        (pair.asset_key.to_user_string(), pair.partition_key)
        for pair in subset.iterate_asset_partitions()
    }


def stale_causes(
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    key: dg.AssetKey,
    partitions: Sequence[str | None],
) -> Mapping[str | None, list[str]]:
    """What the UI would give as reasons that partitions are stale; empty lists for fresh ones."""
    resolver = CachingStaleStatusResolver(
        instance,
        definitions.resolve_asset_graph(),
        LoadingContextForTest(instance),
    )
    causes: dict[str | None, list[str]] = {}
    for partition in partitions:
        assert resolver.get_status(key, partition) is not StaleStatus.MISSING
        causes[partition] = [cause.reason for cause in resolver.get_stale_causes(key, partition)]
    return causes


def sensor_tick(workspace: Daemon) -> Sequence[dg.DagsterRun]:
    """Let the daemon look at every running sensor once; return the runs that were launched."""
    known = {run.run_id for run in workspace.instance.get_runs()}
    errors = [e for e in execute_sensor_iteration(workspace, _log, None, None) if e is not None]
    assert not errors, errors
    for state in workspace.instance.all_instigator_state():
        for tick in workspace.instance.get_ticks(
            state.instigator_origin_id, state.selector_id, limit=1
        ):
            assert tick.error is None, tick.error
    return [run for run in workspace.instance.get_runs() if run.run_id not in known]
