"""The world of one scenario, and the processes it lives in."""

import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.storage.store import MediaStore
from tests.faults.order import PRIVATE_MARK, Order
from tests.faults.simulator import CONTROL, Fault
from tests.faults.vendor import MEDIA_HOST, SIGNATURE_MARK
from tests.faults.worker import store_of
from tests.support.raw_http import certificate_for

ROOT = Path(__file__).resolve().parents[2]
_READY_SECONDS = 30.0
_TOKEN_MARK = "gbcb_"


@dataclass(frozen=True, slots=True)
class Control:
    """The control side of one simulator for one world."""

    port: int
    world: str

    @property
    def url(self) -> str:
        """Where clients of this world reach the simulator."""
        return f"http://127.0.0.1:{self.port}/{self.world}"

    def configure(self, **settings: object) -> None:
        """Make the world with its settings, or change them."""
        self._ask("POST", "", settings)

    def faults(self, *faults: Fault) -> None:
        """Replace what is left of the faults."""
        self._ask("POST", "/faults", [asdict(fault) for fault in faults])

    def release(self, *, go: bool) -> None:
        """Let parked requests go on, or drop them."""
        self._ask("POST", "/release", {"go": go})

    def held(self, *, wait: float) -> list[str]:
        """Return the kinds of the requests that are parked; waits for the first."""
        return self._ask("GET", f"/held?wait={wait}")["held"]

    def describe(self) -> dict[str, Any]:
        """Return all that the simulator knows of this world."""
        return self._ask("GET", "")

    def _ask(self, method: str, path: str, value: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = None if value is None else json.dumps(value)
            connection.request(method, f"/{CONTROL}/{self.world}{path}", body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


class Worker:
    """One worker process of the nursery."""

    def __init__(self, number: int, log: Path) -> None:
        self.number = number
        self.log = log
        self.pid = 0
        self.status: int | None = None
        self.parked_at: str | None = None
        self.changed = threading.Condition()

    def told(self, said: dict[str, Any]) -> None:
        """Take a line of the nursery."""
        with self.changed:
            self.pid = said.get("pid", self.pid)
            self.parked_at = said.get("at", self.parked_at)
            self.status = said.get("status", self.status)
            self.changed.notify_all()

    def until_parked_or_ended(self, seconds: float) -> bool:
        """Wait until it stops at its point; False when it ended, or neither came."""
        with self.changed:
            self.changed.wait_for(lambda: self.parked_at or self.status is not None, seconds)
        return self.parked_at is not None

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, negative for a signal; None when it is not over in time."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.status is not None, seconds):
                return None
            assert self.status is not None
            return os.waitstatus_to_exitcode(self.status)

    def kill(self) -> int | None:
        """Kill -9; return the exit code, which proves it."""
        with self.changed:
            self.changed.wait_for(lambda: self.pid, _READY_SECONDS)
            if self.status is None:
                # It may have ended by itself, and nobody has told yet.
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        return self.wait(_READY_SECONDS)


class Nursery:
    """The process that forks workers, seen from the harness."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._workers: dict[int, Worker] = {}
        self._writing = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def start(self, order: Order, log: Path) -> Worker:
        """Start a worker."""
        assert self._process.stdin is not None
        with self._writing:
            worker = Worker(len(self._workers), log)
            self._workers[worker.number] = worker
            line = json.dumps(
                {"number": worker.number, "log": str(log), "order": json.loads(order.dumps())}
            )
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        return worker

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            self._workers[said.pop("number")].told(said)


@dataclass
class World:
    """Vendor account, bucket and ledger of one scenario, and where its traces are.

    `folder` holds the ledger and the logs; `scanned` are more files and folders in which nothing
    secret may be. `secrets` is what may be nowhere.
    """

    name: str
    folder: Path
    nursery: Nursery
    vendor: Control
    store_control: Control
    order: Order
    vendor_settings: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict[str, str])
    scanned: list[Path] = field(default_factory=list[Path])

    @property
    def store(self) -> MediaStore:
        """The store, as the harness reads it."""
        return store_of(self.order)

    def ledger(self) -> Ledger:
        """Open the ledger; close it after use."""
        return Ledger(self.order.ledger_url)

    def bills(self) -> list[dict[str, Any]]:
        """Return what the vendor has billed so far."""
        return self.vendor.describe()["bills"]

    def change(self, **changes: Any) -> None:
        """Change the order every later worker gets."""
        self.order = replace(self.order, **changes)

    def start(self, **changes: Any) -> Worker:
        """Start a worker with this world's order, changed for it alone."""
        log = self.folder / f"worker-{time.monotonic_ns()}.log"
        return self.nursery.start(replace(self.order, **changes), log)

    def quiet(self) -> None:
        """End all faults; requests that are parked are dropped."""
        for simulator in (self.vendor, self.store_control):
            simulator.faults()
            simulator.release(go=False)


class Harness:
    """Vendor, store and nursery: started once, used by many worlds at the same time.

    Processes end when `started` does.
    """

    def __init__(self, folder: Path, started: ExitStack) -> None:
        self.folder = folder
        self._started = started
        certificate_for(MEDIA_HOST, folder)
        self._certificate = folder / f"{MEDIA_HOST}.pem"
        # All at the same time: each takes a moment to be ready.
        store = self._start("tests.faults.store_server")
        nursery = self._start("tests.faults.worker")
        self._vendor_process = self._start_vendor()
        self._vendor = _ports(self._vendor_process)
        self._store_port = _ports(store)["port"]
        self._nursery = Nursery(nursery)

    def restart_vendor(self) -> None:
        """Kill -9 the vendor and start it again where it was; faults that were set are gone."""
        self._vendor_process.kill()
        self._vendor_process.wait(timeout=15)
        self._vendor_process = self._start_vendor(*map(str, self._vendor.values()))
        assert _ports(self._vendor_process) == self._vendor

    def _start_vendor(self, *ports: str) -> "subprocess.Popen[bytes]":
        meter = str(self.folder / "meter.jsonl")
        return self._start("tests.faults.vendor", meter, str(self._certificate), *ports)

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        return self._started.enter_context(process(self.folder, module, *arguments))

    def world(
        self,
        name: str,
        *,
        partitions: tuple[str, ...] = ("p0", "p1"),
        vendor: dict[str, Any] | None = None,
        store: dict[str, Any] | None = None,
        ledger_url: str | None = None,
        **order: Any,
    ) -> World:
        """Make a world; `vendor` and `store` are settings of the simulators."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        bucket = name.lower()
        vendor_side = Control(self._vendor["port"], name)
        store_side = Control(self._store_port, bucket)
        settings = {"price": 0.04, "polls": 2, **(vendor or {})}
        vendor_side.configure(**settings)
        store_side.configure(**(store or {}))
        key = f"sk-faults-{secrets.token_hex(16)}"
        secret = f"s3cr3t{secrets.token_hex(16)}"
        given = Order(
            vendor_url=vendor_side.url,
            tls_port=self._vendor["tls_port"],
            certificate=str(self._certificate),
            api_key=key,
            store_url=f"s3://{bucket}/media",
            endpoint_url=f"http://127.0.0.1:{self._store_port}",
            access_key_id="AKIAFAULTS0000000000",
            secret_access_key=secret,
            ledger_url=ledger_url or f"sqlite:///{folder / 'ledger.db'}",
            partitions=partitions,
            scope=f"scope-{name}",
            price=settings["price"],
            deduplicates=bool(settings.get("deduplicates")),
            lists=bool(settings.get("lists")),
        )
        hidden = {
            "API key": key,
            "S3 secret": secret,
            "signed URL": SIGNATURE_MARK,
            "private prompt": PRIVATE_MARK,
            "token of a callback": _TOKEN_MARK,
        }
        return World(
            name=name,
            folder=folder,
            nursery=self._nursery,
            vendor=vendor_side,
            store_control=store_side,
            order=replace(given, **order),
            vendor_settings=settings,
            secrets=hidden,
        )


@contextmanager
def harness(folder: Path) -> Iterator[Harness]:
    """Start the processes; all of them are ended."""
    with ExitStack() as started:
        yield Harness(folder, started)


@contextmanager
def process(
    folder: Path, module: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module that ends with its input; what it says goes to a log in the folder."""
    log = (folder / f"{module}.log").open("ab")
    running = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield running
    finally:
        assert running.stdin is not None
        assert running.stdout is not None
        # The end of its input ends it, and whatever it has started.
        running.stdin.close()
        try:
            running.wait(timeout=15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait(timeout=15)
        running.stdout.close()
        log.close()


def _ports(server: subprocess.Popen[bytes]) -> dict[str, int]:
    output = server.stdout
    assert output is not None
    lines: Queue[bytes] = Queue()
    threading.Thread(target=lambda: lines.put(output.readline()), daemon=True).start()
    try:
        return json.loads(lines.get(timeout=_READY_SECONDS))
    except (Empty, json.JSONDecodeError) as exc:
        raise RuntimeError(f"{server.args} was not ready") from exc
