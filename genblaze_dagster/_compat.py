"""Every private Dagster name the package uses, and nothing else.

Checked against Dagster 1.13; each function and constant has a test that fails when Dagster moves.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)
from dagster._core.definitions.decorators.op_decorator import DecoratedOpFunction
from dagster._core.definitions.partitions.utils import get_tags_from_multi_partition_key
from dagster._core.definitions.partitions.utils.mapping import infer_partition_mapping
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.events import StepMaterializationData
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    BACKFILL_ID_TAG,
    ROOT_BACKFILL_ID_TAG,
    ROOT_RUN_ID_TAG,
    RUN_KEY_TAG,
    SCHEDULE_NAME_TAG,
    SCHEDULED_EXECUTION_TIME_TAG,
    SENSOR_NAME_TAG,
)
from dagster_shared.libraries import DagsterLibraryRegistry

from genblaze_dagster import __version__

CHECKED_WITH = (1, 13)

AssetJob = UnresolvedAssetJobDefinition
"""What `dg.define_asset_job` returns; it has no public name."""

RELEASED_WITHOUT_EVENT: Mapping[str, bool] = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
"""Output metadata that releases downstream steps without a materialization event of Dagster's own.

Dagster's event has one data version for all partitions of a run and would hide those we logged
(dagster-io/dagster#34013). The marker is how Dagster itself lets a body log its own asset events.
"""

DagsterLibraryRegistry.register("genblaze-dagster", __version__, is_dagster_package=False)


def warn_about_version(dagster_version: str) -> None:
    """Warn when Dagster is not a release whose private names were checked."""
    found = tuple(int(part) for part in dagster_version.split(".")[:2])
    if found != CHECKED_WITH:
        checked = ".".join(map(str, CHECKED_WITH))
        warnings.warn(
            f"Dagster {dagster_version} is installed; genblaze-dagster was checked with {checked}. "
            f"Install 'dagster=={checked}.*' if events or staleness look wrong",
            RuntimeWarning,
            stacklevel=2,
        )


warn_about_version(dg.__version__)


@dataclass(frozen=True, slots=True)
class InputVersion:
    """What a materialization consumed of one upstream asset.

    `storage_id` is a cursor into the event log: an event of the input that is not older than the
    one consumed. Without it Dagster never calls a partition stale.
    """

    data_version: str
    storage_id: int | None


def version_tags(
    data_version: str, code_version: str, inputs: Mapping[dg.AssetKey, InputVersion]
) -> dict[str, str]:
    """Return the five kinds of tags by which Dagster decides what is stale."""
    tags = {
        CODE_VERSION_TAG: code_version,
        DATA_VERSION_TAG: data_version,
        DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
    }
    for key, consumed in inputs.items():
        pointer = NULL_EVENT_POINTER if consumed.storage_id is None else str(consumed.storage_id)
        tags[get_input_data_version_tag(key)] = consumed.data_version
        tags[get_input_event_pointer_tag(key)] = pointer
    return tags


def dimension_tags(partition_key: str | None) -> dict[str, str]:
    """Return the tags that tell Dagster the dimensions of a multi-partition key."""
    if isinstance(partition_key, dg.MultiPartitionKey):
        return dict(get_tags_from_multi_partition_key(partition_key))
    return {}


def partition_range_tags(first: str, last: str) -> dict[str, str]:
    """Return the run tags that make one run of all partitions from `first` to `last`."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}


def intent_scope(context: dg.AssetExecutionContext) -> str:
    """Return the id under which every retry of this materialization is the same intent.

    A backfill and its retries share one id, and so do a run and its re-executions. What one tick
    of a sensor or schedule asks for has one id too, because two daemons may launch it twice.
    """
    run = context.run
    root_id = run.tags.get(ROOT_RUN_ID_TAG) or run.root_run_id
    # Dagster takes the backfill's tags off a retry that comes after the end of the backfill, so
    # the first run says what is wanted; its own tags do when that run has been deleted.
    root = context.instance.get_run_by_id(root_id) if root_id else None
    tags = run.tags if root is None else root.tags
    for tag in (ROOT_BACKFILL_ID_TAG, BACKFILL_ID_TAG):
        if tag in tags:
            return tags[tag]
    return _tick_of(tags) or root_id or run.run_id


def _tick_of(tags: Mapping[str, str]) -> str | None:
    """Return what tells one request of a sensor or schedule from all others, None for neither.

    The run key of a sensor is its own for ever, that of a schedule within one tick.
    """
    if SENSOR_NAME_TAG in tags and RUN_KEY_TAG in tags:
        return f"{tags[SENSOR_NAME_TAG]}:{tags[RUN_KEY_TAG]}"
    if SCHEDULE_NAME_TAG in tags and SCHEDULED_EXECUTION_TIME_TAG in tags:
        tick = f"{tags[SCHEDULE_NAME_TAG]}:{tags[SCHEDULED_EXECUTION_TIME_TAG]}"
        return f"{tick}:{tags.get(RUN_KEY_TAG, '')}"
    return None


def parent_keys(context: dg.AssetExecutionContext, key: dg.AssetKey) -> Iterable[dg.AssetKey]:
    """Return every upstream asset Dagster knows of, whether it is media or not."""
    return context.get_step_execution_context().job_def.asset_layer.get(key).parent_keys


def input_version(context: dg.AssetExecutionContext, key: dg.AssetKey) -> InputVersion | None:
    """Return the latest materialization of an upstream asset as Dagster saw it first in this step.

    Call it before reading the input: a pointer that is too old makes a partition stale once too
    often, one that is too new hides a change.
    """
    info = context.get_step_execution_context().maybe_fetch_and_get_input_asset_version_info(key)
    if info is None:
        return None
    return InputVersion(info.data_version.value if info.data_version else "", info.storage_id)


def asset_graph(assets: Sequence[dg.AssetsDefinition]) -> AssetGraph:
    """Return what Dagster knows of assets and their inputs, without the resources they need."""
    return AssetGraph.from_assets(assets)


def event_version(record: dg.EventLogRecord) -> InputVersion:
    """Return the data version a materialization gave its asset, and the cursor of the event."""
    event = record.asset_materialization
    tags = (event.tags if event is not None else None) or {}
    return InputVersion(tags.get(DATA_VERSION_TAG, ""), record.storage_id)


def upstream_partitions(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    upstream: dg.AssetKey,
    partition: str | None,
) -> list[str] | None:
    """Return the upstream partitions one partition needs; None when upstream has no partitions."""
    layer = context.get_step_execution_context().job_def.asset_layer
    return mapped_partitions(
        context.assets_def.get_partition_mapping_for_dep(upstream),
        layer.get(key).partitions_def,
        layer.get(upstream).partitions_def if layer.has(upstream) else None,
        partition,
        instance=context.instance,
    )


def mapped_partitions(
    mapping: dg.PartitionMapping | None,
    own: dg.PartitionsDefinition | None,
    upstream: dg.PartitionsDefinition | None,
    partition: str | None,
    *,
    instance: dg.DagsterInstance | None,
) -> list[str] | None:
    """Return the partitions of `upstream` that one of `own` needs; None when it has no partitions.

    They are in the order of `upstream`: Dagster has them in a set, and a request whose inputs come
    in another order in the next process would be another request, paid again.

    `instance` knows the keys of dynamic partitions.
    """
    if upstream is None:
        return None
    if mapping is None and partition is not None and own == upstream:
        return [partition]
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        wanted = None
        if own is not None and partition is not None:
            wanted = own.empty_subset().with_partition_keys([partition])
        result = infer_partition_mapping(
            mapping, own, upstream
        ).get_upstream_mapped_partitions_result_for_partitions(wanted, own, upstream)
        keys = [*result.partitions_subset.get_partition_keys()]
        if len(keys) > 1:
            place = {key: number for number, key in enumerate(upstream.get_partition_keys())}
            # A key that is gone, as dynamic ones may be, has no media either.
            keys.sort(key=lambda key: (place.get(key, len(place)), key))
        return keys


def body_of(assets: dg.AssetsDefinition) -> Callable[..., Any] | None:
    """Return the function that computes assets, None when they are not computed by one function."""
    node = assets.node_def if assets.is_executable else None
    compute = node.compute_fn if isinstance(node, dg.OpDefinition) else None
    return compute.decorated_fn if isinstance(compute, DecoratedOpFunction) else None


def log_materializations(
    context: dg.AssetExecutionContext, materializations: Sequence[dg.AssetMaterialization]
) -> None:
    """Write materializations of one asset to the event log together; returns when they are stored.

    `context.log_event` opens two or three database connections for every event, 11 ms on SQLite and
    18 ms on Postgres. Postgres has a batch write, which Dagster uses for events of its own; for
    SQLite it is spelt out here.
    """
    if len(materializations) == 1:
        context.log_event(materializations[0])
        return
    step = context.get_step_execution_context()
    events = [
        dg.DagsterEvent(
            event_type_value=dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=step.job_name,
            step_handle=step.step.handle,
            node_handle=step.step.node_handle,
            step_kind_value=step.step.kind.value,
            logging_tags=step.event_tags,
            event_specific_data=StepMaterializationData(materialization),
            message=f"Materialized value {materialization.label}.",
            pid=os.getpid(),
        )
        for materialization in materializations
    ]
    entries = [
        dg.EventLogEntry(
            error_info=None,
            level=logging.DEBUG,
            user_message=event.message or "",
            run_id=context.run.run_id,
            timestamp=time.time(),
            step_key=step.step.key,
            job_name=step.job_name,
            dagster_event=event,
        )
        for event in events
    ]
    storage = context.instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        _store_in_sqlite(storage, context.run.run_id, entries)
    else:
        storage.store_event_batch(entries)
    # What the step yields to its executor, so that results of in-process runs have the events.
    context.op_execution_context._events.extend(events)


def _store_in_sqlite(
    storage: SqliteEventLogStorage, run_id: str, entries: Sequence[dg.EventLogEntry]
) -> None:
    """Store events as `SqliteEventLogStorage.store_event` does, in one transaction per database."""
    statements = [storage.prepare_insert_event(entry) for entry in entries]
    with storage.run_connection(run_id) as connection:
        for statement in statements:
            connection.execute(statement)
    with storage.index_transaction() as connection:
        ids: list[int] = []
        for statement in statements:
            ids.extend(connection.execute(statement).inserted_primary_key or ())
        storage._store_asset_event_tags(connection, entries, ids)
        # The asset's row holds its latest event.
        storage._store_asset_event(connection, entries[-1], ids[-1])


def log_check(context: dg.AssetExecutionContext, evaluation: dg.AssetCheckEvaluation) -> None:
    """Log a check of a step that is about to fail, and so cannot yield its result."""
    # Dagster's own signature leaves checks out; its code has a branch for them.
    context.log_event(evaluation)  # pyright: ignore[reportArgumentType]


def describe_output(
    context: dg.OutputContext,
    *,
    data_version: str,
    metadata: Mapping[str | None, Mapping[str, Any]],
) -> None:
    """Attach data version and per-partition metadata to the event Dagster is about to write.

    Outside a step (`build_output_context` in a unit test) there is no event, and nothing to do.
    """
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:
        return
    step.set_data_version(context.asset_key, dg.DataVersion(data_version))
    for partition, values in metadata.items():
        step.add_asset_metadata(values, asset_key=context.asset_key, partition_key=partition)


def step_identity(context: dg.OutputContext | dg.InputContext) -> tuple[str, str] | None:
    """Return run and step of an IO manager's context, None outside a step (in a unit test)."""
    try:
        step = context.step_context
    except dg.DagsterInvariantViolationError:
        return None
    return step.run_id, step.step.key
