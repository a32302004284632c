"""A worker that is stopped between the ledger's mark and the request, and goes on much later."""

import asyncio
import os
import signal
import sys

from genblaze_dagster.errors import ProviderError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.client import request
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result, Submission
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.store import MediaStore
from tests.support.scripted import ScriptedProvider
from tests.support.steps import ROW, step, target

LEASE_SECONDS = 1.0


class Sending(ScriptedProvider):
    """A vendor of one call, over real HTTP; with `stops` the process stops before it."""

    url: str = ""
    stops: bool = False

    async def submit(self, request: GenerationRequest) -> Submission:
        if self.stops:
            self.stops = False
            os.kill(os.getpid(), signal.SIGSTOP)
        await self.post()
        return Submission(result=Result((Output(data=b"made", media_type="image/png"),), 0.5))

    async def post(self) -> None:
        await request("POST", self.url, provider=self.name, json={"prompt": "a fox"})


def main() -> None:
    """Run one step; print how it ended."""
    store, ledger, url = sys.argv[1:]
    provider = Sending()
    provider.url, provider.stops = url, True

    class UntilStopped(RetryPolicy):
        # On a machine that stood still before it, the lease may have to be renewed first.
        def retries(self, error: ProviderError) -> bool:
            return provider.stops

    async def body() -> None:
        policy = UntilStopped(max_attempts=1000, max_backoff_sec=0.1)
        async with Runner(
            MediaStore(store), Ledger(ledger), retry=policy, lease_seconds=LEASE_SECONDS
        ) as runner:
            await runner.run_step(step(provider), target(), variables=ROW)

    try:
        asyncio.run(body())
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}")
        return
    print("sent")


if __name__ == "__main__":
    main()
