"""A code location whose vendor keeps its books in a folder, so that several processes share them."""

import os
from pathlib import Path

import dagster as dg

from genblaze_dagster import Pipeline, PromptTable
from genblaze_dagster.errors import ModelError, ProviderUnavailableError
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Submission,
)
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.resources import genblaze_resources
from tests.support.providers import CountingProvider

FOLDER = Path(os.environ["VENDOR_FOLDER"])


class Vendor(CountingProvider):
    """Bills every submit in `bill`; `down` and `failing` say how it is."""

    async def submit(self, request: GenerationRequest) -> Submission:
        with (FOLDER / "bill").open("a") as bill:
            bill.write(f"{request.prompt}\n")
        return Submission(job_id=f"job-{request.idempotency_key}")

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        if (FOLDER / "down").exists():
            raise ProviderUnavailableError("the vendor is down", sent=True)
        if (FOLDER / "failing").exists():
            error = ModelError("the model gave up", transient=True, sent=True)
            return JobStatus(JobState.FAILED, error=error)
        return JobStatus(JobState.SUCCEEDED)


def prompt() -> str:
    """The template that the assets have now."""
    changed = FOLDER / "prompt"
    return changed.read_text() if changed.exists() else "draw {subject}"


vendor = Vendor(name="vendor", jobs=True)
once = RetryPolicy(max_attempts=1)
rows = [{"key": key, "subject": key} for key in "abcde"]
story = Pipeline("story").step(vendor, model="m", name="image", prompt=prompt(), retry=once)
solo = Pipeline("solo").step(vendor, model="m", name="cover", prompt="a cover", retry=once)

defs = dg.Definitions(
    assets=[
        *story.to_assets(
            partitions=PromptTable.from_rows(rows), retry_policy=dg.RetryPolicy(max_retries=1)
        ),
        *solo.to_assets(),
    ],
    resources=genblaze_resources(),
    executor=dg.in_process_executor,
)
