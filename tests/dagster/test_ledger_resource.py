"""The ledger as a Dagster resource: its URL is a secret, its budgets are config."""

import dagster as dg
import pytest

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.resources import LedgerResource


def test_budgets_are_plain_config():
    """Mappings become budgets, also when they are given at launch."""
    found: list[tuple[Budget, ...]] = []

    @dg.asset
    def picture(ledger: LedgerResource) -> None:
        found.append(ledger.get_budgets())

    budgets = [{"scope": "tenant", "limit_usd": 5, "unknown_cost": 0.5, "match": "acme"}]
    config = {"resources": {"ledger": {"config": {"budgets": budgets}}}}
    dg.materialize([picture], resources={"ledger": LedgerResource(budgets=budgets)})
    dg.materialize(
        [picture],
        resources={"ledger": LedgerResource.configure_at_launch()},
        run_config=config,
    )
    wanted = Budget(BudgetScope.TENANT, 5.0, unknown_cost=0.5, match="acme")
    assert found == [(wanted,), (wanted,)]
    assert LedgerResource().get_budgets() == ()


def test_a_broken_budget_is_named():
    """The message says what is wrong and what to give."""
    with pytest.raises(ConfigError, match="scope 'week' is unknown; give one of run, asset"):
        LedgerResource(budgets=[{"scope": "week", "limit_usd": 1}]).get_budgets()


def test_the_url_is_a_secret():
    """A URL may hold a password, so it shows neither in the UI nor in messages."""
    resource = LedgerResource(url="postgresql://user:hidden@host/db")
    assert "hidden" not in repr(resource)
    assert "hidden" not in repr(resource.get_ledger())
    assert LedgerResource.model_fields["url"].json_schema_extra == {"dagster__is_secret": True}
