"""Budgets that have refused a request and would refuse others like it."""

from collections.abc import Collection

from genblaze_dagster.errors import BudgetExceededError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope

_SHARED = (BudgetScope.RUN, BudgetScope.TENANT, BudgetScope.PROVIDER, BudgetScope.DAY)


class Exhausted:
    """What is left of the budgets that all partitions of a batch share, once one was refused.

    A thousand partitions need not ask the ledger for room that is not there. What costs nothing or
    fits in what was left is still asked, and so is what nobody can price. Reservations that turn
    out cheaper make room again, which the next run finds.

    Args:
        budgets: those of the batch; of an asset's or a partition's own only the ledger knows.
    """

    def __init__(self, budgets: Collection[Budget]) -> None:
        self._shared = {each.label: each for each in budgets if each.scope in _SHARED}
        self._refusals: dict[tuple[str, str], BudgetExceededError] = {}

    def __bool__(self) -> bool:
        return bool(self._refusals)

    def note(self, refusal: BudgetExceededError, provider: str) -> None:
        """Remember a refusal of a request to a provider."""
        budget = self._shared.get(refusal.budget)
        if budget is None or refusal.request_usd is None:
            return
        of_provider = provider if budget.scope is BudgetScope.PROVIDER else ""
        self._refusals[budget.label, of_provider] = refusal

    def check(self, what: str, provider: str, cost_usd: float | None) -> None:
        """Refuse what certainly finds no room.

        Args:
            what: asset and partition.
            provider: who would be asked.
            cost_usd: the expected price, None when nobody can say.

        Raises:
            BudgetExceededError: names the budget and what is left of it.
        """
        if not cost_usd:
            return
        for (label, of_provider), refusal in self._refusals.items():
            left = max(refusal.limit_usd - refusal.spent_usd, 0.0)
            if of_provider in ("", provider) and cost_usd > left:
                raise BudgetExceededError(
                    f"budget {label} had {left:.4f} of {refusal.limit_usd:.4f} USD left when this "
                    f"run was refused before, and {what} costs {cost_usd:.4f} USD, so it was not "
                    "tried; raise the budget's limit_usd and run again, what is stored is not paid "
                    "again",
                    budget=label,
                    limit_usd=refusal.limit_usd,
                    spent_usd=refusal.spent_usd,
                    request_usd=cost_usd,
                )
