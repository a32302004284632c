"""Budgets: how much may be spent on a run, an asset, a tenant, a day."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.ledger.submission import Intent

_NANO = 1_000_000_000
# More is no amount of money but a mistake.
_MOST_USD = 1e12


class BudgetScope(StrEnum):
    """What shares a limit. Each run, asset, ... has the whole limit for itself."""

    RUN = "run"
    """The root run or the backfill: its retries and re-executions share one limit."""
    ASSET = "asset"
    PARTITION = "partition"
    """One partition of one asset; an unpartitioned asset counts as one."""
    TENANT = "tenant"
    """Requests without a tenant are not limited."""
    PROVIDER = "provider"
    DAY = "day"
    """The UTC day in which an attempt was claimed."""


KEY_COLUMNS = {
    BudgetScope.RUN: "run",
    BudgetScope.ASSET: "asset_key",
    BudgetScope.PARTITION: "asset_key",
    BudgetScope.TENANT: "tenant_id",
    BudgetScope.PROVIDER: "provider",
    BudgetScope.DAY: "day",
}
"""What of an attempt's entry names whose spending it is."""

_MATCHING = {
    BudgetScope.ASSET: "an asset key",
    BudgetScope.PARTITION: "an asset key",
    BudgetScope.TENANT: "a tenant id",
    BudgetScope.PROVIDER: "a provider's name",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on what is paid and reserved, checked before anything is sent.

    A request counts as its estimated cost from the claim on, and as its real cost once that is
    known. A vendor may charge more than was estimated: then the limit can be passed by that
    difference, and the next request is refused. Requests that cost nothing always pass.

    Args:
        scope: what shares the limit.
        limit_usd: USD; reaching it exactly is allowed.
        unknown_cost: USD that a request of unknown price counts as. None: it is refused.
        name: how messages call the budget; its scope and match by default.
        match: the only asset (scopes `asset` and `partition`), tenant or provider it holds for.

    Raises:
        ConfigError: a value is not usable; names it.
    """

    scope: BudgetScope
    limit_usd: float
    unknown_cost: float | None = None
    name: str | None = None
    match: str | None = None

    def __post_init__(self) -> None:
        if self.scope not in list(BudgetScope):
            raise ConfigError(
                f"budget scope {self.scope!r} is unknown; give one of {', '.join(BudgetScope)}"
            )
        object.__setattr__(self, "scope", BudgetScope(self.scope))
        _check_money("limit_usd", self.limit_usd)
        if self.unknown_cost is not None:
            _check_money("unknown_cost", self.unknown_cost)
        if self.match is not None and self.scope not in _MATCHING:
            raise ConfigError(
                f"budget match {self.match!r} cannot restrict a budget of scope {self.scope}; leave "
                "it out, or use the scope asset, partition, tenant or provider"
            )
        if self.match is not None:
            _check_text(self.match, _MATCHING[self.scope])
            # As pipelines do with tenants: with a space at its end it would be nobody's.
            is_tenant = self.scope is BudgetScope.TENANT
            match = self.match.strip() if is_tenant else self.match
            object.__setattr__(self, "match", match)
            if not match:
                raise ConfigError(
                    f"budget match is empty; give {_MATCHING[self.scope]} or leave it out"
                )

    @property
    def label(self) -> str:
        """How messages call this budget."""
        return self.name or (f"{self.scope} {self.match}" if self.match else self.scope.value)

    def key(self, charged: Mapping[str, str | None]) -> "SpendKey | None":
        """Return what of a request shares the limit; None when the budget is not for it."""
        key = spend_key(self.scope, charged)
        return key if key is not None and self.match in (None, key.key) else None


@dataclass(frozen=True, slots=True)
class SpendKey:
    """Whose spending: one run, asset, partition, tenant, provider or day.

    `partition_key` is only used by the scope `partition`, whose `key` is the asset; `""` is an
    unpartitioned asset.
    """

    scope: BudgetScope
    key: str
    partition_key: str = ""

    def __str__(self) -> str:
        partition = f", partition {self.partition_key}" if self.partition_key else ""
        return f"{self.scope.value} {self.key}{partition}"


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent: paid for certain, and reserved where the cost is not known (yet).

    `unknown` counts the attempts of which neither the cost nor an estimate is known. They are in
    `reserved_usd` with the `unknown_cost` of the budgets that let them pass, or not at all.
    """

    paid_usd: float
    reserved_usd: float
    unknown: int

    @property
    def total_usd(self) -> float:
        """What counts against a limit."""
        return usd(nano(self.paid_usd) + nano(self.reserved_usd))


def charged_to(intent: Intent, day: str) -> dict[str, str | None]:
    """Return to whom a request is charged, by the columns of its entry.

    Scopes that a run makes of its own (`run#2`: a step of an agent, media made anew) are charged to
    the run, and what is made for an asset under another name to the asset.
    """
    return {
        "run": intent.scope.partition("#")[0] or intent.scope,
        "asset_key": intent.for_asset or intent.asset_key,
        "partition_key": intent.partition_key or "",
        "tenant_id": intent.tenant_id,
        "provider": intent.provider,
        "day": day,
    }


def spend_key(scope: BudgetScope, charged: Mapping[str, str | None]) -> SpendKey | None:
    """Return whose spending a request is in a scope; None when it has no such thing."""
    key = charged[KEY_COLUMNS[scope]]
    if key is None:
        return None
    partition_key = charged["partition_key"] if scope is BudgetScope.PARTITION else None
    return SpendKey(scope, key, partition_key or "")


def nano(amount_usd: float) -> int:
    """Return billionths of a dollar: ten times 0.1 is 1.

    What is more than any limit, such as a vendor's estimate that is no amount of money, is cut.
    """
    return round(min(amount_usd, 10 * _MOST_USD) * _NANO)


def usd(amount_nano: int) -> float:
    """Return dollars."""
    return amount_nano / _NANO


def _check_money(name: str, value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_USD:
        return
    raise ConfigError(f"budget {name} is {value!r}; give a number of USD from 0 to {_MOST_USD:.0f}")


def _check_text(match: object, what: str) -> None:
    if not isinstance(match, str):
        raise ConfigError(f"budget match is {match!r}; give {what} as a text")
