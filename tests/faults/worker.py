"""Worker processes: each runs a pipeline as a user's program does, and may be killed anywhere.

    python -m tests.faults.worker

is a nursery: it imports everything once, and forks a worker for each line of JSON on its standard
input, `{"number": n, "log": path, "order": {...}}`. It answers with lines `{"number": n, "pid":
...}`, `{"number": n, "at": point}` from a worker that has parked, and `{"number": n, "status":
...}` with the wait status at the end. When its input ends, it kills what is left.
"""

import asyncio
import json
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.events import StepEvent
from genblaze_dagster.pipeline.execution import run_in, run_options
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.pipeline.session import Places, Session
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.options import StoreOptions
from genblaze_dagster.storage.store import MediaStore
from tests.faults import network
from tests.faults.order import CALLBACK_SECRET, PIPELINE, PRIVATE_PROMPT, PROMPT, STEP, Order
from tests.faults.parking import Parking, ParkingIndex, ParkingLedger
from tests.faults.provider import ListingVendor, SimulatedVendor

KIB = 1024
# Large begins early, so that small pictures go up in parts.
STORE_OPTIONS = StoreOptions(
    connect_timeout=5,
    max_retries=2,
    backoff=0.02,
    single_put_bytes=32 * KIB,
    part_bytes=32 * KIB,
)
RETRY = RetryPolicy(max_attempts=3, initial_backoff_sec=0.05, max_backoff_sec=0.2, jitter="none")


# The simulator's list is never late.
LOOK_AFTER = (0.05, 0.1)


def provider_of(order: Order) -> SimulatedVendor:
    """Return the vendor's provider for a world."""
    kind = ListingVendor if order.lists else SimulatedVendor
    return kind(
        order.vendor_url,
        api_key=order.api_key,
        price=order.price,
        deduplicates=order.deduplicates,
        answer_timeout=order.answer_timeout,
        callbacks=None if order.callback_url is None else endpoint_of(order.callback_url),
    )


def endpoint_of(url: str) -> CallbackEndpoint:
    """Return the receiver of vendors' calls that is behind a URL."""
    return CallbackEndpoint(url, CALLBACK_SECRET)


def store_of(order: Order) -> MediaStore:
    """Return a world's store."""
    return MediaStore(
        order.store_url,
        endpoint_url=order.endpoint_url,
        region="us-east-1",
        access_key_id=order.access_key_id,
        secret_access_key=order.secret_access_key,
        options=replace(STORE_OPTIONS, read_timeout=order.answer_timeout),
    )


def budgets_of(order: Order) -> list[Budget]:
    """Return what limits a world's spending."""
    return [] if order.budget_usd is None else [Budget(BudgetScope.PROVIDER, order.budget_usd)]


def pipeline_of(order: Order) -> Pipeline:
    """Return what every worker of the harness runs."""
    return Pipeline(PIPELINE).step(
        provider_of(order),
        model=order.model,
        name=STEP,
        prompt=PRIVATE_PROMPT if order.private else PROMPT,
        prompt_visibility=PromptVisibility.PRIVATE if order.private else PromptVisibility.PUBLIC,
        timeout=order.timeout,
    )


async def work(order: Order, tell: Callable[[str], None]) -> dict[str, str]:
    """Run the partitions at the same time; return the error of each that failed."""
    parking = Parking(order.park, tell)
    store = store_of(order)
    index = ParkingIndex(store, parking) if order.index else None
    pipeline = pipeline_of(order)
    failed: dict[str, str] = {}
    with ParkingLedger(order.ledger_url, parking) as ledger:
        async with Runner(
            store,
            ledger,
            retry=RETRY,
            on_event=_log_event,
            lease_seconds=order.lease_seconds,
            look_after=LOOK_AFTER,
            budgets=budgets_of(order),
            on_ambiguous=order.on_ambiguous,
        ) as runner:
            session = Session(runner, Places(index=index))

            async def one(partition: str) -> None:
                with ExitStack() as drawing:
                    chosen = run_options(
                        pipeline,
                        drawing=drawing,
                        progress=False,
                        variables={"subject": partition},
                        scope=order.scope,
                        partition_key=partition,
                        max_retries=order.max_retries,
                    )
                try:
                    await run_in(session, pipeline, chosen, raise_on_failure=True)
                except GenblazeError as exc:
                    failed[partition] = f"{type(exc).__name__}: {exc}"

            async with asyncio.TaskGroup() as group:
                for partition in order.partitions:
                    group.create_task(one(partition))
            await session.flush()
    return failed


def _log_event(event: StepEvent) -> None:
    logging.getLogger("events").info("%r", event)


def run(order: Order, tell: Callable[[str], None]) -> int:
    """Be a worker: everything it says goes to standard error."""
    logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
    if order.machine is not None:
        # Leases name their owner by host and process.
        socket.gethostname = lambda: order.machine or ""
    network.install(order.tls_port, order.certificate)
    failed = asyncio.run(work(order, tell))
    for partition, error in failed.items():
        logging.getLogger("worker").error("%s: %s", partition, error)
    return 1 if failed else 0


class Nursery:
    """Forks workers, each of which is a call of `run`, and tells about them."""

    def __init__(self, run: Callable[[Order, Callable[[str], None]], int] = run) -> None:
        self._run = run
        self._out = os.dup(1)
        self._numbers: dict[int, int] = {}

    def serve(self) -> None:
        """Fork until the input ends."""
        waking, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        pending = b""
        while True:
            ready, _, _ = select.select([0, waking], [], [])
            if waking in ready:
                os.read(waking, 4096)
                self._reap()
            if 0 in ready:
                data = os.read(0, 1 << 16)
                if not data:
                    return self._end()
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._fork(**json.loads(line))

    def _fork(self, number: int, log: str, order: dict[str, Any]) -> None:
        pid = os.fork()
        if pid:
            self._numbers[pid] = number
            self._tell(number, pid=pid)
            return
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._redirect(Path(log))
            code = self._run(
                Order.loads(json.dumps(order)), lambda point: self._tell(number, at=point)
            )
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            # The nursery's own exit handlers are not the worker's.
            os._exit(code)

    @staticmethod
    def _redirect(log: Path) -> None:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(file, 1)
        os.dup2(file, 2)

    def _tell(self, number: int, **said: object) -> None:
        # One write of a short line is never mixed with another's.
        os.write(self._out, (json.dumps({"number": number, **said}) + "\n").encode())

    def _reap(self) -> None:
        while self._numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            # Others are what the workers have in common.
            if pid in self._numbers:
                self._tell(self._numbers.pop(pid), status=status)

    def _end(self) -> None:
        for pid in self._numbers:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    import pyarrow.parquet  # noqa: F401 - once, for all workers

    Nursery().serve()
