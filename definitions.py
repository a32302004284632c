"""The code location `dagster dev` opens: the demo pipeline over its twelve prompts.

Copy `demo_definitions` from `genblaze_dagster/demo.py` as the start of your own.
"""

import dagster as dg

from genblaze_dagster.demo import demo_definitions
from genblaze_dagster.replay import replay_job

defs = dg.Definitions.merge(demo_definitions(), dg.Definitions(jobs=[replay_job()]))
