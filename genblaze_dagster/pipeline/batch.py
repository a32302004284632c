"""One pipeline run many times at once, through one store, one ledger and one Runner."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any, cast

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.errors import ConfigError, GenblazeError, PipelineError
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.execution import check, run_in, run_options
from genblaze_dagster.pipeline.progress_display import ProgressDisplay, wants_progress
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.session import Places, Session, session
from genblaze_dagster.pipeline.template import PromptTemplate

DEFAULT_BATCH_CONCURRENCY = 5

_ITEM_KEYS = frozenset({"prompt", "metadata", "prompt_visibility", "params"})
_PLACES = frozenset(one.name for one in fields(Places))
_SHOWN_FAILURES = 5

Prompt = str | Mapping[str, object]


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What came of one item. `result` is None when the item could not be run at all."""

    index: int
    result: PipelineResult | None
    error: GenblazeError | None


class BatchPipelineError(PipelineError):
    """Items of a batch failed; all others ran and are stored.

    Attributes:
        results: in the order of the items, failed ones too; without those that have none.
        failures: index and error of every item that failed.
        succeeded: how many did not.
        total: how many there were.
    """

    code = "batch_failed"

    def __init__(
        self,
        results: Sequence[PipelineResult],
        failures: Sequence[tuple[int, GenblazeError]],
        total: int,
    ) -> None:
        shown = "".join(f"\n{index}: {error}" for index, error in failures[:_SHOWN_FAILURES])
        more = len(failures) - _SHOWN_FAILURES
        super().__init__(
            f"{len(failures)} of {total} runs failed:{shown}"
            f"{f'{chr(10)}and {more} more' if more > 0 else ''}",
            result=list(results),
        )
        self.results = list(results)
        self.failures = list(failures)
        self.succeeded = total - len(failures)
        self.total = total


@dataclass(frozen=True, slots=True)
class _Item:
    """What one run has of its own."""

    pipeline: Pipeline
    variables: Mapping[str, object] = field(default_factory=dict[str, object])


async def run_batch(
    pipeline: Pipeline,
    prompts: Iterable[Prompt] | None = None,
    *,
    raise_on_failure: bool = True,
    **options: Any,
) -> list[PipelineResult]:
    """Run a pipeline once per prompt or item and return the results in their order.

    The results are records without bytes, about 10 KB of memory each; `stream_batch` keeps none.

    Args:
        pipeline: what to run.
        prompts: as in `stream_batch`.
        raise_on_failure: raise after all have run when some failed; False returns the results of
            all, failed ones with their errors.
        **options: those of `stream_batch`.

    Raises:
        BatchPipelineError: items failed; or, whatever `raise_on_failure` says, some could not be
            run at all and have no result.
    """
    outcomes: dict[int, BatchOutcome] = {}
    async with aclosing(stream_batch(pipeline, prompts, **options)) as ended:
        async for outcome in ended:
            outcomes[outcome.index] = outcome
    in_order = [outcomes[index] for index in sorted(outcomes)]
    results = [one.result for one in in_order if one.result is not None]
    failures = [(one.index, one.error) for one in in_order if one.error is not None]
    if failures and (raise_on_failure or len(results) < len(in_order)):
        raise BatchPipelineError(results, failures, len(in_order))
    return results


async def stream_batch(
    pipeline: Pipeline,
    prompts: Iterable[Prompt] | None = None,
    *,
    items: Iterable[Mapping[str, Any]] | None = None,
    max_concurrency: int = DEFAULT_BATCH_CONCURRENCY,
    progress: bool | None = None,
    **options: Any,
) -> AsyncGenerator[BatchOutcome]:
    """Run a pipeline once per prompt or item and yield what comes of each as it ends.

    Only what runs is in memory. Leaving the loop cancels what runs and waits until it has cleaned
    up. In the store and the ledger the runs are told apart by their index, as partitions are.

    Args:
        pipeline: what to run.
        prompts: a text replaces the prompt of the first step; a mapping fills the templates of all
            steps, like a partition's row.
        items: mappings of `prompt`, `metadata`, `prompt_visibility` and `params`, which go into the
            first step; in place of `prompts`.
        max_concurrency: runs at once.
        progress: as in `run`.
        **options: those of `execution.execute`, the same for every run.

    Raises:
        ConfigError: both or none of prompts and items, or an option is wrong.
        ModelError: preflight found that a model does not exist.
    """
    if (prompts is None) == (items is None):
        raise ConfigError("give either prompts or items to a batch")
    if max_concurrency < 1:
        raise ConfigError(f"max_concurrency is {max_concurrency}; give at least 1")
    places = Places(**{name: options.pop(name) for name in _PLACES & options.keys()})
    if "run_id" in {**pipeline.run_config, **(options.get("config") or {})}:
        raise ConfigError("config of a batch holds run_id; every run has its own, leave it out")
    await check(pipeline)
    with ExitStack() as drawing:
        if wants_progress(progress):
            display = drawing.enter_context(ProgressDisplay())
            options["on_stream"] = [*options.get("on_stream", ()), display]
        # A wrong option is told before anything runs.
        run_options(pipeline, drawing=drawing, progress=False, **options)
        given = _items(pipeline, prompts, items)
        async with (
            session(places, moderation=pipeline.moderation, cache=pipeline.step_cache) as opened,
            aclosing(_all(opened, given, max_concurrency, options)) as ended,
        ):
            async for outcome in ended:
                yield outcome


async def _all(
    opened: Session,
    items: Iterator[tuple[int, _Item | ConfigError]],
    limit: int,
    options: Mapping[str, Any],
) -> AsyncGenerator[BatchOutcome]:
    running: set[asyncio.Task[BatchOutcome]] = set()
    # Each run says when it ends: waiting for any of many would look at all of them every time.
    ended: asyncio.Queue[asyncio.Task[BatchOutcome]] = asyncio.Queue()

    def start(count: int) -> None:
        for index, item in islice(items, count):
            task = asyncio.create_task(_one(opened, index, item, options))
            task.add_done_callback(ended.put_nowait)
            running.add(task)

    try:
        start(limit)
        while running:
            done = [await ended.get()]
            while not ended.empty():
                done.append(ended.get_nowait())
            running.difference_update(done)
            start(len(done))
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _one(
    opened: Session, index: int, item: _Item | ConfigError, options: Mapping[str, Any]
) -> BatchOutcome:
    if isinstance(item, ConfigError):
        return BatchOutcome(index, None, item)
    own: dict[str, Any] = {
        "partition_key": str(index),
        **options,
        "variables": {**(options.get("variables") or {}), **item.variables},
        "progress": False,
    }
    with ExitStack() as drawing:
        chosen = run_options(item.pipeline, drawing=drawing, **own)
        try:
            result = await run_in(opened, item.pipeline, chosen, raise_on_failure=True)
        except GenblazeError as exc:
            made = exc.result if isinstance(exc, PipelineError) else None
            return BatchOutcome(index, made if isinstance(made, PipelineResult) else None, exc)
    return BatchOutcome(index, result, None)


def _items(
    pipeline: Pipeline,
    prompts: Iterable[Prompt] | None,
    items: Iterable[Mapping[str, Any]] | None,
) -> Iterator[tuple[int, _Item | ConfigError]]:
    """Yield every item as a run; one that is wrong is an error of its own."""
    for index, given in enumerate(prompts if prompts is not None else items or ()):
        try:
            if prompts is None:
                yield index, _Item(_changed(pipeline, given, index))
            elif isinstance(given, str):
                first = replace(pipeline.steps[0], prompt=_literal(given))
                yield index, _Item(pipeline.replaced(first))
            else:
                yield index, _Item(pipeline, given)
        except ConfigError as exc:
            yield index, exc


def _changed(pipeline: Pipeline, item: object, index: int) -> Pipeline:
    if not isinstance(item, Mapping):
        raise ConfigError(f"item {index} is a {type(item).__name__}; give a mapping")
    given = cast(Mapping[str, Any], item)
    unknown = sorted(map(str, given.keys() - _ITEM_KEYS))
    if unknown:
        raise ConfigError(
            f"item {index} holds {unknown[0][:80]!r}; it may hold {', '.join(sorted(_ITEM_KEYS))}"
        )
    first = pipeline.steps[0]
    changes: dict[str, Any] = {
        "metadata": {**first.metadata, **given.get("metadata", {})},
        "params": {**first.params, **given.get("params", {})},
    }
    for name in ("seed", "negative_prompt"):
        if name in changes["params"]:
            changes[name] = changes["params"].pop(name)
    if "prompt" in given:
        prompt = given["prompt"]
        changes["prompt"] = _literal(prompt) if isinstance(prompt, str) else prompt
    if "prompt_visibility" in given:
        changes["prompt_visibility"] = PromptVisibility(given["prompt_visibility"])
    return pipeline.replaced(replace(first, **changes))


def _literal(prompt: str) -> str | PromptTemplate:
    """Return a prompt that stays as it is, also when there are variables."""
    if "{" not in prompt:
        return prompt
    return PromptTemplate(prompt.replace("{", "{{").replace("}", "}}"))
