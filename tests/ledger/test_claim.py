"""What a claim gives, for every history an intent can have."""

from dataclasses import replace

import pytest

from genblaze_dagster.errors import HeldError, LeaseHeldError, LedgerError
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, SubmissionState

INTENT = Intent(
    asset_key="media/image",
    partition_key="fox",
    scope="run-1",
    generation_key="g" * 64,
    provider="vendor",
    model="model-1",
)
OTHER_SCOPE = replace(INTENT, scope="run-2")
DEDUPLICATING = replace(INTENT, deduplicates=True)
RESULT = {"media": ["sha"], "nested": {"n": 1, "f": 0.5, "none": None}}


def test_a_new_intent_gets_a_submission_with_its_own_ids(ledger, clock):
    """The first claim records the intent with run and step id before anything is sent."""
    ids = iter(["run-id", "step-id"])
    claim = ledger.claim(INTENT, owner="a", lease_seconds=30, new_run_id=lambda: next(ids))
    row = claim.submission
    assert claim.kind is ClaimKind.NEW
    assert (row.run_id, row.step_id) == ("run-id", "step-id")
    assert (row.asset_key, row.partition_key, row.scope) == ("media/image", "fox", "run-1")
    assert (row.provider, row.model, row.attempt) == ("vendor", "model-1", 1)
    assert row.state is SubmissionState.INTENDED
    assert row.created_at == clock.now
    assert (row.lease_expires_at - clock.now).total_seconds() == 30
    assert (row.sending_at, row.job_id, row.cost_usd, row.result) == (None, None, None, None)
    assert ledger.get(row.id) == row


def test_run_ids_are_time_ordered_by_default(ledger):
    """Later submissions have greater run ids, so manifests list in time order."""
    rows = [
        ledger.claim(replace(INTENT, partition_key=str(n)), owner="a").submission for n in range(20)
    ]
    assert [r.run_id for r in rows] == sorted(r.run_id for r in rows)
    assert [r.id for r in ledger.rows()] == [r.id for r in rows]


def test_a_live_lease_keeps_others_away_and_says_for_how_long(ledger, clock):
    """A second worker is told when to come back, in whichever scope it works."""
    ledger.claim(INTENT, owner="a", lease_seconds=60)
    clock.advance(45)
    for intent in (INTENT, OTHER_SCOPE):
        with pytest.raises(LeaseHeldError, match="media/image, partition fox") as held:
            ledger.claim(intent, owner="b")
        assert held.value.retry_after == 15
        assert held.value.transient


def test_a_renewed_lease_outlives_its_first_end(ledger, clock):
    """A heartbeat keeps others away; without one the lease ends."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=60).submission
    clock.advance(50)
    ledger.renew(row.id, "a", 60)
    clock.advance(50)
    with pytest.raises(LeaseHeldError):
        ledger.claim(INTENT, owner="b")
    clock.advance(11)
    assert ledger.claim(INTENT, owner="b").kind is ClaimKind.NEW


def test_other_partitions_assets_and_generations_are_independent(ledger):
    """A lease covers one asset, partition and generation key, and None is a partition of its own."""
    ledger.claim(INTENT, owner="a")
    for other in (
        replace(INTENT, partition_key="owl"),
        replace(INTENT, partition_key=None),
        replace(INTENT, asset_key="media/video"),
        replace(INTENT, generation_key="h" * 64),
    ):
        assert ledger.claim(other, owner="b").kind is ClaimKind.NEW
    unpartitioned = ledger.find(partition_key="")
    assert [row.partition_key for row in unpartitioned] == [None]


def test_an_unsent_submission_is_taken_over_as_new(ledger, clock):
    """Nothing was sent: the next worker submits under the same run id."""
    first = ledger.claim(INTENT, owner="a", lease_seconds=10).submission
    clock.advance(11)
    claim = ledger.claim(INTENT, owner="b")
    assert claim.kind is ClaimKind.NEW
    assert (claim.submission.id, claim.submission.run_id) == (first.id, first.run_id)
    assert (claim.submission.owner, claim.submission.attempt) == ("b", 2)
    with pytest.raises(LedgerError, match="no longer a's"):
        ledger.mark_sending(first.id, "a")


@pytest.mark.parametrize("intent", [INTENT, OTHER_SCOPE])
@pytest.mark.parametrize("succeeded", [False, True])
def test_a_known_job_is_resumed_from_any_scope(ledger, clock, intent, succeeded):
    """An accepted job is never submitted again, whoever died."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=10).submission
    ledger.mark_sending(row.id, "a")
    ledger.submitted(row.id, "a", "job-7", estimated_seconds=12.5)
    if succeeded:
        ledger.succeeded(row.id, "a", cost_usd=0.25)
    clock.advance(11)
    claim = ledger.claim(intent, owner="b")
    assert claim.kind is ClaimKind.RESUME
    resumed = claim.submission
    assert (resumed.id, resumed.job_id, resumed.attempt) == (row.id, "job-7", 1)
    assert resumed.estimated_seconds == 12.5
    assert resumed.state is (SubmissionState.SUCCEEDED if succeeded else SubmissionState.SUBMITTED)
    assert resumed.cost_usd == (0.25 if succeeded else None)


def test_both_scopes_are_served_by_a_submission_taken_over(ledger, clock):
    """The scope that lost its worker does not pay again after another scope finished its job."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=10).submission
    ledger.mark_sending(row.id, "a")
    ledger.submitted(row.id, "a", "job-7")
    clock.advance(11)
    ledger.claim(OTHER_SCOPE, owner="b")
    ledger.stored(row.id, "b", RESULT, 0.5)
    for intent in (INTENT, OTHER_SCOPE):
        claim = ledger.claim(intent, owner="c")
        assert claim.kind is ClaimKind.FINISHED
        assert claim.submission.id == row.id


def test_a_stored_intent_is_finished_and_gives_its_result(ledger):
    """Every retry inside one scope meets what is stored, without a lease."""
    row = ledger.claim(INTENT, owner="a").submission
    ledger.mark_sending(row.id, "a")
    ledger.stored(row.id, "a", RESULT, 0.04)
    claim = ledger.claim(INTENT, owner="b")
    assert claim.kind is ClaimKind.FINISHED
    assert claim.submission.result == RESULT
    assert (claim.submission.cost_usd, claim.submission.lease_expires_at) == (0.04, None)


def test_a_new_scope_is_a_new_generation(ledger):
    """Materialising again is a new intent with a run id of its own."""
    first = ledger.claim(INTENT, owner="a").submission
    ledger.mark_sending(first.id, "a")
    ledger.stored(first.id, "a", RESULT)
    second = ledger.claim(OTHER_SCOPE, owner="a")
    assert second.kind is ClaimKind.NEW
    assert second.submission.id != first.id
    assert second.submission.run_id != first.run_id


def test_reuse_takes_the_newest_equal_generation_of_any_asset(ledger):
    """With `reuse` an equal generation key is enough; without it nothing is shared."""
    elsewhere = replace(INTENT, asset_key="other", partition_key=None, scope="old")
    for scope in ("old", "newer"):
        row = ledger.claim(replace(elsewhere, scope=scope), owner="a").submission
        ledger.mark_sending(row.id, "a")
        ledger.stored(row.id, "a", {"made in": scope})
    claim = ledger.claim(replace(INTENT, reuse=True), owner="b")
    assert claim.kind is ClaimKind.REUSED
    assert claim.submission.result == {"made in": "newer"}
    assert ledger.claim(INTENT, owner="b").kind is ClaimKind.NEW
    different = replace(INTENT, generation_key="h" * 64, reuse=True)
    assert ledger.claim(different, owner="b").kind is ClaimKind.NEW


def test_reuse_ignores_what_is_not_stored(ledger):
    """Unfinished and failed generations of other partitions give nothing to reuse."""
    row = ledger.claim(replace(INTENT, partition_key="owl"), owner="a").submission
    assert ledger.claim(replace(INTENT, reuse=True), owner="b").kind is ClaimKind.NEW
    ledger.failed(row.id, "a", code="x", message="x", sent=False)
    other = replace(INTENT, partition_key="elk", reuse=True)
    assert ledger.claim(other, owner="b").kind is ClaimKind.NEW


def test_reuse_is_served_while_the_own_answer_is_lost(ledger):
    """An equal stored generation needs no decision about the held one."""
    held = ledger.claim(INTENT, owner="a").submission
    ledger.mark_sending(held.id, "a")
    ledger.failed(held.id, "a", code="timeout", message="no answer", sent=None)
    twin = ledger.claim(replace(INTENT, partition_key="owl"), owner="a").submission
    ledger.mark_sending(twin.id, "a")
    ledger.stored(twin.id, "a", RESULT)
    assert ledger.claim(replace(INTENT, reuse=True), owner="b").kind is ClaimKind.REUSED
    with pytest.raises(HeldError):
        ledger.claim(INTENT, owner="b")


def test_a_failed_attempt_is_archived_with_its_cost(ledger):
    """A retry keeps the run id, and what the failure cost is not forgotten."""
    row = ledger.claim(INTENT, owner="a").submission
    ledger.mark_sending(row.id, "a")
    ledger.submitted(row.id, "a", "job-1")
    ledger.failed(row.id, "a", code="model_error", message="it broke", sent=True, cost_usd=0.1)
    again = ledger.claim(INTENT, owner="b")
    assert again.kind is ClaimKind.NEW
    fresh = again.submission
    assert (fresh.id, fresh.run_id, fresh.attempt) == (row.id, row.run_id, 2)
    assert (fresh.job_id, fresh.cost_usd, fresh.error_code) == (None, None, None)
    assert (fresh.sending_at, fresh.submitted_at, fresh.finished_at) == (None, None, None)
    (past,) = ledger.past_attempts(row.id)
    assert (past.attempt, past.job_id, past.cost_usd) == (1, "job-1", 0.1)
    assert (past.error_code, past.error_message) == ("model_error", "it broke")


def test_a_lost_answer_holds_the_generation_for_every_scope(ledger, clock):
    """A worker that died while sending leaves a row nobody submits again by itself."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=10).submission
    ledger.mark_sending(row.id, "a")
    clock.advance(11)
    for intent in (OTHER_SCOPE, INTENT):
        with pytest.raises(HeldError, match="resolve") as held:
            ledger.claim(intent, owner="b")
        assert held.value.submission_id == row.id
        assert not held.value.transient
    assert ledger.get(row.id).state is SubmissionState.HELD


def test_a_late_answer_settles_a_held_submission(ledger, clock):
    """The worker that sent may still report the job, though others gave it up for lost."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=10).submission
    ledger.mark_sending(row.id, "a")
    clock.advance(11)
    with pytest.raises(HeldError):
        ledger.claim(INTENT, owner="b")
    with pytest.raises(LedgerError, match="no longer b's"):
        ledger.submitted(row.id, "b", "forged")
    ledger.submitted(row.id, "a", "job-9")
    claim = ledger.claim(INTENT, owner="b")
    assert (claim.kind, claim.submission.job_id) == (ClaimKind.RESUME, "job-9")


def test_a_lost_answer_of_a_deduplicating_vendor_is_sent_again(ledger, clock):
    """The same run id is the same idempotency key, so a second submit cannot be billed twice."""
    row = ledger.claim(DEDUPLICATING, owner="a", lease_seconds=10).submission
    ledger.mark_sending(row.id, "a")
    clock.advance(11)
    claim = ledger.claim(replace(DEDUPLICATING, scope="run-2"), owner="b")
    assert claim.kind is ClaimKind.NEW
    assert (claim.submission.run_id, claim.submission.answer_lost) == (row.run_id, True)
    assert ledger.mark_sending(row.id, "b").sending_at == clock.now


@pytest.mark.parametrize("sent", [False, True])
def test_a_possibly_accepted_key_is_not_given_up_by_a_later_failure(ledger, sent):
    """A refusal says nothing about the lost answer: every scope keeps sending under that key."""
    row = ledger.claim(DEDUPLICATING, owner="a").submission
    ledger.mark_sending(row.id, "a")
    ledger.failed(row.id, "a", code="timeout", message="no answer", sent=None)
    ledger.claim(DEDUPLICATING, owner="b")
    ledger.mark_sending(row.id, "b")
    failed = ledger.failed(row.id, "b", code="rate_limit", message="slow down", sent=sent)
    assert (failed.state, failed.error_code) == (SubmissionState.INTENDED, "rate_limit")
    claim = ledger.claim(replace(DEDUPLICATING, scope="run-2"), owner="c")
    assert (claim.kind, claim.submission.run_id) == (ClaimKind.NEW, row.run_id)
    ledger.mark_sending(row.id, "c")
    ledger.submitted(row.id, "c", "job-1")
    ledger.failed(row.id, "c", code="model_error", message="it failed", sent=True)
    claim = ledger.claim(replace(DEDUPLICATING, scope="run-3"), owner="d")
    assert claim.submission.run_id != row.run_id


def test_an_output_lost_with_its_worker_is_held(ledger, clock):
    """A one-call vendor has answered and was paid; there is no job id to fetch it again."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=10).submission
    ledger.mark_sending(row.id, "a")
    ledger.succeeded(row.id, "a", cost_usd=0.5)
    clock.advance(11)
    with pytest.raises(HeldError):
        ledger.claim(INTENT, owner="b")
    assert ledger.get(row.id).cost_usd == 0.5


@pytest.mark.parametrize("job_id", [None, "found-job"])
def test_a_person_resolves_a_held_submission(ledger, job_id):
    """With a job id the next claim fetches it; without one the next claim submits."""
    row = ledger.claim(INTENT, owner="a").submission
    ledger.mark_sending(row.id, "a")
    ledger.failed(row.id, "a", code="timeout", message="no answer", sent=None)
    ledger.resolve(row.id, job_id=job_id)
    claim = ledger.claim(INTENT, owner="b")
    assert claim.kind is (ClaimKind.NEW if job_id is None else ClaimKind.RESUME)
    assert (claim.submission.id, claim.submission.job_id) == (row.id, job_id)
    with pytest.raises(LedgerError, match="only a held one"):
        ledger.resolve(row.id)


def test_a_released_submission_is_free_at_once(ledger):
    """Cancelling gives the lease back; what was sent decides what the next claim may do."""
    row = ledger.claim(INTENT, owner="a").submission
    ledger.release(row.id, "a")
    assert ledger.claim(INTENT, owner="b").kind is ClaimKind.NEW
    ledger.mark_sending(row.id, "b")
    ledger.submitted(row.id, "b", "job-1")
    ledger.release(row.id, "b")
    assert ledger.claim(INTENT, owner="c").kind is ClaimKind.RESUME


def test_an_in_memory_ledger_works_from_its_own_process():
    """`sqlite://` keeps everything for as long as the object is open."""
    with Ledger("sqlite://") as memory:
        row = memory.claim(INTENT, owner="a").submission
        assert memory.get(row.id) == row


def test_neither_results_nor_parameters_show_in_representations(ledger):
    """A row's repr leaves the result out, which may name private files."""
    row = ledger.claim(INTENT, owner="a").submission
    ledger.mark_sending(row.id, "a")
    stored = ledger.stored(row.id, "a", {"secret": "do not show"})
    assert "do not show" not in repr(stored)
    assert repr(ledger).startswith("Ledger('")
