from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.faults import library
from tests.faults.scenarios import Outcome, Scenario
from tests.faults.world import Harness, harness

# Most of a scenario is waiting: for a lease to end, for a vendor to be done.
AT_ONCE = 8


@pytest.fixture(scope="session")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Vendor, store and nursery, started once."""
    with harness(tmp_path_factory.mktemp("faults")) as started:
        yield started


class Played:
    """Scenarios that run beside each other; each result is waited for by its own test."""

    def __init__(self, simulators: Harness, scenarios: Iterable[Scenario]) -> None:
        self._simulators = simulators
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._running: dict[str, Future[Outcome]] = {}
        for scenario in scenarios:
            self._start(scenario)

    def __getitem__(self, scenario: Scenario) -> Outcome:
        self._start(scenario)
        return self._running[scenario.name].result(timeout=300)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _start(self, scenario: Scenario) -> None:
        if scenario.name not in self._running:
            self._running[scenario.name] = self._pool.submit(self._play, scenario)

    def _play(self, scenario: Scenario) -> Outcome:
        world = self._simulators.world(scenario.name, **scenario.world())
        return library.run(scenario, world)


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, simulators: Harness) -> Iterator[Played]:
    """The scenarios of this module that were asked for, all started."""
    wanted: list[Any] = [
        item.callspec.params["scenario"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and hasattr(item, "callspec")
        and "scenario" in item.callspec.params
    ]
    running = Played(simulators, wanted)
    yield running
    running.close()
