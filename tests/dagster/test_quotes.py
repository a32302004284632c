import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster import Media, Pipeline, PromptTable, generation_asset
from genblaze_dagster.errors import ConfigError, HeldError, ModelError, PartitionKeyError
from genblaze_dagster.io_manager import MediaIOManager
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import Intent, Ledger
from genblaze_dagster.providers.protocol import GenerationRequest, Submission
from genblaze_dagster.quotes import Outlook, Quote, quote
from tests.support.providers import CountingProvider
from tests.support.world import World, prompts

KEYS = ["a", "b", "c"]


def quoted(world: World, assets: Sequence[dg.AssetsDefinition], **options: Any) -> Quote:
    return quote(assets, resources=world.resources, instance=world.instance, **options)


def reserved(world: World) -> float:
    """What the ledger says was expected of all it holds."""
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}") as ledger:
        return sum(row.estimated_cost_usd or 0.0 for row in ledger.rows())


def outlooks(found: Quote) -> dict[tuple[str, str | None], str]:
    return {(item.asset_key, item.partition_key): item.outlook.value for item in found.items}


class BySubject(CountingProvider):
    """Charges by the length of the prompt, and for videos by their input's size if told to."""

    by_input: bool = False

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        if self.by_input and request.inputs:
            return 0.001 * (request.inputs[0].asset.width or 0)
        return 0.013 * len(request.prompt or "")


@pytest.fixture
def provider(world: World) -> BySubject:
    world.provider = BySubject()
    return world.provider


def test_what_is_quoted_is_what_the_run_reserves(world: World, provider: BySubject) -> None:
    """Chained steps included, to the last digit; and quoting leaves nothing behind."""
    assets = world.pipeline().to_assets(partitions=prompts(*KEYS, "a-longer-one"))
    found = quoted(world, assets)
    assert found.counts == {"new": 8}
    assert not found.unknown
    assert provider.submitted == 0
    assert not (world.folder / "ledger.db").exists()
    assert not (world.folder / "store").exists()
    world.materialize(assets, ["a", "a-longer-one"])
    assert reserved(world) == pytest.approx(found.estimated_usd, abs=1e-12)
    assert found.estimated_usd == pytest.approx(0.013 * (2 * (3 * 6 + 17)))


def test_a_price_that_depends_on_an_input_is_unknown_until_it_exists(
    world: World, provider: BySubject
) -> None:
    """It is named and never free; when the input is stored it is known, and what is reserved."""
    provider.by_input = True
    assets = world.pipeline().to_assets(partitions=prompts("a"))
    found = quoted(world, assets)
    assert [item.asset_key for item in found.unknown] == ["story/video"]
    assert found.unknown[0].reason == "unknown until its input exists"
    world.materialize(assets, "a", selection=[dg.AssetKey(["story", "image"])])
    before = reserved(world)
    found = quoted(world, assets, selection="key:story/video")
    assert found.estimated_usd == pytest.approx(0.008)
    world.materialize(assets, "a", selection=[dg.AssetKey(["story", "video"])])
    assert reserved(world) - before == pytest.approx(found.estimated_usd)


def test_what_only_the_run_can_price_is_not_quoted_as_refused(
    world: World, provider: BySubject
) -> None:
    """The run knows the price when the input is made, and a strict budget lets it pass then."""
    provider.by_input = True
    budgets = [Budget(BudgetScope.DAY, 50.0)]
    assets = world.pipeline().to_assets(partitions=prompts("a"), budgets=budgets)
    found = quoted(world, assets)
    assert found.counts == {"new": 2}
    assert [item.reason for item in found.unknown] == ["unknown until its input exists"]
    assert found.passes
    assert world.materialize(assets, "a").success


def test_stored_media_is_quoted_as_what_the_run_would_take(world: World) -> None:
    """A new run asks anew; with reuse, or when a run is carried on, nothing is paid again."""
    table = prompts(*KEYS)
    assets = world.pipeline().to_assets(partitions=table)
    world.materialize(assets, ["a", "b"], tags={"dagster/root_run_id": "first"})
    assert quoted(world, assets).counts == {"new": 6}
    carried_on = quoted(world, assets, scope="first")
    assert carried_on.counts == {"finished": 4, "new": 2}
    assert [item.partition_key for item in carried_on.new] == ["c", "c"]
    again = world.pipeline().to_assets(partitions=table, reuse=True)
    assert quoted(world, again).counts == {"reused": 4, "new": 2}
    for media in world.ref("story/image", "a").media:
        (world.folder / "store" / media.key).unlink()
    lost = outlooks(quoted(world, again))
    assert lost["story/image", "a"] == "new"


def test_open_and_held_submissions_are_told_apart(world: World) -> None:
    """An open job is fetched, a live worker waited for, a lost answer left to a person."""
    table = prompts(*"abcd")
    assets = (
        Pipeline("one")
        .step(world.provider, model="m", name="image", prompt="draw {subject}")
        .to_assets(partitions=table)
    )
    world.materialize(assets, ["a", "d"])
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}") as ledger:
        for row in list(ledger.rows()):
            intent = Intent(
                asset_key=row.asset_key,
                partition_key=row.partition_key,
                scope="another",
                generation_key=row.generation_key,
                provider=row.provider,
                model=row.model,
            )
            _leave(ledger, intent)
    found = outlooks(quoted(world, assets))
    expected = {"a": "resumed", "b": "under_way", "c": "held", "d": "new"}
    assert {partition: state for (_, partition), state in found.items()} == expected
    assert not quoted(world, assets).passes


def _leave(ledger: Ledger, intent: Intent) -> None:
    """Leave submissions behind: of `a` a job, of `b` a live worker, of `c` a lost answer."""
    claimed = ledger.claim(intent, owner="w", lease_seconds=60).submission
    match intent.partition_key:
        case "a":
            ledger.mark_sending(claimed.id, "w")
            ledger.submitted(claimed.id, "w", "job-1")
            ledger.release(claimed.id, "w")
        case "c":
            ledger.mark_sending(claimed.id, "w")
            ledger.failed(claimed.id, "w", code=None, message="lost", sent=None)
            with pytest.raises(HeldError):
                ledger.claim(intent, owner="x")
        case "d":
            ledger.release(claimed.id, "w")
        case _:
            return


def test_prompt_functions_are_asked_as_in_the_run(world: World, provider: BySubject) -> None:
    """Theirs are priced by what they return; with unmade inputs they cannot be asked."""
    table = prompts("a", "bb")

    @generation_asset(provider=provider, model="m", partitions=table)
    def image(row: dict[str, Any]) -> str:
        if row["subject"] == "bb":
            raise ValueError("no prompt for bb")
        return "x" * 10

    @generation_asset(provider=provider, model="m", modality="video", partitions=table)
    def clip(image: Media) -> str:
        return f"{image.ref.media[0].width} wide"

    found = quoted(world, [image, clip])
    assert found.by_asset["image"].estimated_usd == pytest.approx(0.13)
    broken = next(item for item in found.items if item.outlook is Outlook.IMPOSSIBLE)
    assert (broken.partition_key, broken.reason) == ("bb", "ValueError: no prompt for bb")
    assert [item.partition_key for item in found.unknown] == ["a"]
    world.materialize([image, clip], "a", selection=[image])
    assert quoted(world, [image, clip], selection="clip", partition_keys=["a"]).new[0].cost_usd == (
        pytest.approx(0.013 * len("8 wide"))
    )


def test_partitions_and_assets_are_chosen_as_in_dagster(world: World) -> None:
    """Keys, ranges and selection syntax; what does not exist is refused by name."""
    assets = world.pipeline().to_assets(partitions=prompts(*"abcde"))
    found = quoted(world, assets, selection="+key:story/video", partition_range=("b", "d"))
    assert found.counts == {"new": 6}
    one = quoted(world, assets, selection="kind:video", partition_keys=["e"])
    assert outlooks(one) == {("story/video", "e"): "impossible"}
    assert "has no media in the store" in (one.items[0].reason or "")
    with pytest.raises(PartitionKeyError, match="'z'"):
        quoted(world, assets, partition_keys=["a", "z"])
    with pytest.raises(ConfigError, match="no generated assets"):
        quoted(world, assets, selection="group:other")


def test_stores_of_one_ledger_share_its_budgets(world: World) -> None:
    """Media in two stores are counted together, as the ledger counts them when they are made."""
    resources = {**world.resources, "archive": MediaIOManager(url=world.store_url + "-archive")}
    budgets = [Budget(BudgetScope.DAY, 0.06)]
    first = world.pipeline("first").to_assets(budgets=budgets)
    second = world.pipeline("second").to_assets(budgets=budgets, io_manager_key="archive")
    found = quote([*first, *second], resources=resources, selection="key:*/image")
    assert found.counts == {"new": 1, "refused": 1}
    (budget,) = found.budgets
    assert (budget.wanted_usd, budget.fits) == (0.08, False)


def test_dynamic_partitions_are_those_the_instance_knows(world: World) -> None:
    """With the rows from the store; without an instance nobody knows them, and that is said."""
    table = prompts("a", "bb")
    table.add_to(world.instance, "subjects", store=world.store)
    assets = world.pipeline().to_assets(partitions=PromptTable.dynamic_partitions("subjects"))
    found = quoted(world, assets)
    assert {item.partition_key for item in found.items} == {"a", "bb"}
    with pytest.raises(ConfigError, match="DAGSTER_HOME"):
        quote(assets, resources=world.resources)


def test_a_row_that_cannot_be_asked_is_named_with_its_reason(world: World) -> None:
    """A request the provider refuses is impossible, and so is what is made of it."""
    pipeline = world.pipeline().step(
        world.provider, model="no-such-model", name="last", prompt="x", input_from="video"
    )
    found = quoted(world, pipeline.to_assets(partitions=prompts("a")))
    assert outlooks(found)["story/last", "a"] == "impossible"
    assert "no-such-model" in (found.items[-1].reason or "")


@pytest.mark.slow
def test_a_thousand_partitions_are_quoted_in_seconds(world: World) -> None:
    """Two steps each, against a ledger that has them all already."""
    keys = [f"k{number:04}" for number in range(1000)]
    assets = world.pipeline().to_assets(partitions=prompts(*keys))
    started = time.monotonic()
    found = quoted(world, assets)
    assert found.counts == {"new": 2000}
    assert time.monotonic() - started < 60


def _one(world: World, **options: Any) -> list[dg.AssetsDefinition]:
    pipeline = Pipeline("one").step(
        world.provider, model="m", name="image", prompt="draw {subject}"
    )
    return pipeline.to_assets(partitions=prompts(*KEYS), **options)


def _left_unsent(world: World, assets: Sequence[dg.AssetsDefinition]) -> None:
    """A run reserves for every partition, and dies before it sends anything."""
    url = f"sqlite:///{world.folder / 'ledger.db'}"
    with Ledger(url) as ledger:
        for item in quoted(world, assets).items:
            assert item.intent is not None
            dead = replace(item.intent, scope="dead")
            ledger.release(ledger.claim(dead, owner="w").submission.id, "w")


@pytest.mark.parametrize("scope", [None, "another"])
def test_what_is_taken_over_needs_no_room_again(world: World, scope: str | None) -> None:
    """What an open submission of another run has reserved is not asked for a second time."""
    asset = Budget(BudgetScope.ASSET, 0.12)
    assets = _one(world, budgets=[asset, Budget(BudgetScope.RUN, 0.12)], max_concurrency=1)
    _left_unsent(world, assets)
    found = quoted(world, assets, scope=scope)
    assert found.counts == {"new": 3}
    assert [(b.key.scope, b.spent_usd, b.wanted_usd, b.fits) for b in found.budgets] == [
        ("asset", 0.12, 0.0, True),
        ("run", 0.0, 0.12, True),
    ]
    assert world.materialize(assets, KEYS).success
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}") as ledger:
        assert ledger.spend(BudgetScope.ASSET, "one/image").total_usd == 0.12
        assert len(list(ledger.rows())) == 3


def test_what_a_run_has_taken_over_is_finished_for_it(world: World) -> None:
    """Also when its submission was begun by another run: nothing is asked again."""
    assets = _one(world)
    _left_unsent(world, assets)
    world.materialize(assets, KEYS, tags={"dagster/root_run_id": "second"})
    assert quoted(world, assets, scope="second").counts == {"finished": 3}
    assert quoted(world, assets, scope="dead").counts == {"finished": 3}
    assert quoted(world, assets, scope="third").counts == {"new": 3}


def test_deleted_media_is_asked_for_anew_and_not_taken_from_elsewhere(world: World) -> None:
    """As in the run, for which that is another wish."""
    assets = _one(world, reuse=True)
    tags = {"dagster/root_run_id": "first"}
    world.materialize(assets, KEYS, tags=tags)
    media = [world.ref("one/image", key).media[0].key for key in KEYS]
    (world.folder / "store" / media[0]).unlink()
    found = quoted(world, assets, scope="first")
    assert outlooks(found) == {
        ("one/image", "a"): "new",
        ("one/image", "b"): "finished",
        ("one/image", "c"): "finished",
    }
    submitted = world.provider.submitted
    world.materialize(assets, KEYS, tags=tags)
    assert world.provider.submitted == submitted + 1
    assert quoted(world, assets, scope="first").counts == {"finished": 3}


class Breaking(CountingProvider):
    """Its first model gives nothing."""

    async def submit(self, request: GenerationRequest) -> Submission:
        if request.model == "m":
            raise ModelError("there is no such model")
        return await super().submit(request)


@pytest.mark.parametrize("delivers", [True, False])
def test_a_model_that_failed_in_a_run_is_not_asked_again_by_it(
    world: World, delivers: bool
) -> None:
    """The one that stood in for it is finished, or asked next."""
    provider = Breaking()
    pipeline = Pipeline("one").step(
        provider, model="m", name="image", prompt="draw {subject}", fallback_models=["spare"]
    )
    assets = pipeline.to_assets(partitions=prompts("a"))
    if delivers:
        world.materialize(assets, "a", tags={"dagster/root_run_id": "first"})
    else:
        _refused(world, assets)
    (item,) = quoted(world, assets, scope="first").items
    assert (item.model, item.outlook) == ("spare", "finished" if delivers else "new")
    assert quoted(world, assets).items[0].model == "m"


def _refused(world: World, assets: Sequence[dg.AssetsDefinition]) -> None:
    """The declared model has failed in a run, which ended before it asked another."""
    (item,) = quoted(world, assets).items
    assert item.intent is not None
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}") as ledger:
        row = ledger.claim(replace(item.intent, scope="first"), owner="w").submission
        ledger.mark_sending(row.id, "w")
        ledger.failed(row.id, "w", code="model_error", message="none", sent=True)
