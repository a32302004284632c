"""Processes that execute a Dagster run themselves, as `dg.materialize` in a program does.

    python -m tests.faults.dagster_worker

is a nursery like that of `tests.faults.worker`, with Dagster imported. The options of an order say
what is run: `home` (of the instance), `job`, `asset`, `tags`, and `parent`, the run that is executed
again.
"""

import json
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing import forkserver

import dagster as dg

from tests.faults import dagster_location as location
from tests.faults import worker
from tests.faults.order import Order

JOBS = {location.IN_PROCESS: location.in_process, location.APART: location.apart}


def share_step_server() -> None:
    """Start the process that steps are forked from, for all runs that will be forked from this one.

    Each run would start one of its own, which imports for seconds.
    """
    multiprocessing.set_forkserver_preload([*location.PRELOAD])
    forkserver.ensure_running()
    # Only its parent can ask whether it runs. It does.
    forkserver._forkserver.ensure_running = lambda: None


def run(order: Order, tell: Callable[[str], None]) -> int:
    """Execute one run; 1 when it failed."""
    options = order.options
    os.environ.update(options["environment"])
    parent = options.get("parent")
    with dg.DagsterInstance.from_config(options["home"]) as instance:
        again = dg.ReexecutionOptions.from_failure(parent, instance) if parent else None
        with dg.execute_job(
            dg.reconstructable(JOBS[options["job"]]),
            instance=instance,
            tags=options["tags"],
            reexecution_options=again,
            asset_selection=None if parent else [dg.AssetKey(options["asset"])],
        ) as result:
            print(json.dumps({"run": result.run_id, "success": result.success}), flush=True)
            return 0 if result.success else 1


if __name__ == "__main__":
    import pyarrow.parquet  # noqa: F401 - once, for all workers

    location.in_process()
    # What a run opens first: imported before the fork, closed before it.
    with dg.DagsterInstance.local_temp():
        pass

    share_step_server()
    worker.Nursery(run).serve()
