"""What a claim would do, told beforehand: the same as the claim itself then does."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from genblaze_dagster.errors import HeldError, LeaseHeldError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger
from genblaze_dagster.ledger.prospects import NextStep
from tests.ledger.conftest import Clock

INTENT = Intent("a", "fox", "run-1", "key", "vendor", "m", estimated_cost_usd=0.5)


def claimed(ledger: Ledger) -> str:
    return ledger.claim(INTENT, owner="w", lease_seconds=60).submission.id


def unsent(ledger: Ledger) -> None:
    ledger.release(claimed(ledger), "w")


def sent(ledger: Ledger) -> str:
    id = claimed(ledger)
    ledger.mark_sending(id, "w")
    return id


def unanswered(ledger: Ledger) -> None:
    ledger.release(sent(ledger), "w")


def submitted(ledger: Ledger) -> None:
    id = sent(ledger)
    ledger.submitted(id, "w", "job")
    ledger.release(id, "w")


def stored(ledger: Ledger) -> None:
    ledger.stored(sent(ledger), "w", {"key": "x"}, 0.5)


def failed(ledger: Ledger) -> None:
    ledger.failed(sent(ledger), "w", code="model_error", message="no", sent=True)


def held(ledger: Ledger) -> None:
    ledger.failed(sent(ledger), "w", code=None, message="lost", sent=None)


def served(ledger: Ledger) -> None:
    """Begun by another run, and finished by the one that took it over."""
    unsent(ledger)
    id = ledger.claim(replace(INTENT, scope="run-2"), owner="v").submission.id
    ledger.mark_sending(id, "v")
    ledger.stored(id, "v", {"key": "x"}, 0.5)


SITUATIONS: list[tuple[Callable[[Ledger], Any] | None, dict[str, Any], NextStep]] = [
    (None, {}, NextStep.FIRST_ATTEMPT),
    (claimed, {}, NextStep.WAIT),
    (unsent, {}, NextStep.TAKE_OVER),
    (unsent, {"scope": "run-2"}, NextStep.TAKE_OVER),
    (unanswered, {}, NextStep.HOLD),
    (submitted, {"scope": "run-2"}, NextStep.RESUME),
    (stored, {}, NextStep.FINISHED),
    (stored, {"scope": "run-2"}, NextStep.FIRST_ATTEMPT),
    (stored, {"scope": "run-2", "asset_key": "b", "reuse": True}, NextStep.REUSED),
    (failed, {}, NextStep.ANOTHER_ATTEMPT),
    (failed, {"scope": "run-2"}, NextStep.FIRST_ATTEMPT),
    (held, {"scope": "run-2"}, NextStep.HELD),
    (served, {"scope": "run-2"}, NextStep.FINISHED),
]
KINDS: dict[NextStep, ClaimKind | type[Exception]] = {
    NextStep.FINISHED: ClaimKind.FINISHED,
    NextStep.REUSED: ClaimKind.REUSED,
    NextStep.RESUME: ClaimKind.RESUME,
    NextStep.WAIT: LeaseHeldError,
    NextStep.HOLD: HeldError,
    NextStep.HELD: HeldError,
}


@pytest.mark.parametrize(
    ("before", "wish", "step"),
    SITUATIONS,
    ids=[
        f"{before.__name__ if before else 'nothing'}-{'-'.join(map(str, wish.values())) or 'same'}"
        for before, wish, _ in SITUATIONS
    ],
)
def test_a_peek_tells_what_the_claim_does(
    ledger: Ledger,
    clock: Clock,
    before: Callable[[Ledger], Any] | None,
    wish: dict[str, Any],
    step: NextStep,
) -> None:
    """With the same submission, and without a trace."""
    if before is not None:
        before(ledger)
    intent = replace(INTENT, **wish)
    rows = list(ledger.rows())
    peek = ledger.peek(intent, now=clock())
    assert peek.step is step
    assert list(ledger.rows()) == rows
    is_known = (intent.partition_key, "key") in ledger.places(intent.asset_key, intent.scope)
    assert is_known is (step not in (NextStep.FIRST_ATTEMPT, NextStep.REUSED))
    expected = KINDS.get(step, ClaimKind.NEW)
    if not isinstance(expected, ClaimKind):
        with pytest.raises(expected):
            ledger.claim(intent, owner="x")
        return
    claim = ledger.claim(intent, owner="x")
    assert claim.kind is expected
    assert peek.row is None or claim.submission.id == peek.row.id


def test_what_is_taken_over_is_told_by_whose_spending_it_is(ledger: Ledger, clock: Clock) -> None:
    """Its asset and provider have reserved it, and the run that began it; not the next one."""
    unsent(ledger)
    taken = ledger.peek(replace(INTENT, scope="run-2"), now=clock()).taken_usd
    assert {(key.scope, key.key): usd for key, usd in taken.items()} == {
        (BudgetScope.RUN, "run-1"): 0.5,
        (BudgetScope.ASSET, "a"): 0.5,
        (BudgetScope.PARTITION, "a"): 0.5,
        (BudgetScope.PROVIDER, "vendor"): 0.5,
        (BudgetScope.DAY, clock().date().isoformat()): 0.5,
    }


def test_a_lease_ends_by_the_time_that_is_given(ledger: Ledger, clock: Clock) -> None:
    """Until then it is waited for."""
    claimed(ledger)
    assert ledger.peek(INTENT, now=clock() + timedelta(seconds=59)).step is NextStep.WAIT
    assert ledger.peek(INTENT, now=clock() + timedelta(seconds=61)).step is NextStep.TAKE_OVER


def test_what_is_made_for_an_asset_counts_there(ledger: Ledger) -> None:
    """Under whatever name: its budgets hold for it, and nobody else's do."""
    part = replace(INTENT, asset_key="agent/a", for_asset="a")
    budgets = [Budget(BudgetScope.ASSET, 0.1, match="agent/a")]
    ledger.claim(part, owner="w", budgets=budgets)
    assert ledger.spend(BudgetScope.ASSET, "a").reserved_usd == 0.5
    assert ledger.spend(BudgetScope.PARTITION, "a", partition_key="fox").reserved_usd == 0.5
    assert ledger.spend(BudgetScope.ASSET, "agent/a").total_usd == 0.0


def test_who_is_told_that_a_row_is_held_is_served_by_it(ledger: Ledger) -> None:
    """Once its result turns up, it is that run's too, and not paid again."""
    held(ledger)
    other = replace(INTENT, scope="run-2")
    with pytest.raises(HeldError):
        ledger.claim(other, owner="x")
    (row,) = ledger.rows()
    ledger.stored(row.id, "w", {"key": "x"}, 0.5)
    assert ledger.claim(other, owner="x").kind is ClaimKind.FINISHED


def test_a_row_that_its_owner_gave_up_is_settled_by_who_finds_it_held(ledger: Ledger) -> None:
    """Nobody else is left to say that its result is in the store."""
    unanswered(ledger)
    with pytest.raises(HeldError):
        ledger.claim(INTENT, owner="x")
    (row,) = ledger.rows()
    ledger.stored(row.id, "x", {"key": "x"}, 0.5)
    assert ledger.claim(INTENT, owner="y").kind is ClaimKind.FINISHED
