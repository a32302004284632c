"""The agent loop: run a pipeline, judge what it made, and make the next one with what was said."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing, closing
from copy import copy
from typing import Any

from genblaze_dagster.errors import PipelineError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.agent.course import (
    DEFAULT_ITERATIONS,
    AgentContext,
    AgentIteration,
    AgentResult,
    Course,
    Limits,
    PipelineFactory,
    run_cost,
)
from genblaze_dagster.pipeline.agent.evaluation import Evaluator
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.stream_events import StreamEvent, StreamEventType
from genblaze_dagster.pipeline.tracing import CompositeTracer, NoOpTracer, Tracer, safe


class AgentLoop:
    """Runs pipelines until one is accepted.

    Every run is recorded like any other. From the second on, a run refines the one before it: its
    manifest names that as its parent.

    A run with a failed step is not accepted and not shown to the evaluator; the next iteration, if
    there is one, gets the errors as feedback.

    Args:
        pipeline_factory: returns the pipeline of an iteration, from its `AgentContext`; sync or
            async. Called on a thread unless it is async.
        evaluator: judges each run.
        max_iterations: runs at most this many.
        tracer: watches all runs, and the loop's own events.
        stop_on_pipeline_failure: False goes on after a run with failed steps.
        max_cost_usd: starts no iteration that would exceed this, if it costs as much as the
            dearest so far. A run whose cost is unknown uses it up. No limit when left out.

    Raises:
        ConfigError: a limit allows nothing.

    Example:
        def draw(context: AgentContext) -> Pipeline:
            wish = context.last_evaluation.feedback if context.last_evaluation else "a fox"
            return Pipeline("fox").step("openai", model="gpt-image-1", prompt=wish)

        result = AgentLoop(draw, ThresholdEvaluator(sharpness, 0.8), max_iterations=5).run()
        print(result.passed, result.best.run.run_id, result.total_cost_usd)
    """

    def __init__(
        self,
        pipeline_factory: PipelineFactory,
        evaluator: Evaluator,
        *,
        max_iterations: int = DEFAULT_ITERATIONS,
        tracer: Tracer | None = None,
        stop_on_pipeline_failure: bool = True,
        max_cost_usd: float | None = None,
    ) -> None:
        self._factory = pipeline_factory
        self._evaluator = evaluator
        self._limits = Limits(
            max_iterations=max_iterations,
            max_cost_usd=max_cost_usd,
            stop_on_pipeline_failure=stop_on_pipeline_failure,
        )
        self._tracer = safe(tracer)

    def run(self, **options: Any) -> AgentResult:
        """Run the loop and return when it has ended; see `arun`."""
        return run_sync(self.arun(**options))

    async def arun(self, **options: Any) -> AgentResult:
        """Run the loop.

        Whether a run was accepted is in the result, and so are the errors of failed steps
        (`result.final.errors`); unlike a single pipeline the loop does not raise for them, unless
        it is told `raise_on_failure=True` and its last run is one of those.

        Args:
            **options: those of `Pipeline.arun`, for every run.

        Raises:
            PipelineError: factory, evaluator or a run could not go on; `result` is an
                `AgentResult` with what was made and paid until then.
            GenblazeError: the first run could not start.
        """
        course = self._course(options)
        async with aclosing(self._events(course, options)) as events:
            async for _ in events:
                pass
        return course.result

    async def astream(self, **options: Any) -> AsyncGenerator[StreamEvent]:
        """Run the loop and yield its events and those of its runs, when they happen.

        The last one is `agent.completed`; its `result` is the `AgentResult`. Leaving the loop
        cancels what is running: close the generator, or let it be collected.

        Args:
            **options: those of `Pipeline.astream`, for every run.

        Raises:
            GenblazeError: as `arun`.
        """
        async with aclosing(self._events(self._course(options), options)) as events:
            async for event in events:
                yield event

    def stream(self, **options: Any) -> Generator[StreamEvent]:
        """Run the loop and yield its events when they happen; see `astream`."""
        course = self._course(options)
        while course.stopped is None:
            yield self._told(_started(course.context, self._limits.max_iterations))
            made = None
            with course.kept():
                pipeline = run_sync(self._next(course))
                with closing(pipeline.stream(**_of_a_run(options))) as events:
                    for event in events:
                        made = _made(event) or made
                        yield event
                _keep(course, made)
                evaluated = run_sync(course.judge())
            yield self._told(_evaluated(evaluated))
        yield self._told(_completed(course.result))
        _refuse_failure(course.result, options)

    async def _events(
        self, course: Course, options: Mapping[str, Any]
    ) -> AsyncGenerator[StreamEvent]:
        while course.stopped is None:
            yield self._told(_started(course.context, self._limits.max_iterations))
            made = None
            with course.kept():
                pipeline = await self._next(course)
                async with aclosing(pipeline.astream(**_of_a_run(options))) as events:
                    async for event in events:
                        made = _made(event) or made
                        yield event
                _keep(course, made)
                evaluated = await course.judge()
            yield self._told(_evaluated(evaluated))
        yield self._told(_completed(course.result))
        _refuse_failure(course.result, options)

    def _course(self, options: Mapping[str, Any]) -> Course:
        variables = options.get("variables")
        return Course(self._factory, self._evaluator, self._limits, variables=variables)

    def _told(self, event: StreamEvent) -> StreamEvent:
        self._tracer.on_event(event)
        return event

    async def _next(self, course: Course) -> Pipeline:
        """Return the next pipeline as a child of the run before; the factory's own stays as it is."""
        pipeline = copy(await course.pipeline())
        if course.iterations:
            pipeline.from_result(course.iterations[-1].result)
        if not isinstance(self._tracer, NoOpTracer):
            others = [] if pipeline.run_tracer is None else [pipeline.run_tracer]
            pipeline.tracer(CompositeTracer([*others, self._tracer]))
        return pipeline


def _of_a_run(options: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "raise_on_failure": False}


def _made(event: StreamEvent) -> PipelineResult | None:
    """Return the result that the last event of a run carries."""
    return event.result if isinstance(event.result, PipelineResult) else None


def _keep(course: Course, made: PipelineResult | None) -> None:
    # Only now: an error after the last event means that the run is not stored.
    if made is not None:
        course.made(made, run_cost(made))


def _refuse_failure(result: AgentResult, options: Mapping[str, Any]) -> None:
    if options.get("raise_on_failure") and result.final.errors:
        raise PipelineError(
            f"the last of {len(result.iterations)} runs failed:\n{result.final.error_summary()}",
            result=result,
        )


def _started(context: AgentContext, total: int) -> StreamEvent:
    last = context.last_evaluation
    return StreamEvent(
        type=StreamEventType.AGENT_ITERATION_STARTED,
        iteration=context.iteration,
        total=total,
        message=None if last is None else last.feedback,
    )


def _evaluated(done: AgentIteration) -> StreamEvent:
    return StreamEvent(
        type=StreamEventType.AGENT_ITERATION_EVALUATED,
        iteration=done.index,
        passed=done.evaluation.passed,
        score=done.evaluation.score,
        feedback=done.evaluation.feedback,
        result=done.result,
    )


def _completed(result: AgentResult) -> StreamEvent:
    return StreamEvent(
        type=StreamEventType.AGENT_COMPLETED,
        passed=result.passed,
        iterations=len(result.iterations),
        total_cost_usd=result.total_cost_usd,
        result=result,
    )
