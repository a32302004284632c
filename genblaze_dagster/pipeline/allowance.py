"""What budgets would say to a series of requests, counted as the ledger counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from genblaze_dagster.ledger.budgets import Budget, SpendKey, charged_to, nano, usd
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import Intent
from genblaze_dagster.pipeline.quote import BudgetQuote


@dataclass(slots=True)
class _Account:
    budget: Budget
    spent: int
    reserved: int = 0
    wanted: int = 0
    unknown: int = 0

    @property
    def left(self) -> int:
        return nano(self.budget.limit_usd) - self.spent - self.reserved


class Allowance:
    """Counts requests against budgets, in the order in which they are made.

    Args:
        ledger: what is spent already; None for nothing.
        now: in whose UTC day the requests are made.
    """

    def __init__(self, ledger: Ledger | None, *, now: datetime | None = None) -> None:
        self._ledger = ledger
        self._day = (now or datetime.now(UTC)).astimezone(UTC).date().isoformat()
        self._accounts: dict[tuple[Budget, SpendKey], _Account] = {}

    def refusal(
        self,
        intent: Intent,
        budgets: Sequence[Budget],
        *,
        taken_usd: Mapping[SpendKey, float] | None = None,
        is_priced_later: bool = False,
    ) -> str | None:
        """Reserve a request, or return why it would be refused; nothing is reserved then.

        Args:
            intent: the request.
            budgets: what it has to find room in.
            taken_usd: what of it is reserved already, by whose spending it is.
            is_priced_later: its price is unknown now, and no reason for a refusal.
        """
        cost = intent.estimated_cost_usd
        if cost == 0:
            return None
        charged = charged_to(intent, self._day)
        found = [
            (self._account(budget, key), budget, key)
            for budget in dict.fromkeys(budgets)
            if (key := budget.key(charged)) is not None
        ]
        if cost is None:
            unpriced = [
                account
                for account, budget, _ in found
                if budget.unknown_cost is None and not is_priced_later
            ]
            for account in unpriced:
                account.unknown += 1
            if unpriced:
                label = unpriced[0].budget.label
                return f"budget {label}: the price is unknown, and it has no unknown_cost"
            cost = max((budget.unknown_cost or 0.0 for _, budget, _ in found), default=0.0)
        taken = taken_usd or {}
        growths = [(account, nano(cost) - nano(taken.get(key, 0.0))) for account, _, key in found]
        refusing = [account for account, growth in growths if 0 < growth > account.left]
        for account, growth in growths:
            account.wanted += growth
            account.reserved += 0 if refusing else growth
        if refusing:
            left = usd(max(refusing[0].left, 0))
            return f"budget {refusing[0].budget.label}: {left:.4f} USD are left of it"
        return None

    @property
    def budgets(self) -> tuple[BudgetQuote, ...]:
        """Every budget that requests were counted against."""
        return tuple(
            BudgetQuote(
                name=account.budget.label,
                key=key,
                limit_usd=account.budget.limit_usd,
                spent_usd=usd(account.spent),
                wanted_usd=usd(account.wanted),
                unknown=account.unknown,
            )
            for (_, key), account in self._accounts.items()
        )

    def _account(self, budget: Budget, key: SpendKey) -> _Account:
        if (budget, key) not in self._accounts:
            spent = 0
            if self._ledger is not None:
                found = self._ledger.spend(key.scope, key.key, partition_key=key.partition_key)
                spent = nano(found.total_usd)
            self._accounts[budget, key] = _Account(budget, spent)
        return self._accounts[budget, key]
