import asyncio
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster import Pipeline
from genblaze_dagster.errors import BudgetExceededError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.providers.lmnt import LMNTProvider
from genblaze_dagster.providers.price_list import PRICES_VARIABLE
from tests.support.wire import API_KEY, Scenario, replay

# "Hello world." has 12 characters.
PRICED = '[[price]]\nvendor = "lmnt"\nmodel = "*"\nunit = "1k_characters"\nusd = 50\n'
USD = 0.6


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A price list for LMNT, which has no built-in price."""
    path = tmp_path / "prices.toml"
    path.write_text(PRICED)
    monkeypatch.setenv(PRICES_VARIABLE, str(path))
    return path


def run(scenario: Scenario, folder: Path, *budgets: Budget, exchanges: int = 1) -> Any:
    """Make one golden speech, or none at all; see that so many calls were made."""

    async def main() -> Any:
        async with wire.client() as client:
            provider = LMNTProvider(API_KEY, client=client)
            pipeline = Pipeline("talk", preflight=False).step(
                provider,
                model="blizzard",
                modality="audio",
                prompt="Hello world.",
                voice="leah",
                output_format="mp3",
                return_timestamps=True,
            )
            return await pipeline.arun(
                store=(folder / "store").as_uri(),
                ledger=f"sqlite:///{folder / 'ledger.db'}",
                budgets=list(budgets),
                raise_on_failure=False,
            )

    with replay(scenario) as wire:
        try:
            return asyncio.run(main())
        finally:
            assert len(wire.received) == exchanges


def scenario_of(vectors: Path) -> Scenario:
    return Scenario.load(vectors / "wire" / "lmnt" / "tts_timestamps.json")


def test_a_price_of_a_file_is_reserved_and_recorded(
    vectors: Path, tmp_path: Path, prices: Path
) -> None:
    """The budget has just the room; reservation, manifest and spend are one number."""
    result = run(scenario_of(vectors), tmp_path, Budget(BudgetScope.DAY, USD))
    (outcome,) = result.outcomes.values()
    assert outcome.ref.cost_usd == USD
    assert outcome.manifest.run.steps[-1].cost_usd == USD
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    (row,) = ledger.find()
    ledger.close()
    assert (row.estimated_cost_usd, row.cost_usd) == (USD, USD)


def test_a_budget_refuses_by_a_price_of_a_file(vectors: Path, tmp_path: Path, prices: Path) -> None:
    """A cent too little: nothing is sent, and the refusal names the price."""
    budget = Budget(BudgetScope.DAY, USD - 0.01)
    (error,) = run(scenario_of(vectors), tmp_path, budget, exchanges=0).errors.values()
    assert isinstance(error, BudgetExceededError)
    assert "it costs 0.60 USD, and of 0.59 USD" in str(error)


def test_without_the_file_the_same_request_has_no_price(vectors: Path, tmp_path: Path) -> None:
    """Unknown is not free: a budget without unknown_cost refuses it."""
    budget = Budget(BudgetScope.DAY, 100)
    (error,) = run(scenario_of(vectors), tmp_path, budget, exchanges=0).errors.values()
    assert isinstance(error, BudgetExceededError)
    assert "what it costs is not known" in str(error)
