"""The rescue sensor and vendors' calls: what is called over is fetched now."""

from datetime import UTC, datetime, timedelta

import pytest

from genblaze_dagster.ledger.ledger import Intent, Ledger, LedgerRow
from genblaze_dagster.providers.protocol import JobState
from tests.dagster.test_rescue import evaluate, leave, requested
from tests.support.world import World

pytestmark = pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`")
IMAGE = "story/image"


def ledger_of(world: World) -> Ledger:
    return Ledger(f"sqlite:///{world.folder / 'ledger.db'}")


def called(world: World, partition: str, state: JobState = JobState.SUCCEEDED) -> None:
    """The vendor calls about the job of a partition."""
    with ledger_of(world) as ledger:
        (row,) = ledger.find(partition_key=partition)
        job = row.job_id or f"job-{row.id}"
        ledger.called_back(
            "counting", f"{row.id}-{state}", job, state=state, submission_key=row.run_id
        )


def left_unanswered(world: World, partition: str, seconds_ago: float) -> None:
    """A worker with a lease of a minute was killed so long ago, between its submit and the answer."""
    past = datetime.now(UTC) - timedelta(seconds=seconds_ago)
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}", clock=lambda: past) as ledger:
        intent = Intent(IMAGE, partition, "gone", f"g-{partition}", "counting", "m")
        row = ledger.claim(intent, owner="dead", lease_seconds=60).submission
        ledger.mark_sending(row.id, "dead")


def row_of(world: World, partition: str) -> LedgerRow:
    with ledger_of(world) as ledger:
        (row,) = ledger.find(partition_key=partition)
        return row


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_is_called_over_is_asked_for_without_grace(
    world: World, state: JobState
) -> None:
    """Its lease has just ended; others of the same age wait for Dagster's own retries."""
    leave(world, (IMAGE, "a", 1), (IMAGE, "c", 1), (IMAGE, "e", 1))
    assert requested(evaluate(world)) == []
    called(world, "c", state)
    called(world, "e", JobState.RUNNING)
    assert requested(evaluate(world)) == [(IMAGE, "c")]


def test_a_job_that_was_asked_for_before_is_asked_for_once_more(world: World) -> None:
    """The first run came too early; the call makes the next look worth while, once."""
    leave(world, (IMAGE, "a", 9))
    first = evaluate(world)
    assert requested(first) == [(IMAGE, "a")]
    assert requested(evaluate(world, first.cursor)) == []
    called(world, "a")
    second = evaluate(world, first.cursor)
    assert requested(second) == [(IMAGE, "a")]
    keys = [request.run_key for found in (first, second) for request in found.run_requests or []]
    assert len(set(keys)) == 2
    assert requested(evaluate(world, second.cursor)) == []


def test_a_worker_that_lives_is_left_alone(world: World) -> None:
    """It polls by itself."""
    leave(world, (IMAGE, "a", 1))
    called(world, "a")
    with ledger_of(world) as ledger:
        ledger.renew(row_of(world, "a").id, "dead", lease_seconds=60)
    assert requested(evaluate(world)) == []


def test_a_job_that_only_the_call_tells_of_is_asked_for(world: World) -> None:
    """Its worker was killed before the answer; the call came while the lease was live."""
    left_unanswered(world, "b", 10)
    called(world, "b")
    assert requested(evaluate(world)) == []
    assert row_of(world, "b").job_id is None
    left_unanswered(world, "d", 70)
    called(world, "d", JobState.RUNNING)
    assert requested(evaluate(world)) == [(IMAGE, "d")]
    assert row_of(world, "d").job_id == f"job-{row_of(world, 'd').id}"


def test_what_was_told_under_a_lease_is_taken_when_it_has_ended(world: World) -> None:
    """The sensor is the first to look."""
    left_unanswered(world, "b", 59)
    past = datetime.now(UTC) - timedelta(seconds=5)
    with Ledger(f"sqlite:///{world.folder / 'ledger.db'}", clock=lambda: past) as ledger:
        (row,) = ledger.find(partition_key="b")
        told = ledger.called_back(
            "counting", "d-1", "job-1", state=JobState.SUCCEEDED, submission_key=row.run_id
        )
        assert not told.is_found
        ledger.renew(row.id, "dead", lease_seconds=4)
    assert requested(evaluate(world)) == [(IMAGE, "b")]
    assert row_of(world, "b").job_id == "job-1"
