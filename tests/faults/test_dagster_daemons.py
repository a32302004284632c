"""Two daemons on one instance, and three layers of retries at once: still one bill per wish."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from tests.faults.dagster_side import DagsterSide, DagsterWorld, dagster_side, until, until_over
from tests.faults.invariants import check
from tests.faults.library import not_settled, resolve_as_a_person
from tests.faults.simulator import Fault
from tests.faults.world import Harness
from tests.support.backfills import retry_is_promised

# Dagster's own backfill code calls it.
pytestmark = pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`")

KEYS = ("p0", "p1")
RUN_SECONDS = 240.0
VENDORS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "listing": {"lists": True},
    "deduplicating": {"deduplicates": True},
}
BY_DEFAULT = ("plain",)
# For each of two partitions the Runner tries three times, and the op twice: more refusals than that,
# also if both daemons launch every run. Then an answer is lost.
REFUSALS = 28
LOSSY = (
    Fault("submit", "status-before:429", REFUSALS),
    Fault("submit", "drop-after"),
    Fault("poll", "status-before:503", 2),
    Fault("media", "reset-middle", 2),
)
# Nobody dies here: a lease is not to end because a machine is slow, nor a wait for one.
PATIENT = {"lease_seconds": 30.0, "timeout": 120.0}
RETRY_EVERYTHING = {"dagster/max_retries": "2", "dagster/retry_on_asset_or_op_failure": "true"}


@dataclass
class Asked:
    """What this module has asked the daemons for, all of it at once."""

    side: DagsterSide
    instance: dg.DagsterInstance
    worlds: dict[str, DagsterWorld]
    backfills: dict[str, str]

    def runs(self, name: str) -> list[dg.DagsterRun]:
        return self.side.runs(self.instance, self.worlds[name])

    def over(self, name: str) -> DagsterWorld:
        """Wait until Dagster has nothing left to do in a world."""
        world = self.worlds[name]
        if name in self.backfills:
            until_over(self.side, self.instance, world, self.backfills[name], RUN_SECONDS)
        until(lambda: self.runs(name), f"a run in {name}", RUN_SECONDS)
        until(
            lambda: all(run.is_finished for run in self.runs(name)),
            f"the end of the runs in {name}",
            RUN_SECONDS,
        )
        return world


@pytest.fixture(scope="module")
def asked(request: pytest.FixtureRequest, simulators: Harness) -> Iterator[Asked]:
    """Two daemons, and everything they have to launch."""
    with (
        dagster_side(simulators.folder / "daemons") as side,
        ExitStack() as adopted,
    ):
        instance = side.instance(side.daemon_home)
        asked = Asked(side, instance, {}, {})

        def world(name: str, **settings: Any) -> DagsterWorld:
            made = simulators.world(f"two-{name}", partitions=KEYS, **PATIENT, **settings)
            asked.worlds[name] = adopted.enter_context(side.adopt(made, side.daemon_home))
            return asked.worlds[name]

        for name in _vendors(request):
            retried = world(name, vendor=dict(VENDORS[name]))
            retried.world.vendor.faults(*LOSSY)
            asked.backfills[name] = side.request(instance, retried, tags=RETRY_EVERYTHING)
        asked.backfills["backfill"] = side.request(instance, world("backfill"))
        world("sensor").ask_sensor()
        side.start_daemon()
        side.start_daemon()
        yield asked


def test_two_daemons_with_one_backfill_pay_each_partition_once(asked: Asked) -> None:
    """Whichever launches it, and if both do: one bill, one row, one reference per partition."""
    world = asked.over("backfill").world
    assert Counter(bill["prompt"] for bill in world.bills()) == dict.fromkeys(prompts(), 1)
    assert check(world).violations == ()
    with world.ledger() as ledger:
        assert {row.state for row in ledger.rows()} == {SubmissionState.STORED}


def test_two_daemons_with_one_sensor_pay_each_partition_once(asked: Asked) -> None:
    """Both evaluate it every second, and each may launch its request before it sees the other's."""
    world = asked.over("sensor").world
    assert Counter(bill["prompt"] for bill in world.bills()) == dict.fromkeys(prompts(), 1)
    assert check(world).violations == ()
    until(lambda: len(_ticks(asked.instance)) > 2, "more than a tick of each daemon")


def _ticks(instance: dg.DagsterInstance) -> list[object]:
    return [
        tick
        for state in instance.all_instigator_state()
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
    ]


@pytest.mark.parametrize(
    "vendor",
    [
        name if name in BY_DEFAULT else pytest.param(name, marks=pytest.mark.slow)
        for name in VENDORS
    ],
)
def test_three_layers_of_retries_at_once_pay_each_wish_once(asked: Asked, vendor: str) -> None:
    """Runner, op and run retry what the vendor refuses; the answer that was lost is never resent."""
    adopted = asked.over(vendor)
    world = adopted.world
    asked_for = world.vendor.describe()["asked"]["submit"]
    runs = asked.runs(vendor)
    # All three layers did retry, or Dagster has lost the retries of runs that it had promised.
    assert asked_for > REFUSALS or retry_is_promised(runs)
    assert any("dagster/retry_number" in run.tags for run in runs) or retry_is_promised(runs)
    assert any(_retried_its_op(asked.instance, run) for run in runs)
    live = Counter(bill["prompt"] for bill in world.bills() if not bill["refunded"])
    assert max(live.values(), default=0) <= 1
    adopted.leases_end()
    world.quiet()
    resolve_as_a_person(world)
    backfill = asked.side.request(asked.instance, adopted, retry_of=asked.backfills[vendor])
    ended = until_over(asked.side, asked.instance, adopted, backfill, RUN_SECONDS)
    assert ended == "COMPLETED_SUCCESS"
    assert not_settled(world) == []
    assert check(world).violations == ()
    assert Counter(bill["prompt"] for bill in world.bills()) == dict.fromkeys(prompts(), 1)


def test_the_daemons_were_two(asked: Asked) -> None:
    """Each has written its log, and noticed the other or not."""
    logs = [Path(asked.side.folder, f"daemon-{number}.log").read_text() for number in range(2)]
    assert all("Instance is configured with the following daemons" in log for log in logs)


def prompts() -> list[str]:
    return [f"a {key} by the sea" for key in KEYS]


def _vendors(request: pytest.FixtureRequest) -> list[str]:
    """Return the vendors of the tests that were asked for."""
    drawn = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and hasattr(item, "callspec")
    ]
    return [params["vendor"] for params in drawn]


def _retried_its_op(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    wanted = dg.DagsterEventType.STEP_UP_FOR_RETRY
    return bool(instance.get_records_for_run(run.run_id, of_type=wanted, limit=1).records)
