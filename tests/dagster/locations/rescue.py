"""A code location whose vendor keeps its jobs in a folder, so that they outlive a killed worker."""

import asyncio
import os
from pathlib import Path

import dagster as dg

from genblaze_dagster import Pipeline, genblaze_resources
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.sensors import rescue_sensor
from tests.support.providers import CountingProvider, png
from tests.support.world import prompts

KEYS = "abcdef"


class Vendor(CountingProvider):
    """Writes a line per submit; a job is done when `<prompt>.ready` or `all.ready` exists."""

    @property
    def _folder(self) -> Path:
        return Path(os.environ["VENDOR_FOLDER"])

    async def submit(self, request: GenerationRequest) -> Submission:
        with (self._folder / "submits").open("a") as bill:
            bill.write(f"{request.prompt}\n")
        return Submission(job_id=f"job-{request.prompt}")

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        await asyncio.sleep(0)
        ready = any((self._folder / f"{name}.ready").exists() for name in (request.prompt, "all"))
        return JobStatus(JobState.SUCCEEDED if ready else JobState.RUNNING, poll_after=0.05)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        return Result((Output(data=png(job_id), media_type="image/png"),), cost_usd=0.04)


vendor = Vendor()
images = (
    Pipeline("story")
    .step(vendor, model="m", name="image", prompt="{subject}")
    .to_assets(partitions=prompts(*KEYS))
)
logo = Pipeline("brand").step(vendor, model="m", name="logo", prompt="logo").to_assets()

defs = dg.Definitions(
    assets=[*images, *logo],
    sensors=[
        rescue_sensor(
            minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING, limit=2
        )
    ],
    resources=genblaze_resources(),
    executor=dg.in_process_executor,
)
