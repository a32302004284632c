"""Run a whole pipeline in this process."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from genblaze_dagster.core.manifest import check_json
from genblaze_dagster.errors import ConfigError, UnknownProviderError
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.announcing import Listeners, StepCompleteEvent, StreamListener
from genblaze_dagster.pipeline.claims import DEFAULT_LEASE_SECONDS, new_run_id
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.events import EventHandler
from genblaze_dagster.pipeline.generation import provider_of
from genblaze_dagster.pipeline.lost_answers import OnAmbiguous
from genblaze_dagster.pipeline.progress_display import ProgressDisplay, wants_progress
from genblaze_dagster.pipeline.refinement import Refinement
from genblaze_dagster.pipeline.result import PipelineResult, RunFailedError
from genblaze_dagster.pipeline.run_options import DEFAULT_CONCURRENCY, OnOutcome, RunOptions
from genblaze_dagster.pipeline.runs import checked_config
from genblaze_dagster.pipeline.session import Indexer, Places, RunSink, Session, Sink, session
from genblaze_dagster.pipeline.tracing import CompositeTracer, LoggingTracer, NoOpTracer, Tracer
from genblaze_dagster.providers.preflight import apreflight
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.providers.values import ProgressEvent, RunnableConfig, StepRetriedEvent
from genblaze_dagster.storage.store import MediaStore

__all__ = [
    "DEFAULT_CONCURRENCY",
    "Indexer",
    "OnOutcome",
    "Refinement",
    "RunSink",
    "Sink",
    "execute",
]


async def execute(
    pipeline: Pipeline,
    *,
    sink: Sink | RunSink | None = None,
    store: MediaStore | str | None = None,
    ledger: Ledger | str | None = None,
    index: Indexer | None = None,
    retry: RetryPolicy | None = None,
    on_event: EventHandler | None = None,
    input_roots: Sequence[Path] | None = None,
    budgets: Sequence[Budget] = (),
    on_ambiguous: OnAmbiguous | str = OnAmbiguous.HOLD,
    lease_seconds: float = DEFAULT_LEASE_SECONDS,
    raise_on_failure: bool = True,
    **options: Any,
) -> PipelineResult:
    """Run every step of a pipeline; independent steps run at the same time.

    A step that failed RAISES, unless `raise_on_failure=False`: the error has the result.

    Args:
        pipeline: what to run.
        sink: where media and manifests go, as in the genblaze guides; one without a store of its
            own, such as a ParquetSink, is told of the run when it is stored.
        store: the same as a `MediaStore` or its URL; GENBLAZE_STORE or `.genblaze/store` when
            neither is given.
        ledger: a `Ledger` or its URL; GENBLAZE_LEDGER or `.genblaze/ledger.db` when left out.
        index: collects the manifests; flushed at the end.
        retry: policy of steps that have none of their own; their provider's when left out.
        on_event: called with every `StepEvent`; unlike a callback of the guides it may raise.
        input_roots: folders whose files may be external inputs, besides the temporary one; those
            of GENBLAZE_INPUT_ROOTS when left out.
        budgets: limits on what is paid, checked before anything is sent; a step that finds no room
            fails with `BudgetExceededError`, is not retried, and gives way to a cheaper fallback.
            Those of scope `run` hold for all runs of one `scope`; each run of a batch has its own
            unless `scope` is given.
        on_ambiguous: `hold` leaves a submit whose answer is lost to a person. WARNING: `resubmit`
            sends it again, and pays twice whenever the first one had arrived.
        lease_seconds: after this long without a sign of life of this process another one may take
            over what it has begun.
        raise_on_failure: raise when a step failed; False returns the result with its errors.
        **options: those of `run_options`.

    Raises:
        ConfigError: the pipeline is empty, an option is wrong, or sink and store are both given.
        ModelError: preflight found that a model does not exist; nothing was asked.
        PipelineError: a step failed; `result` holds the rest, which is stored.
        PipelineTimeoutError: `pipeline_timeout` is over; whatever `raise_on_failure` says.
    """
    places = Places(
        sink=sink,
        store=store,
        ledger=ledger,
        index=index,
        retry=retry,
        on_event=on_event,
        input_roots=input_roots,
        budgets=budgets,
        on_ambiguous=on_ambiguous,
        lease_seconds=lease_seconds,
    )
    with ExitStack() as drawing:
        chosen = run_options(pipeline, drawing=drawing, **options)
        await check(pipeline)
        async with session(places, moderation=pipeline.moderation, cache=pipeline.step_cache) as on:
            return await run_in(on, pipeline, chosen, raise_on_failure=raise_on_failure)


async def run_in(
    opened: Session, pipeline: Pipeline, options: RunOptions, *, raise_on_failure: bool
) -> PipelineResult:
    """Run a pipeline in an open session; see `execute`.

    Raises:
        PipelineError: as `execute`.
    """
    result = await opened.run(pipeline, options)
    if result.errors and raise_on_failure:
        raise RunFailedError(result, [spec.name for spec in pipeline.steps])
    return result


async def check(pipeline: Pipeline) -> None:
    """Refuse a pipeline that cannot run, before anything is asked.

    Raises:
        ConfigError: it has no steps.
        ModelError: a model does not exist.
    """
    if not pipeline.steps:
        raise ConfigError("pipeline has no steps; add one with .step(...)")
    if not pipeline.has_preflight:
        return
    # A model that has others to stand in for it is not needed.
    needed = [spec for spec in pipeline.steps if not spec.fallback_models]
    models: list[tuple[object, str]] = []
    for spec in needed:
        # A provider that nobody knows fails its own step.
        with suppress(UnknownProviderError):
            models.append((provider_of(spec), spec.model))
    await apreflight(models)


def run_options(
    pipeline: Pipeline,
    *,
    drawing: ExitStack,
    variables: Mapping[str, object] | None = None,
    reuse: bool = False,
    fail_fast: bool = True,
    max_concurrency: int | None = None,
    timeout: float | None = None,
    max_retries: int | None = None,
    pipeline_timeout: float | None = None,
    on_progress: Callable[[ProgressEvent], object] | None = None,
    on_step_complete: Callable[[StepCompleteEvent], object] | None = None,
    on_retry: Callable[[StepRetriedEvent], object] | None = None,
    on_stream: Sequence[StreamListener] = (),
    progress: bool | None = None,
    config: RunnableConfig | None = None,
    scope: str | None = None,
    refines: Refinement | None = None,
    on_outcome: OnOutcome | None = None,
    partition_key: str | None = None,
) -> RunOptions:
    """Return how to run a pipeline: by these arguments, then by `config`, then by its own config.

    Args:
        pipeline: what to run.
        drawing: closes the progress display.
        variables: fills templates and columns, like a partition's row.
        reuse: take stored media of an equal earlier generation instead of paying again.
        fail_fast: start nothing more after a step has failed; running steps finish, since they
            are paid for.
        max_concurrency: steps at once.
        timeout: seconds for each step, in place of its own. A slow poll or download is interrupted;
            the answer to a submit on the wire is waited for up to 10 s more, since it is paid.
        max_retries: how often a step that failed for now is run again, after the retries of its
            policy; an accepted job is resumed.
        pipeline_timeout: seconds for the whole run; running jobs are then cancelled.
        on_progress: called with every `ProgressEvent`.
        on_step_complete: called with every `StepCompleteEvent`, of failed steps too.
        on_retry: called with every `StepRetriedEvent`.
        on_stream: called with every `StreamEvent`.
        progress: draw the progress; None draws when somebody looks at a terminal or notebook.
        config: as `Pipeline.config`, for this run.
        scope: in which nothing is paid twice; a new one when left out.
        refines: the run this one repeats or refines.
        on_outcome: awaited with every step that has become durable.
        partition_key: tells runs of the same pipeline apart in the store and the ledger.

    Raises:
        ConfigError: a number is out of its range, or the config holds what it must not.
    """
    settings: RunnableConfig = {**pipeline.run_config, **checked_config(config or {})}
    listeners = [*on_stream]
    # Who replays a run shows the progress in another way.
    if wants_progress(False if progress is None and refines is not None else progress):
        listeners.append(drawing.enter_context(ProgressDisplay()))
    retries = settings.get("max_retries", 0) if max_retries is None else max_retries
    return RunOptions(
        run_id=settings.get("run_id") or new_run_id(),
        scope=scope or new_run_id(),
        variables=variables or {},
        reuse=reuse,
        fail_fast=fail_fast,
        max_concurrency=(
            max_concurrency
            if max_concurrency is not None
            else pipeline.max_concurrency or DEFAULT_CONCURRENCY
        ),
        timeout=settings.get("timeout") if timeout is None else timeout,
        max_retries=retries,
        pipeline_timeout=pipeline_timeout,
        refines=refines,
        parent_run_id=pipeline.parent_run_id,
        metadata=_metadata(pipeline, settings),
        partition_key=partition_key,
        moderation=pipeline.moderation,
        on_outcome=on_outcome,
        listeners=Listeners(
            on_progress=on_progress or settings.get("on_progress"),
            on_step_complete=on_step_complete,
            on_retry=on_retry or settings.get("on_retry"),
            on_submit=settings.get("on_submit"),
            on_stream=listeners,
            tracer=_tracer(pipeline),
        ),
    )


def _metadata(pipeline: Pipeline, settings: RunnableConfig) -> dict[str, Any]:
    """Return what is recorded of the run: of the config, and of the pipeline, which wins."""
    tags = settings.get("tags")
    found = {**({"tags": list(tags)} if tags else {}), **settings.get("metadata", {})}
    found |= pipeline.run_metadata
    check_json(found, where="metadata of the run")
    return found


def _tracer(pipeline: Pipeline) -> Tracer:
    chosen = [pipeline.run_tracer] if pipeline.run_tracer is not None else []
    if pipeline.structured_log:
        chosen.append(LoggingTracer())
    return CompositeTracer(chosen) if len(chosen) > 1 else next(iter(chosen), NoOpTracer())
