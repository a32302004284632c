"""What a run would do and cost, as it is told to people."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.ledger.budgets import SpendKey, nano, usd
from genblaze_dagster.ledger.submission import Intent


class Outlook(StrEnum):
    """What a run would do about one step of one partition."""

    NEW = "new"
    """Ask the vendor."""
    FINISHED = "finished"
    """Nothing; it is stored for this very run or backfill."""
    REUSED = "reused"
    """Take stored media of an equal generation."""
    RESUMED = "resumed"
    """Fetch a job that is submitted already."""
    UNDER_WAY = "under_way"
    """Wait for another worker that is at it."""
    REFUSED = "refused"
    """Fail: a budget leaves no room for it."""
    HELD = "held"
    """Fail: the answer to an earlier submit was lost, and a person has to decide."""
    IMPOSSIBLE = "impossible"
    """Fail before anything is sent; the reason says why."""


WITHOUT_MEDIA = (Outlook.REFUSED, Outlook.HELD, Outlook.IMPOSSIBLE)
"""After these there is no media, so nothing can be made of it."""


@dataclass(frozen=True, slots=True)
class StepQuote:
    """What a run would do about one step of one partition, and what it may cost.

    `cost_usd` is what would be reserved: 0.0 when nothing is asked of the vendor, None when nobody
    can say, for the `reason`. `ref` is the stored media that would be taken, `intent` what the
    ledger would be told of a new request, and `taken_usd` what of it is reserved already, by whose
    spending it is, where it takes over an open submission.
    """

    asset_key: str
    partition_key: str | None
    provider: str
    model: str
    outlook: Outlook
    cost_usd: float | None
    reason: str | None = None
    ref: MediaRef | None = field(default=None, repr=False)
    intent: Intent | None = field(default=None, repr=False)
    taken_usd: Mapping[SpendKey, float] = field(default_factory=dict[SpendKey, float], repr=False)

    @property
    def is_priced_later(self) -> bool:
        """Whether the run will know a price that cannot be known before it."""
        return self.cost_usd is None and self.intent is not None and not self.intent.generation_key


@dataclass(frozen=True, slots=True)
class BudgetQuote:
    """One budget for one run, asset, tenant, provider or day that requests would count against.

    `spent_usd` is what counts already, `wanted_usd` what all the requests together would add,
    those of unknown price with what the budget says they count as. `unknown` of them are of
    unknown price and refused.
    """

    name: str
    key: SpendKey
    limit_usd: float
    spent_usd: float
    wanted_usd: float
    unknown: int

    @property
    def left_usd(self) -> float:
        """What may still be spent; below 0 when the vendor charged more than was estimated."""
        return usd(nano(self.limit_usd) - nano(self.spent_usd))

    @property
    def fits(self) -> bool:
        """Whether all the requests find room."""
        return not self.unknown and (
            not self.wanted_usd or nano(self.wanted_usd) <= nano(self.left_usd)
        )


@dataclass(frozen=True, slots=True)
class Quote:
    """What a run would do, step by step, and what of it the budgets would let pass."""

    items: tuple[StepQuote, ...]
    budgets: tuple[BudgetQuote, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        """How many media have which outlook."""
        return Counter(item.outlook.value for item in self.items)

    @property
    def by_asset(self) -> "Mapping[str, Quote]":
        """The parts about each asset, without budgets and notes; inputs before their users."""
        parts: dict[str, list[StepQuote]] = {}
        for item in self.items:
            parts.setdefault(item.asset_key, []).append(item)
        return {key: Quote(tuple(items)) for key, items in parts.items()}

    @property
    def new(self) -> tuple[StepQuote, ...]:
        """What would be asked of vendors."""
        return tuple(item for item in self.items if item.outlook is Outlook.NEW)

    @property
    def estimated_usd(self) -> float:
        """Sum of all known prices of what would be asked; `unknown` are not in it."""
        # Summed as budgets count: ten times 0.1 is 1.
        return usd(sum(nano(item.cost_usd) for item in self.new if item.cost_usd is not None))

    @property
    def unknown(self) -> tuple[StepQuote, ...]:
        """What would be asked at a price nobody knows; never free."""
        return tuple(item for item in self.new if item.cost_usd is None)

    @property
    def refused(self) -> tuple[StepQuote, ...]:
        """What a budget would refuse."""
        return tuple(item for item in self.items if item.outlook is Outlook.REFUSED)

    @property
    def passes(self) -> bool:
        """Whether everything that is selected would be made."""
        return not any(item.outlook in WITHOUT_MEDIA for item in self.items)
