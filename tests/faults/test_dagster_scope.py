"""Which runs are one wish: every retry Dagster knows of, and what two daemons launch twice."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest

from tests.support.world import World, prompts

KEYS = ["a", "b", "c"]
SENSOR = {"dagster/sensor_name": "new_prompts", "dagster/run_key": "batch-7"}
TICK = {
    "dagster/schedule_name": "nightly",
    ".dagster/scheduled_execution_time": "2026-11-21T00:00:00+00:00",
}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(tmp_path, instance)


def paid(world: World, runs: Sequence[Mapping[str, str]]) -> int:
    """Materialize all partitions with the tags of each run in turn; how often each was paid."""
    assets = world.pipeline().to_assets(partitions=prompts(*KEYS))
    earlier: list[str] = []
    for tags in runs:
        named = {
            name: value if value not in ("first", "second") else earlier[value == "second"]
            for name, value in tags.items()
        }
        earlier.append(world.materialize(assets, ["a", "c"], tags=named).run_id)
    (count,) = set(world.provider.submits.values())
    return count


def test_a_run_that_is_executed_again_after_its_backfill_has_ended_pays_nothing(
    world: World,
) -> None:
    """Dagster takes the backfill's tags off such a retry; the first run still has them."""
    runs = [{"dagster/backfill": "b1"}, {"dagster/root_run_id": "first"}]
    assert paid(world, runs) == 1


def test_a_retry_inside_its_backfill_pays_nothing(world: World) -> None:
    """While the backfill goes on, the retry keeps its tags."""
    runs = [{"dagster/backfill": "b1"}, {"dagster/root_run_id": "first", "dagster/backfill": "b1"}]
    assert paid(world, runs) == 1


def test_a_backfill_that_is_executed_again_pays_nothing(world: World) -> None:
    """Its runs are new ones, which name the backfill they belong to in the end."""
    again = {"dagster/backfill": "b2", "dagster/root_backfill_id": "b1"}
    assert paid(world, [{"dagster/backfill": "b1"}, again]) == 1


def test_a_request_of_a_sensor_that_is_launched_twice_is_paid_once(world: World) -> None:
    """Two daemons may both find that no run has this run key yet."""
    assert paid(world, [SENSOR, SENSOR]) == 1


def test_a_retry_of_a_run_that_a_sensor_asked_for_pays_nothing(world: World) -> None:
    """Whether or not the retry keeps the sensor's tags."""
    retries = [{"dagster/root_run_id": "first"}, {"dagster/root_run_id": "first", **SENSOR}]
    assert paid(world, [SENSOR, *retries]) == 1


def test_a_tick_of_a_schedule_that_is_launched_twice_is_paid_once(world: World) -> None:
    """Its time is what makes it one tick."""
    assert paid(world, [TICK, TICK]) == 1


def test_the_next_tick_of_a_schedule_is_another_wish_also_with_the_same_run_key(
    world: World,
) -> None:
    """A schedule's run key tells the requests of one tick apart, not its ticks."""
    later = {**TICK, ".dagster/scheduled_execution_time": "2026-11-22T00:00:00+00:00"}
    key = {"dagster/run_key": "all"}
    assert paid(world, [{**TICK, **key}, {**later, **key}]) == 2


def test_another_request_and_another_run_are_other_wishes(world: World) -> None:
    """A new run key, a new backfill and a new run pay again."""
    other = {**SENSOR, "dagster/run_key": "batch-8"}
    assert paid(world, [SENSOR, other, {"dagster/backfill": "b1"}, {}]) == 4


def test_a_retry_whose_first_run_was_deleted_goes_by_its_own_tags(world: World) -> None:
    """What is left of the wish is in the retry."""
    gone = {"dagster/root_run_id": "0f8fad5b-d9cb-469f-a165-70867728950e"}
    assert paid(world, [gone, {**gone}]) == 1
