import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from genblaze_dagster.errors import ProviderUnavailableError
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.providers.retry import RetryPolicy
from tests.support.world import World, prompts

OUTAGE = ProviderUnavailableError("the vendor answers 503", sent=False)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A real event log in files.

    An interrupt in the middle of a statement leaves the table of an in-memory log locked for good;
    a file is released with its connection, as it is when a run is terminated.
    """
    folder = tmp_path / "dagster"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder)) as made:
        yield made


def one_step(world: World) -> Pipeline:
    return Pipeline("story").step(
        world.provider,
        model="m",
        name="image",
        prompt="draw {subject}",
        retry=RetryPolicy.disabled(),
    )


def test_re_execution_from_failure_asks_only_for_what_is_missing(world: World) -> None:
    """The finished partitions of the failed run cost nothing, and every partition is green."""
    keys = ["a", "b", "c", "d"]
    assets = one_step(world).to_assets(partitions=prompts(*keys))
    world.failed_prompts(OUTAGE, "draw c")
    failed = world.materialize(assets, keys, raise_on_error=False)
    assert world.materialized("story/image") == {"a", "b", "d"}
    world.provider.errors = {}
    result = world.materialize(assets, keys, tags={"dagster/root_run_id": failed.run_id})
    assert result.success
    assert world.materialized("story/image") == set(keys)
    assert world.provider.submits == {"draw a": 1, "draw b": 1, "draw c": 2, "draw d": 1}
    again = {name: v.value for name, v in world.event("story/image", "a").metadata.items()}
    assert (again["how"], again["cached"]) == ("finished", True)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen in 300 s"
        time.sleep(0.01)


class Interrupt(threading.Thread):
    """Interrupts this process, as a terminated run is, as soon as `condition` holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        super().__init__()
        self._condition = condition
        self.sent_at: float | None = None
        self.start()

    def run(self) -> None:
        try:
            until(self._condition)
        finally:
            # Whatever came of it: the run would wait for this for ever.
            os.kill(os.getpid(), signal.SIGINT)
            self.sent_at = time.monotonic()


def interrupted(
    world: World,
    assets: list[dg.AssetsDefinition],
    keys: list[str],
    interrupt: Interrupt,
    tags: dict[str, str] | None = None,
) -> None:
    try:
        world.materialize(assets, keys, raise_on_error=False, tags=tags or {})
        # After a run that was quicker it arrives here, and nowhere else.
        interrupt.join()
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        interrupt.join()


def interrupted_after(world: World, submitted: int) -> Interrupt:
    """An interrupt after so many submits; what is asked for then is slow, so that it comes first."""
    asked: dict[str, float] = {}
    interrupt = Interrupt(lambda: world.provider.submitted >= submitted)

    def is_made(prompt: str) -> bool:
        asked_at = asked.setdefault(prompt, time.monotonic())
        if world.provider.submitted < submitted:
            return True
        sent_at = interrupt.sent_at
        return sent_at is not None and time.monotonic() - max(asked_at, sent_at) > 0.1

    world.provider.gate = is_made
    return interrupt


def test_a_terminated_run_keeps_what_was_finished_and_cancels_the_rest(world: World) -> None:
    """Finished partitions are materialized; open jobs are cancelled at the vendor; nothing hangs."""
    keys = ["a", "b", "c", "d"]
    world.provider.jobs = True
    world.provider.gate = lambda prompt: prompt in ("draw a", "draw b")
    assets = one_step(world).to_assets(partitions=prompts(*keys))
    interrupt = Interrupt(
        lambda: world.materialized("story/image") == {"a", "b"} and world.provider.submitted == 4
    )
    interrupted(world, assets, keys, interrupt)
    assert interrupt.sent_at is not None
    assert time.monotonic() - interrupt.sent_at < 60
    assert world.materialized("story/image") == {"a", "b"}
    assert len(world.provider.cancelled) == 2


@pytest.mark.parametrize("submitted", [1, 10, 25])
def test_a_run_that_is_interrupted_at_any_moment_pays_for_nothing_twice(
    world: World, submitted: int
) -> None:
    """Wherever the interrupt lands, running again asks only for what was not made."""
    keys = [f"k{i:02}" for i in range(40)]
    assets = one_step(world).to_assets(partitions=prompts(*keys), max_concurrency=4)
    interrupt = interrupted_after(world, submitted)
    interrupted(world, assets, keys, interrupt, tags={"dagster/root_run_id": "first"})
    world.provider.gate = None
    before = world.materialized("story/image")
    assert before != set(keys)
    assert world.materialize(assets, keys, tags={"dagster/root_run_id": "first"}).success
    assert world.materialized("story/image") == set(keys)
    assert world.provider.submits == dict.fromkeys((f"draw {key}" for key in keys), 1)
    origins = {e.partition: e.metadata["how"].value for e in world.events("story/image")}
    assert all(origins[key] == "finished" for key in before)


def test_the_next_run_resumes_a_job_that_was_left_running(world: World) -> None:
    """A job the vendor could not cancel is polled by the next run, not submitted again."""
    world.provider.jobs = True
    world.provider.gate = lambda prompt: False
    assets = one_step(world).to_assets(partitions=prompts("a"))

    async def refuse(job_id: str) -> bool:
        return False

    world.provider.cancel = refuse  # type: ignore[method-assign]
    interrupted(world, assets, ["a"], Interrupt(lambda: world.provider.submitted == 1))
    assert world.materialized("story/image") == set()
    world.provider.gate = None
    world.materialize(assets, "a")
    assert world.provider.submits == {"draw a": 1}
    metadata = {name: v.value for name, v in world.event("story/image", "a").metadata.items()}
    assert metadata["how"] == "resumed"
