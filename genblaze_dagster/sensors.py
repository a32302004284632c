"""A sensor that brings home what is paid for: jobs whose worker died, and outputs that expire.

Vendors keep what they made for a time. When a worker is killed after a submit, its job goes on and
nobody fetches it. `rescue_sensor` finds such submissions in the ledger and requests runs that fetch
them. Those runs submit nothing (`pipeline.resuming.RESUME_ONLY_TAG`). What a vendor has called back
about is fetched as soon as nobody works on it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import groupby
from typing import Any

import dagster as dg

from genblaze_dagster import _compat
from genblaze_dagster._definition import PARTITIONS_PER_RUN, generated
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import OPEN_STATES, LedgerRow
from genblaze_dagster.pipeline.resuming import RESUME_ONLY_TAG, neighbours
from genblaze_dagster.resources import LEDGER_KEY, LedgerResource

RESCUE_TAG = "genblaze/rescue"
"""Tag of the runs that are requested; its value is the sensor's name."""
_LONGEST_PAUSE = timedelta(days=1)


def rescue_sensor(
    assets: str | dg.AssetSelection | Sequence[dg.AssetsDefinition] | None = None,
    *,
    name: str = "rescue_sensor",
    ledger_key: str = LEDGER_KEY,
    minimum_interval_seconds: int = 60,
    grace: timedelta = timedelta(minutes=2),
    expires_within: timedelta = timedelta(hours=1),
    retry_after: timedelta = timedelta(minutes=10),
    limit: int = 20,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """Return a sensor that requests runs for submissions nobody works on any more.

    It asks once for each submission, and again after `retry_after` while it stays open, twice as
    long after each time and once a day in the end. What expires first comes first. Neighbouring
    partitions of an asset share a run. A submission on which a live worker holds a lease is left
    alone, and so are those of `agent_asset`, whose loop goes on when its run is retried.

    Args:
        assets: those that may be rescued, as Dagster takes a sensor's `asset_selection`; all of
            the code location when left out.
        name: of the sensor.
        ledger_key: resource key of a `LedgerResource`.
        minimum_interval_seconds: between two looks at the ledger.
        grace: how long Dagster's own retries are given after a lease has ended.
        expires_within: outputs that expire so soon are fetched without `grace`.
        retry_after: pause after the first request for a submission.
        limit: runs requested by one look; the rest waits for the next.
        default_status: RUNNING starts it with the deployment.
        tags: further tags of the runs.

    Raises:
        ConfigError: `limit` is below 1.
    """
    if limit < 1:
        raise ConfigError(f"limit of {name} is {limit}; give at least 1")

    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ledger = getattr(context.resources, ledger_key)
        if not isinstance(ledger, LedgerResource):
            raise ConfigError(
                f"resource {ledger_key!r} is a {type(ledger).__name__}; {name} needs a "
                "LedgerResource"
            )
        now = datetime.now(UTC)
        rows, over = _open(ledger.get_ledger())
        due = [
            row
            for row in rows
            if row.job_id is not None
            and _is_left_alone(row, now, timedelta(0) if row.id in over else grace, expires_within)
        ]
        asked = _Asked.parse(context.cursor, over).keep(row.id for row in rows)
        waiting = [row for row in due if asked.is_due(row, now)]
        requests: list[dg.RunRequest] = []
        for batch in _batches(context, waiting):
            if len(requests) == limit:
                break
            run_key = asked.run_key(name, batch.rows)
            requests.append(batch.request(run_key, {**(tags or {}), RESCUE_TAG: name}))
            asked = asked.ask(batch.rows, now, retry_after)
        if not requests:
            return dg.SkipReason(_reason(rows, due))
        return dg.SensorResult(run_requests=requests, cursor=asked.text)

    return dg.SensorDefinition(
        name=name,
        evaluation_fn=evaluate,
        asset_selection=dg.AssetSelection.all() if assets is None else assets,
        required_resource_keys={ledger_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Request runs that fetch paid media nobody is fetching.",
    )


def _open(ledger: Ledger) -> tuple[Sequence[LedgerRow], AbstractSet[str]]:
    """Return the open submissions, and the ids of those whose job is over, as the vendor says."""
    ledger.take_callbacks()
    rows = ledger.find(states=OPEN_STATES)
    return rows, ledger.ended_at_vendor(rows)


def _is_left_alone(
    row: LedgerRow, now: datetime, grace: timedelta, expires_within: timedelta
) -> bool:
    """Whether nobody works on a submission, and nobody is about to."""
    ended = row.lease_expires_at
    if ended is None:
        # Given up in good order, by a run that was cancelled or whose vendor was down.
        return True
    expires = row.outputs_expire_at
    is_urgent = expires is not None and expires - now < expires_within
    return ended + (timedelta(0) if is_urgent else grace) < now


def _reason(rows: Sequence[LedgerRow], due: Sequence[LedgerRow]) -> str:
    if not rows:
        return "Nothing is open in the ledger."
    if not due:
        return f"{len(rows)} submissions are open, and live workers are on them or about to be."
    return f"{len(due)} submissions wait: they were asked for a short while ago, or are no assets."


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for: by submission, how often, and when it may be asked for again.

    What was asked for before a vendor called a job over is not asked for since: such a submission
    has another name here.
    """

    by_name: Mapping[str, tuple[int, float]]
    over: AbstractSet[str]

    @classmethod
    def parse(cls, cursor: str | None, over: AbstractSet[str]) -> "_Asked":
        """Read a cursor; one that somebody has edited by hand counts as none."""
        try:
            found: Any = json.loads(cursor or "{}")
            by_name = {str(name): (int(times), float(at)) for name, (times, at) in found.items()}
            return cls(by_name, over)
        except (AttributeError, TypeError, ValueError):
            return cls({}, over)

    @property
    def text(self) -> str:
        return json.dumps(self.by_name)

    def keep(self, open_ids: Iterable[str]) -> "_Asked":
        names = {self._name(id) for id in open_ids}
        return replace(self, by_name={k: one for k, one in self.by_name.items() if k in names})

    def is_due(self, row: LedgerRow, now: datetime) -> bool:
        _, at = self._of(row)
        return now.timestamp() >= at

    def run_key(self, name: str, rows: Sequence[LedgerRow]) -> str:
        """Return a key that is the same only for the same time of asking for the same rows."""
        parts = sorted(f"{self._name(row.id)}:{row.attempt}:{self._of(row)[0]}" for row in rows)
        return f"{name}-{sha256(' '.join(parts).encode()).hexdigest()[:32]}"

    def ask(self, rows: Sequence[LedgerRow], now: datetime, retry_after: timedelta) -> "_Asked":
        changed = dict(self.by_name)
        for row in rows:
            times, _ = self._of(row)
            pause = min(retry_after * 2 ** min(times, 16), _LONGEST_PAUSE)
            changed[self._name(row.id)] = (times + 1, (now + pause).timestamp())
        return replace(self, by_name=changed)

    def _of(self, row: LedgerRow) -> tuple[int, float]:
        return self.by_name.get(self._name(row.id), (0, 0.0))

    def _name(self, id: str) -> str:
        return f"{id} over" if id in self.over else id


@dataclass(frozen=True, slots=True)
class _Batch:
    """Submissions of neighbouring partitions of one asset."""

    key: dg.AssetKey
    rows: Sequence[LedgerRow]
    partitions: Sequence[str | None]

    def request(self, run_key: str, tags: Mapping[str, str]) -> dg.RunRequest:
        own = {RESUME_ONLY_TAG: "true"}
        if len(self.partitions) > 1:
            own |= _compat.partition_range_tags(str(self.partitions[0]), str(self.partitions[-1]))
        return dg.RunRequest(
            run_key=run_key,
            asset_selection=[self.key],
            partition_key=self.partitions[0] if len(self.partitions) == 1 else None,
            tags={**tags, **own},
        )


def _batches(context: dg.SensorEvaluationContext, rows: Sequence[LedgerRow]) -> Iterator[_Batch]:
    """Yield what one run each can fetch, what expires first at the front."""
    repository = context.repository_def
    if repository is None:
        return
    graph = repository.asset_graph
    found: list[_Batch] = []
    for name, of_asset in groupby(sorted(rows, key=lambda r: r.asset_key), lambda r: r.asset_key):
        key = dg.AssetKey.from_user_string(name)
        batch = generated(graph.assets_def_for_key(key)) if graph.has(key) else None
        if batch is not None:
            definition = graph.get(key).partitions_def
            found.extend(_of_asset(key, definition, list(of_asset), context.instance))
    yield from sorted(found, key=lambda batch: min(map(_urgency, batch.rows)))


def _of_asset(
    key: dg.AssetKey,
    definition: dg.PartitionsDefinition | None,
    rows: Sequence[LedgerRow],
    instance: dg.DagsterInstance,
) -> Iterator[_Batch]:
    by_partition: dict[str | None, list[LedgerRow]] = {}
    for row in rows:
        by_partition.setdefault(row.partition_key, []).append(row)
    if definition is None:
        if None in by_partition:
            yield _Batch(key, by_partition[None], [None])
        return
    # A range of several dimensions is a rectangle, in which there is more than what is wanted.
    most = 1 if isinstance(definition, dg.MultiPartitionsDefinition) else PARTITIONS_PER_RUN
    order = definition.get_partition_keys(dynamic_partitions_store=instance)
    for partitions in neighbours(order, by_partition, most=most):
        yield _Batch(key, [row for one in partitions for row in by_partition[one]], partitions)


def _urgency(row: LedgerRow) -> tuple[bool, datetime]:
    """Sort what expires before what does not, and then what is older."""
    return row.outputs_expire_at is None, row.outputs_expire_at or row.created_at
