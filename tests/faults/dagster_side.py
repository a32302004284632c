"""Dagster beside the worlds of the harness: instances, processes that run, and the daemon."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from genblaze_dagster._compat import partition_range_tags
from tests.faults import dagster_location as location
from tests.faults.order import STEP, Park
from tests.faults.world import ROOT, Nursery, Worker, World, process
from tests.support.backfills import (
    backfill_status,
    cancel_backfill,
    request_backfill,
    retry_is_promised,
)
from tests.support.code_server import answers

IN_TIME = 180.0
# What Dagster's daemon needs for a retry is a few seconds.
_RETRY_SECONDS = 60.0
_LOOK = 0.1
_EVENTS = "events"
_WORLDS = "orders"
_DAGSTER_YAML = """
telemetry: {{enabled: false}}
run_coordinator:
  module: dagster._core.run_coordinator
  class: QueuedRunCoordinator
  config: {{dequeue_interval_seconds: 1, max_concurrent_runs: 8}}
run_retries: {{enabled: true, max_retries: 2, retry_on_asset_or_op_failure: false}}
run_monitoring: {{enabled: true, poll_interval_seconds: 2}}
event_log_storage:
  module: tests.support.event_log
  class: ObservedEventLog
  config: {{base_dir: {base_dir}}}
"""


def until(condition: Callable[[], Any], what: str, seconds: float = IN_TIME) -> Any:
    """Wait until the condition gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.0f} s")
        time.sleep(_LOOK)
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def kill_by_id(pid: int) -> None:
    """Send signal 9 and wait until it has worked; a process that is gone already is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), f"the end of process {pid}", 15)


class DagsterWorld:
    """One world, the asset whose runs live in it, and what they are told."""

    def __init__(self, world: World, folder: Path, asset: dg.AssetKey) -> None:
        self.world = world
        self.folder = folder
        self.asset = asset
        self.keys = world.order.partitions
        folder.mkdir(parents=True)
        self.write_order()

    def write_order(self) -> None:
        """Tell runs that start from now on."""
        new = self.folder / f"{location.ORDER_FILE}.new"
        new.write_text(self.world.order.dumps())
        new.rename(self.folder / location.ORDER_FILE)

    def park(self, park: Park | None) -> None:
        """Stop the next process at a point, or none any more."""
        self.world.change(park=park)
        self.write_order()

    def parked(self) -> int | None:
        """Return the process that has stopped at its point."""
        file = self.folder / location.PARKED_FILE
        return int(json.loads(file.read_text())["pid"]) if file.exists() else None

    def pids(self) -> list[int]:
        """Return the processes that have worked in this world, oldest first."""
        found = (self.folder / location.PIDS_FOLDER).glob("*")
        return [int(path.name) for path in sorted(found, key=lambda path: path.stat().st_mtime)]

    def held(self) -> bool:
        """Return whether a request is parked at one of the simulators."""
        world = self.world
        return bool(world.vendor.held(wait=0) or world.store_control.held(wait=0))

    def leases_end(self) -> None:
        """Let the time pass after which a dead worker is given up."""
        dead = [pid for pid in self.pids() if not is_alive(pid)]
        with self.world.ledger() as ledger:
            for row in ledger.rows():
                if row.owner is None or row.lease_expires_at is None:
                    continue
                if any(f":{pid}:" in row.owner for pid in dead):
                    ledger.renew(row.id, row.owner, lease_seconds=-1)

    def ask_sensor(self) -> None:
        """Let the location's sensor ask for one run of all partitions."""
        wanted = {"asset": list(self.asset.path), "tags": {**self.tags, **self.range_tags}}
        new = self.folder / f"{location.REQUEST_FILE}.new"
        new.write_text(json.dumps(wanted))
        new.rename(self.folder / location.REQUEST_FILE)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of a run in this world."""
        return {location.WORLD_TAG: self.world.name}

    @property
    def range_tags(self) -> dict[str, str]:
        """Tags of a run of all partitions."""
        return partition_range_tags(self.keys[0], self.keys[-1])


class Cohort:
    """Worlds that do something together, when each of them is as far."""

    def __init__(self, size: int) -> None:
        self._expected = size
        self._waiting = 0
        self._turn = 0
        self._act: Callable[[], object] = lambda: None
        self._changed = threading.Condition()

    def together(self, act: Callable[[], object]) -> None:
        """Wait for all others; the last to come acts for all of them.

        Raises:
            AssertionError: the others did not come.
        """
        with self._changed:
            turn = self._turn
            self._waiting += 1
            self._act = act
            self._go_if_complete()
            # Longer than any world takes to give up its point.
            if not self._changed.wait_for(lambda: self._turn != turn, 3 * IN_TIME):
                raise AssertionError("the other worlds of a cohort did not get as far")

    def leave(self) -> None:
        """Be waited for no more; those who only waited for this one act now."""
        with self._changed:
            self._expected -= 1
            self._go_if_complete()

    def _go_if_complete(self) -> None:
        if self._waiting and self._waiting == self._expected:
            self._act()
            self._waiting = 0
            self._turn += 1
            self._changed.notify_all()


class DagsterSide:
    """Instances, nursery, code server and daemons of one harness; its worlds share them.

    Daemons are killed by one world at a time, or by the worlds of a cohort together.
    """

    def __init__(self, folder: Path, nursery: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.worlds = folder / _WORLDS
        self._nursery = Nursery(nursery)
        self._nursery_group = nursery.pid
        self._free = list(range(location.SLOTS_OF_A_KIND))
        self._code_server: subprocess.Popen[bytes] | None = None
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._starting = threading.Lock()
        self._instances: dict[Path, dg.DagsterInstance] = {}
        self._killing = threading.Lock()
        self._cohort: Cohort | None = None
        self.home = self._new_home("runs")
        self.daemon_home = self._new_home("daemon")

    def _new_home(self, name: str) -> Path:
        home = self.folder / f"home-{name}"
        home.mkdir()
        (home / "dagster.yaml").write_text(_DAGSTER_YAML.format(base_dir=home / _EVENTS))
        self._instances[home] = dg.DagsterInstance.from_config(str(home))
        # Two processes that make the databases of an instance at once spoil them.
        assert self._instances[home].get_runs() == []
        return home

    @contextmanager
    def adopt(self, world: World, home: Path) -> Iterator[DagsterWorld]:
        """Give a world an asset of an instance, of which no other world has left anything."""
        slot = self._free.pop()
        name = location.pipeline_name(slot, world.order.model, world.order.private)
        key = dg.AssetKey([name, STEP])
        try:
            self.instance(home).wipe_assets([key])
            yield DagsterWorld(world, self.worlds / world.name, key)
        finally:
            self._free.append(slot)

    @contextmanager
    def cohort(self, size: int) -> Iterator[None]:
        """Let the next worlds that kill the daemons do it together; there are `size` of them."""
        with self._killing:
            self._cohort = Cohort(size)
            try:
                yield
            finally:
                self._cohort = None

    @contextmanager
    def member_of_cohort(self) -> Iterator[Cohort]:
        """Join the cohort that there is, or be one alone."""
        cohort = self._cohort
        if cohort is None:
            # Two at once would kill each other's daemon.
            with self._killing:
                yield Cohort(1)
            return
        try:
            yield cohort
        finally:
            cohort.leave()

    @property
    def environment(self) -> dict[str, str]:
        """What every Dagster process of this harness finds in its environment."""
        return {
            location.ROOT_VARIABLE: str(self.worlds),
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "1",
            "PYTHONPATH": str(ROOT),
        }

    def instance(self, home: Path) -> dg.DagsterInstance:
        """Return the instance of a home; all threads share it, as a server's do."""
        return self._instances[home]

    def start_run(
        self,
        world: DagsterWorld,
        job: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Worker:
        """Start a process that executes all partitions of a world in one run."""
        options = {
            "home": str(self.home),
            "job": job,
            "asset": list(world.asset.path),
            "parent": parent,
            "environment": {**self.environment, "DAGSTER_HOME": str(self.home)},
            "tags": {**world.tags, **world.range_tags, **(tags or {})},
        }
        order = replace(world.world.order, options=options)
        log = world.world.folder / f"run-{time.monotonic_ns()}.log"
        return self._nursery.start(order, log)

    def request(
        self,
        instance: dg.DagsterInstance,
        world: DagsterWorld,
        *,
        retry_of: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Request a backfill of all partitions of a world."""
        return request_backfill(
            instance,
            [asset for asset in location.assets() if world.asset in asset.keys],
            world.keys,
            tags={**world.tags, **(tags or {})},
            retry_of=retry_of,
        )

    def runs(self, instance: dg.DagsterInstance, world: DagsterWorld) -> list[dg.DagsterRun]:
        """Return the runs in a world, youngest first."""
        return list(instance.get_runs(dg.RunsFilter(tags=world.tags)))

    def has_daemon(self) -> None:
        """Start a daemon unless one runs."""
        with self._starting:
            if all(daemon.poll() is not None for daemon in self._daemons):
                self.start_daemon()

    def start_daemon(self) -> subprocess.Popen[bytes]:
        """Start another daemon; all of them have one code server."""
        if self._code_server is None:
            self._start_code_server()
        daemon = self._start(
            f"daemon-{len(self._daemons)}",
            *("tests.support.daemon_process", "run", "--grpc-socket", self._socket),
        )
        self._daemons.append(daemon)
        return daemon

    @property
    def _socket(self) -> str:
        # The path of a socket is at most some hundred characters long, that of the folder is not.
        return str(Path(tempfile.gettempdir(), f"genblaze-{self._nursery_group}.sock"))

    def _start_code_server(self) -> None:
        # Kept before it is ready: whatever comes of it, it is ended.
        self._code_server = server = self._start(
            "code-server",
            *("tests.support.code_server", "tests.faults.dagster_location"),
            *("--attribute", "defs", "--working-directory", str(ROOT), "--socket", self._socket),
        )
        until(lambda: server.poll() is not None or answers(self._socket), "a code server")
        assert server.poll() is None, "the code server ended"

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**os.environ, **self.environment, "DAGSTER_HOME": str(self.daemon_home)},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill_daemons(self) -> None:
        """Kill -9 the daemons alone; the code server and the runs live on."""
        with self._starting:
            for daemon in self._daemons:
                if daemon.poll() is None:
                    daemon.kill()
                    assert daemon.wait(timeout=15) == -signal.SIGKILL

    def close(self) -> None:
        """End the daemons, the nursery and everything they have started."""
        started = [*self._daemons, *([self._code_server] if self._code_server else [])]
        # A group lives on without its leader: runs and their steps are in it.
        for group in (self._nursery_group, *(one.pid for one in started)):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        for one in started:
            one.wait(timeout=15)
        for instance in self._instances.values():
            instance.dispose()
        Path(self._socket).unlink(missing_ok=True)

    def traces(self, instance: dg.DagsterInstance, world: DagsterWorld) -> list[Path]:
        """Return the files that hold what Dagster has recorded of a world's runs."""
        home = Path(instance.root_directory)
        files = [home / _EVENTS / f"{run.run_id}.db" for run in self.runs(instance, world)]
        return [file for file in files if file.exists()]


def until_over(
    side: DagsterSide,
    instance: dg.DagsterInstance,
    world: DagsterWorld,
    backfill: str,
    seconds: float = IN_TIME,
) -> str:
    """Wait for the end of a world's backfill and return its status.

    Dagster's retry daemon that reads of a failure before the run's row says so never looks at it
    again, and the backfill waits for ever for the retry it was promised. A person sees that, and
    cancels the backfill; what is left can be executed again.
    """
    promised_since: float | None = None

    def status() -> str | None:
        nonlocal promised_since
        is_promised = retry_is_promised(side.runs(instance, world))
        promised_since = (promised_since or time.monotonic()) if is_promised else None
        if promised_since and time.monotonic() - promised_since > _RETRY_SECONDS:
            cancel_backfill(instance, backfill)
        return backfill_status(instance, backfill)

    return until(status, f"backfill {backfill}", seconds)


_sides: dict[Path, DagsterSide] = {}


def side_of(folder: Path) -> DagsterSide:
    """Return the Dagster side that runs beside the harness of a folder."""
    return _sides[folder]


@contextmanager
def dagster_side(folder: Path) -> Iterator[DagsterSide]:
    """Start the nursery of runs; it, and every daemon, is ended.

    The folder is a new one in that of a harness, which has one such side at a time.
    """
    folder.mkdir()
    with ExitStack() as started:
        # Inherited by what serves the runs' steps.
        roots = {location.ROOT_VARIABLE: str(folder / _WORLDS)}
        nursery = started.enter_context(
            process(folder, "tests.faults.dagster_worker", environment=roots)
        )
        side = DagsterSide(folder, nursery)
        started.callback(side.close)
        _sides[folder.parent] = side
        try:
            yield side
        finally:
            del _sides[folder.parent]
