"""What budgets let pass, what they refuse, and what counts."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from genblaze_dagster.errors import BudgetExceededError, ConfigError, HeldError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope, Spend
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, LedgerRow, SubmissionState

INTENT = Intent(
    asset_key="media/image",
    partition_key="fox",
    scope="run-1",
    generation_key="g" * 64,
    provider="vendor",
    model="model-1",
    tenant_id="acme",
    estimated_cost_usd=0.1,
)
UNKNOWN = replace(INTENT, estimated_cost_usd=None)
DAY = Budget(BudgetScope.DAY, 1.0)
TODAY = "2026-01-02"


def other(number: int, intent: Intent = INTENT) -> Intent:
    return replace(intent, partition_key=f"p{number}")


def claim(ledger: Ledger, intent: Intent, *budgets: Budget, owner: str = "a") -> LedgerRow:
    claimed = ledger.claim(intent, owner=owner, lease_seconds=60, budgets=budgets)
    assert claimed.kind is ClaimKind.NEW
    return claimed.submission


def accept(ledger: Ledger, row: LedgerRow) -> None:
    ledger.mark_sending(row.id, row.owner)
    ledger.submitted(row.id, row.owner, f"job-{row.id}-{row.attempt}")


def store(ledger: Ledger, row: LedgerRow, cost: float | None) -> None:
    accept(ledger, row)
    ledger.stored(row.id, row.owner, {}, cost)


def fail(ledger: Ledger, row: LedgerRow, *, sent: bool | None, cost: float | None = None) -> None:
    ledger.failed(row.id, row.owner, code="x", message="x", sent=sent, cost_usd=cost)


def spent(ledger: Ledger) -> Spend:
    return ledger.spend(BudgetScope.DAY, TODAY)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"scope": "hour"}, "scope 'hour' is unknown; give one of run, asset"),
        ({"limit_usd": -1}, "limit_usd is -1"),
        ({"limit_usd": float("nan")}, "limit_usd is nan"),
        ({"limit_usd": float("inf")}, "limit_usd is inf"),
        ({"limit_usd": True}, "limit_usd is True"),
        ({"limit_usd": "20"}, "limit_usd is '20'"),
        (
            {"limit_usd": 1e300},
            "limit_usd is 1e.300; give a number of USD from 0 to 1000000000000$",
        ),
        ({"limit_usd": 10**400}, "limit_usd is 10"),
        ({"unknown_cost": 1e300}, "unknown_cost is 1e.300"),
        ({"unknown_cost": -0.1}, "unknown_cost is -0.1"),
        ({"match": "2026-01-02"}, "cannot restrict a budget of scope day"),
        ({"scope": "tenant", "match": ""}, "match is empty; give a tenant id"),
        ({"scope": "tenant", "match": "  "}, "match is empty; give a tenant id"),
        ({"scope": "tenant", "match": 7}, "match is 7; give a tenant id as a text"),
    ],
)
def test_an_unusable_budget_is_refused_at_once(fields, names):
    """The message names the field, its value and what is allowed."""
    with pytest.raises(ConfigError, match=names):
        Budget(**{"scope": "day", "limit_usd": 1.0, **fields})


def test_a_scope_can_be_given_as_text():
    """Configuration holds text; the budget holds the scope, and is called by it."""
    budget = Budget("tenant", 5, match="acme")
    assert budget.scope is BudgetScope.TENANT
    assert (budget.label, replace(budget, name="trial").label) == ("tenant acme", "trial")


@pytest.mark.parametrize("estimate", [-0.01, float("nan"), float("inf")])
def test_an_estimate_that_is_no_money_is_refused(estimate):
    """It would make room, or pass every limit."""
    with pytest.raises(ConfigError, match="estimated_cost_usd of vendor model-1 is"):
        replace(INTENT, estimated_cost_usd=estimate)


def test_ten_times_a_dime_is_a_dollar(ledger):
    """The limit itself is allowed, whatever binary fractions add up to."""
    for number in range(10):
        claim(ledger, other(number), DAY)
    with pytest.raises(BudgetExceededError):
        claim(ledger, other(10, replace(INTENT, estimated_cost_usd=1e-9)), DAY)


def test_a_refusal_says_what_to_know_and_leaves_nothing(ledger):
    """It names the budget, the limit, what is paid and reserved, the request and the remedy."""
    store(ledger, claim(ledger, other(1)), 0.7)
    claim(ledger, other(2))
    before = list(ledger.rows()), spent(ledger)
    budget = Budget(BudgetScope.ASSET, 0.85, name="images")
    with pytest.raises(BudgetExceededError) as refused:
        ledger.claim(INTENT, owner="b", budgets=[DAY, budget])
    assert str(refused.value) == (
        "budget images has no room for media/image, partition fox (vendor model-1): it costs 0.10 "
        "USD, and of 0.85 USD for asset media/image 0.70 are paid and 0.10 reserved; raise its "
        "limit_usd, or wait until what is reserved is settled"
    )
    error = refused.value
    assert (error.budget, error.limit_usd, error.spent_usd) == ("images", 0.85, 0.8)
    assert (error.request_usd, error.transient) == (0.1, False)
    assert (list(ledger.rows()), spent(ledger)) == before


def test_the_first_budget_without_room_is_named(ledger):
    """All have to have room; the order given decides which is blamed."""
    small, smaller = Budget("run", 0.05), Budget("provider", 0.01)
    with pytest.raises(BudgetExceededError, match=r"^budget run has no room"):
        claim(ledger, INTENT, DAY, small, smaller)
    with pytest.raises(BudgetExceededError, match=r"^budget provider has no room"):
        claim(ledger, INTENT, DAY, smaller, small)


@pytest.mark.parametrize("scope", BudgetScope)
def test_free_requests_always_pass(ledger, scope):
    """What costs nothing passes a limit of nothing, also when more than that is spent."""
    claim(ledger, INTENT)
    free = other(1, replace(INTENT, estimated_cost_usd=0.0))
    claim(ledger, free, Budget(scope, 0.0))
    with pytest.raises(BudgetExceededError):
        claim(ledger, other(2), Budget(scope, 0.0))


@pytest.mark.parametrize("estimate", [1e13, 1e300])
def test_an_estimate_beyond_all_money_is_refused_by_every_budget(ledger, estimate):
    """What an adapter or a price list says by mistake; without budgets it can be asked."""
    absurd = replace(INTENT, estimated_cost_usd=estimate)
    with pytest.raises(BudgetExceededError, match="budget day has no room"):
        claim(ledger, absurd, Budget(BudgetScope.DAY, 1e12))
    claim(ledger, absurd)
    assert spent(ledger).reserved_usd == 1_000_000


def test_a_tenant_is_matched_as_pipelines_write_it(ledger):
    """They strip it: a budget for it with a space at its end would limit nobody."""
    with pytest.raises(BudgetExceededError, match="budget tenant acme has no room"):
        claim(ledger, INTENT, Budget(BudgetScope.TENANT, 0.0, match=" acme "))


def test_an_unknown_price_is_refused_unless_the_budget_says_what_it_counts_as(ledger):
    """Unknown is never free: the refusal names the budget and the setting."""
    with pytest.raises(BudgetExceededError, match=r"budget day does not let .* unknown_cost") as no:
        claim(ledger, UNKNOWN, Budget("asset", 1.0, 0.3), DAY)
    assert no.value.request_usd is None
    budgets = (Budget("asset", 1.0, 0.3), Budget("day", 1.0, 0.4))
    row = claim(ledger, UNKNOWN, *budgets)
    assert (row.estimated_cost_usd, row.reserved_usd) == (None, 0.4)
    assert spent(ledger) == Spend(0.0, 0.4, 1)
    claim(ledger, other(1, UNKNOWN), *budgets)
    with pytest.raises(BudgetExceededError, match=r"has no known price, counts as 0.40 USD"):
        claim(ledger, other(2, UNKNOWN), *budgets)


def test_an_unknown_price_without_budgets_is_counted_but_not_valued(ledger):
    """The report tells how many there are."""
    claim(ledger, UNKNOWN)
    claim(ledger, other(1))
    assert spent(ledger) == Spend(0.0, 0.1, 1)
    assert spent(ledger).total_usd == 0.1


@pytest.mark.parametrize(
    ("scope", "shares", "does_not"),
    [
        ("run", {"asset_key": "b", "tenant_id": None, "provider": "b"}, {"scope": "run-2"}),
        ("run", {"scope": f"{INTENT.scope}#3"}, {"scope": f"{INTENT.scope}3#3"}),
        ("asset", {"scope": "b", "partition_key": None}, {"asset_key": "media/video"}),
        ("partition", {"scope": "b", "generation_key": "h" * 64}, {"partition_key": None}),
        ("partition", {"scope": "b", "generation_key": "h" * 64}, {"asset_key": "b"}),
        ("tenant", {"scope": "b", "asset_key": "b"}, {"tenant_id": "umbrella"}),
        ("tenant", {"scope": "b", "asset_key": "b"}, {"tenant_id": None}),
        ("provider", {"scope": "b", "tenant_id": None}, {"provider": "b"}),
        ("day", {"scope": "b", "asset_key": "b", "provider": "b"}, None),
    ],
)
def test_what_shares_a_limit(ledger, clock, scope, shares, does_not):
    """Each run, asset, partition, tenant, provider and day has the limit for itself."""
    budget = Budget(scope, 0.15)
    claim(ledger, INTENT, budget)
    together = replace(INTENT, **{"partition_key": "owl"} | shares)
    if scope == "partition":
        together = replace(together, partition_key=INTENT.partition_key)
    with pytest.raises(BudgetExceededError):
        claim(ledger, together, budget)
    if does_not is None:
        clock.advance(86_400)
    claim(ledger, replace(together, **does_not or {}), budget)


@pytest.mark.parametrize(
    ("scope", "match", "free"),
    [
        ("asset", "media/image", {"asset_key": "media/video"}),
        ("partition", "media/image", {"asset_key": "media/video"}),
        ("tenant", "acme", {"tenant_id": "umbrella"}),
        ("provider", "vendor", {"provider": "other"}),
    ],
)
def test_a_match_restricts_a_budget_to_one(ledger, scope, match, free):
    """Others are not limited by it, not even by an unknown price."""
    budget = Budget(scope, 0.0, match=match)
    claim(ledger, replace(UNKNOWN, **free), budget)
    with pytest.raises(BudgetExceededError, match=f"budget {scope} {match}"):
        claim(ledger, UNKNOWN, budget)


def test_a_day_ends_at_midnight_utc_and_counts_claims(ledger, clock):
    """A job that is claimed before midnight is yesterday's, whenever it ends."""
    clock.now = datetime(2026, 1, 2, 23, 59, 59, tzinfo=UTC)
    row = claim(ledger, INTENT, DAY)
    clock.advance(2)
    store(ledger, row, 0.5)
    assert ledger.spend("day", "2026-01-02") == Spend(0.5, 0.0, 0)
    assert ledger.spend("day", "2026-01-03") == Spend(0.0, 0.0, 0)


def test_settling_for_less_makes_room_and_for_more_takes_it(ledger):
    """The real cost counts as soon as it is known; passing the limit refuses the next request."""
    budget = Budget("day", 0.2)
    first, second = claim(ledger, INTENT, budget), claim(ledger, other(1), budget)
    store(ledger, first, 0.02)
    accept(ledger, second)
    ledger.succeeded(second.id, "a", cost_usd=0.05)
    third = claim(ledger, other(2), budget)
    assert spent(ledger) == Spend(0.07, 0.1, 0)
    store(ledger, third, 0.9)
    assert spent(ledger) == Spend(0.97, 0.0, 0)
    with pytest.raises(BudgetExceededError, match=r"0.97 are paid and 0.00 reserved; raise"):
        claim(ledger, other(3), budget)


@pytest.mark.parametrize(
    ("end", "counts"),
    [
        (lambda ledger, row: None, Spend(0.0, 0.1, 0)),
        (lambda ledger, row: ledger.release(row.id, "a"), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: accept(ledger, row), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: store(ledger, row, None), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: store(ledger, row, 0.3), Spend(0.3, 0.0, 0)),
        (lambda ledger, row: store(ledger, row, 0.0), Spend(0.0, 0.0, 0)),
        (lambda ledger, row: fail(ledger, row, sent=False), Spend(0.0, 0.0, 0)),
        (lambda ledger, row: lose(ledger, row), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: refuse(ledger, row, None), Spend(0.0, 0.0, 0)),
        (lambda ledger, row: refuse(ledger, row, 0.02), Spend(0.02, 0.0, 0)),
        (lambda ledger, row: fail_job(ledger, row, None), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: fail_job(ledger, row, 0.0), Spend(0.0, 0.0, 0)),
        (lambda ledger, row: fail_job(ledger, row, 0.04), Spend(0.04, 0.0, 0)),
        (lambda ledger, row: cancel(ledger, row), Spend(0.0, 0.0, 0)),
        (lambda ledger, row: cancel(ledger, send(ledger, row)), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: cancel(ledger, send(ledger, row), 0.3), Spend(0.3, 0.0, 0)),
        (lambda ledger, row: cancel(ledger, lose(ledger, row)), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: resolve(ledger, row), Spend(0.0, 0.0, 0)),
        (lambda ledger, row: resolve(ledger, row, job_id="job-9"), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: resolve(ledger, row, lost=True), Spend(0.0, 0.1, 0)),
        (lambda ledger, row: resolve(ledger, row, lost=True, cost_usd=0.3), Spend(0.3, 0.0, 0)),
    ],
    ids=[
        "claimed", "released", "submitted", "stored", "stored-cost", "stored-free", "unsent",
        "held", "refused", "refused-cost", "job-failed", "job-failed-free", "job-failed-cost",
        "cancelled-unsent", "cancelled-sent", "cancelled-cost", "cancelled-held",
        "resolved-absent", "resolved-found", "resolved-lost", "resolved-lost-cost",
    ],
)  # fmt: skip
def test_what_a_submission_counts_as(ledger, end, counts):
    """The cost when known; else the reservation, unless the vendor took nothing on."""
    row = claim(ledger, INTENT)
    end(ledger, row)
    assert spent(ledger) == counts
    if ledger.get(row.id).state is SubmissionState.FAILED:
        # It counts the same as a past attempt.
        claim(ledger, replace(INTENT, estimated_cost_usd=0.0))
        assert spent(ledger) == counts


def send(ledger: Ledger, row: LedgerRow) -> LedgerRow:
    return ledger.mark_sending(row.id, row.owner)


def lose(ledger: Ledger, row: LedgerRow) -> LedgerRow:
    send(ledger, row)
    fail(ledger, row, sent=None)
    return row


def cancel(ledger: Ledger, row: LedgerRow, cost: float | None = None) -> None:
    ledger.cancelled(row.id, "not wanted", cost_usd=cost)


def resolve(ledger: Ledger, row: LedgerRow, **decision: Any) -> None:
    ledger.resolve(lose(ledger, row).id, **decision)


def refuse(ledger: Ledger, row: LedgerRow, cost: float | None) -> None:
    ledger.mark_sending(row.id, row.owner)
    fail(ledger, row, sent=True, cost=cost)


def fail_job(ledger: Ledger, row: LedgerRow, cost: float | None) -> None:
    accept(ledger, row)
    fail(ledger, row, sent=True, cost=cost)


def test_every_attempt_counts(ledger, clock):
    """Failed jobs that may be billed, billed ones and refused ones, each as it would alone."""
    for end, cost in ((fail_job, None), (fail_job, 0.04), (refuse, None), (refuse, 0.01)):
        end(ledger, claim(ledger, INTENT), cost)
    store(ledger, claim(ledger, INTENT), 0.2)
    assert spent(ledger) == Spend(0.25, 0.1, 0)
    (first, *_, last) = ledger.past_attempts(next(ledger.rows()).id)
    assert (first.reserved_usd, first.estimated_cost_usd, first.claimed_at) == (0.1, 0.1, clock.now)
    assert last.cost_usd == 0.01


def test_a_refused_retry_leaves_the_failed_submission_as_it_was(ledger):
    """Its attempts, error and cost stay, and it can be retried once there is room."""
    row = claim(ledger, INTENT, DAY)
    fail_job(ledger, row, 0.95)
    failed = ledger.get(row.id)
    with pytest.raises(BudgetExceededError):
        claim(ledger, INTENT, DAY)
    assert (ledger.get(row.id), ledger.past_attempts(row.id)) == (failed, [])
    assert claim(ledger, INTENT, Budget("day", 1.05)).attempt == 2


def test_only_what_may_be_paid_anew_needs_room(ledger, clock):
    """A known job is fetched, and what is stored is used, with nothing left to spend."""
    nothing = [Budget("day", 0.0)]
    row = claim(ledger, INTENT)
    accept(ledger, row)
    clock.advance(61)
    assert ledger.claim(INTENT, owner="b", budgets=nothing).kind is ClaimKind.RESUME
    ledger.stored(row.id, "b", {}, 0.5)
    assert ledger.claim(INTENT, owner="c", budgets=nothing).kind is ClaimKind.FINISHED
    reusing = replace(INTENT, scope="run-2", reuse=True)
    assert ledger.claim(reusing, owner="c", budgets=nothing).kind is ClaimKind.REUSED


def test_a_held_submission_is_held_whatever_the_budget(ledger, clock):
    """That its answer was lost is said first, and recorded."""
    row = claim(ledger, INTENT)
    ledger.mark_sending(row.id, "a")
    clock.advance(61)
    with pytest.raises(HeldError):
        ledger.claim(INTENT, owner="b", budgets=[Budget("day", 0.0)])
    assert ledger.get(row.id).state is SubmissionState.HELD


def test_a_worker_that_died_leaves_its_reservation_to_the_next(ledger, clock):
    """Taking over needs no second room, moves the money to today, and refuses nothing for less."""
    budgets = (Budget("day", 0.1), Budget("run", 0.1))
    row = claim(ledger, INTENT, *budgets)
    clock.advance(61)
    assert claim(ledger, INTENT, *budgets, owner="b").attempt == 2
    assert spent(ledger) == Spend(0.0, 0.1, 0)
    clock.advance(86_400)
    claim(ledger, INTENT, *budgets, owner="c")
    assert (spent(ledger), ledger.spend("day", "2026-01-03")) == (Spend(0, 0, 0), Spend(0, 0.1, 0))
    clock.advance(61)
    dearer = replace(INTENT, estimated_cost_usd=0.11)
    with pytest.raises(BudgetExceededError):
        claim(ledger, dearer, *budgets, owner="d")
    taken = replace(INTENT, scope="run-2")
    claim(ledger, taken, *budgets, owner="d")
    assert ledger.spend("run", "run-1") == Spend(0.0, 0.0, 0)
    assert ledger.spend("run", "run-2") == Spend(0.0, 0.1, 0)
    assert ledger.get(row.id).attempt == 4


def test_a_take_over_needs_no_room_where_there_is_none_left(ledger, clock):
    """Others were settled above the limit; what was let pass before goes on for the same price."""
    budget = Budget("day", 0.2)
    first = claim(ledger, other(1), budget)
    claim(ledger, INTENT, budget)
    store(ledger, first, 5.0)
    clock.advance(61)
    assert claim(ledger, INTENT, budget, owner="b").attempt == 2
    assert spent(ledger) == Spend(5.0, 0.1, 0)


@pytest.mark.parametrize(("cost", "counts"), [(-5.0, 0.0), (1e300, 1_000_000.0)])
def test_an_absurd_cost_neither_makes_room_nor_breaks_sums(ledger, cost, counts):
    """A vendor's answer that is no price counts as nothing below zero and as a million at most."""
    store(ledger, claim(ledger, INTENT), cost)
    assert spent(ledger).paid_usd == counts


def test_a_long_history_is_summed_up_once(ledger):
    """Totals and single attempts together are the same money, before and after folding."""
    ends = (
        (store, 0.03), (store, None), (fail_job, None), (fail_job, 0.01), (refuse, None),
    )  # fmt: skip
    expected = Spend(0.0, 0.0, 0)
    for number in range(150):
        end, cost = ends[number % 5]
        unknown = number % 7 == 0
        row = claim(ledger, other(number, UNKNOWN if unknown else INTENT), Budget("day", 99, 0.2))
        end(ledger, row, cost)
        expected = plus(expected, end, cost, unknown)
        if number % 10 == 9:
            assert spent(ledger) == expected
    assert ledger.spend("asset", "media/image") == expected
    assert ledger.spend("partition", "media/image", partition_key="p1") == Spend(0.0, 0.1, 0)


def plus(so_far: Spend, end: object, cost: float | None, unknown: bool) -> Spend:
    if cost is not None:
        return replace(so_far, paid_usd=round(so_far.paid_usd + cost, 9))
    if end is refuse:
        return so_far
    reserved = round(so_far.reserved_usd + (0.2 if unknown else 0.1), 9)
    return replace(so_far, reserved_usd=reserved, unknown=so_far.unknown + unknown)
