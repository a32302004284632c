"""Workers that ask for one partition each and print what they got.

    python -m tests.faults.dagster_claimants

is a nursery like that of `tests.faults.worker`. An order's options say `start_file` (all of them
begin when it is there) and `clock_file`, which holds by how many seconds the worker's clock is
wrong; it may change while the worker is under way.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.outcome import StepOutcome, Target
from genblaze_dagster.pipeline.runner import Runner
from tests.faults import network
from tests.faults.order import ASSET_KEY, Order
from tests.faults.worker import RETRY, Nursery, pipeline_of, provider_of, store_of

if TYPE_CHECKING:
    from tests.faults.world import Worker

_PATIENCE_SECONDS = 300.0


def clock_of(order: Order) -> Callable[[], datetime] | None:
    """Return the worker's wrong clock, None when it goes by the ledger's own."""
    file = order.options.get("clock_file")
    if file is None:
        return None

    def now() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=float(Path(file).read_text()))

    return now


async def claim(order: Order) -> StepOutcome:
    """Ask for the first partition of the order."""
    (step,) = pipeline_of(order).steps
    clock = clock_of(order)
    target = Target(ASSET_KEY, order.partitions[0], order.scope, pipeline="faults")
    with Ledger(order.ledger_url, clock=clock) as ledger:
        told: dict[str, Any] = {} if clock is None else {"clock": clock}
        async with Runner(
            store_of(order), ledger, retry=RETRY, lease_seconds=order.lease_seconds, **told
        ) as runner:
            return await runner.run_step(
                step,
                target,
                variables={"subject": order.partitions[0]},
                provider=provider_of(order),
            )


def run(order: Order, tell: Callable[[str], None]) -> int:
    """Be a worker: 0 when there is media, 1 when there is an error; both are printed."""
    logging.basicConfig(level=logging.INFO)
    network.install(order.tls_port, order.certificate)
    start = order.options.get("start_file")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    tell("ready")
    while start is not None and not Path(start).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        outcome = asyncio.run(claim(order))
    except GenblazeError as exc:
        print(json.dumps({"error": type(exc).__name__, "message": str(exc)}), flush=True)
        return 1
    result = {"how": outcome.origin.value, "ref": outcome.ref.to_dict()}
    print(json.dumps(result), flush=True)
    return 0


def printed(worker: "Worker") -> dict[str, Any]:
    """Return what a worker has got, or the error it met."""
    lines = worker.log.read_text().splitlines()
    return next(json.loads(line) for line in reversed(lines) if line.startswith("{"))


if __name__ == "__main__":
    Nursery(run).serve()
