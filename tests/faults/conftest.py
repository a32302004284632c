from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults import library
from tests.faults.dagster_side import DagsterSide, dagster_side
from tests.faults.scenarios import LAYERS, Outcome, Scenario
from tests.faults.world import Harness, harness

Story = tuple[str, Scenario]
"""A layer and what happens in it."""

# Most of a scenario is waiting: for a lease to end, for a vendor to be done. Dagster's also start
# processes, and wait for Dagster to notice.
AT_ONCE = {library.LAYER: 8}
_DAGSTER_AT_ONCE = 3


@pytest.fixture(scope="session")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Vendor, store and nursery, started once."""
    with harness(tmp_path_factory.mktemp("faults")) as started:
        yield started


@pytest.fixture(scope="module")
def side(request: pytest.FixtureRequest, simulators: Harness) -> Iterator[DagsterSide]:
    """Instances, the processes that run, and the daemon: started once for a module."""
    with dagster_side(simulators.folder / request.path.stem) as started:
        yield started


class Played:
    """Scenarios that run beside each other; each result is waited for by its own test."""

    def __init__(self, simulators: Harness, stories: Iterable[Story]) -> None:
        self._simulators = simulators
        wanted = list(dict.fromkeys(stories))
        self._pool = ThreadPoolExecutor(
            min((AT_ONCE.get(layer, _DAGSTER_AT_ONCE) for layer, _ in wanted), default=1)
        )
        self._running: dict[Story, Future[Outcome]] = {}
        for story in wanted:
            self._start(story)

    def __getitem__(self, story: Story) -> Outcome:
        self._start(story)
        return self._running[story].result(timeout=900)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _start(self, story: Story) -> None:
        if story not in self._running:
            self._running[story] = self._pool.submit(self._play, *story)

    def _play(self, layer: str, scenario: Scenario) -> Outcome:
        name = f"{scenario.name}-{list(LAYERS).index(layer)}"
        return LAYERS[layer](scenario, self._simulators.world(name, **scenario.world()))


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, simulators: Harness) -> Iterator[Played]:
    """The stories of this module that were asked for, all started."""
    wanted: list[Any] = [
        item.callspec.params["story"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and hasattr(item, "callspec")
        and "story" in item.callspec.params
    ]
    running = Played(simulators, wanted)
    yield running
    running.close()
