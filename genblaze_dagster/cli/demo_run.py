"""The demo's Dagster run; apart from the command so that only a run imports Dagster."""

import os
from pathlib import Path

import dagster as dg

from genblaze_dagster._compat import partition_range_tags
from genblaze_dagster.demo import demo_assets, demo_rows
from genblaze_dagster.errors import PipelineError
from genblaze_dagster.pipeline.environment import default_ledger_url, default_store_url
from genblaze_dagster.resources import genblaze_resources


def materialize_demo(dagster_home: Path) -> str:
    """Materialise every partition of the demo in one run and return the run's id.

    Raises:
        PipelineError: a partition failed; the others are stored.
    """
    keys = [str(row["key"]) for row in demo_rows()]
    os.environ["DAGSTER_HOME"] = str(dagster_home)
    with dg.DagsterInstance.get() as instance:
        result = dg.materialize(
            demo_assets(reuse=True),
            instance=instance,
            resources=genblaze_resources(store=default_store_url(), ledger=default_ledger_url()),
            tags=partition_range_tags(keys[0], keys[-1]),
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        if not result.success:
            failures = [
                event.step_failure_data.error.message if event.step_failure_data.error else ""
                for event in result.get_step_failure_events()
            ]
            raise PipelineError("the demo run failed: " + "; ".join(failures), result=result)
        return result.run_id
