import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.core.enums import ProviderErrorCode, RunStatus
from genblaze_dagster.errors import BudgetExceededError, ConfigError, ModelError, PipelineError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.pipeline.batch import BatchPipelineError
from genblaze_dagster.pipeline.events import StepEvent, StepEventType
from genblaze_dagster.pipeline.outcome import StepOutcome
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import GenerationRequest, RateLimit
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, step, target


@dataclass
class Priced(ScriptedProvider):
    """Costs what is on its list, by model."""

    prices: dict[str, object] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def estimate_cost(self, request: GenerationRequest) -> Any:
        price = self.prices.get(request.model)
        if isinstance(price, Exception):
            raise price
        return price

    async def submit(self, request: GenerationRequest):
        self.asked.append(request.model)
        return await super().submit(request)


class OfAccount(ScriptedProvider):
    account = "fingerprint"
    rate_limit: RateLimit | None = None


RUN = BudgetScope.RUN


def run(
    store: MediaStore, ledger: Ledger, provider: ScriptedProvider, *budgets: Budget, **options: Any
) -> StepOutcome:
    async def body() -> StepOutcome:
        events = options.pop("events", None)
        on_event = None if events is None else events.append
        async with Runner(store, ledger, retry=QUICK, budgets=budgets, on_event=on_event) as runner:
            where = options.pop("where", None) or target()
            return await runner.run_step(step(provider, **options), where, variables=ROW)

    return asyncio.run(body())


def test_what_is_claimed_says_for_whom_and_at_what_price(store: MediaStore, ledger: Ledger) -> None:
    """Tenant, account and the estimate of the very request stand in the ledger."""
    run(store, ledger, OfAccount(cost_usd=0.25), where=target(tenant_id="acme"))
    (row,) = ledger.rows()
    assert (row.tenant_id, row.account, row.estimated_cost_usd) == ("acme", "fingerprint", 0.25)
    assert row.cost_usd == 0.25


@pytest.mark.parametrize(
    ("price", "known"),
    [
        (0.5, 0.5),
        (Decimal("0.125"), 0.125),
        (0.0, 0.0),
        (None, None),
        (math.nan, None),
        (math.inf, None),
        (-1.0, None),
        ("cheap", None),
        (KeyError("m"), None),
        (ModelError("no price"), None),
    ],
    ids=str,
)
def test_an_estimate_is_an_amount_or_unknown(
    store: MediaStore, ledger: Ledger, price: object, known: float | None
) -> None:
    """What raises, is no number, or is below zero is an unknown price, and breaks nothing."""
    run(store, ledger, Priced(prices={"m": price}))
    assert next(iter(ledger.rows())).estimated_cost_usd == known


def test_a_step_without_room_is_not_sent(store: MediaStore, ledger: Ledger) -> None:
    """The refusal names budget, spend and request; there is no row, and nothing is reserved."""
    provider = ScriptedProvider(cost_usd=0.5)
    with pytest.raises(BudgetExceededError) as caught:
        run(store, ledger, provider, Budget(RUN, 0.4, name="tiny"))
    assert (caught.value.budget, caught.value.request_usd) == ("tiny", 0.5)
    assert provider.submits == 0
    assert ledger.spend(RUN, "run-1").total_usd == 0
    run(store, ledger, provider, Budget(RUN, 0.5))
    assert ledger.spend(RUN, "run-1").paid_usd == 0.5


def test_free_and_finished_steps_need_no_room(store: MediaStore, ledger: Ledger) -> None:
    """What costs nothing passes an empty budget, and so does what is stored already."""
    nothing = Budget(RUN, 0.0)
    run(store, ledger, ScriptedProvider(cost_usd=0.0), nothing)
    paid = ScriptedProvider(cost_usd=1.0)
    run(store, ledger, paid, model="other")
    run(store, ledger, paid, nothing, model="other")
    assert paid.submits == 1


RUNS: dict[str, Callable[[Pipeline, dict[str, Any]], object]] = {
    "run": lambda pipeline, options: pipeline.run(**options),
    "arun": lambda pipeline, options: asyncio.run(pipeline.arun(**options)),
    "stream": lambda pipeline, options: list(pipeline.stream(**options)),
    "batch_run": lambda pipeline, options: pipeline.batch_run(["x"], **options),
    "abatch_run": lambda pipeline, options: asyncio.run(pipeline.abatch_run(["x"], **options)),
}


@pytest.mark.parametrize("how", RUNS)
def test_every_way_to_run_keeps_the_budgets(how: str, store: MediaStore, ledger: Ledger) -> None:
    """`budgets=` is an option of all of them."""
    provider = ScriptedProvider(cost_usd=0.5)
    pipeline = Pipeline("p").step(provider, model="m", prompt="a fox")
    options = {"store": store, "ledger": ledger, "budgets": [Budget(RUN, 0.1)]}
    with pytest.raises((PipelineError, BatchPipelineError)):
        RUNS[how](pipeline, options)
    assert provider.submits == 0


def test_a_refused_step_is_recorded_as_such(store: MediaStore, ledger: Ledger) -> None:
    """It failed, was not invoked, and has the code of a used-up quota, which is not retried."""
    provider = ScriptedProvider(cost_usd=0.5)
    pipeline = (
        Pipeline("p", chain=True)
        .step(provider, model="m", prompt="a secret fox", prompt_visibility="private")
        .step(provider, model="n", prompt="b")
    )
    result = pipeline.run(
        store=store,
        ledger=ledger,
        budgets=[Budget(RUN, 0.1, name="tiny")],
        max_retries=5,
        raise_on_failure=False,
    )
    assert result.run.status is RunStatus.FAILED
    first, second = result.failed_steps()
    assert first.error_code is ProviderErrorCode.RATE_LIMIT
    assert first.metadata["provider_invoked"] is False
    assert "tiny" in (first.error or "")
    assert "secret" not in (first.error or "")
    assert second.metadata["provider_invoked"] is False
    assert provider.submits == 0
    assert list(ledger.rows()) == []


def test_a_wrong_wish_is_refused_before_anything(store: MediaStore, ledger: Ledger) -> None:
    """What is no value of `on_ambiguous` names both."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    with pytest.raises(ConfigError, match="'hold', or 'resubmit'"):
        pipeline.run(store=store, ledger=ledger, on_ambiguous="pray")


def test_what_is_no_budget_is_refused(store: MediaStore, ledger: Ledger) -> None:
    """A number among the budgets is told before anything runs."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    with pytest.raises(ConfigError, match="float"):
        pipeline.run(store=store, ledger=ledger, budgets=[5.0])


def test_the_runs_of_a_batch_share_a_budget_by_their_scope(
    store: MediaStore, ledger: Ledger
) -> None:
    """Without a scope each has the whole limit for itself."""
    provider = ScriptedProvider(cost_usd=0.5)
    pipeline = Pipeline("p").step(provider, model="m", prompt="a")
    options: dict[str, Any] = {"store": store, "ledger": ledger, "budgets": [Budget(RUN, 1.0)]}
    pipeline.batch_run(["a", "b", "c"], **options)
    assert provider.submits == 3
    with pytest.raises(BatchPipelineError) as caught:
        pipeline.batch_run(["d", "e", "f"], scope="together", **options)
    assert (caught.value.succeeded, provider.submits) == (2, 5)


def fallback(provider: Priced, *budgets: Budget, **options: Any) -> Callable[..., StepOutcome]:
    def ask(store: MediaStore, ledger: Ledger, **more: Any) -> StepOutcome:
        return run(
            store, ledger, provider, *budgets, fallback_models=["m2", "m3"], **options, **more
        )

    return ask


def test_a_model_without_room_gives_way_to_a_cheaper_one(store: MediaStore, ledger: Ledger) -> None:
    """The fallback is a claim of its own, which fits; the manifest says why it was asked."""
    provider = Priced(prices={"m": 1.0, "m2": 0.8, "m3": 0.1}, cost_usd=0.1)
    events: list[StepEvent] = []
    outcome = fallback(provider, Budget(RUN, 0.5))(store, ledger, events=events)
    assert provider.asked == ["m3"]
    step = outcome.manifest.run.steps[-1]
    assert step.metadata["fallback_attempts"] == [
        {"model": "m", "code": "budget_exceeded"},
        {"model": "m2", "code": "budget_exceeded"},
    ]
    told = [e.detail for e in events if e.type is StepEventType.RETRIED]
    assert told == [
        "fallback: budget_exceeded, next is 'm2'",
        "fallback: budget_exceeded, next is 'm3'",
    ]
    # The retry of the same run finds it.
    assert fallback(provider, Budget(RUN, 0.5))(store, ledger).ref == outcome.ref
    assert provider.asked == ["m3"]


def test_without_room_for_any_model_the_budget_is_what_failed(
    store: MediaStore, ledger: Ledger
) -> None:
    """Also when a cheaper model was asked and failed: more room would have helped."""
    provider = Priced(prices={"m": 1.0, "m2": 1.0, "m3": 1.0})
    with pytest.raises(BudgetExceededError):
        fallback(provider, Budget(RUN, 0.5))(store, ledger)
    assert provider.asked == []
    provider.prices["m3"] = 0.1
    provider.submit_errors = [ModelError("overloaded")]
    with pytest.raises(BudgetExceededError):
        fallback(provider, Budget(RUN, 0.5))(store, ledger)
    assert provider.asked == ["m3"]


def test_a_model_error_leads_to_a_fallback_that_must_fit(store: MediaStore, ledger: Ledger) -> None:
    """A fallback after a failure is checked against what is left then."""
    provider = Priced(
        prices={"m": 0.4, "m2": 0.6, "m3": 0.1}, submit_errors=[ModelError("gone")], cost_usd=0.1
    )
    fallback(provider, Budget(RUN, 0.5))(store, ledger)
    assert provider.asked == ["m", "m3"]
    states = {row.model: row.state for row in ledger.rows()}
    assert states == {"m": SubmissionState.FAILED, "m3": SubmissionState.STORED}
