import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from genblaze_dagster import Manifest, MediaStore, Pipeline, SegmentWriter
from genblaze_dagster.core.enums import RunStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ConfigError, ContentPolicyError, PromptTemplateError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.batch import BatchPipelineError
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.template import PromptTemplate
from genblaze_dagster.providers.mock import MockProvider
from tests.support.providers import CountingProvider
from tests.support.scripted import ScriptedProvider


def test_results_come_in_the_order_of_the_prompts(store: MediaStore, ledger: Ledger) -> None:
    """A text replaces the prompt of the first step, and of no other."""
    pipeline = Pipeline("p", chain=True).step(ScriptedProvider(), model="m", prompt="?")
    pipeline.step(ScriptedProvider(), model="m", prompt="move", modality="video")
    results = pipeline.batch_run(["a", "b {brace}", "c"], store=store, ledger=ledger)
    assert [[step.prompt for step in result.run.steps] for result in results] == [
        ["a", "move"],
        ["b {brace}", "move"],
        ["c", "move"],
    ]
    assert len({result.run.run_id for result in results}) == 3
    assert all(result.manifest.verify() for result in results)


def test_a_mapping_fills_the_templates_of_all_steps(store: MediaStore, ledger: Ledger) -> None:
    """Like a partition's row."""
    pipeline = Pipeline("p", chain=True)
    pipeline.step(ScriptedProvider(), model="m", prompt=PromptTemplate(template="draw {x}"))
    pipeline.step(ScriptedProvider(), model="m", prompt=PromptTemplate("move {x}"))
    (result,) = pipeline.batch_run([{"x": "foxes"}], store=store, ledger=ledger)
    assert [step.prompt for step in result.run.steps] == ["draw foxes", "move foxes"]


def test_items_change_the_first_step(store: MediaStore, ledger: Ledger) -> None:
    """Prompt, params, metadata and visibility of an item win over those that are declared."""
    pipeline = Pipeline("p").step(
        ScriptedProvider(), model="m", prompt="?", params={"size": 1}, metadata={"by": "me"}
    )
    items: list[dict[str, Any]] = [
        {"prompt": "a", "params": {"steps": 4, "seed": 7}, "metadata": {"scene": 1}},
        {"prompt": "b", "prompt_visibility": "private"},
    ]
    first, second = pipeline.batch_run(items=items, store=store, ledger=ledger)
    step = first.run.steps[0]
    assert (step.prompt, step.seed, step.params) == ("a", 7, {"size": 1, "steps": 4})
    assert step.metadata == {"by": "me", "scene": 1}
    assert second.run.steps[0].prompt is None


@pytest.mark.parametrize(
    "options",
    [{}, {"prompts": ["a"], "items": [{}]}, {"prompts": ["a"], "max_concurrency": 0}],
    ids=["none", "both", "concurrency"],
)
def test_a_wrong_call_runs_nothing(
    options: dict[str, Any], store: MediaStore, ledger: Ledger
) -> None:
    """Neither or both of prompts and items, or no place to run, is a ConfigError."""
    provider = ScriptedProvider()
    with pytest.raises(ConfigError):
        Pipeline("p").step(provider, model="m").batch_run(store=store, ledger=ledger, **options)
    assert provider.submits == 0


def test_failures_are_raised_when_all_have_run(store: MediaStore, ledger: Ledger) -> None:
    """The error has every result, and says which items failed and why."""
    provider = CountingProvider(errors={"bad": ContentPolicyError("refused")})
    pipeline = Pipeline("p").step(provider, model="m", prompt="?")
    with pytest.raises(BatchPipelineError, match="1 of 3 runs failed") as caught:
        pipeline.batch_run(["a", "bad", "b"], store=store, ledger=ledger)
    error = caught.value
    assert (error.succeeded, error.total, [index for index, _ in error.failures]) == (2, 3, [1])
    assert [result.run.status for result in error.results] == [
        *(RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.COMPLETED),
    ]
    results = pipeline.batch_run(["a", "bad"], store=store, ledger=ledger, raise_on_failure=False)
    assert [len(result.failed_steps()) for result in results] == [0, 1]


def test_an_item_that_cannot_be_run_is_a_failure_of_its_own(
    store: MediaStore, ledger: Ledger
) -> None:
    """The others run; what has no result is raised even when failures are not."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p").step(provider, model="m", prompt="?")
    items = [{"prompt": "a"}, {"promt": "b"}, {"prompt": "c"}]
    with pytest.raises(BatchPipelineError, match="'promt'") as caught:
        pipeline.batch_run(items=items, store=store, ledger=ledger, raise_on_failure=False)
    assert provider.billed == ["a", "c"]
    assert [index for index, _ in caught.value.failures] == [1]


def test_a_missing_variable_fails_its_own_run(store: MediaStore, ledger: Ledger) -> None:
    """It is told of the step that needs it."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m", prompt=PromptTemplate("{x}"))
    with pytest.raises(BatchPipelineError) as caught:
        pipeline.batch_run([{"x": "a"}, {"y": "b"}], store=store, ledger=ledger)
    (result,) = [result for result in caught.value.results if result.errors]
    assert isinstance(result.errors["image"], PromptTemplateError)


def test_equal_prompts_are_asked_each(store: MediaStore, ledger: Ledger) -> None:
    """Whoever asks three times wants three."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p").step(provider, model="m", prompt="?")
    pipeline.batch_run(["a", "a", "a"], store=store, ledger=ledger)
    assert provider.submits == 3


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_runs_go_side_by_side_up_to_the_limit(kind: str, store: MediaStore, ledger: Ledger) -> None:
    """Sync code runs as many at once as it asks for, whichever kind the provider is."""
    provider = Blocking() if kind == "blocking" else CountingProvider()
    provider.gate = full(provider, 10)
    pipeline = Pipeline("p").preflight(False).step(provider, model="m", prompt="?")
    prompts = [str(number) for number in range(20)]
    pipeline.batch_run(prompts, store=store, ledger=ledger, max_concurrency=10)
    assert provider.most_at_once == 10


class Blocking(MockProvider):
    """A `CountingProvider` whose calls block their threads."""

    gate: Callable[[str], bool]

    def __init__(self) -> None:
        super().__init__()
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    def generate(self, step: Step, config: Any = None) -> Step:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        while not self.gate(step.prompt or ""):
            time.sleep(0.01)
        with self._lock:
            self._at_once -= 1
        return super().generate(step, config)


def full(provider: CountingProvider | Blocking, count: int) -> Callable[[str], bool]:
    """A gate that opens when so many are inside, and time for one too many has passed."""
    full_since: list[float] = []
    begun = time.monotonic()

    def is_open(_: str) -> bool:
        now = time.monotonic()
        if provider.most_at_once >= count and not full_since:
            full_since.append(now)
        # They may be too few for ever.
        return now - begun > 60 or (bool(full_since) and now - full_since[0] > 0.1)

    return is_open


def test_the_limit_is_kept(store: MediaStore, ledger: Ledger) -> None:
    """No more than max_concurrency runs ask the vendor at once."""
    provider = CountingProvider()
    provider.gate = full(provider, 3)
    pipeline = Pipeline("p").step(provider, model="m", prompt="?")
    pipeline.batch_run(map(str, range(9)), store=store, ledger=ledger, max_concurrency=3)
    assert provider.most_at_once == 3


def test_cancelling_leaves_nothing_behind(store: MediaStore, ledger: Ledger) -> None:
    """Every accepted job is cancelled at the vendor; no task and no thread is left."""
    provider = ScriptedProvider(job=True, polls=100_000)
    pipeline = Pipeline("p").step(provider, model="m", prompt="?")

    async def body() -> int:
        batch = asyncio.ensure_future(
            pipeline.abatch_run(map(str, range(50)), store=store, ledger=ledger, max_concurrency=8)
        )
        while len(provider.billed) < 8:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch
        return len(asyncio.all_tasks())

    assert asyncio.run(body()) == 1
    assert len(provider.cancelled) == len(provider.billed) == 8
    assert not [t for t in threading.enumerate() if t.name.startswith("genblaze-")]


def test_a_streamed_batch_reads_and_keeps_only_what_runs(store: MediaStore, ledger: Ledger) -> None:
    """Prompts are taken as places get free, and results are not held."""
    taken: list[int] = []

    def prompts() -> Iterator[str | Mapping[str, object]]:
        for number in range(40):
            taken.append(number)
            yield str(number)

    pipeline = Pipeline("p").step(ScriptedProvider(), model="m", prompt="?")

    async def body() -> tuple[int, int]:
        most, ended = 0, 0
        options = {"store": store, "ledger": ledger, "max_concurrency": 4}
        async for outcome in pipeline.abatch_stream(prompts(), **options):
            assert outcome.error is None
            ended += 1
            most = max(most, len(taken) - ended)
        return most, ended

    most, ended = asyncio.run(body())
    assert ended == 40
    assert most <= 8
    gc.collect()
    kept = [o for o in gc.get_objects() if isinstance(o, PipelineResult)]
    assert len(kept) <= 1


def test_memory_does_not_grow_with_the_runs(store: MediaStore, ledger: Ledger) -> None:
    """Once the bounded cache of manifests is full, a run that has ended leaves no object behind."""
    warm, more = 600, 300
    pipeline = Pipeline("p").step(CountingProvider(), model="m", prompt="?")

    async def body() -> list[int]:
        seen: list[int] = []
        options = {"store": store, "ledger": ledger, "max_concurrency": 4}
        ended = 0
        async for _ in pipeline.abatch_stream(map(str, range(warm + more)), **options):
            ended += 1
            if ended in (warm, warm + more):
                gc.collect()
                seen.append(len(gc.get_objects()))
        return seen

    before, after = asyncio.run(body())
    # A result alone is some 30 objects.
    assert after - before < 2 * more


def test_a_batch_has_no_single_run_id(store: MediaStore, ledger: Ledger) -> None:
    """A run_id in the config would be that of all runs."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    with pytest.raises(ConfigError, match="run_id"):
        pipeline.batch_run(["a"], store=store, ledger=ledger, config={"run_id": "r"})


def test_the_index_gets_one_segment_for_many_runs(store: MediaStore, ledger: Ledger) -> None:
    """Manifests are collected over the batch, and are written when it ends, failures or not."""
    flushed: list[int] = []

    class Counting(SegmentWriter):
        added = 0

        def add(self, manifest: Manifest, **place: Any) -> None:
            self.added += 1
            super().add(manifest, **place)

        async def flush(self) -> list[str]:
            flushed.append(self.added)
            return await super().flush()

    provider = CountingProvider(errors={"bad": ContentPolicyError("refused")})
    pipeline = Pipeline("p").step(provider, model="m", prompt="?")
    with pytest.raises(BatchPipelineError):
        pipeline.batch_run(["a", "b", "bad"], store=store, ledger=ledger, index=Counting(store))
    assert flushed == [2]
