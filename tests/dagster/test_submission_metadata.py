import dagster as dg
import pytest

from genblaze_dagster.errors import ModelError, ProviderUnavailableError
from genblaze_dagster.events import PartitionFailure
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import Ledger, SubmissionState
from tests.support.world import World, failed_records, prompts


def ledger_of(world: World) -> Ledger:
    return Ledger(f"sqlite:///{(world.folder / 'ledger.db').as_posix()}")


def test_an_event_leads_to_its_submission(world: World) -> None:
    """By its id and the run id; the vendor's job, and what was expected, are named as well."""
    world.provider.jobs = True
    world.materialize(world.pipeline().to_assets(partitions=prompts("a")), "a")
    metadata = world.event("story/image", "a").metadata
    with ledger_of(world) as ledger:
        (row,) = ledger.find(run_id=str(metadata["run_id"].value))
    assert (row.asset_key, row.partition_key) == ("story/image", "a")
    assert metadata["job_id"].value == row.job_id
    assert metadata["how"].value == "generated"
    assert metadata["submission_id"].value == row.id
    assert metadata["cost_usd"].value == row.cost_usd
    assert metadata["estimated_cost_usd"].value == row.estimated_cost_usd == 0.04
    assert "reserved_usd" not in metadata


@pytest.mark.parametrize("cost", [0.0, 2.0])
def test_whole_dollars_are_shown_like_others(world: World, cost: float) -> None:
    """A database may give them back as integers."""
    world.provider.cost_usd = cost
    world.materialize(world.pipeline().to_assets(partitions=prompts("a")), "a")
    metadata = world.event("story/image", "a").metadata
    assert (metadata["cost_usd"].value, metadata["estimated_cost_usd"].value) == (cost, cost)


def test_an_unknown_cost_is_shown_as_what_is_reserved(world: World) -> None:
    """It counts in budgets, and would otherwise be nowhere in Dagster."""
    budgets = [Budget(BudgetScope.DAY, 1.0, unknown_cost=0.25)]
    world.provider.cost_usd = None
    world.materialize(world.pipeline().to_assets(partitions=prompts("a"), budgets=budgets), "a")
    metadata = world.event("story/image", "a").metadata
    assert metadata["reserved_usd"].value == 0.25
    assert not {"cost_usd", "estimated_cost_usd"} & set(metadata)


def test_without_a_job_there_is_no_job_id(world: World) -> None:
    """A vendor that answers with the output itself has none."""
    world.materialize(world.pipeline().to_assets(partitions=prompts("a")), "a")
    metadata = world.event("story/image", "a").metadata
    assert "job_id" not in metadata
    assert "run_id" in metadata


def test_a_held_submission_is_named_with_what_decides_it(world: World) -> None:
    """The table of failures has the id and the command; the ledger has the submission."""
    world.failed_prompts(ProviderUnavailableError("reset", sent=None), "draw b")
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    result = world.materialize(assets, ["a", "b"], raise_on_error=False)
    held = next(one for one in failed_records(result) if one["error"] == "HeldError")
    with ledger_of(world) as ledger:
        row = ledger.get(str(held["submission"]))
    assert row.state is SubmissionState.HELD
    assert held["held"] is True
    assert held["command"] == (
        f"genblaze-dagster ledger resolve {row.id} --job JOB_ID | --not-submitted | --paid-lost"
    )
    others = [one for one in failed_records(result) if one is not held]
    assert [(one["submission"], one["held"], one["command"]) for one in others] == [("", False, "")]


@pytest.mark.parametrize("known", [True, False], ids=["named", "unnamed"])
def test_an_error_that_names_its_submission_leads_to_it(known: bool) -> None:
    """What is not held can be looked at."""
    error = ModelError("no", sent=True)
    if known:
        error.submission_id = "0199"
    failure = PartitionFailure.of(dg.AssetKey("image"), "a", error)
    assert failure.command == ("genblaze-dagster ledger show 0199" if known else "")
    assert not failure.is_held
