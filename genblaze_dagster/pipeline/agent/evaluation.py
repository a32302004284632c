"""Judging what a run has made: evaluators, and what they say."""

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.agent.calls import called, source_of
from genblaze_dagster.pipeline.result import PipelineResult


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What an evaluator says of one run.

    `score` is on any scale; one that is not finite is none. `feedback` is for the next iteration.
    Feedback and score are shown in events, tables and logs: keep out of them what nobody may read.

    Raises:
        ConfigError: `passed` is not a truth value, `score` no number, or `feedback` no text.
    """

    passed: bool
    score: float | None = None
    feedback: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        passed, score = _plain(self.passed), _plain(self.score)
        if not isinstance(passed, bool):
            raise ConfigError(
                f"an evaluation has passed={type(passed).__name__}; give True or False"
            )
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            raise ConfigError(
                f"an evaluation has a {type(score).__name__} as score; give a number or None"
            )
        if self.feedback is not None and not isinstance(cast(object, self.feedback), str):
            raise ConfigError(
                f"an evaluation has a {type(self.feedback).__name__} as feedback; give text"
            )
        if score is not None:
            score = float(score) if math.isfinite(score) else None
        object.__setattr__(self, "passed", passed)
        object.__setattr__(self, "score", score)


class Evaluator(ABC):
    """Decides whether a run is good enough; `result.media(step)` opens what it made.

    `higher_is_better` says which of two scores is the better one.
    """

    higher_is_better: bool = True

    @property
    def declared(self) -> Any:
        """The JSON form in an asset's code version: what accepts other media is another version."""
        return source_of(self)

    @abstractmethod
    def evaluate(self, result: PipelineResult) -> EvaluationResult:
        """Judge a run all of whose steps succeeded."""

    async def aevaluate(self, result: PipelineResult) -> EvaluationResult:
        """Judge a run in async code; the loop calls this. By default `evaluate` on a thread."""
        return await called(self.evaluate, result)


class CallableEvaluator(Evaluator):
    """An evaluator made of a function, sync or async, that returns a truth value or an evaluation.

    Args:
        fn: called with the `PipelineResult`.
    """

    def __init__(
        self,
        fn: Callable[
            [PipelineResult], EvaluationResult | bool | Awaitable[EvaluationResult | bool]
        ],
    ) -> None:
        self._fn = fn

    @property
    def declared(self) -> Any:
        """The function's source."""
        return source_of(self._fn)

    def evaluate(self, result: PipelineResult) -> EvaluationResult:
        """Call the function."""
        return run_sync(self.aevaluate(result))

    async def aevaluate(self, result: PipelineResult) -> EvaluationResult:
        """Call the function, on a thread unless it is async."""
        said = await called(self._fn, result)
        return said if isinstance(said, EvaluationResult) else EvaluationResult(passed=said)


class ThresholdEvaluator(Evaluator):
    """An evaluator that accepts a score which reaches a threshold.

    Args:
        score_fn: returns the score of a `PipelineResult`; sync or async. NaN is never accepted.
        threshold: the score that is just good enough.
        higher_is_better: False accepts scores at or below the threshold.
        feedback_fn: returns what the next iteration should know, from result and score.
    """

    def __init__(
        self,
        score_fn: Callable[[PipelineResult], float | Awaitable[float]],
        threshold: float,
        *,
        higher_is_better: bool = True,
        feedback_fn: Callable[[PipelineResult, float], str | Awaitable[str | None] | None]
        | None = None,
    ) -> None:
        self._score_fn = score_fn
        self._threshold = threshold
        self.higher_is_better = higher_is_better
        self._feedback_fn = feedback_fn

    @property
    def declared(self) -> Any:
        """The sources of the functions, and the threshold."""
        feedback = None if self._feedback_fn is None else source_of(self._feedback_fn)
        return [source_of(self._score_fn), feedback, self._threshold, self.higher_is_better]

    def evaluate(self, result: PipelineResult) -> EvaluationResult:
        """Score a run and compare."""
        return run_sync(self.aevaluate(result))

    async def aevaluate(self, result: PipelineResult) -> EvaluationResult:
        """Score a run and compare, on a thread unless the functions are async."""
        score = float(await called(self._score_fn, result))
        passed = score >= self._threshold if self.higher_is_better else score <= self._threshold
        feedback = None
        if self._feedback_fn is not None:
            feedback = await called(self._feedback_fn, result, score)
        compared = {"threshold": self._threshold, "higher_is_better": self.higher_is_better}
        return EvaluationResult(passed, score, feedback, compared)


def _plain(value: object) -> object:
    """Return numpy's scalars, which comparisons of arrays give, as Python's."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value
