"""Questions to a ledger, and what people and sensors do with the answers."""

from dataclasses import replace
from datetime import timedelta

import pytest

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope, Spend
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, LedgerRow, SubmissionState
from genblaze_dagster.providers.protocol import RateLimit

INTENT = Intent("media/image", "p0", "run-1", "g" * 64, "vendor", "model-1")


@pytest.fixture
def rows(ledger, clock) -> list[LedgerRow]:
    """Intended; submitted with outputs that expire; stored; held; of another vendor and asset."""
    made = [
        ledger.claim(replace(INTENT, partition_key=f"p{number}"), owner="a").submission
        for number in range(4)
    ]
    for row in made[1:]:
        ledger.mark_sending(row.id, "a")
    soon = clock.now + timedelta(hours=1)
    ledger.submitted(made[1].id, "a", "job-1", outputs_expire_at=soon)
    ledger.stored(made[2].id, "a", {"done": True}, 0.5)
    ledger.failed(made[3].id, "a", code="timeout", message="no answer", sent=None)
    place = replace(INTENT, asset_key="media/song", provider="other", model="model-2")
    made.append(ledger.claim(place, owner="a", lease_seconds=600).submission)
    return made


def test_every_filter_finds_what_it_names(ledger, clock, rows):
    """Filters combine; the order is that of creation, or the other way round."""

    def found(**filters) -> list[int]:
        ids = [row.id for row in rows]
        return [ids.index(row.id) for row in ledger.find(**filters)]

    later = clock.now + timedelta(seconds=61)
    assert found() == [0, 1, 2, 3, 4]
    assert found(state=SubmissionState.HELD) == [3]
    assert found(states=[SubmissionState.HELD, SubmissionState.STORED]) == [2, 3]
    assert found(states=[]) == []
    assert found(provider="other") == found(model="model-2") == found(asset_key="media/song") == [4]
    assert found(provider="vendor", model="model-2") == []
    assert found(lease_expired_before=later) == [0, 1]
    assert found(outputs_expire_before=clock.now + timedelta(hours=2)) == [1]
    assert found(outputs_expire_before=clock.now) == []
    assert found(job_id="job-1", partition_key="p1", scope="run-1") == [1]
    assert found(newest_first=True, limit=2) == [4, 3]
    assert found(newest_first=True, limit=2, after_id=rows[3].id) == [2, 1]
    assert found(after_id=rows[1].id, limit=2) == [2, 3]


def test_rows_come_in_pages(ledger, rows):
    """Iterating meets every submission once, oldest first."""
    assert [row.id for row in ledger.rows()] == [row.id for row in rows]


def test_known_jobs_are_those_of_any_attempt(ledger, rows):
    """A job of a failed attempt is known as well; long lists are no trouble."""
    ledger.failed(rows[1].id, "a", code="model_error", message="broke", sent=True)
    again = ledger.claim(replace(INTENT, partition_key="p1"), owner="b").submission
    ledger.mark_sending(again.id, "b")
    ledger.submitted(again.id, "b", "job-2")
    unknown = [f"unknown-{number}" for number in range(40_000)]
    assert ledger.known_jobs(["job-1", *unknown, "job-2"]) == {"job-1", "job-2"}
    assert ledger.known_jobs([]) == set()


def test_the_end_of_outputs_is_kept_until_a_better_one_is_known(ledger, clock, rows):
    """What `submitted` recorded stays unless `succeeded` knows more."""
    soon = clock.now + timedelta(hours=1)
    kept = ledger.succeeded(rows[1].id, "a", cost_usd=None)
    assert kept.outputs_expire_at == soon
    later = soon + timedelta(hours=1)
    changed = ledger.succeeded(rows[1].id, "a", cost_usd=0.1, outputs_expire_at=later)
    assert changed.outputs_expire_at == later


@pytest.mark.parametrize("number", [0, 1, 3])
def test_an_open_or_held_submission_is_cancelled(ledger, rows, number):
    """Its worker is stopped by its next step, and the next claim submits anew."""
    row = ledger.cancelled(rows[number].id, "not wanted any more", cost_usd=0.25)
    assert (row.state, row.owner, row.cost_usd) == (SubmissionState.FAILED, None, 0.25)
    assert row.error_message == "not wanted any more"
    assert row.job_id == ("job-1" if number == 1 else None)
    for step in (ledger.mark_sending, ledger.release, ledger.renew):
        with pytest.raises(LedgerError, match="no longer a's"):
            step(row.id, "a")
    claim = ledger.claim(replace(INTENT, partition_key=row.partition_key), owner="b")
    assert claim.kind is ClaimKind.NEW
    with pytest.raises(LedgerError, match="stored; there is nothing to cancel"):
        ledger.cancelled(rows[2].id, "too late")


def test_one_job_is_never_given_to_two_submissions(ledger, rows):
    """A person who mistakes another's job for a lost one is told whose it is."""
    with pytest.raises(LedgerError, match=rf"that is submission {rows[1].id}'s"):
        ledger.resolve(rows[3].id, job_id="job-1")
    assert ledger.resolve(rows[3].id, job_id="job-9").state is SubmissionState.SUBMITTED


def test_a_claim_reserves_and_a_stored_submission_is_paid(ledger):
    """`budgets` of a claim and `spend` speak of the same money."""
    intent = replace(INTENT, estimated_cost_usd=0.5)
    row = ledger.claim(intent, owner="a", budgets=[Budget(BudgetScope.ASSET, 1.0)]).submission
    assert ledger.spend(BudgetScope.ASSET, "media/image") == Spend(0.0, 0.5, 0)
    ledger.mark_sending(row.id, "a")
    ledger.stored(row.id, "a", {}, 0.3)
    assert ledger.spend("partition", "media/image", partition_key="p0") == Spend(0.3, 0.0, 0)


def test_an_account_waits_for_its_turn_and_for_its_vendor(ledger, clock):
    """`take` says how long to wait; `block` makes everybody wait."""
    limit = RateLimit(requests=1, seconds=10)
    assert ledger.take("account", limit) == 0.0
    assert ledger.take("account", limit) == pytest.approx(10.0)
    ledger.block("account", 60)
    assert ledger.take("account", limit) >= 60
    assert ledger.take("another", limit) == 0.0
