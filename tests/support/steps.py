"""Run one step of one partition with a scripted provider."""

import asyncio

from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec
from genblaze_dagster.pipeline.events import StepEvent
from genblaze_dagster.pipeline.outcome import StepOutcome, Target
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.store import MediaStore
from tests.support.scripted import ScriptedProvider

QUICK = RetryPolicy(max_attempts=3, initial_backoff_sec=0.001, jitter="none")


def step(provider: ScriptedProvider, **options: object) -> StepSpec:
    options = {"model": "m", "prompt": "a {subject}", "name": "image", **options}
    return Pipeline("p").step(provider, **options).steps[0]  # type: ignore[arg-type]


def target(scope: str = "run-1", partition: str | None = "fox", **options: object) -> Target:
    return Target("image", partition, scope, pipeline="p", **options)  # type: ignore[arg-type]


ROW = {"subject": "fox"}


def run(
    store: MediaStore,
    ledger: Ledger,
    spec: StepSpec,
    where: Target | None = None,
    *,
    inputs: tuple[MediaRef, ...] = (),
    events: list[StepEvent] | None = None,
    row: dict[str, str] | None = None,
) -> StepOutcome:
    async def body() -> StepOutcome:
        on_event = events.append if events is not None else None
        async with Runner(store, ledger, retry=QUICK, on_event=on_event) as runner:
            return await runner.run_step(
                spec, where or target(), variables=ROW if row is None else row, inputs=inputs
            )

    return asyncio.run(body())


async def everything(store: MediaStore) -> bytes:
    return b"\n".join(
        [info.key.encode() + await store.get(info.key) async for info in store.list("")]
    )
