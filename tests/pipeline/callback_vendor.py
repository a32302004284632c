"""A vendor that calls back, kept in a folder so that it outlives the process that asked it.

callback_vendor.py FOLDER     submits one generation and hangs before the answer: to be killed
"""

import asyncio
import hashlib
import hmac
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.errors import ProviderUnavailableError, WebhookError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.pipeline.outcome import StepOutcome, Target
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Result,
    Submission,
)
from genblaze_dagster.providers.vendor.callbacks import Callback
from tests.support.providers import png

SECRET = "a secret of the tests"
SIGNING_KEY = b"the vendor's own key"


def endpoint_of(folder: Path) -> CallbackEndpoint:
    """The receiver as vendors know it; its port is in the folder."""
    port = (folder / "port").read_text() if (folder / "port").is_file() else "9"
    return CallbackEndpoint(f"http://127.0.0.1:{port}/in/genblaze", SECRET)


@dataclass
class CallingVendor:
    """Accepts every submit, then loses the answer, or hangs before it; lists no jobs.

    `signs` makes it sign its calls; else only the token of the address tells that it is the vendor.
    """

    folder: Path
    name: str = "calling"
    version: str = "1"
    deduplicates: bool = False
    signs: bool = False
    hangs: bool = False

    @property
    def proves_callbacks(self) -> bool:
        return self.signs

    @property
    def accepted(self) -> list[dict[str, str]]:
        """Every submit that it took on: its job, and the address that went along."""
        book = self.folder / "accepted"
        return [json.loads(line) for line in book.read_text().splitlines()] if book.exists() else []

    def validate(self, request: GenerationRequest) -> None:
        return None

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        return 0.5

    async def submit(self, request: GenerationRequest) -> Submission:
        address = endpoint_of(self.folder).address(self.name, request.idempotency_key)
        line = json.dumps({"job": f"job-{len(self.accepted)}", "address": address})
        with (self.folder / "accepted").open("a") as book:
            book.write(f"{line}\n")
        while self.hangs:
            await asyncio.sleep(0.05)
        raise ProviderUnavailableError("connection reset", sent=None)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        known = any(each["job"] == job_id for each in self.accepted)
        return JobStatus(JobState.SUCCEEDED if known else JobState.FAILED)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        output = Output(data=png(job_id), media_type="image/png")
        return Result((output,), cost_usd=0.5)

    async def cancel(self, job_id: str) -> bool:
        return False

    async def aclose(self) -> None:
        return None

    async def read_callback(
        self,
        headers: Mapping[str, str],
        body: bytes,
        *,
        now: datetime,
        query: Mapping[str, str] | None = None,
    ) -> Callback:
        given = headers.get("x-signature", "")
        if self.signs and not hmac.compare_digest(given, signature(body)):
            raise WebhookError("callback from calling: forged")
        try:
            told = json.loads(body)
            return Callback(self.name, told["id"], told["job"], JobState(told["state"]))
        except (ValueError, KeyError, TypeError) as exc:
            raise WebhookError("callback from calling: malformed") from exc


def signature(body: bytes) -> str:
    """As the vendor signs."""
    return hmac.digest(SIGNING_KEY, body, hashlib.sha256).hex()


def told(job: str, *, id: str = "d-1", state: str = "succeeded", **more: Any) -> bytes:
    """The body of a call."""
    return json.dumps({"id": id, "job": job, "state": state, **more}).encode()


def call(url: str, body: bytes, **headers: str) -> int:
    """Call an address as a vendor does; return the status of the answer."""
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


async def generate(folder: Path, vendor: CallingVendor) -> StepOutcome:
    """Run the one step that this vendor is asked for."""
    step = Pipeline("p").step(vendor, model="m", prompt="a fox", name="image").steps[0]
    with Ledger(folder / "ledger.db") as ledger:
        store = MediaStore((folder / "store").as_uri())
        async with Runner(store, ledger) as runner:
            return await runner.run_step(step, Target("image", None, "run-1"))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    asyncio.run(generate(place, CallingVendor(place, hangs=True)))
