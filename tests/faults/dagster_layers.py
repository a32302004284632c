"""The layers of Dagster: the same scenarios in a run, an executor, a run worker and a daemon.

Each is killed at the scenario's point, and recovers in the scenario's way:

* `again`: Dagster's own retry, where the layer has one that outlives the kill: the op's RetryPolicy
  in the executor, run retries of the daemon, the backfill that a new daemon takes up. A process
  that executes its run itself has none; somebody starts it again from failure.
* `elsewhere`: whatever was left is killed too, and somebody executes from failure again.
* `new scope`: somebody asks for a new run or backfill, which is a new wish for what is finished and
  takes up what is open.
"""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg

from genblaze_dagster.metadata import link
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.reconcile import reconcile
from genblaze_dagster.storage.refs import read_ref
from tests.faults import dagster_location as location
from tests.faults.crashes import CRASHES, VICTIM, Crash, look
from tests.faults.dagster_side import (
    Cohort,
    DagsterSide,
    DagsterWorld,
    kill_by_id,
    side_of,
    until,
    until_over,
)
from tests.faults.invariants import check
from tests.faults.library import (
    meet_faults,
    not_settled,
    not_stored,
    paid_again,
    resolve_as_a_person,
)
from tests.faults.order import Park
from tests.faults.parking import Point
from tests.faults.scenarios import LAYERS, STORE_FAULTS, VENDOR_FAULTS, Outcome, Scenario
from tests.faults.simulator import Fault
from tests.faults.world import Worker, World
from tests.support.backfills import backfill_status

IN_PROCESS = "Dagster run in process"
EXECUTOR = "multiprocess executor"
RUN_WORKER = "run worker"
DAEMON = "daemon"

BEFORE_EVENT = "after index before the Dagster event"
POINTS = (*CRASHES, BEFORE_EVENT)
_REACH_SECONDS = 180.0
_RUN_SECONDS = 180.0
_HELD_SECONDS = 100.0
_MOST_RUNS = 4
_NO_RETRY = {"dagster/max_retries": "0"}
_NEW_BACKFILL = "dagster/backfill"

Ended = Callable[[], bool]


_BEFORE_EVENT = Crash(lambda look: look.stored("index") > 0)


def crash_of(scenario: Scenario) -> Crash:
    """Return the point of a scenario in a batch, whose index is written by itself at the end."""
    if scenario.crash == BEFORE_EVENT:
        return _BEFORE_EVENT
    crash = CRASHES[scenario.crash]
    if crash.park is Point.BEFORE_INDEX:
        return replace(crash, park=None, store=Fault("put index", "hold-before", times=20))
    return crash


class DagsterLayer(ABC):
    """One scenario in one layer; made for it, and used once."""

    name: ClassVar[str]
    kills_daemons: ClassVar[bool] = False

    def __init__(
        self, side: DagsterSide, world: DagsterWorld, scenario: Scenario, cohort: Cohort
    ) -> None:
        self.side = side
        self.world = world
        self.scenario = scenario
        self.cohort = cohort

    @abstractmethod
    def home(self) -> Path:
        """Return the home of the instance."""

    @abstractmethod
    def start(self) -> Ended:
        """Start what will be killed; returns whether it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """Kill it with signal 9, by its process id."""

    @abstractmethod
    def recover(self) -> bool:
        """Recover in the scenario's way; True when everything succeeded."""

    @abstractmethod
    def run_again(self) -> bool:
        """Execute what is left again; True when everything succeeded."""


class InProcess(DagsterLayer):
    """A program that executes its run itself."""

    name = IN_PROCESS
    job = location.IN_PROCESS
    tags: Mapping[str, str] = {}

    def home(self) -> Path:
        return self.side.home

    def start(self) -> Ended:
        self.worker = self.side.start_run(self.world, self.job)
        return lambda: self.worker.status is not None

    def kill(self) -> None:
        if self.worker.status is None:
            assert self.worker.kill() == -signal.SIGKILL

    def recover(self) -> bool:
        self.mark_as_failed()
        if self.scenario.recovery == "new scope":
            # The tag is what makes a run part of a backfill.
            self.tags = {_NEW_BACKFILL: f"{self.world.world.name}-new"}
            return self.finish(self.side.start_run(self.world, self.job, tags=self.tags))
        return self.run_again()

    def run_again(self) -> bool:
        latest = self.side.runs(self.side.instance(self.home()), self.world)
        if not latest or latest[0].status is not dg.DagsterRunStatus.FAILURE:
            return self.finish(self.side.start_run(self.world, self.job))
        again = self.side.start_run(self.world, self.job, parent=latest[0].run_id, tags=self.tags)
        return self.finish(again)

    def mark_as_failed(self) -> None:
        """Do what Dagster's monitoring does about a run whose process is gone."""
        instance = self.side.instance(self.home())
        for run in self.side.runs(instance, self.world):
            if not run.is_finished:
                instance.report_run_failed(run)

    def finish(self, worker: Worker) -> bool:
        """Wait for a run; a run that does not end is killed and has failed."""
        code = worker.wait(_RUN_SECONDS)
        if code is None:
            worker.kill()
            self.mark_as_failed()
        return code == 0


class Executor(InProcess):
    """The same with a process for the step, which is what is killed."""

    name = EXECUTOR
    job = location.APART

    def kill(self) -> None:
        if self.scenario.recovery != "again":
            # The whole machine: nobody is left who could retry.
            super().kill()
        for pid in self.world.pids():
            if pid != self.worker.pid:
                kill_by_id(pid)

    def recover(self) -> bool:
        if self.scenario.recovery == "again":
            return self.finish(self.worker)
        return super().recover()


class RunWorker(DagsterLayer):
    """A run in a process that a code server started for the daemon."""

    name = RUN_WORKER

    def home(self) -> Path:
        return self.side.daemon_home

    def start(self) -> Ended:
        self.side.has_daemon()
        retries = {} if self.scenario.recovery == "again" else _NO_RETRY
        self.backfill = self.request(tags=retries)
        return self.is_over

    def is_over(self) -> bool:
        """Whether the backfill has ended."""
        return backfill_status(self.side.instance(self.home()), self.backfill) is not None

    def request(self, **options: Any) -> str:
        """Ask the daemon for a backfill."""
        return self.side.request(self.side.instance(self.home()), self.world, **options)

    def kill(self) -> None:
        for pid in self.world.pids():
            kill_by_id(pid)

    def recover(self) -> bool:
        ended = self.wait()
        if self.scenario.recovery == "again":
            return ended
        if self.scenario.recovery == "elsewhere":
            return self.run_again()
        self.backfill = self.request()
        return self.wait()

    def run_again(self) -> bool:
        self.request(retry_of=self.backfill)
        return self.wait()

    def wait(self) -> bool:
        """Wait for the backfills of this world."""
        instance = self.side.instance(self.home())
        ours = [
            one.backfill_id
            for one in instance.get_backfills()
            if one.tags.items() >= self.world.tags.items()
        ]
        ended = [until_over(self.side, instance, self.world, one, _RUN_SECONDS) for one in ours]
        # A run that is to be retried is followed by another.
        until(
            lambda: all(run.is_finished for run in self.side.runs(instance, self.world)),
            "the end of all runs",
            _RUN_SECONDS,
        )
        return ended[0] == "COMPLETED_SUCCESS"


class Daemon(RunWorker):
    """A backfill whose daemon is killed; the runs it has launched live on, or die with it."""

    name = DAEMON
    kills_daemons = True

    def kill(self) -> None:
        self.cohort.together(self.side.kill_daemons)
        stopped = self.world.parked()
        if self.scenario.recovery != "again":
            super().kill()
        elif stopped is not None:
            # Nothing would ever wake it.
            kill_by_id(stopped)

    def recover(self) -> bool:
        self.cohort.together(self.side.start_daemon)
        return super().recover()


KINDS: Mapping[str, type[DagsterLayer]] = {
    kind.name: kind for kind in (InProcess, Executor, RunWorker, Daemon)
}


def play(kind: type[DagsterLayer], scenario: Scenario, world: World, crash: Crash) -> Outcome:
    """Kill, recover and judge one scenario in one layer; nothing is killed a second time."""
    scenario = replace(scenario, second=None)
    side = side_of(world.folder.parent)
    home = side.daemon_home if issubclass(kind, RunWorker) else side.home
    cohort = nullcontext(Cohort(1))
    if kind.kills_daemons:
        cohort = side.member_of_cohort()
        # It has to hold out until the others of the cohort are as far.
        world.change(answer_timeout=_HELD_SECONDS)
    with cohort as cohort, side.adopt(world, home) as adopted:
        return _play(kind(side, adopted, scenario, cohort), crash)


def _play(layer: DagsterLayer, crash: Crash) -> Outcome:
    scenario, adopted = layer.scenario, layer.world
    world = adopted.world
    problems: list[str] = []
    if scenario.faults_first:
        meet_faults(world, scenario)
    _arm(layer, crash)
    was_reached = _reached(adopted, crash, layer.start())
    # Told before the kill: what Dagster starts at once must not stop again.
    adopted.park(None)
    layer.kill()
    seen = look(world)
    adopted.leases_end()
    if was_reached and not crash.proof(seen):
        problems.append(f"the kill did not hit {scenario.crash!r}")
    for simulator in (world.vendor, world.store_control):
        simulator.faults()
        simulator.release(go=scenario.late)
    if not scenario.faults_first:
        meet_faults(world, scenario)
    started = time.monotonic()
    is_done = layer.recover()
    world.quiet()
    for _ in range(_MOST_RUNS):
        if is_done or not (resolve_as_a_person(world) or not_stored(world) or not_settled(world)):
            break
        adopted.leases_end()
        is_done = layer.run_again()
    seconds = time.monotonic() - started
    problems += [f"not settled: {what}" for what in not_settled(world)]
    problems += not_stored(world)
    problems += paid_again(world, seen.rows)
    instance = layer.side.instance(layer.home())
    problems += _events(instance, adopted)
    world.scanned += layer.side.traces(instance, adopted)
    verdict = check(world)
    return Outcome(
        scenario=scenario,
        layer=layer.name,
        reached=was_reached,
        recovery_seconds=seconds,
        verdict=verdict,
        problems=(*problems, *verdict.violations),
    )


def _arm(layer: DagsterLayer, crash: Crash) -> None:
    world, scenario = layer.world.world, layer.scenario
    if crash.vendor is not None:
        after = VENDOR_FAULTS[scenario.vendor_fault] if scenario.faults_first else ()
        world.vendor.faults(crash.vendor, *after)
    if crash.store is not None:
        after = STORE_FAULTS[scenario.store_fault] if scenario.faults_first else ()
        world.store_control.faults(crash.store, *after)
    point = location.BEFORE_EVENT if scenario.crash == BEFORE_EVENT else crash.park
    layer.world.park(Park(str(point), VICTIM) if point is not None else None)


def _reached(world: DagsterWorld, crash: Crash, ended: Ended) -> bool:
    """Wait until the point is reached; False when everything ended before."""
    parks = crash.vendor is None and crash.store is None
    deadline = time.monotonic() + _REACH_SECONDS
    while time.monotonic() < deadline:
        if (world.parked() is not None) if parks else world.held():
            return True
        if ended():
            return False
        time.sleep(0.1)
    return False


def _events(instance: dg.DagsterInstance, world: DagsterWorld) -> list[str]:
    """Return partitions whose event and reference do not lead to each other after reconcile."""
    assets = [asset for asset in location.assets() if world.asset in asset.keys]
    store = world.world.store
    first = reconcile(instance, store, assets, settled_for=timedelta(0))
    again = reconcile(instance, store, assets, settled_for=timedelta(0))
    problems = [f"reported twice: {place}" for place in again.reported]
    problems += [f"materialized without media: {place}" for place in first.without_media]
    for key in world.keys:
        ref = run_sync(read_ref(store, world.asset.to_user_string(), key))
        events = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=world.asset, asset_partitions=[key]), limit=1
        ).records
        event = events[0].asset_materialization if events else None
        told = None if event is None else event.metadata["manifest"]
        stored = None if ref is None else link(ref.manifest_url)
        if told != stored:
            problems.append(f"{key}: Dagster was told of {told}, the store has {stored}")
    return problems


def _register(kind: type[DagsterLayer]) -> None:
    def run(scenario: Scenario, world: World) -> Outcome:
        return play(kind, scenario, world, crash_of(scenario))

    LAYERS[kind.name] = run


for _kind in KINDS.values():
    _register(_kind)
