import dagster as dg
import pytest

from genblaze_dagster.errors import ModelError, ProviderUnavailableError
from genblaze_dagster.events import PartitionFailure
from genblaze_dagster.ledger.ledger import Ledger, SubmissionState
from tests.support.world import World, failed_records, prompts


def ledger_of(world: World) -> Ledger:
    return Ledger(f"sqlite:///{(world.folder / 'ledger.db').as_posix()}")


def test_an_event_leads_to_its_submission(world: World) -> None:
    """By the run id, which the ledger has; the vendor's job is named as well."""
    world.provider.jobs = True
    world.materialize(world.pipeline().to_assets(partitions=prompts("a")), "a")
    metadata = world.event("story/image", "a").metadata
    with ledger_of(world) as ledger:
        (row,) = ledger.find(run_id=str(metadata["run_id"].value))
    assert (row.asset_key, row.partition_key) == ("story/image", "a")
    assert metadata["job_id"].value == row.job_id
    assert metadata["how"].value == "generated"
    assert metadata["cost_usd"].value == row.cost_usd


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
        error.submission_id = "0199"  # type: ignore[attr-defined]  # What the Runner may add.
    failure = PartitionFailure.of(dg.AssetKey("image"), "a", error)
    assert failure.command == ("genblaze-dagster ledger show 0199" if known else "")
    assert not failure.is_held
