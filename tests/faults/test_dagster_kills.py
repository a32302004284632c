"""Seeded scenarios in the layers of Dagster: killed at a point, and recovered as Dagster does."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.crashes import CRASHES
from tests.faults.dagster_layers import (
    BEFORE_EVENT,
    DAEMON,
    EXECUTOR,
    IN_PROCESS,
    KINDS,
    RUN_WORKER,
    crash_of,
    play,
)
from tests.faults.dagster_side import DagsterSide, dagster_side
from tests.faults.order import PRIVATE_MARK
from tests.faults.scenarios import RECOVERIES, Outcome, Scenario, scenario
from tests.faults.vendor import SIGNATURE_MARK
from tests.faults.world import Harness

# Dagster's own backfill code calls it.
pytestmark = pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`")

# Most of a scenario is the start of processes, and waiting for Dagster to notice.
AT_ONCE = 3
POINTS = (*CRASHES, BEFORE_EVENT)
# A run worker and a daemon take some ten seconds each: one point of every kind.
DEAR: Mapping[str, tuple[str, ...]] = {
    EXECUTOR: (
        "after answer before commit",
        "polling",
        "mid-multipart",
        "after bytes before manifest",
        BEFORE_EVENT,
    ),
    RUN_WORKER: ("after send before answer", "mid-download", "staged", BEFORE_EVENT),
    DAEMON: ("on the wire", "polling", "after manifest before reference"),
}
SCENARIOS_IN_PROCESS = 20


def stories() -> list[tuple[str, Scenario]]:
    """Return layer and scenario of the default run; every recovery is in every layer."""
    found = [
        (IN_PROCESS, scenario(5000 + n, crash=POINTS[n % len(POINTS)], recovery=recovery_of(n)))
        for n in range(SCENARIOS_IN_PROCESS)
    ]
    for layer, points in DEAR.items():
        found += [
            (layer, scenario(6000 + len(found) + n, crash=point, recovery=recovery_of(n)))
            for n, point in enumerate(points)
        ]
    return found


def recovery_of(number: int) -> str:
    return RECOVERIES[number % len(RECOVERIES)]


STORIES = stories()
NAMES = [f"{layer.replace(' ', '-')}-{story.seed}" for layer, story in STORIES]


@pytest.fixture(scope="module")
def side(simulators: Harness) -> Iterator[DagsterSide]:
    """Instances, the processes that run, and the daemon: started once."""
    with dagster_side(simulators.folder / "dagster") as started:
        yield started


class Played:
    """Scenarios that run beside each other, each started with the first of them."""

    def __init__(self, simulators: Harness, wanted: list[tuple[str, Scenario]]) -> None:
        self._simulators = simulators
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._running: dict[tuple[str, int], Future[Outcome]] = {
            (layer, story.seed): self._pool.submit(self._play, layer, story)
            for layer, story in wanted
        }

    def __getitem__(self, wanted: tuple[str, Scenario]) -> Outcome:
        layer, story = wanted
        return self._running[layer, story.seed].result(timeout=600)

    def all(self) -> list[Outcome]:
        return [running.result(timeout=600) for running in self._running.values()]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _play(self, layer: str, story: Scenario) -> Outcome:
        world = self._simulators.world(f"dagster-{story.seed}", **story.world())
        return play(KINDS[layer], story, world, crash_of(story))


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, simulators: Harness, side: DagsterSide
) -> Iterator[Played]:
    """The scenarios of this module that were asked for."""
    wanted: list[Any] = [
        item.callspec.params["story"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and hasattr(item, "callspec")
    ]
    running = Played(simulators, wanted)
    yield running
    running.close()


@pytest.mark.parametrize("story", STORIES, ids=NAMES)
def test_nothing_is_paid_twice_and_dagster_knows_what_is_stored(
    played: Played, story: tuple[str, Scenario]
) -> None:
    """After a kill in this layer every invariant holds, and events and references agree."""
    outcome = played[story]
    assert not outcome.problems, f"{story[0]}: {story[1].describe()}"


def test_the_kills_of_every_layer_hit_their_points(played: Played) -> None:
    """Faults before a kill may keep it from happening; most kills do."""
    for layer in KINDS:
        outcomes = [one for one in played.all() if one.layer == layer]
        hit = [one for one in outcomes if one.reached]
        assert len(hit) >= 0.6 * len(outcomes), [one.scenario.describe() for one in outcomes]


def test_dagster_has_recorded_no_secret(played: Played, side: DagsterSide) -> None:
    """No key, signed URL or private prompt is in a database, event or log of any instance."""
    played.all()
    marks = [b"sk-faults-", b"s3cr3t", SIGNATURE_MARK.encode(), PRIVATE_MARK.encode()]
    files = [file for file in side.folder.rglob("*") if _is_recorded(side, file)]
    assert any(file.suffix == ".db" for file in files)
    leaks = [(file.name, mark) for file in files for mark in marks if mark in file.read_bytes()]
    assert leaks == []


def _is_recorded(side: DagsterSide, file: Path) -> bool:
    # Orders hold the keys: they are the harness's own.
    return file.is_file() and side.worlds not in file.parents
