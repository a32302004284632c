"""The course of a loop: what its iterations have made and cost, and whether it goes on."""

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from genblaze_dagster.errors import ConfigError, GenblazeError, PipelineError, PipelineTimeoutError
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.agent.calls import called
from genblaze_dagster.pipeline.agent.evaluation import EvaluationResult, Evaluator
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.stream_events import shown_error
from genblaze_dagster.storage.media import Media

DEFAULT_ITERATIONS = 3
_CAUSE_CHARS = 200


class StopReason(StrEnum):
    """Why a loop ended."""

    ACCEPTED = "accepted"
    MAX_ITERATIONS = "max_iterations"
    MAX_COST = "max_cost"
    PIPELINE_FAILED = "pipeline_failed"


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What a pipeline factory gets to know.

    `iteration` counts from 0. `variables` is the run's row, which also fills the templates of the
    pipeline; `inputs` are the upstream media of an agent asset by their asset key, to be given to a
    step as `external_inputs`.
    """

    iteration: int
    prior_results: Sequence[PipelineResult] = ()
    last_evaluation: EvaluationResult | None = None
    variables: Mapping[str, object] = field(default_factory=dict[str, object])
    inputs: Mapping[str, Sequence[Media]] = field(default_factory=dict[str, Sequence[Media]])


PipelineFactory = Callable[[AgentContext], Pipeline | Awaitable[Pipeline]]


@dataclass(frozen=True, slots=True)
class AgentIteration:
    """One run and what was said of it.

    `index` counts from 0; `cost_usd` is what the run paid, None when that is not known.
    """

    index: int
    result: PipelineResult
    evaluation: EvaluationResult
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class AgentResult:
    """How a loop ended.

    `final` is the last run and `best_iteration` the accepted one, else the one with the best score;
    None when no iteration succeeded. `total_cost_usd` is None as soon as one cost is unknown.
    `iterations` holds those that were evaluated. `stopped` is None when an error ended the loop.
    """

    iterations: Sequence[AgentIteration]
    final: PipelineResult
    passed: bool
    total_cost_usd: float | None = None
    best_iteration: AgentIteration | None = None
    stopped: StopReason | None = None

    @property
    def best(self) -> PipelineResult:
        """The run of `best_iteration`; the last run when no iteration succeeded."""
        return self.final if self.best_iteration is None else self.best_iteration.result


@dataclass(frozen=True, slots=True)
class Limits:
    """When a loop ends without an accepted run; see `AgentLoop`.

    Raises:
        ConfigError: a limit allows nothing.
    """

    max_iterations: int = DEFAULT_ITERATIONS
    max_cost_usd: float | None = None
    stop_on_pipeline_failure: bool = True

    def __post_init__(self) -> None:
        if self.max_iterations < 1:
            raise ConfigError(f"max_iterations is {self.max_iterations}; give at least 1")
        # Written so that NaN is refused too.
        if self.max_cost_usd is not None and not self.max_cost_usd > 0:
            raise ConfigError(f"max_cost_usd is {self.max_cost_usd}; give more than 0, or None")


@dataclass(frozen=True, slots=True)
class _Unjudged:
    """A run that is paid for, before its evaluation."""

    result: PipelineResult
    cost_usd: float | None


class Course:
    """One loop under way.

    Args:
        factory: makes the pipeline of each iteration.
        evaluator: judges each run.
        limits: when to stop.
        variables: the row.
        inputs: upstream media by asset key.
    """

    def __init__(
        self,
        factory: PipelineFactory,
        evaluator: Evaluator,
        limits: Limits,
        *,
        variables: Mapping[str, object] | None = None,
        inputs: Mapping[str, Sequence[Media]] | None = None,
    ) -> None:
        self._factory = factory
        self._evaluator = evaluator
        self.limits = limits
        self._variables = variables or {}
        self._inputs = inputs or {}
        self.iterations: list[AgentIteration] = []
        self._unjudged: _Unjudged | None = None

    @property
    def context(self) -> AgentContext:
        """What the next iteration's factory gets to know."""
        done = self.iterations
        return AgentContext(
            iteration=len(done),
            prior_results=[one.result for one in done],
            last_evaluation=done[-1].evaluation if done else None,
            variables=self._variables,
            inputs=self._inputs,
        )

    @property
    def spent_usd(self) -> float | None:
        """What all runs together paid; None when one cost is unknown."""
        runs = self.iterations if self._unjudged is None else (*self.iterations, self._unjudged)
        return total(run.cost_usd for run in runs)

    @property
    def stopped(self) -> StopReason | None:
        """Why there is no next iteration, None when there is one."""
        if not self.iterations:
            return None
        last = self.iterations[-1]
        if last.evaluation.passed:
            return StopReason.ACCEPTED
        if last.result.errors and self.limits.stop_on_pipeline_failure:
            return StopReason.PIPELINE_FAILED
        if len(self.iterations) >= self.limits.max_iterations:
            return StopReason.MAX_ITERATIONS
        return StopReason.MAX_COST if self._is_spent else None

    @property
    def _is_spent(self) -> bool:
        limit, spent = self.limits.max_cost_usd, self.spent_usd
        if limit is None:
            return False
        if spent is None:
            # What is not known cannot be shown to be within the limit.
            return True
        dearest = max(one.cost_usd or 0.0 for one in self.iterations)
        # Sums of prices are not exact in binary.
        return spent + dearest > limit + 1e-9

    async def pipeline(self) -> Pipeline:
        """Return the next iteration's pipeline, as the factory makes it.

        Raises:
            ConfigError: it returned something else.
        """
        made = cast(object, await called(self._factory, self.context))
        if not isinstance(made, Pipeline):
            raise ConfigError(
                f"the pipeline factory returned a {type(made).__name__}; return a Pipeline"
            )
        return made

    def made(self, result: PipelineResult, cost_usd: float | None) -> None:
        """Keep what the iteration's run made, which is paid for, until it is judged."""
        self._unjudged = _Unjudged(result, cost_usd)

    async def judge(self) -> AgentIteration:
        """Evaluate what was made. A run with failed steps is not accepted, and nobody is asked.

        Raises:
            ConfigError: the evaluator returned no evaluation.
        """
        if self._unjudged is None:
            raise ConfigError("there is no run to judge; run the pipeline first")
        result, cost_usd = self._unjudged.result, self._unjudged.cost_usd
        if result.errors:
            evaluation = cast(object, EvaluationResult(passed=False, feedback=_failures(result)))
        else:
            evaluation = cast(object, await self._evaluator.aevaluate(result))
        if not isinstance(evaluation, EvaluationResult):
            raise ConfigError(
                f"the evaluator returned a {type(evaluation).__name__}; return an EvaluationResult"
            )
        return self.add(AgentIteration(len(self.iterations), result, evaluation, cost_usd))

    def add(self, iteration: AgentIteration) -> AgentIteration:
        """Take an iteration as done, now or by an earlier attempt, and return it."""
        self.iterations.append(iteration)
        self._unjudged = None
        return iteration

    @property
    def result(self) -> AgentResult:
        """How the loop ended, or what it has so far.

        Raises:
            ConfigError: nothing was run yet.
        """
        last = self._unjudged or (self.iterations[-1] if self.iterations else None)
        if last is None:
            raise ConfigError("the loop has no result before its first run")
        return AgentResult(
            iterations=tuple(self.iterations),
            final=last.result,
            passed=isinstance(last, AgentIteration) and last.evaluation.passed,
            total_cost_usd=self.spent_usd,
            best_iteration=self.best,
            stopped=self.stopped if self._unjudged is None else None,
        )

    @property
    def best(self) -> AgentIteration | None:
        """The accepted iteration, else the best scored; of equals the later, which refines."""
        whole = [one for one in self.iterations if not one.result.errors]
        return max(reversed(whole), key=self._rank, default=None)

    def _rank(self, one: AgentIteration) -> tuple[bool, bool, float]:
        score = one.evaluation.score
        if score is None:
            return one.evaluation.passed, False, 0.0
        return (
            one.evaluation.passed,
            True,
            score if self._evaluator.higher_is_better else -score,
        )

    @contextmanager
    def kept(self) -> Generator[None]:
        """Raise what the block raises together with what is paid for, in a `PipelineError`.

        Before anything was made the error is raised as it is.
        """
        try:
            yield
        except Exception as exc:
            if isinstance(exc, PipelineTimeoutError) and isinstance(exc.result, PipelineResult):
                self.made(exc.result, run_cost(exc.result))
            if self._unjudged is None and not self.iterations:
                raise
            raise self._ended_by(exc) from exc

    def _ended_by(self, error: Exception) -> PipelineError:
        kind = PipelineTimeoutError if isinstance(error, PipelineTimeoutError) else PipelineError
        raised = kind(
            f"the loop ended in iteration {len(self.iterations)}: {type(error).__name__}: "
            f"{redact(str(error), max_chars=_CAUSE_CHARS)}; `result` has what was made until then",
            result=self.result,
        )
        raised.transient = isinstance(error, GenblazeError) and error.transient
        return raised


def run_cost(result: PipelineResult) -> float | None:
    """Return what a run paid in USD; None when it is not known.

    Of a failed step it is known only when its request was never sent.
    """
    costs = [outcome.paid_usd for outcome in result.outcomes.values()]
    unsent = [getattr(error, "sent", None) is False for error in result.errors.values()]
    return total([*costs, *(0.0 if known else None for known in unsent)])


def total(costs: Iterable[float | None]) -> float | None:
    """Return the sum of costs; None when one is unknown."""
    known: list[float] = []
    for cost in costs:
        if cost is None:
            return None
        known.append(cost)
    return round(sum(known), 9)


def _failures(result: PipelineResult) -> str:
    lines = [
        f"{step.provider}/{step.model} failed: {shown_error(step) or 'no reason given'}"
        for step in result.failed_steps()
    ]
    return "\n".join(lines)
