"""Every transition from every state: which are legal, what they change, and for whom."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.ledger import Intent, Ledger, LedgerRow, SubmissionState

INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")

INTENDED = "intended"
SENDING = "sending"
SUBMITTED = "submitted"
SUCCEEDED = "succeeded"
STORED = "stored"
FAILED = "failed"
HELD = "held"

Move = Callable[[Ledger, str, str], LedgerRow]


def fail(sent: bool | None) -> Move:
    return lambda ledger, id, owner: ledger.failed(
        id, owner, code="timeout", message="why", sent=sent
    )


MOVES: dict[str, Move] = {
    "mark_sending": lambda ledger, id, owner: ledger.mark_sending(id, owner),
    "submitted": lambda ledger, id, owner: ledger.submitted(id, owner, "job"),
    "succeeded": lambda ledger, id, owner: ledger.succeeded(id, owner, cost_usd=1.0),
    "stored": lambda ledger, id, owner: ledger.stored(id, owner, {"k": "v"}),
    "failed, not sent": fail(False),
    "failed, refused": fail(True),
    "failed, no answer": fail(None),
    "renew": lambda ledger, id, owner: ledger.renew(id, owner, 60),
    "release": lambda ledger, id, owner: ledger.release(id, owner),
    "resolve": lambda ledger, id, owner: ledger.resolve(id),
    "resolve to job": lambda ledger, id, owner: ledger.resolve(id, job_id="job"),
    "resolve as lost": lambda ledger, id, owner: ledger.resolve(id, lost=True),
}

WAYS: dict[str, tuple[str, ...]] = {
    INTENDED: (),
    SENDING: ("mark_sending",),
    SUBMITTED: ("mark_sending", "submitted"),
    SUCCEEDED: ("mark_sending", "submitted", "succeeded"),
    STORED: ("mark_sending", "stored"),
    FAILED: ("mark_sending", "failed, refused"),
    HELD: ("mark_sending", "failed, no answer"),
}

# state → move → state after it; whatever is missing is illegal.
LEGAL: dict[str, dict[str, str]] = {
    INTENDED: {
        "mark_sending": SENDING,
        "failed, not sent": FAILED,
        "failed, refused": FAILED,
        "failed, no answer": FAILED,
        "renew": INTENDED,
        "release": INTENDED,
    },
    SENDING: {
        "submitted": SUBMITTED,
        "succeeded": SUCCEEDED,
        "stored": STORED,
        "failed, not sent": FAILED,
        "failed, refused": FAILED,
        "failed, no answer": HELD,
        "renew": SENDING,
        "release": SENDING,
    },
    SUBMITTED: {
        "succeeded": SUCCEEDED,
        "stored": STORED,
        "failed, not sent": SUBMITTED,
        "failed, refused": FAILED,
        "failed, no answer": SUBMITTED,
        "renew": SUBMITTED,
        "release": SUBMITTED,
    },
    SUCCEEDED: {
        "succeeded": SUCCEEDED,
        "stored": STORED,
        "failed, not sent": SUCCEEDED,
        "failed, refused": FAILED,
        "failed, no answer": SUCCEEDED,
        "renew": SUCCEEDED,
        "release": SUCCEEDED,
    },
    STORED: {},
    FAILED: {},
    HELD: {
        "submitted": SUBMITTED,
        "succeeded": SUCCEEDED,
        "stored": STORED,
        "failed, not sent": FAILED,
        "failed, refused": FAILED,
        "failed, no answer": HELD,
        "resolve": FAILED,
        "resolve to job": SUBMITTED,
        "resolve as lost": FAILED,
    },
}

TABLE = [
    pytest.param(state, move, LEGAL[state].get(move), id=f"{state}-{move}")
    for state in WAYS
    for move in MOVES
]


def described(row: LedgerRow) -> str:
    if row.state is SubmissionState.INTENDED and row.sending_at is not None:
        return SENDING
    return row.state.value


def brought_to(ledger: Ledger, state: str) -> LedgerRow:
    row = ledger.claim(INTENT, owner="a").submission
    for move in WAYS[state]:
        row = MOVES[move](ledger, row.id, "a")
    assert described(row) == state
    return row


@pytest.mark.parametrize(("state", "move", "after"), TABLE)
def test_every_move_from_every_state(state, move, after):
    """A legal move leads where the table says; an illegal one raises and changes nothing."""
    with Ledger("sqlite://") as ledger:
        row = brought_to(ledger, state)
        if after is None:
            with pytest.raises(LedgerError, match=row.id):
                MOVES[move](ledger, row.id, "a")
            assert ledger.get(row.id) == row
        else:
            moved = MOVES[move](ledger, row.id, "a")
            assert described(moved) == after
            assert ledger.get(row.id) == moved


@pytest.mark.parametrize("state", WAYS)
def test_nobody_else_moves_a_submission(state):
    """Every transition of another owner raises and changes nothing; resolving is a person's."""
    with Ledger("sqlite://") as ledger:
        row = brought_to(ledger, state)
        for name, move in MOVES.items():
            if not name.startswith("resolve"):
                with pytest.raises(LedgerError):
                    move(ledger, row.id, "b")
        assert ledger.get(row.id) == row


@pytest.mark.parametrize("name", MOVES)
def test_an_unknown_submission_is_named(ledger, name):
    """A wrong id, or a wrong ledger, is said so."""
    with pytest.raises(LedgerError, match="submission nowhere is not in this ledger"):
        MOVES[name](ledger, "nowhere", "a")


def test_sending_twice_is_refused(ledger):
    """A request leaves once per claim, even when two tasks share an owner's name."""
    row = ledger.claim(INTENT, owner="a").submission
    ledger.mark_sending(row.id, "a")
    with pytest.raises(LedgerError, match="intended, sending"):
        ledger.mark_sending(row.id, "a")


def test_a_lost_poll_keeps_the_job_and_gives_up_the_lease(ledger):
    """Failing to reach the vendor says nothing about the job; the next claim resumes it."""
    row = brought_to(ledger, SUBMITTED)
    kept = ledger.failed(row.id, "a", code="timeout", message="vendor unreachable", sent=None)
    assert (kept.state, kept.job_id, kept.owner) == (SubmissionState.SUBMITTED, "job", None)
    assert kept.error_message == "vendor unreachable"
    resumed = ledger.claim(INTENT, owner="b").submission
    finished = ledger.stored(resumed.id, "b", {})
    assert (finished.error_code, finished.error_message) == (None, None)


def test_costs_are_kept_unless_a_newer_one_is_known(ledger):
    """`stored` without a cost keeps that of `succeeded`; an unknown cost stays NULL, never 0."""
    row = brought_to(ledger, SUCCEEDED)
    assert ledger.stored(row.id, "a", {}).cost_usd == 1.0
    other = ledger.claim(replace(INTENT, scope="run-2"), owner="a").submission
    ledger.mark_sending(other.id, "a")
    assert ledger.stored(other.id, "a", {}).cost_usd is None


def test_error_messages_are_cut(ledger):
    """A vendor's page-long error does not fill the ledger."""
    row = brought_to(ledger, SENDING)
    failed = ledger.failed(row.id, "a", code="unknown", message="é" * 2000, sent=True)
    assert failed.error_message == "é" * 500


def test_times_are_utc_whatever_zone_the_clock_has(tmp_path, clock):
    """Timestamps come back aware and in UTC; the instant is that of the clock."""
    from datetime import timedelta, timezone

    paris = timezone(timedelta(hours=2))
    with Ledger(tmp_path / "l.db", clock=lambda: clock().astimezone(paris)) as ledger:
        row = ledger.claim(INTENT, owner="a").submission
        sent = ledger.mark_sending(row.id, "a")
        finished = ledger.succeeded(row.id, "a", cost_usd=None, outputs_expire_at=clock())
    assert sent.sending_at == clock()
    assert sent.sending_at.utcoffset() == timedelta(0)
    assert finished.outputs_expire_at == clock()


def test_find_combines_filters(ledger):
    """Filters narrow each other; paging by id sees every row once."""
    for n in range(5):
        row = ledger.claim(replace(INTENT, partition_key=f"p{n}"), owner="a").submission
        ledger.mark_sending(row.id, "a")
        if n % 2:
            ledger.submitted(row.id, "a", f"job-{n}")
    waiting = ledger.find(state=SubmissionState.SUBMITTED, asset_key="media/image")
    assert [row.partition_key for row in waiting] == ["p1", "p3"]
    assert [row.partition_key for row in ledger.find(job_id="job-3")] == ["p3"]
    assert ledger.find(run_id=waiting[0].run_id) == waiting[:1]
    assert ledger.find(asset_key="elsewhere") == []
    paged = ledger.find(limit=2)
    while more := ledger.find(after_id=paged[-1].id, limit=2):
        paged += more
    assert paged == list(ledger.rows())
