"""A code location with the replay job; store and ledger come from the environment."""

import dagster as dg

from genblaze_dagster.replay import replay_job
from genblaze_dagster.resources import genblaze_resources

defs = dg.Definitions(
    jobs=[replay_job()], resources=genblaze_resources(), executor=dg.in_process_executor
)
