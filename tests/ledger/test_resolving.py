"""What a person, or a run that would rather pay twice, says about an answer that was lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from genblaze_dagster.errors import ConfigError, HeldError, LedgerError
from genblaze_dagster.ledger.failure import LOST
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, LedgerRow, SubmissionState

INTENT = Intent("media/image", "p0", "run-1", "g" * 64, "vendor", "m", estimated_cost_usd=0.1)


def sent(ledger: Ledger, intent: Intent = INTENT) -> LedgerRow:
    row = ledger.claim(intent, owner="a", lease_seconds=10).submission
    return ledger.mark_sending(row.id, "a")


def held(ledger: Ledger) -> LedgerRow:
    return ledger.failed(sent(ledger).id, "a", code="timeout", message="no answer", sent=None)


def answered(ledger: Ledger) -> LedgerRow:
    """The vendor has given the output itself, and the worker dies with it."""
    return ledger.succeeded(sent(ledger).id, "a", cost_usd=0.2)


@pytest.mark.parametrize("way", [sent, held, answered])
@pytest.mark.parametrize("decision", [{}, {"lost": True}, {"job_id": "job-9"}], ids=str)
def test_whoever_left_it_the_next_claim_goes_by_the_decision(ledger, clock, way, decision):
    """Held or not: once the lease has ended, a person need not wait for a run that holds it."""
    row = way(ledger)
    clock.advance(11)
    decided = ledger.resolve(row.id, **decision)
    assert (decided.owner, decided.lease_expires_at) == (None, None)
    assert decided.answer_lost is decision.get("lost", False)
    claim = ledger.claim(INTENT, owner="b")
    wanted = ClaimKind.RESUME if "job_id" in decision else ClaimKind.NEW
    assert (claim.kind, claim.submission.id) == (wanted, row.id)
    with pytest.raises(LedgerError, match="no longer a's"):
        ledger.submitted(row.id, "a", "job-1")


def test_a_lost_submission_says_so(ledger):
    """Its code stays; a past attempt of it goes on counting."""
    row = ledger.resolve(held(ledger).id, lost=True)
    assert (row.state, row.error_code, row.error_message) == (
        SubmissionState.FAILED,
        "timeout",
        LOST,
    )
    ledger.claim(INTENT, owner="b")
    (past,) = ledger.past_attempts(row.id)
    assert (past.answer_lost, past.reserved_usd, past.error_message) == (True, 0.1, LOST)


def test_what_a_worker_waits_for_is_not_decided(ledger, clock):
    """Before its lease ends, the answer may still come."""
    row = sent(ledger)
    with pytest.raises(LedgerError, match=f"{row.id} is intended, and a worker waits for its"):
        ledger.resolve(row.id)
    assert ledger.get(row.id) == row
    clock.advance(10)
    assert ledger.resolve(row.id).state is SubmissionState.FAILED


def test_what_was_never_sent_is_not_decided(ledger, clock):
    """There is nothing to look up."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=10).submission
    clock.advance(11)
    with pytest.raises(LedgerError, match="is intended; only a held one"):
        ledger.resolve(row.id)


def test_what_is_sent_again_by_itself_can_be_decided_too(ledger):
    """A deduplicating vendor's row, waiting for its next try, is over for good when it says no."""
    row = sent(ledger, replace(INTENT, deduplicates=True))
    open_ = ledger.failed(row.id, "a", code="timeout", message="no answer", sent=None)
    assert open_.state is SubmissionState.INTENDED
    assert ledger.resolve(row.id).state is SubmissionState.FAILED


@pytest.mark.parametrize(
    "decision",
    [
        {"job_id": "job-1", "lost": True},
        {"job_id": ""},
        {"job_id": " "},
        {"cost_usd": 0.1},
        {"job_id": "job-1", "cost_usd": 0.1},
        {"lost": True, "cost_usd": -0.1},
        {"lost": True, "cost_usd": float("nan")},
        {"lost": True, "cost_usd": float("inf")},
    ],
    ids=str,
)
def test_a_decision_is_one_thing(ledger, decision):
    """What contradicts itself, or is no money, changes nothing."""
    row = held(ledger)
    with pytest.raises(ConfigError):
        ledger.resolve(row.id, **decision)
    assert ledger.get(row.id) == row


def decided(
    id: str, together: threading.Barrier, person: Ledger, decision: dict[str, Any]
) -> LedgerRow | LedgerError:
    together.wait(60)
    try:
        return person.resolve(id, **decision)
    except LedgerError as exc:
        return exc


def test_of_many_who_decide_at_once_one_is_heard(open_ledger):
    """The others are told that it is decided, whatever they say; nothing is mixed of two."""
    ledger = open_ledger()
    decisions: list[dict[str, Any]] = [
        {},
        {"lost": True, "cost_usd": 0.3},
        {"lost": True},
        {"job_id": None},
    ]
    people = [open_ledger() for _ in decisions]
    for number in range(8):
        row = sent(ledger, replace(INTENT, partition_key=f"p{number}"))
        decisions[-1]["job_id"] = f"job-{number}"
        ledger.failed(row.id, "a", code="timeout", message="no answer", sent=None)
        decide = partial(decided, row.id, threading.Barrier(len(people)))
        with ThreadPoolExecutor(len(people)) as pool:
            said = list(pool.map(decide, people, decisions))
        (won,) = [each for each in said if isinstance(each, LedgerRow)]
        assert ledger.get(row.id) == won
        told = [str(each) for each in said if not isinstance(each, LedgerRow)]
        assert all(f"submission {row.id} is {won.state}; only a held one" in each for each in told)


def test_the_message_of_a_held_one_names_the_command(ledger, clock):
    """A person who reads it in a log has to look nothing up."""
    row = sent(ledger)
    clock.advance(11)
    with pytest.raises(HeldError, match=f"genblaze-dagster ledger resolve {row.id}") as caught:
        ledger.claim(INTENT, owner="b")
    assert caught.value.submission_id == row.id
