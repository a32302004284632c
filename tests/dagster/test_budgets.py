from collections import Counter
from typing import Any

import pytest

from genblaze_dagster import CallableEvaluator, Pipeline, agent_asset, generation_asset
from genblaze_dagster.errors import ConfigError, ProviderError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.quotes import quote
from genblaze_dagster.resources import LedgerResource
from tests.support.providers import CountingProvider
from tests.support.world import World, failed_records, failure_metadata, prompts

KEYS = [f"k{number:03}" for number in range(40)]


class Priced(CountingProvider):
    """A dollar a picture, nothing for `free`, and a price nobody knows for `odd`."""

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        return {"free": 0.0, "odd": None}.get(request.prompt or "", 1.0)


@pytest.fixture(autouse=True)
def provider(world: World) -> Priced:
    world.provider = Priced(cost_usd=1.0)
    return world.provider


def assets(world: World, *keys: str, **options: Any) -> list[Any]:
    pipeline = Pipeline("p").step(world.provider, model="m", name="image", prompt="{subject}")
    return pipeline.to_assets(partitions=prompts(*keys), **options)


def claims(world: World) -> int:
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}") as ledger:
        return len(list(ledger.rows()))


def test_what_a_run_may_not_pay_is_refused_and_the_rest_is_made(world: World) -> None:
    """Three of forty find room, and a free one; the ledger is not asked 36 times for more."""
    world.provider.cost_usd = None
    made = assets(world, *KEYS, "free", budgets=[Budget(BudgetScope.RUN, 3.0)], max_concurrency=1)
    quoted = quote(made, resources=world.resources)
    result = world.materialize(made, [*KEYS, "free"], raise_on_error=False)
    assert world.materialized("p/image") == {*KEYS[:3], "free"}
    assert claims(world) == 4
    assert failure_metadata(result)["failed_count"] == 37
    first, second, *_ = failed_records(result)
    assert {first["error"], second["error"]} == {"BudgetExceededError"}
    assert "has no room" in first["message"]
    assert "it was not tried" in second["message"]
    assert {one.partition_key for one in quoted.refused} == {*KEYS[3:]}
    assert quoted.estimated_usd == 3.0
    (budget,) = quoted.budgets
    assert (budget.name, budget.left_usd, budget.wanted_usd, budget.fits) == (
        "run",
        3.0,
        40.0,
        False,
    )


def test_what_is_stored_costs_nothing_although_the_budget_is_used_up(world: World) -> None:
    """A retry of the run shows the finished partitions green, also after a refusal."""
    tags = {"dagster/root_run_id": "one"}
    table = ["a", "b", "c", "d"]
    budgets = [Budget(BudgetScope.RUN, 2.0)]
    world.materialize(assets(world, *table, budgets=budgets), ["c", "d"], tags=tags)
    made = assets(world, *table, budgets=budgets, max_concurrency=1)
    result = world.materialize(made, table, tags=tags, raise_on_error=False)
    assert {one["partition"] for one in failed_records(result)} == {"a", "b"}
    assert Counter(event.partition for event in world.events("p/image")) == {"c": 2, "d": 2}
    carried_on = quote(made, resources=world.resources, scope="one")
    assert carried_on.counts == {"refused": 2, "finished": 2}


def test_a_budget_of_an_asset_or_partition_says_nothing_about_others(world: World) -> None:
    """Only the assets it holds for are refused, with the inputs' own failure downstream."""
    made = (
        Pipeline("p")
        .step(world.provider, model="m", name="image", prompt="draw")
        .step(world.provider, model="m", name="video", modality="video", input_from="image")
        .step(world.provider, model="m", name="other", prompt="x")
        .to_assets(budgets=[Budget(BudgetScope.ASSET, 0.5, match="p/image")])
    )
    quoted = {item.asset_key: item for item in quote(made, resources=world.resources).items}
    assert quoted["p/image"].outlook == "refused"
    assert quoted["p/video"].outlook == "impossible"
    assert quoted["p/video"].reason == "its input p/image is refused"
    result = world.materialize(made, raise_on_error=False)
    assert Counter(one["error"] for one in failed_records(result)) == {
        "BudgetExceededError": 1,
        "NotStarted": 1,
    }
    assert world.event("p/other") is not None


def test_what_just_fits_is_made_also_after_a_refusal(world: World) -> None:
    """Of 1.00 USD, after 0.90, there is room for 0.10, whatever floats make of it."""

    class BySubject(Priced):
        def estimate_cost(self, request: GenerationRequest) -> float:
            return float(request.prompt or 0)

    world.provider = BySubject(cost_usd=None)
    table = ["0.90", "0.50", "0.10"]
    made = assets(world, *table, budgets=[Budget(BudgetScope.RUN, 1.0)], max_concurrency=1)
    result = world.materialize(made, table, raise_on_error=False)
    assert [one["partition"] for one in failed_records(result)] == ["0.50"]
    assert world.materialized("p/image") == {"0.90", "0.10"}


def test_a_refusal_is_not_taken_for_that_of_another_budget_of_the_same_name(world: World) -> None:
    """The asset's own budget is used up, and the run's, which is called the same, is not."""
    house = [
        Budget(BudgetScope.ASSET, 0.5, match="p/image", name="house"),
        Budget(BudgetScope.RUN, 100.0, name="house"),
    ]
    made = (
        Pipeline("p")
        .step(world.provider, model="m", name="image", prompt="draw")
        .step(world.provider, model="m", name="other", prompt="x")
        .to_assets(budgets=house, max_concurrency=1)
    )
    result = world.materialize(made, raise_on_error=False)
    assert [one["asset"] for one in failed_records(result)] == ["p/image"]
    assert world.event("p/other") is not None


def test_a_price_nobody_knows_counts_as_the_budget_says_or_is_refused(world: World) -> None:
    """Never as free; the quote says which of the two it will be."""
    strict = assets(world, "odd", budgets=[Budget(BudgetScope.DAY, 9.0)])
    (item,) = quote(strict, resources=world.resources).items
    assert (item.outlook, item.cost_usd) == ("refused", None)
    assert "unknown_cost" in (item.reason or "")
    result = world.materialize(strict, "odd", raise_on_error=False)
    assert "unknown_cost" in failed_records(result)[0]["message"]
    tolerant = assets(world, "odd", budgets=[Budget(BudgetScope.DAY, 9.0, unknown_cost=2.0)])
    found = quote(tolerant, resources=world.resources)
    assert (len(found.unknown), found.budgets[0].wanted_usd) == (1, 2.0)
    assert world.materialize(tolerant, "odd").success


def test_functions_and_agents_keep_to_budgets_too(world: World) -> None:
    """The same option in the same place."""
    nothing = [Budget(BudgetScope.RUN, 0.1)]

    @generation_asset(provider=world.provider, model="m", budgets=nothing)
    def poster() -> str:
        return "a poster"

    agent = agent_asset(
        lambda context: Pipeline().step(world.provider, model="m", prompt="x"),
        CallableEvaluator(lambda result: True),
        name="agent",
        budgets=nothing,
    )
    for made in (poster, agent):
        result = world.materialize([made], raise_on_error=False)
        assert "BudgetExceededError" in str(failed_records(result))
    assert world.provider.submitted == 0


def two_steps(world: World, **options: Any) -> Any:
    """An agent with two calls in each of its three iterations, none of which is accepted at first."""

    def draw(context: Any) -> Pipeline:
        return (
            Pipeline("film")
            .step(world.provider, model="m", name="still", prompt=f"still {context.iteration}")
            .step(
                world.provider,
                model="m",
                name="clip",
                prompt=f"clip {context.iteration}",
                input_from="still",
            )
        )

    judge = CallableEvaluator(lambda result: result.run.steps[-1].prompt == "clip 2")
    return agent_asset(draw, judge, name="asset", key_prefix=["my"], **options)


@pytest.mark.parametrize("scope", [BudgetScope.ASSET, BudgetScope.PARTITION])
def test_what_an_agent_tries_counts_against_its_asset(world: World, scope: BudgetScope) -> None:
    """Every step of every iteration does, whatever it is called in the ledger."""
    budget = Budget(scope, 4.0, match="my/asset", unknown_cost=0.5)
    result = world.materialize([two_steps(world, budgets=[budget])], raise_on_error=False)
    assert f"budget {scope} my/asset has no room" in failed_records(result)[0]["message"]
    assert world.provider.submitted == 4
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}") as ledger:
        assert ledger.spend(scope, "my/asset").paid_usd == 4.0
        assert {row.asset_key for row in ledger.rows()} == {
            "agent/my/asset",
            "agent_steps/my/asset/still",
        }
    quoted = quote([two_steps(world, budgets=[budget])], resources=world.resources)
    (found,) = quoted.budgets
    assert (found.key.key, found.spent_usd, found.fits) == ("my/asset", 4.0, False)


@pytest.mark.parametrize("cost_usd", [1.0, None])
def test_an_agent_shows_what_all_its_steps_were_to_cost(
    world: World, cost_usd: float | None
) -> None:
    """Not only what the accepted one was: cost, estimate and what is reserved are of the loop."""
    world.provider.cost_usd = cost_usd
    assert world.materialize([two_steps(world)]).success
    values = {name: one.value for name, one in world.event("my/asset").metadata.items()}
    amounts = [values.get(n) for n in ("cost_usd", "estimated_cost_usd", "reserved_usd")]
    assert amounts == ([6.0, 6.0, None] if cost_usd else [None, 6.0, 6.0])


def test_a_lost_answer_is_held_unless_the_asset_would_rather_pay_twice(world: World) -> None:
    """What is held stays so for a person; `resubmit` sends it again, and the quote says so."""
    world.provider.errors = {"a": ProviderError("reset by peer", sent=None)}
    result = world.materialize(assets(world, "a"), "a", raise_on_error=False)
    assert failed_records(result)[0]["error"] == "HeldError"
    world.provider.errors = {}
    held = assets(world, "a")
    assert quote(held, resources=world.resources).counts == {"held": 1}
    assert not world.materialize(held, "a", raise_on_error=False).success
    again = assets(world, "a", on_ambiguous="resubmit")
    assert quote(again, resources=world.resources).counts == {"new": 1}
    assert world.materialize(again, "a").success
    assert world.provider.submits == {"a": 2}
    with pytest.raises(ConfigError, match="on_ambiguous"):
        assets(world, "a", on_ambiguous="perhaps")


def test_budgets_of_the_ledger_hold_for_every_asset(world: World) -> None:
    """They come from Dagster's config, and count together with the assets' own."""
    ledger = world.resources["ledger"]
    limited = LedgerResource(url=ledger.url, budgets=[{"scope": "provider", "limit_usd": 2.5}])
    made = assets(world, "a", "b", "c", budgets=[Budget(BudgetScope.PARTITION, 5.0)])
    quoted = quote(made, resources={**world.resources, "ledger": limited})
    assert quoted.counts == {"new": 2, "refused": 1}
    result = world.materialize(made, [*"abc"], resources={"ledger": limited}, raise_on_error=False)
    (failed,) = failed_records(result)
    assert "budget provider has no room" in failed["message"]
    assert len(world.materialized("p/image")) == 2
