"""Vendors' calls in the ledger: recorded once, and believed only about what nobody waits for."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from genblaze_dagster.errors import HeldError, LeaseHeldError, LedgerError
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, LedgerRow, SubmissionState
from genblaze_dagster.providers.protocol import JobState

INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")
LOST: dict[str, Any] = {"code": "timeout", "message": "no answer", "sent": None}
REFUSED: dict[str, Any] = {"code": "rate_limit", "message": "no", "sent": True}


def sent(ledger: Ledger, partition: str = "fox", **wish: Any) -> LedgerRow:
    intent = replace(INTENT, partition_key=partition, **wish)
    row = ledger.claim(intent, owner=f"w-{partition}").submission
    return ledger.mark_sending(row.id, f"w-{partition}")


def held(ledger: Ledger, partition: str = "fox") -> LedgerRow:
    row = sent(ledger, partition)
    return ledger.failed(row.id, f"w-{partition}", **LOST)


def call(
    ledger: Ledger,
    key: str | None,
    job: str = "job-1",
    *,
    delivery: str = "d-1",
    state: JobState | None = JobState.SUCCEEDED,
    vendor: str = "vendor",
):
    return ledger.called_back(vendor, delivery, job, state=state, submission_key=key)


def claim(ledger: Ledger, partition: str = "fox", owner: str = "next", **wish: Any):
    return ledger.claim(replace(INTENT, partition_key=partition, **wish), owner=owner)


def test_a_held_submission_gets_the_job_at_once(ledger: Ledger) -> None:
    """The next claim fetches it, and nothing is sent again."""
    row = held(ledger)
    told = call(ledger, row.run_id)
    assert (told.is_new, told.is_found) == (True, True)
    assert told.submission == ledger.get(row.id)
    assert (told.submission.state, told.submission.job_id) == (SubmissionState.SUBMITTED, "job-1")
    claimed = claim(ledger)
    assert (claimed.kind, claimed.submission.job_id) == (ClaimKind.RESUME, "job-1")


def test_a_worker_that_waits_is_left_alone(ledger: Ledger, clock: Any) -> None:
    """Before its answer is committed a call is recorded only, however late the answer comes."""
    row = sent(ledger)
    told = call(ledger, row.run_id)
    assert (told.is_new, told.is_found, told.submission) == (True, False, row)
    assert ledger.get(row.id) == row
    assert [one.job_id for one in ledger.callbacks_for(row)] == ["job-1"]
    assert ledger.take_callbacks() == []
    clock.advance(30)
    answered = ledger.submitted(row.id, "w-fox", "job-1")
    assert answered.state is SubmissionState.SUBMITTED


def test_what_came_before_the_answer_was_lost_is_found_after(ledger: Ledger) -> None:
    """A worker that loses the answer sees what was recorded; nothing was missed in between."""
    row = sent(ledger)
    call(ledger, row.run_id)
    lost = ledger.failed(row.id, "w-fox", **LOST)
    assert lost.state is SubmissionState.HELD
    (told,) = ledger.callbacks_for(lost)
    assert (told.vendor, told.job_id, told.state) == ("vendor", "job-1", JobState.SUCCEEDED)
    assert (told.submission_key, told.received_at) == (row.run_id, row.sending_at)


def test_a_killed_workers_job_is_taken_once_its_lease_has_ended(ledger: Ledger, clock: Any) -> None:
    """What was recorded under its lease waits for the next look."""
    row = sent(ledger)
    call(ledger, row.run_id)
    assert ledger.take_callbacks() == []
    clock.advance(61)
    (taken,) = ledger.take_callbacks()
    assert (taken.id, taken.state, taken.job_id) == (row.id, SubmissionState.SUBMITTED, "job-1")
    assert ledger.take_callbacks() == []
    assert claim(ledger).kind is ClaimKind.RESUME


def test_a_killed_workers_job_is_taken_when_the_call_comes_later(
    ledger: Ledger, clock: Any
) -> None:
    """After the lease nobody waits for the answer, although no claim has looked yet."""
    row = sent(ledger)
    clock.advance(61)
    assert call(ledger, row.run_id).is_found
    assert claim(ledger).kind is ClaimKind.RESUME


def test_the_next_claim_holds_and_finds_what_was_recorded(ledger: Ledger, clock: Any) -> None:
    """Whoever decides about the held row is told."""
    row = sent(ledger)
    call(ledger, row.run_id)
    clock.advance(61)
    with pytest.raises(HeldError):
        claim(ledger)
    assert [one.job_id for one in ledger.callbacks_for(ledger.get(row.id))] == ["job-1"]


def test_a_late_answer_after_a_call_is_refused(ledger: Ledger) -> None:
    """The worker stops; the job is the row's already, and the next claim fetches it."""
    row = held(ledger)
    call(ledger, row.run_id)
    with pytest.raises(LedgerError, match="no longer w-fox's"):
        ledger.submitted(row.id, "w-fox", "job-1")
    assert ledger.get(row.id).job_id == "job-1"


def test_a_delivery_counts_once(ledger: Ledger) -> None:
    """Its repetition changes nothing, even if it suddenly says something else."""
    row = held(ledger)
    assert call(ledger, row.run_id).is_new
    before = ledger.get(row.id)
    for job in ("job-1", "job-2"):
        again = call(ledger, row.run_id, job)
        assert (again.is_new, again.is_found, again.submission) == (False, False, before)
    assert [one.job_id for one in ledger.callbacks_for(before)] == ["job-1"]


def test_a_repetition_does_what_the_first_delivery_came_too_early_for(ledger: Ledger) -> None:
    """The first met a live lease; the second finds the row held."""
    row = sent(ledger)
    call(ledger, row.run_id)
    ledger.failed(row.id, "w-fox", **LOST)
    again = call(ledger, row.run_id)
    assert (again.is_new, again.is_found) == (False, True)


def test_deliveries_of_two_vendors_may_have_one_name(ledger: Ledger) -> None:
    """Their ids are their own."""
    assert call(ledger, None, "job-a").is_new
    assert call(ledger, None, "job-b", vendor="other").is_new


def test_what_is_settled_stays(ledger: Ledger) -> None:
    """A call about a stored or failed submission is recorded only."""
    rows = [sent(ledger, "a"), sent(ledger, "b")]
    ledger.stored(rows[0].id, "w-a", {"x": 1})
    ledger.failed(rows[1].id, "w-b", **REFUSED)
    for row in rows:
        before = ledger.get(row.id)
        told = call(ledger, row.run_id, f"job-{row.id}", delivery=row.id)
        assert (told.is_new, told.is_found, told.submission) == (True, False, before)
        assert ledger.get(row.id) == before


def test_another_job_for_a_known_one_is_recorded_only(ledger: Ledger) -> None:
    """The ledger keeps the job whose answer it has."""
    row = sent(ledger)
    row = ledger.submitted(row.id, "w-fox", "job-1")
    assert not call(ledger, row.run_id, "job-2").is_found
    assert ledger.get(row.id) == row
    assert [one.job_id for one in ledger.callbacks_for(row)] == ["job-2"]


def test_an_earlier_attempt_resolves_no_later_one(ledger: Ledger) -> None:
    """Each attempt after a failure has an address of its own."""
    row = sent(ledger)
    ledger.failed(row.id, "w-fox", **REFUSED)
    again = sent(ledger)
    ledger.failed(again.id, "w-fox", **LOST)
    old = call(ledger, row.run_id, "job-old")
    assert (old.is_found, old.submission.id) == (False, row.id)
    assert ledger.get(row.id).state is SubmissionState.HELD
    assert ledger.callbacks_for(ledger.get(row.id)) == ()
    assert ledger.take_callbacks() == []
    assert not call(ledger, f"{row.run_id}-2", "job-x", delivery="d-2").is_found
    present = call(ledger, f"{row.run_id}-1", "job-new", delivery="d-3")
    assert present.is_found
    assert ledger.get(row.id).job_id == "job-new"


def test_a_failed_jobs_name_is_not_taken_again(ledger: Ledger) -> None:
    """A job that an earlier attempt of the same submission had is no news."""
    row = sent(ledger)
    ledger.submitted(row.id, "w-fox", "job-1")
    ledger.failed(row.id, "w-fox", **REFUSED)
    sent(ledger)
    ledger.failed(row.id, "w-fox", **LOST)
    assert not call(ledger, f"{row.run_id}-1", "job-1").is_found


def test_a_deduplicated_submit_keeps_its_address(ledger: Ledger, clock: Any) -> None:
    """It is sent again under the same key, so a call about it is about the present attempt."""
    row = sent(ledger, deduplicates=True)
    clock.advance(61)
    again = claim(ledger, deduplicates=True)
    assert (again.kind, again.submission.attempt) == (ClaimKind.NEW, 2)
    assert not call(ledger, row.run_id).is_found
    clock.advance(61)
    assert call(ledger, row.run_id, delivery="d-2").is_found


@pytest.mark.parametrize("owner_state", ["present", "past"])
def test_a_job_of_another_submission_has_no_effect(ledger: Ledger, owner_state: str) -> None:
    """It is recorded; the submission stays held."""
    other = sent(ledger, "other")
    ledger.submitted(other.id, "w-other", "job-1")
    if owner_state == "past":
        ledger.failed(other.id, "w-other", **REFUSED)
        sent(ledger, "other")
    row = held(ledger)
    told = call(ledger, row.run_id)
    assert (told.is_new, told.is_found, told.submission) == (True, False, row)
    assert ledger.get(row.id) == row
    assert ledger.take_callbacks() == []


def test_an_address_without_a_key_names_what_it_is_about_and_no_more(ledger: Ledger) -> None:
    """By its job, of the present attempt or a past one; a job nobody knows is nobody's."""
    row = sent(ledger)
    ledger.submitted(row.id, "w-fox", "job-1")
    assert call(ledger, None).submission.id == row.id
    ledger.failed(row.id, "w-fox", **REFUSED)
    sent(ledger)
    assert call(ledger, None, delivery="d-2").submission.id == row.id
    lost = held(ledger, "lost")
    unknown = call(ledger, None, "job-9", delivery="d-3")
    assert (unknown.is_new, unknown.submission, unknown.is_found) == (True, None, False)
    assert ledger.get(lost.id) == lost
    assert ledger.take_callbacks() == []


@pytest.mark.parametrize("key", ["no-such-run", "", "-1", "x-0", "x-01", "x-1234567", "x-²"])
def test_unknown_keys_are_recorded_only(ledger: Ledger, key: str) -> None:
    """Whatever they look like."""
    told = call(ledger, key)
    assert (told.is_new, told.submission, told.is_found) == (True, None, False)


def test_a_key_that_two_run_ids_may_mean_decides_nothing(ledger: Ledger) -> None:
    """Run ids that callers make up may look like the key of another's second attempt."""
    ids = iter(["mine", "s-1", "mine-1", "s-2"])
    first = ledger.claim(INTENT, owner="w-fox", new_run_id=lambda: next(ids)).submission
    ledger.mark_sending(first.id, "w-fox")
    ledger.failed(first.id, "w-fox", **REFUSED)
    other = replace(INTENT, partition_key="b")
    second = ledger.claim(other, owner="w-b", new_run_id=lambda: next(ids)).submission
    ledger.mark_sending(second.id, "w-b")
    ledger.failed(second.id, "w-b", **LOST)
    sent(ledger)
    ledger.failed(first.id, "w-fox", **LOST)
    told = call(ledger, "mine-1")
    assert (told.submission, told.is_found) == (None, False)
    assert [ledger.callbacks_for(row) for row in ledger.rows()] == [(), ()]
    assert ledger.take_callbacks() == []
    assert call(ledger, "mine", "job-2", delivery="d-2").submission.id == first.id


def test_the_ends_of_jobs_are_told_by_key_and_by_job(ledger: Ledger) -> None:
    """A vendor may call a job by another name than the one it answered with."""
    rows = [ledger.submitted(sent(ledger, name).id, f"w-{name}", f"path/{name}") for name in "abcd"]
    call(ledger, rows[0].run_id, "a", delivery="1")
    call(ledger, None, "path/b", delivery="2", state=JobState.FAILED)
    call(ledger, rows[2].run_id, "c", delivery="3", state=JobState.RUNNING)
    call(ledger, rows[3].run_id, "d", delivery="4", state=None)
    assert ledger.ended_at_vendor(rows) == {rows[0].id, rows[1].id}
    assert ledger.ended_at_vendor([]) == set()


def test_many_submissions_are_looked_through_at_once(ledger: Ledger) -> None:
    """More than a statement takes parameters for."""
    rows = [sent(ledger, f"p{number}") for number in range(520)]
    call(ledger, rows[-1].run_id)
    assert ledger.ended_at_vendor(rows) == {rows[-1].id}


TELL = """
import os, sys
import psycopg  # Loaded once, for all.
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.providers.protocol import JobState

url, *deliveries = sys.argv[1:]
waiting, starting = os.pipe()
children = []
for delivery in deliveries:
    child = os.fork()
    if not child:
        os.close(starting)
        os.read(waiting, 1)
        id, job, key = delivery.split("|")
        with Ledger(url, busy_timeout=60) as ledger:
            told = ledger.called_back("v", id, job, state=JobState.RUNNING, submission_key=key)
        os.write(1, f"{told.is_new} {told.is_found}\\n".encode())
        os._exit(0)
    children.append(child)
os.close(starting)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""


def tell_at_once(url: str, *deliveries: str) -> list[str]:
    """Deliver from a process each, all at the same time."""
    command = [sys.executable, "-c", TELL, url, *deliveries]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return sorted(done.stdout.splitlines())


def test_two_receivers_take_one_delivery_once(ledger: Ledger, ledger_url: str) -> None:
    """One of six processes is the first, and gives the row its job."""
    row = held(ledger)
    told = tell_at_once(ledger_url, *[f"d-1|job-1|{row.run_id}"] * 6)
    assert told == [*["False False"] * 5, "True True"]
    assert ledger.get(row.id).job_id == "job-1"


def test_two_receivers_give_one_job_to_one_submission(ledger: Ledger, ledger_url: str) -> None:
    """Of six submissions that are told the same job at once, one gets it."""
    rows = [held(ledger, f"p{number}") for number in range(6)]
    told = tell_at_once(ledger_url, *(f"d-{row.id}|job-1|{row.run_id}" for row in rows))
    assert told == [*["True False"] * 5, "True True"]
    found = ledger.find(state=SubmissionState.SUBMITTED)
    assert [row.job_id for row in found] == ["job-1"]


def test_two_receivers_tell_two_jobs_of_one_submission(ledger: Ledger, ledger_url: str) -> None:
    """The first job is taken, and the other is on record."""
    row = held(ledger)
    told = tell_at_once(ledger_url, *(f"d-{n}|job-{n}|{row.run_id}" for n in range(6)))
    assert told == [*["True False"] * 5, "True True"]
    assert len(ledger.callbacks_for(ledger.get(row.id))) == 6


def test_a_call_and_the_loss_of_the_answer_never_miss_each_other(
    open_ledger: Callable[..., Ledger],
) -> None:
    """Whichever is first, the row ends with the job, or the worker's look afterwards shows it."""
    ledger, receiver = open_ledger(), open_ledger()
    with ThreadPoolExecutor(1) as other:
        for number in range(40):
            row = sent(ledger, f"p{number}")
            job = f"job-{number}"
            told = other.submit(call, receiver, row.run_id, job, delivery=job)
            ledger.failed(row.id, f"w-p{number}", **LOST)
            seen = [one.job_id for one in ledger.callbacks_for(row)]
            is_found = told.result().is_found
            now = ledger.get(row.id)
            assert (now.state is SubmissionState.SUBMITTED) == is_found
            assert seen == [job] or is_found


def test_a_call_and_a_claim_at_once_end_well(open_ledger: Callable[..., Ledger]) -> None:
    """A claim either holds what the call then resolves, or resumes what the call has found."""
    ledger, receiver = open_ledger(), open_ledger()
    with ThreadPoolExecutor(1) as other:
        for number in range(40):
            name = f"p{number}"
            row = sent(ledger, name)
            ledger.release(row.id, f"w-{name}")
            told = other.submit(call, receiver, row.run_id, name, delivery=name)
            with suppress(HeldError):
                assert claim(ledger, name).kind is ClaimKind.RESUME
            assert told.result().is_found
            assert ledger.get(row.id).job_id == name


def test_the_rows_of_a_call_hold_nothing_else(ledger: Ledger, ledger_url: str) -> None:
    """Vendor, delivery, job, state, key and time; there is no place for bodies or addresses."""
    call(ledger, "key-1")
    engine = create_engine(ledger_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        (stored,) = connection.execute(text("SELECT * FROM callbacks")).mappings()
    engine.dispose()
    assert {name: stored[name] for name in stored if name != "received_at"} == {
        "vendor": "vendor",
        "delivery_id": "d-1",
        "job_id": "job-1",
        "state": "succeeded",
        "submission_key": "key-1",
    }


def test_jobs_are_found_by_their_index(ledger: Ledger, ledger_url: str) -> None:
    """However many submissions there are, a vendor's job is one look-up."""
    rows = [sent(ledger, f"p{number}") for number in range(3)]
    for row in rows:
        ledger.submitted(row.id, row.owner, f"job-{row.id}")
    engine = create_engine(ledger_url.replace("postgresql:", "postgresql+psycopg:"))
    explain = "EXPLAIN QUERY PLAN"
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # For three rows it would not look anything up.
            connection.execute(text("SET enable_seqscan = off"))
            explain = "EXPLAIN"
        query = " ".join((explain, "SELECT id FROM submissions WHERE job_id = 'job-1'"))
        plan = "\n".join(map(str, connection.execute(text(query)).all()))
    engine.dispose()
    assert "submissions_of_job" in plan


def test_a_claim_while_a_call_is_only_recorded_still_waits(ledger: Ledger) -> None:
    """A call does not end a lease."""
    row = sent(ledger)
    call(ledger, row.run_id)
    with pytest.raises(LeaseHeldError):
        claim(ledger)
