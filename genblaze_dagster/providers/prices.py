"""Prices as data: what a model costs, in which unit, and for which parameters.

Vendors' own tables and the lists users give are made of these.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

from genblaze_dagster.providers.model_spec import ModelSpec
from genblaze_dagster.providers.price_units import (
    PriceUnit,
    Quantity,
    TokenRate,
    per,
    per_token,
)
from genblaze_dagster.providers.pricing import (
    PricingContext,
    PricingStrategy,
    rate_of,
    seconds_of,
)

Scalar = str | bool | int | float | Decimal
"""What a parameter is compared with."""

PriceLookup = Callable[[str, ModelSpec], PricingStrategy | None]
"""Returns the price of a model by the name it was asked for and its spec; None: no other price."""

_PATTERN_SIGNS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Condition:
    """A parameter that decides whether a price holds, under its standard or the vendor's own name.

    It holds for one of the `values`, or from `low` on and below `high`. Texts are compared without
    regard to case; 8, "8" and "8s" are the same number. A parameter that is not given holds for
    nothing.
    """

    param: str
    values: tuple[Scalar, ...] = ()
    low: Decimal | None = None
    high: Decimal | None = None

    def holds(self, params: Mapping[str, object]) -> bool:
        """Whether the parameters fulfil it."""
        given = params.get(self.param)
        if self.low is None and self.high is None:
            return any(_same(given, value) for value in self.values)
        number = seconds_of(given)
        return (
            number is not None
            and (self.low is None or self.low <= number)
            and (self.high is None or number < self.high)
        )

    def __str__(self) -> str:
        if self.values:
            return f"{self.param} {' or '.join(map(str, self.values))}"
        bounds = (("from", self.low), ("below", self.high))
        return f"{self.param} {' '.join(f'{word} {n}' for word, n in bounds if n is not None)}"


@dataclass(frozen=True, slots=True)
class Price:
    """What some models cost: `usd` per `unit`, or `tokens` per million of them, `when` all hold.

    `model` is an id or a pattern with `*`, `?` and `[...]`; `vendor` a vendor or one of its
    providers. `seconds` is the length of an output when neither it nor the request tells.
    """

    model: str
    unit: PriceUnit
    usd: Decimal | None = None
    tokens: TokenRate | None = None
    when: tuple[Condition, ...] = ()
    vendor: str = ""
    seconds: Decimal | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it is for one model, by its id."""
        return _PATTERN_SIGNS.isdisjoint(self.model)

    def fits(self, model: str) -> bool:
        """Whether it is for a model of that name."""
        return model == self.model or (not self.is_exact and fnmatchcase(model, self.model))

    def holds(self, context: PricingContext) -> bool:
        """Whether the parameters are those it is for."""
        return all(condition.holds(context.step.params) for condition in self.when)

    def strategy(self, credits: Quantity | None = None) -> PricingStrategy:
        """Return the arithmetic; `credits` says how many of the vendor's own a request takes."""
        if self.tokens is not None:
            return per_token(self.tokens)
        return per(self.unit, self.usd or Decimal(0), usual_seconds=self.seconds, credits=credits)

    def __str__(self) -> str:
        amounts = (
            (self.usd,) if self.tokens is None else (self.tokens.tokens_in, self.tokens.tokens_out)
        )
        amount = " and ".join(_plain(amount) for amount in amounts if amount is not None) + " USD"
        when = f" ({', '.join(map(str, self.when))})" if self.when else ""
        return f"{amount} per {self.unit}{when}"


def price(
    model: str,
    unit: PriceUnit,
    usd: float | Decimal,
    *,
    seconds: float | None = None,
    **when: Scalar | Sequence[Scalar],
) -> Price:
    """Return a price; `when` names parameters and the value, or the values, it holds for."""
    conditions = tuple(Condition(name, _listed(value)) for name, value in when.items())
    usual = None if seconds is None else rate_of(seconds)
    return Price(model, unit, rate_of(usd), when=conditions, seconds=usual)


@dataclass(frozen=True, slots=True)
class Priced:
    """A strategy made of prices: the first that fits the model and its parameters counts.

    Where none does, `otherwise` is asked. So an unknown quantity of a price that holds leaves the
    cost unknown.
    """

    prices: tuple[Price, ...]
    otherwise: PricingStrategy | None = None
    credits: Quantity | None = None

    def __call__(self, context: PricingContext) -> float | Decimal | None:
        """Return the price in USD, None when it is unknown."""
        for price in self.prices:
            if price.fits(context.step.model) and price.holds(context):
                return price.strategy(self.credits)(context)
        return None if self.otherwise is None else self.otherwise(context)

    def of(self, model: str) -> tuple[Price, ...]:
        """Return those of its prices that are for a model."""
        return tuple(price for price in self.prices if price.fits(model))


@dataclass(frozen=True, slots=True)
class InWords:
    """A strategy that no table of prices says by itself, and its words for people."""

    strategy: PricingStrategy
    words: str | Priced

    def __call__(self, context: PricingContext) -> float | Decimal | None:
        """Return the price in USD, None when it is unknown."""
        return self.strategy(context)


def price_table(*prices: Price) -> Priced:
    """Return the strategy of a vendor's own list."""
    return Priced(prices)


def words_of(strategy: PricingStrategy | None, model: str) -> str | None:
    """Return what a strategy says a model costs, for people; None when it has no price."""
    if isinstance(strategy, InWords):
        said = strategy.words
        return said if isinstance(said, str) else words_of(said, model)
    if not isinstance(strategy, Priced):
        return None if strategy is None else "by the request"
    prices = [str(price) for price in strategy.of(model)]
    if (rest := words_of(strategy.otherwise, model)) is not None:
        prices.append(f"else {rest}" if prices else rest)
    return "; ".join(prices) or None


def _plain(amount: Decimal) -> str:
    """Return an amount without an exponent and without zeros at its end."""
    return f"{amount.normalize():f}"


def _listed(value: Scalar | Sequence[Scalar]) -> tuple[Scalar, ...]:
    if isinstance(value, str | bool | int | float | Decimal):
        return (value,)
    return tuple(value)


def _same(given: object, value: Scalar) -> bool:
    if isinstance(value, bool) or isinstance(given, bool):
        return given is value
    if (number := seconds_of(value)) is not None:
        return seconds_of(given) == number
    return isinstance(given, str) and given.casefold() == str(value).casefold()
