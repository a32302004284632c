import math
from collections.abc import Callable
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.errors import (
    ConfigError,
    ContentPolicyError,
    PipelineError,
    PipelineTimeoutError,
    ProviderUnavailableError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.agent import (
    AgentContext,
    AgentLoop,
    AgentResult,
    CallableEvaluator,
    EvaluationResult,
    Evaluator,
    StopReason,
    ThresholdEvaluator,
)
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.manifests import read_manifest
from tests.support.scripted import ScriptedProvider


def drawing(provider: Any) -> Callable[[AgentContext], Pipeline]:
    def draw(context: AgentContext) -> Pipeline:
        wish = context.last_evaluation.feedback if context.last_evaluation else "a fox"
        pipeline = Pipeline(f"i{context.iteration}")
        return pipeline.step(
            provider, model="m", name="image", prompt=wish, retry=RetryPolicy.disabled()
        )

    return draw


def scores(*given: float | None, accepted: float = 1.0) -> CallableEvaluator:
    """An evaluator that gives these scores one after the other."""
    left = list(given)

    def judge(result: PipelineResult) -> EvaluationResult:
        score = left.pop(0)
        return EvaluationResult(score == accepted, score, f"better than {score}")

    return CallableEvaluator(judge)


def places(store: MediaStore, ledger: Ledger) -> dict[str, Any]:
    return {"store": store, "ledger": ledger}


def test_the_loop_runs_until_one_is_accepted(store: MediaStore, ledger: Ledger) -> None:
    """Feedback reaches the factory; every run refines the one before it; costs are summed."""
    provider = ScriptedProvider()
    result = AgentLoop(drawing(provider), scores(0.2, 0.5, 1.0), max_iterations=5).run(
        **places(store, ledger)
    )
    assert (result.passed, result.stopped) == (True, StopReason.ACCEPTED)
    assert provider.billed == ["a fox", "better than 0.2", "better than 0.5"]
    assert result.total_cost_usd == pytest.approx(0.12)
    runs = [one.result.run for one in result.iterations]
    assert [run.parent_run_id for run in runs] == [None, runs[0].run_id, runs[1].run_id]
    assert result.final is result.best is result.iterations[2].result
    for run in runs:
        recorded = run_sync(read_manifest(store, run.run_id))
        assert recorded.verify()
        assert recorded.run.parent_run_id == run.parent_run_id


def test_the_best_is_not_always_the_last(store: MediaStore, ledger: Ledger) -> None:
    """Without an accepted run the best score counts; of equal ones the later."""
    loop = AgentLoop(
        drawing(ScriptedProvider()), scores(0.2, 0.9, None, 0.9, 0.1), max_iterations=5
    )
    result = loop.run(**places(store, ledger))
    assert (result.passed, result.stopped) == (False, StopReason.MAX_ITERATIONS)
    assert result.best_iteration is result.iterations[3]
    assert result.final is result.iterations[4].result


def test_lower_may_be_better(store: MediaStore, ledger: Ledger) -> None:
    """The evaluator says which way its scores go, for the threshold and for the best."""
    left = [0.9, 0.4, 0.6]
    judge = ThresholdEvaluator(lambda _: left.pop(0), 0.1, higher_is_better=False)
    result = AgentLoop(drawing(ScriptedProvider()), judge).run(**places(store, ledger))
    assert not result.passed
    assert result.best_iteration is result.iterations[1]


def test_the_context_knows_what_was_before(store: MediaStore, ledger: Ledger) -> None:
    """Iteration, earlier results, the last evaluation and the run's variables are in it."""
    seen: list[AgentContext] = []

    async def draw(context: AgentContext) -> Pipeline:
        seen.append(context)
        return drawing(ScriptedProvider())(context)

    loop = AgentLoop(draw, scores(0.1, 1.0))
    result = loop.run(variables={"subject": "owl"}, **places(store, ledger))
    first, second = seen
    assert (first.iteration, list(first.prior_results), first.last_evaluation) == (0, [], None)
    assert (second.iteration, second.last_evaluation) == (1, result.iterations[0].evaluation)
    assert list(second.prior_results) == [result.iterations[0].result]
    assert first.variables == second.variables == {"subject": "owl"}


def test_evaluators_see_the_media(store: MediaStore, ledger: Ledger) -> None:
    """Sync ones may read bytes and block, async ones may await; both say what functions may."""

    def by_size(result: PipelineResult) -> bool:
        return len(result.media("image").bytes()) == 100

    async def by_bytes(result: PipelineResult) -> EvaluationResult:
        return EvaluationResult(len(await result.media("image").aread()) == 100, score=1)

    for judge in (by_size, by_bytes):
        loop = AgentLoop(drawing(ScriptedProvider(size=100)), CallableEvaluator(judge))
        result = loop.run(**places(store, ledger))
        assert result.passed
        assert len(result.iterations) == 1
        assert CallableEvaluator(judge).evaluate(result.final).passed


@pytest.mark.parametrize(
    ("score", "threshold", "higher", "passed"),
    [
        (0.5, 0.5, True, True),
        (0.4, 0.5, True, False),
        (0.5, 0.5, False, True),
        (0.6, 0.5, False, False),
        (math.nan, 0.5, True, False),
        (math.nan, 0.5, False, False),
        (math.inf, 0.5, True, True),
    ],
    ids=["at", "below", "at, lower", "above, lower", "nan", "nan, lower", "infinite"],
)
def test_a_threshold_is_reached_or_not(
    score: float, threshold: float, higher: bool, passed: bool
) -> None:
    """The threshold itself is good enough; NaN never is; a score that is not finite is none."""
    judge = ThresholdEvaluator(
        lambda _: score, threshold, higher_is_better=higher, feedback_fn=lambda _, s: f"got {s}"
    )
    said = judge.evaluate(_any_result())
    assert said.passed is passed
    assert said.score == (score if math.isfinite(score) else None)
    assert said.feedback == f"got {score}"


def _any_result() -> PipelineResult:
    store = MediaStore("memory://unjudged")
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    return pipeline.run(store=store, ledger="sqlite://", raise_on_failure=False)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"passed": "yes"}, "passed=str"),
        ({"passed": None}, "passed=NoneType"),
        ({"passed": True, "score": "high"}, "a str as score"),
        ({"passed": True, "score": True}, "a bool as score"),
        ({"passed": True, "feedback": 3}, "a int as feedback"),
    ],
    ids=["text", "nothing", "score", "truth as score", "feedback"],
)
def test_an_evaluation_is_what_it_says(fields: dict[str, Any], words: str) -> None:
    """Values of other kinds are refused where they are made."""
    with pytest.raises(ConfigError, match=words):
        EvaluationResult(**fields)


def test_numbers_of_numpy_are_numbers() -> None:
    """Comparing arrays gives numpy's own truth values."""
    numpy = pytest.importorskip("numpy")
    said = EvaluationResult(passed=numpy.float32(2) > 1, score=numpy.float32(0.5))
    assert said == EvaluationResult(passed=True, score=0.5)
    assert type(said.passed) is bool


def test_a_failed_run_ends_the_loop_unseen(store: MediaStore, ledger: Ledger) -> None:
    """It is not accepted, not shown to the evaluator, and its errors are in the result."""
    provider = ScriptedProvider(submit_errors=[ContentPolicyError("refused")])
    result = AgentLoop(drawing(provider), scores()).run(**places(store, ledger))
    assert (result.passed, result.stopped) == (False, StopReason.PIPELINE_FAILED)
    assert isinstance(result.final.errors["image"], ContentPolicyError)
    assert "refused" in (result.iterations[0].evaluation.feedback or "")
    assert (result.best_iteration, result.best) == (None, result.final)
    # Whether the vendor bills what it refused is not known.
    assert result.total_cost_usd is None


def test_a_failed_run_may_be_gone_over(store: MediaStore, ledger: Ledger) -> None:
    """With stop_on_pipeline_failure=False its errors are the next iteration's feedback."""
    provider = ScriptedProvider(submit_errors=[ContentPolicyError("refused", sent=False)])
    loop = AgentLoop(drawing(provider), scores(1.0), stop_on_pipeline_failure=False)
    result = loop.run(**places(store, ledger))
    assert result.passed
    assert "refused" in (provider.billed[0] or "")
    assert result.total_cost_usd == pytest.approx(0.04)


def test_a_private_prompt_is_not_repeated_by_feedback(store: MediaStore, ledger: Ledger) -> None:
    """Vendors quote what they refuse; under a prompt that is not public only the code is told."""

    def draw(context: AgentContext) -> Pipeline:
        provider = ScriptedProvider(submit_errors=[ContentPolicyError("no 'hidden words'")])
        return Pipeline("p").step(
            provider, model="m", prompt="hidden words", prompt_visibility="private"
        )

    result = AgentLoop(draw, scores()).run(**places(store, ledger))
    feedback = result.iterations[0].evaluation.feedback or ""
    assert "content_policy" in feedback
    assert "hidden words" not in feedback


def test_failures_are_raised_when_that_is_wanted(store: MediaStore, ledger: Ledger) -> None:
    """raise_on_failure=True raises at the end, with the loop's result."""
    provider = ScriptedProvider(submit_errors=[ContentPolicyError("refused")])
    with pytest.raises(PipelineError, match="refused") as caught:
        AgentLoop(drawing(provider), scores()).run(raise_on_failure=True, **places(store, ledger))
    assert isinstance(caught.value.result, AgentResult)


def test_an_evaluator_that_fails_loses_nothing(store: MediaStore, ledger: Ledger) -> None:
    """Its error is the cause of a typed one, which has everything that was made."""
    asked: list[str] = []

    def judge(result: PipelineResult) -> bool:
        asked.append(result.run.run_id)
        if len(asked) == 2:
            raise KeyError("judge with api_key=sk-abcdefghijklmnopqrstuvwxyz123456")
        return False

    with pytest.raises(PipelineError, match="iteration 1: KeyError") as caught:
        AgentLoop(drawing(ScriptedProvider()), CallableEvaluator(judge)).run(
            **places(store, ledger)
        )
    assert isinstance(caught.value.__cause__, KeyError)
    assert "sk-abc" not in str(caught.value)
    result = caught.value.result
    assert isinstance(result, AgentResult)
    assert (result.passed, result.stopped, len(result.iterations)) == (False, None, 1)
    assert result.final.run.run_id == asked[1]
    assert len(result.final.media("image").bytes()) == 64
    assert result.total_cost_usd == pytest.approx(0.08)


def test_what_may_pass_stays_known_as_such(store: MediaStore, ledger: Ledger) -> None:
    """A judge that is out for now makes an error that a retry may look at."""

    def judge(result: PipelineResult) -> bool:
        raise ProviderUnavailableError("the judge answers 503")

    with pytest.raises(PipelineError) as caught:
        AgentLoop(drawing(ScriptedProvider()), CallableEvaluator(judge)).run(
            **places(store, ledger)
        )
    assert caught.value.transient


@pytest.mark.parametrize("fails_in", [0, 1])
def test_a_factory_that_fails_is_told_as_it_is_before_anything_is_paid(
    fails_in: int, store: MediaStore, ledger: Ledger
) -> None:
    """Later its error comes with what was made."""

    def draw(context: AgentContext) -> Pipeline:
        if context.iteration == fails_in:
            raise ZeroDivisionError
        return drawing(ScriptedProvider())(context)

    expected = ZeroDivisionError if fails_in == 0 else PipelineError
    with pytest.raises(expected) as caught:
        AgentLoop(draw, scores(0.1)).run(**places(store, ledger))
    if fails_in:
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert len(caught.value.result.iterations) == 1  # type: ignore[attr-defined]


def test_a_timeout_of_the_run_keeps_its_type_and_result(store: MediaStore, ledger: Ledger) -> None:
    """What the run had done by then is in the result of the loop."""
    provider = ScriptedProvider(job=True, polls=10_000)
    loop = AgentLoop(drawing(provider), scores())
    with pytest.raises(PipelineTimeoutError) as caught:
        loop.run(pipeline_timeout=0.3, **places(store, ledger))
    assert isinstance(caught.value.result, AgentResult)
    assert list(caught.value.result.final.errors) == ["image"]


def test_wrong_factories_and_evaluators_are_named(store: MediaStore, ledger: Ledger) -> None:
    """What they return is looked at."""

    class Broken(Evaluator):
        def evaluate(self, result: PipelineResult) -> Any:
            return True

    with pytest.raises(ConfigError, match="returned a str; return a Pipeline"):
        AgentLoop(lambda _: "fox", scores()).run(**places(store, ledger))  # type: ignore[arg-type,return-value]
    with pytest.raises(PipelineError, match="returned a bool; return an EvaluationResult"):
        AgentLoop(drawing(ScriptedProvider()), Broken()).run(**places(store, ledger))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_iterations": 0}, "max_iterations is 0"),
        ({"max_cost_usd": 0}, "max_cost_usd is 0"),
        ({"max_cost_usd": math.nan}, "max_cost_usd is nan"),
    ],
    ids=["iterations", "no money", "nan"],
)
def test_limits_that_allow_nothing_are_refused(limits: dict[str, Any], words: str) -> None:
    """Before anything is made."""
    with pytest.raises(ConfigError, match=words):
        AgentLoop(drawing(ScriptedProvider()), scores(), **limits)


@pytest.mark.parametrize(
    ("cost", "budget", "runs"),
    [(0.04, 0.11, 2), (0.04, 0.12, 3), (0.04, 0.01, 1), (None, 1.0, 1), (0.0, 0.01, 4)],
    ids=["not a third", "exactly", "the first always", "unknown", "free"],
)
def test_a_budget_ends_the_loop_before_it_is_exceeded(
    cost: float | None, budget: float, runs: int, store: MediaStore, ledger: Ledger
) -> None:
    """The next iteration is taken to cost what the dearest did; an unknown cost uses it up."""
    provider = ScriptedProvider(cost_usd=cost)
    loop = AgentLoop(drawing(provider), scores(0, 0, 0, 0), max_iterations=4, max_cost_usd=budget)
    result = loop.run(**places(store, ledger))
    assert provider.submits == runs
    assert result.stopped is (StopReason.MAX_ITERATIONS if runs == 4 else StopReason.MAX_COST)
    assert result.total_cost_usd == (None if cost is None else pytest.approx(cost * runs))
