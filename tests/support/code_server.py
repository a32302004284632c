"""A Dagster code server whose runs are forked from a process that has imported everything.

    python -m tests.support.code_server MODULE [options of `dagster api grpc`]

Dagster spawns a run's process, which then imports for seconds. A run is a process of its own here
too, with nothing of another run in it.
"""

import multiprocessing
import sys
from typing import Any

from dagster._cli import main
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient


def answers(socket: str) -> bool:
    """Return whether a code server has loaded its location."""
    try:
        return DagsterGrpcClient(socket=socket).ping("ready")["echo"] == "ready"
    except DagsterUserCodeUnreachableError:
        return False


if __name__ == "__main__":
    _, module, *options = sys.argv
    context_of = multiprocessing.get_context
    forking = context_of("forkserver")
    forking.set_forkserver_preload([module, "alembic.script", "dagster._core.storage.sql"])

    def _context_of(method: str | None = None) -> Any:
        return forking if method == "spawn" else context_of(method)

    multiprocessing.get_context = _context_of
    sys.argv = ["dagster", "api", "grpc", "--module-name", module, *options]
    main()
