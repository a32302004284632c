"""Materializations that Dagster was never told of, because the run died between store and event log.

A retry of such a run finds the media and tells Dagster itself. This is for runs nobody retries:
every reference in the store is compared with the latest materialization of its partition, and what
is missing is reported without a run.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from genblaze_dagster import _compat
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, GenblazeError, NotFoundError
from genblaze_dagster.io_manager import StoreIOManager
from genblaze_dagster.metadata import (
    THUMBNAIL_SOURCE_BYTES,
    Metadata,
    link,
    media_metadata,
    thumbnail,
    within_budget,
)
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.lineage import Upstream
from genblaze_dagster.resources import MEDIA_KEY
from genblaze_dagster.storage.refs import read_ref, ref_key
from genblaze_dagster.storage.store import MediaStore

RECONCILED = "reconciled"
"""Value of the metadata `how` of a materialization that was reported afterwards."""

SETTLED_FOR = timedelta(minutes=5)
PER_TICK = 200
_SECONDS_BETWEEN_TICKS = 300
_EVENTS_LOOKED_AT = 10
_LISTED = 5

_Place = tuple[dg.AssetKey, str | None]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a comparison of store and event log found.

    `checked` references were compared; `reported` are the materializations that were missing and
    are there now. `without_media` are partitions Dagster holds to be materialized although the
    store has no reference, manifest or media for them; they are only named, since what happened is
    not taken back. References that changed up to `up_to` have been compared, None when there were
    none.
    """

    checked: int
    reported: tuple[_Place, ...]
    without_media: tuple[_Place, ...]
    up_to: datetime | None

    def __str__(self) -> str:
        told = f"{self.checked} references compared, {len(self.reported)} materializations reported"
        if not self.without_media:
            return told
        return (
            f"{told}; materialized, but without media in the store: {_listed(self.without_media)}"
        )


def reconcile(
    instance: dg.DagsterInstance,
    store: MediaStore,
    assets: Sequence[dg.AssetsDefinition],
    *,
    changed_since: datetime | None = None,
    settled_for: timedelta = SETTLED_FOR,
    limit: int | None = None,
) -> Reconciliation:
    """Report the materializations of stored media that Dagster does not know.

    A reported event carries the data version and inputs it would have had, the code version of now,
    and `how` = `reconciled`. Cost and submission are left out: the ledger knows them. Doing this twice, or while runs
    are under way, reports nothing twice.

    Args:
        instance: the Dagster instance.
        store: where the references are.
        assets: the assets to compare; give those they are made of as well.
        changed_since: look only at references that changed at this time or later.
        settled_for: leave younger references to the run that is about to report them.
        limit: compare about so many references, the longest unchanged first; all when left out.

    Raises:
        StorageError: the store cannot be read for now.
    """
    comparison = _Comparison(instance, store, assets)
    settled = datetime.now(UTC) - settled_for
    return comparison.run(changed_since, settled, limit)


def reconcile_sensor(
    assets: Sequence[dg.AssetsDefinition],
    *,
    name: str = "reconcile_media",
    io_manager_key: str = MEDIA_KEY,
    minimum_interval_seconds: int = _SECONDS_BETWEEN_TICKS,
    settled_for: timedelta = SETTLED_FOR,
    per_tick: int = PER_TICK,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Return a sensor that reports what killed runs had stored but not told.

    It launches nothing. A tick lists the references of the assets and reads those that changed
    since the tick before, about `per_tick` of them.

    Args:
        assets: the generated assets, and those they are made of.
        name: of the sensor.
        io_manager_key: resource key of the media IO manager.
        minimum_interval_seconds: between two ticks.
        settled_for: leave younger references to the run that is about to report them.
        per_tick: how many references a tick compares.
        default_status: whether it runs without being switched on.
    """

    def tick(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        manager = getattr(context.resources, io_manager_key)
        if not isinstance(manager, StoreIOManager):
            raise ConfigError(
                f"resource {io_manager_key!r} is a {type(manager).__name__}; reconcile_sensor needs "
                "a media IO manager, such as S3MediaIOManager"
            )
        since = datetime.fromisoformat(context.cursor) if context.cursor else None
        found = reconcile(
            context.instance,
            manager.store,
            assets,
            changed_since=since,
            settled_for=settled_for,
            limit=per_tick,
        )
        if found.up_to is not None:
            context.update_cursor(found.up_to.isoformat())
        return dg.SkipReason(str(found))

    return dg.SensorDefinition(
        name=name,
        evaluation_fn=tick,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        required_resource_keys={io_manager_key},
        description="Reports stored media whose run died before it could tell Dagster.",
    )


class _Comparison:
    """One comparison of the store's references with the event log."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        store: MediaStore,
        assets: Sequence[dg.AssetsDefinition],
    ) -> None:
        self._instance = instance
        self._store = store
        self._graph = _compat.asset_graph(assets)
        self._keys = [key for definition in assets for key in definition.keys]

    def run(self, since: datetime | None, settled: datetime, limit: int | None) -> Reconciliation:
        changed: list[tuple[datetime, _Place]] = []
        without_media: list[_Place] = []
        with dg.partition_loading_context(dynamic_partitions_store=self._instance):
            for key in self._keys:
                stored = run_sync(self._listed(key))
                changed += [(at, place) for place, at in stored.items() if at <= settled]
                without_media += sorted(self._materialized(key) - stored.keys(), key=str)
            chosen = _oldest(changed, since, limit)
            reported: list[_Place] = []
            for _, place in chosen:
                try:
                    if self._report_if_missing(place):
                        reported.append(place)
                except GenblazeError as exc:
                    if exc.transient:
                        raise
                    without_media.append(place)
        return Reconciliation(
            checked=len(chosen),
            reported=tuple(reported),
            without_media=tuple(without_media),
            up_to=chosen[-1][0] if chosen else None,
        )

    async def _listed(self, key: dg.AssetKey) -> dict[_Place, datetime]:
        """Return the partitions that have a reference, and when it changed."""
        name = key.to_user_string()
        definition = self._graph.get(key).partitions_def
        partitions = [None] if definition is None else definition.get_partition_keys()
        # Not read off the object's key: a long partition key is hashed there.
        known = {ref_key(name, partition): partition for partition in partitions}
        folder = ref_key(name, None).rpartition("/")[0]
        return {
            (key, known[info.key]): info.last_modified
            async for info in self._store.list(folder)
            if info.key in known
        }

    def _materialized(self, key: dg.AssetKey) -> set[_Place]:
        if self._graph.get(key).partitions_def is not None:
            return {(key, one) for one in self._instance.get_materialized_partitions(key)}
        return {(key, None)} if self._events(key, None, most=1) else set()

    def _report_if_missing(self, place: _Place) -> bool:
        key, partition = place
        ref = run_sync(read_ref(self._store, key.to_user_string(), partition))
        if ref is None:
            # Erased since it was listed.
            return False
        latest = self._events(key, partition, most=1)
        if latest and _tells_of(latest[0], ref):
            return False
        manifest, picture = run_sync(self._proof(ref))
        self._instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset_key=key,
                partition=partition,
                metadata=_metadata(ref, manifest, picture),
                tags=self._tags(place, ref, manifest),
            )
        )
        return True

    async def _proof(self, ref: MediaRef) -> tuple[Manifest, bytes | None]:
        """Return the manifest of stored media, and a picture of it.

        Raises:
            GenblazeError: it is not all there.
        """
        manifest = await Upstream(self._store).manifest(ref)
        for media in ref.media:
            if await self._store.head(media.key) is None:
                raise NotFoundError(
                    f"{media.key} of {ref.asset_key} is gone from the store; materialize it again"
                )
        return manifest, await self._picture(ref)

    async def _picture(self, ref: MediaRef) -> bytes | None:
        media = ref.media[0]
        if not media.media_type.startswith("image/") or media.size_bytes > THUMBNAIL_SOURCE_BYTES:
            return None
        return thumbnail(await self._store.get(media.key), media)

    def _tags(self, place: _Place, ref: MediaRef, manifest: Manifest) -> dict[str, str]:
        key, partition = place
        # Dagster itself takes the run for the version of code that has none.
        code_version = self._graph.get(key).code_version or ref.run_id
        read = {asset.sha256 for asset in manifest.run.steps[-1].inputs}
        made_at = datetime.fromisoformat(ref.created_at).timestamp()
        inputs = {
            parent: version
            for parent in self._graph.get(key).parent_keys
            if (version := self._input(place, parent, read, made_at)) is not None
        }
        return {
            **_compat.version_tags(ref.data_version, code_version, inputs),
            **_compat.dimension_tags(partition),
        }

    def _input(
        self, place: _Place, parent: dg.AssetKey, read: Collection[str | None], made_at: float
    ) -> _compat.InputVersion | None:
        """Return what was consumed of an upstream asset.

        None when the event log does not say, which Dagster shows as a new dependency.
        """
        found: list[_compat.InputVersion] = []
        is_current = True
        for partition in self._upstream_partitions(place, parent):
            events = self._events(parent, partition, most=_EVENTS_LOOKED_AT)
            event = _consumed(events, read, made_at)
            if event is None:
                return None
            is_current = is_current and event is events[0]
            found.append(_compat.event_version(event))
        if not found:
            return None
        # One cursor for all partitions: behind the youngest of them when none has changed since,
        # else at the oldest, which makes this one stale.
        pick = max if is_current else min
        return pick(found, key=lambda version: version.storage_id or 0)

    def _upstream_partitions(self, place: _Place, parent: dg.AssetKey) -> Iterable[str | None]:
        key, partition = place
        if self._graph.get(parent).partitions_def is None:
            return [None]
        mapped = self._graph.get_parent_partition_keys_for_child(partition, parent, key)
        return mapped.partitions_subset.get_partition_keys()

    def _events(
        self, key: dg.AssetKey, partition: str | None, *, most: int
    ) -> Sequence[dg.EventLogRecord]:
        """Return the latest materializations, youngest first."""
        wanted = None if partition is None else [partition]
        records = dg.AssetRecordsFilter(asset_key=key, asset_partitions=wanted)
        return self._instance.fetch_materializations(records, limit=most).records


def _oldest(
    changed: Iterable[tuple[datetime, _Place]], since: datetime | None, limit: int | None
) -> list[tuple[datetime, _Place]]:
    """Return what changed first, all of the last moment: inputs come before what uses them."""
    wanted = sorted((one for one in changed if since is None or one[0] >= since), key=_by_time)
    # What changed at `since` itself does not count: stores tell whole seconds, and so many may have
    # changed in one that no page would ever get beyond it.
    later = [one for one in wanted if since is None or one[0] > since]
    if limit is None or len(later) <= limit:
        return wanted
    last = later[limit - 1][0]
    return [one for one in wanted if one[0] <= last]


def _by_time(changed: tuple[datetime, _Place]) -> tuple[datetime, str]:
    return changed[0], str(changed[1])


def _metadata(ref: MediaRef, manifest: Manifest, picture: bytes | None) -> Metadata:
    prompt = manifest.run.steps[-1].prompt
    known = media_metadata(ref, thumbnail=picture, prompt=prompt)
    return within_budget({**known, "how": dg.MetadataValue.text(RECONCILED)})


def _tells_of(record: dg.EventLogRecord, ref: MediaRef) -> bool:
    return _shown(record).get("manifest") == link(ref.manifest_url)


def _consumed(
    events: Sequence[dg.EventLogRecord], read: Collection[str | None], made_at: float
) -> dg.EventLogRecord | None:
    """Return the event of what was read; of what is not read, the latest before it was made."""
    for record in events:
        sha256 = _shown(record).get("sha256")
        if sha256 is not None and sha256.value in read:
            return record
    return next((record for record in events if record.timestamp <= made_at), None)


def _shown(record: dg.EventLogRecord) -> Mapping[str, dg.MetadataValue]:
    event = record.asset_materialization
    return {} if event is None else event.metadata


def _listed(places: Sequence[_Place]) -> str:
    names = [
        key.to_user_string() if partition is None else f"{key.to_user_string()}[{partition}]"
        for key, partition in places[:_LISTED]
    ]
    more = len(places) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
