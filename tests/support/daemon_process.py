"""The Dagster daemon as a process, with pauses of one second where Dagster takes thirty.

Started as `python -m tests.support.daemon_process run -f definitions.py`, with DAGSTER_HOME set.
"""

import sys

from dagster._daemon import controller
from dagster._daemon.cli import create_dagster_daemon_cli

if __name__ == "__main__":
    # Read by the backfill daemon at every turn of its loop.
    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 1
    controller.THREAD_CHECK_INTERVAL = 1
    create_dagster_daemon_cli()(sys.argv[1:])
