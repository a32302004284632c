"""How fast one account may submit, and how many jobs it may have open."""

import math
from dataclasses import replace
from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from genblaze_dagster.errors import AccountBusyError, BudgetExceededError, ConfigError
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger
from genblaze_dagster.providers.protocol import RateLimit
from tests.ledger.conftest import Clock

A = "account-a"
SLOW = RateLimit(requests=6, seconds=60, burst=2)
INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1", account=A)


def test_a_burst_leaves_at_once_and_the_rest_in_turn(ledger):
    """Each right is given once: who comes later waits longer, without asking again."""
    waits = [ledger.take(A, SLOW) for _ in range(5)]
    assert waits == pytest.approx([0, 0, 10, 20, 30])
    assert ledger.take("account-b", SLOW) == 0


def test_time_brings_back_rights_up_to_the_burst(ledger, clock):
    """After a long quiet time only the burst is there."""
    for _ in range(4):
        ledger.take(A, SLOW)
    clock.advance(25)
    assert ledger.take(A, SLOW) == pytest.approx(5)
    clock.advance(100_000)
    assert [ledger.take(A, SLOW) for _ in range(3)] == pytest.approx([0, 0, 10])


@pytest.mark.parametrize(
    ("limit", "waits"),
    [
        (RateLimit(requests=3, seconds=30), [0, 0, 0, 10, 20]),
        (RateLimit(requests=0.5, seconds=1), [0, 2, 4]),
        (RateLimit(), [0, 0, 0]),
        (RateLimit(concurrency=1), [0, 0, 0]),
    ],
)
def test_the_burst_is_the_requests_of_one_period_unless_given(ledger, limit, waits):
    """Less than one request per period still lets one leave; no requests given is no limit."""
    assert [ledger.take(A, limit) for _ in waits] == pytest.approx(waits)


@pytest.mark.parametrize(
    "limit",
    [
        RateLimit(requests=0),
        RateLimit(requests=-1),
        RateLimit(requests=1, seconds=0),
        RateLimit(requests=math.nan),
        RateLimit(requests=math.inf),
        RateLimit(requests=1, seconds=math.nan),
        RateLimit(requests=1, seconds=math.inf),
    ],
)
def test_a_limit_that_lets_nothing_leave_is_refused(ledger, limit):
    """It would wait for ever, or leave the bucket with tokens that are no number."""
    with pytest.raises(ConfigError, match="lets nothing leave"):
        ledger.take(A, limit)


def test_a_block_holds_everybody_back_and_then_starts_gently(ledger, clock):
    """After Retry-After one submit leaves, then the rate goes on; without a rate, all do."""
    ledger.take(A, SLOW)
    clock.advance(1000)
    ledger.block(A, 30)
    clock.advance(10)
    assert [ledger.take(A, SLOW) for _ in range(3)] == pytest.approx([20, 30, 40])
    clock.advance(100_000)
    assert [ledger.take(A, SLOW) for _ in range(3)] == pytest.approx([0, 0, 10])
    ledger.block("account-b", 30)
    clock.advance(10)
    assert [ledger.take("account-b", RateLimit()) for _ in range(2)] == pytest.approx([20, 20])
    assert ledger.take("account-b", SLOW) == pytest.approx(20)
    clock.advance(20)
    assert ledger.take("account-b", RateLimit()) == 0


def test_rights_given_before_a_block_are_not_given_again(ledger, clock):
    """Those who wait in turn go first; what they could not use during the block is not kept."""
    for _ in range(6):
        ledger.take(A, SLOW)
    ledger.block(A, 20)
    # Four wait for 10, 20, 30 and 40 seconds; the block ends after the second of them.
    assert ledger.take(A, SLOW) == pytest.approx(50)


def test_a_shorter_block_does_not_end_a_longer_one(ledger, clock):
    """Two answers in the wrong order: the longer wait holds."""
    ledger.block(A, 30)
    ledger.block(A, 5)
    assert ledger.take(A, RateLimit()) == pytest.approx(30)
    ledger.block(A, 40)
    assert ledger.take(A, RateLimit()) == pytest.approx(40)


def test_an_absurd_block_is_capped_and_told(ledger, clock, caplog):
    """A vendor or a clock that asks for days is asked again after an hour."""
    ledger.block(A, 1e6)
    assert ledger.take(A, SLOW) == pytest.approx(3600)
    assert "more than an hour from now; it is asked again at 2026-01-02T04:04:05" in caplog.text
    clock.advance(-86_400)
    assert ledger.take(A, RateLimit()) == pytest.approx(3600)
    clock.advance(3600)
    assert ledger.take(A, RateLimit()) == 0


def test_a_clock_set_back_neither_takes_rights_away_nor_adds_any(ledger, clock):
    """The wait stays that of the rights taken; small differences between machines change nothing."""
    ledger.take(A, SLOW)
    ledger.take(A, SLOW)
    clock.advance(-5)
    assert ledger.take(A, SLOW) == pytest.approx(10)
    clock.advance(5)
    assert ledger.take(A, SLOW) == pytest.approx(20)
    clock.advance(-86_400)
    assert ledger.take(A, SLOW) == pytest.approx(30)
    clock.advance(10)
    assert ledger.take(A, SLOW) == pytest.approx(30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    limit=st.builds(
        RateLimit,
        requests=st.floats(0.5, 50),
        seconds=st.floats(0.5, 60),
        burst=st.none() | st.integers(1, 20),
    ),
    steps=st.lists(
        st.one_of(
            st.just("take"),
            st.floats(0, 30),
            st.floats(0.1, 100).map(lambda seconds: ("block", seconds)),
        ),
        max_size=60,
    ),
)
def test_no_time_span_has_more_than_its_share(limit, steps):
    """Whatever the pauses and blocks: at most burst + rate x span rights in any span."""
    clock = Clock()
    rights = []
    with Ledger("sqlite://", clock=clock) as ledger:
        for step in steps:
            if step == "take":
                wait = ledger.take(A, limit)
                rights.append((clock.now + timedelta(seconds=wait)).timestamp())
            elif isinstance(step, tuple):
                ledger.block(A, step[1])
            else:
                clock.advance(step)
    burst = max(1.0, limit.requests if limit.burst is None else limit.burst)
    rights.sort()
    for index, start in enumerate(rights):
        for count, end in enumerate(rights[index:], start=1):
            assert count <= burst + (end - start) * limit.requests / limit.seconds + 0.01


def open_job(ledger: Ledger, number: int, *, submit: bool, limit: int | None = None) -> str:
    intent = replace(INTENT, partition_key=f"p{number}")
    row = ledger.claim(intent, owner=f"o{number}", concurrency=limit).submission
    if submit:
        ledger.mark_sending(row.id, f"o{number}")
        ledger.submitted(row.id, f"o{number}", f"job-{number}", estimated_seconds=7)
    return row.id


def test_an_account_with_its_fill_of_jobs_is_busy(ledger, clock):
    """Nothing is written; the error says when to come back; other accounts go on."""
    open_job(ledger, 1, submit=True, limit=2)
    open_job(ledger, 2, submit=False, limit=2)
    clock.advance(4)
    with pytest.raises(AccountBusyError, match="has 2 open jobs and may have 2") as busy:
        ledger.claim(INTENT, owner="b", concurrency=2)
    assert (busy.value.retry_after, busy.value.transient) == (3, True)
    assert len(list(ledger.rows())) == 2
    elsewhere = replace(INTENT, account="account-b")
    assert ledger.claim(elsewhere, owner="b", concurrency=2).kind is ClaimKind.NEW
    assert open_job(ledger, 3, submit=False, limit=3)


@pytest.mark.parametrize(
    "end",
    [
        lambda ledger, id: ledger.succeeded(id, "o1", cost_usd=0.1),
        lambda ledger, id: ledger.stored(id, "o1", {}),
        lambda ledger, id: ledger.failed(id, "o1", code="x", message="x", sent=True),
        lambda ledger, id: ledger.cancelled(id, "not wanted"),
    ],
    ids=["succeeded", "stored", "failed", "cancelled"],
)
def test_a_job_that_has_ended_makes_room(ledger, end):
    """What the vendor has finished no longer counts, fetched or not."""
    id = open_job(ledger, 1, submit=True)
    with pytest.raises(AccountBusyError):
        open_job(ledger, 2, submit=False, limit=1)
    end(ledger, id)
    assert open_job(ledger, 2, submit=False, limit=1)


def test_a_job_counts_whether_or_not_anybody_waits_for_it(ledger, clock):
    """It runs at the vendor; only what was never sent ends with its lease."""
    open_job(ledger, 1, submit=True)
    open_job(ledger, 2, submit=False)
    clock.advance(61)
    with pytest.raises(AccountBusyError, match="has 1 open jobs"):
        open_job(ledger, 3, submit=False, limit=1)
    clock.advance(86_400)
    assert open_job(ledger, 3, submit=False, limit=1)


def test_going_on_with_a_job_needs_no_free_place(ledger, clock):
    """Resuming, and taking over what was claimed, do not count a submission twice."""
    id = open_job(ledger, 1, submit=False, limit=1)
    again = replace(INTENT, partition_key="p1")
    assert ledger.claim(again, owner="o1", concurrency=1).submission.id == id
    ledger.mark_sending(id, "o1")
    ledger.submitted(id, "o1", "job-1")
    clock.advance(61)
    assert ledger.claim(again, owner="b", concurrency=1).kind is ClaimKind.RESUME


def test_no_money_is_said_before_no_place(ledger):
    """A refusal that stays is more useful than a wait."""
    open_job(ledger, 1, submit=True)
    priced = replace(INTENT, estimated_cost_usd=1.0)
    with pytest.raises(BudgetExceededError):
        ledger.claim(priced, owner="b", budgets=[Budget("day", 0.5)], concurrency=1)


@pytest.mark.parametrize("limit", [0, -1])
def test_an_account_that_may_have_no_job_at_all_is_refused(ledger, limit):
    """A claim would wait for a place for ever."""
    with pytest.raises(ConfigError, match=f"concurrency of vendor is {limit}, which lets no job"):
        ledger.claim(INTENT, owner="a", concurrency=limit)
