"""Budgets that have refused a request and would refuse others like it."""

from collections.abc import Collection

from genblaze_dagster.errors import BudgetExceededError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope, nano, usd

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
        scopes: dict[str, set[BudgetScope]] = {}
        for each in budgets:
            scopes.setdefault(each.label, set()).add(each.scope)
        # Where budgets of several scopes have one name, a refusal does not tell which it was.
        self._shared = {
            label: scope
            for label, (scope, *others) in scopes.items()
            if scope in _SHARED and not others
        }
        self._refusals: dict[tuple[str, str], BudgetExceededError] = {}

    def __bool__(self) -> bool:
        return bool(self._refusals)

    def note(self, refusal: BudgetExceededError, provider: str) -> None:
        """Remember a refusal of a request to a provider."""
        scope = self._shared.get(refusal.budget)
        if scope is None or refusal.request_usd is None:
            return
        of_provider = provider if scope is BudgetScope.PROVIDER else ""
        self._refusals[refusal.budget, of_provider] = refusal

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
            # As the ledger counts: of 1.00, after 0.90, there is room for 0.10.
            left = max(nano(refusal.limit_usd) - nano(refusal.spent_usd), 0)
            if of_provider in ("", provider) and nano(cost_usd) > left:
                raise BudgetExceededError(
                    f"budget {label} had {usd(left):.4f} of {refusal.limit_usd:.4f} USD left when this "
                    f"run was refused before, and {what} costs {cost_usd:.4f} USD, so it was not "
                    "tried; raise the budget's limit_usd and run again, what is stored is not paid "
                    "again",
                    budget=label,
                    limit_usd=refusal.limit_usd,
                    spent_usd=refusal.spent_usd,
                    request_usd=cost_usd,
                )
