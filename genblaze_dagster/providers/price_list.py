"""Price lists that users give: a TOML file, or mappings such as a Dagster resource's configuration.

Each entry is a price of `prices`; docs/prices.md shows the format. An own price wins over a built-in
one, before and after a request, since both are asked of the same model registry.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, cast

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers.model_spec import ModelSpec
from genblaze_dagster.providers.price_units import CREDITS, PriceUnit, TokenRate
from genblaze_dagster.providers.prices import Condition, Price, Priced, PriceLookup, Scalar
from genblaze_dagster.providers.pricing import amount_of

PRICES_VARIABLE = "GENBLAZE_PRICES"
"""The environment variable with the path of a price list."""

_LARGEST_FILE = 1024 * 1024
_MOST_PRICES = 5000
_KEPT_MODELS = 1000
_LONGEST_TEXT = 256
_HEADER = re.compile(r"\s*\[\[\s*price\s*\]\]")
_TOKEN_FIELDS = ("usd_in", "usd_out", "usd_cached")
_FIELDS = frozenset({"vendor", "model", "unit", "usd", "when", "seconds", *_TOKEN_FIELDS})


@dataclass(frozen=True, slots=True)
class PriceList:
    """Prices of several vendors; in each list ids come before patterns, else the first fits."""

    prices: tuple[Price, ...] = ()

    @classmethod
    def from_file(cls, path: Path | str) -> "PriceList":
        """Return the price list in a TOML file; it is read again after it has changed.

        Raises:
            ConfigError: the file cannot be read, is no TOML, or an entry is wrong; names the entry,
                its line and what is allowed.
        """
        try:
            found = Path(path).stat()
            return _read(Path(path), found.st_mtime_ns, found.st_size)
        except OSError as exc:
            raise ConfigError(
                f"price list {path}: cannot be read: {exc.strerror or type(exc).__name__}"
            ) from exc

    @classmethod
    def from_mappings(cls, entries: Iterable[Mapping[str, Any]]) -> "PriceList":
        """Return the price list of entries, as they stand in a file.

        Raises:
            ConfigError: an entry is wrong; names it, the field and what is allowed.
        """
        listed = list(islice(entries, _MOST_PRICES + 1))
        return _made(listed, lambda index: f"prices: entry {index + 1}")

    @classmethod
    def from_environment(cls) -> "PriceList":
        """Return the price list that GENBLAZE_PRICES names, an empty one without the variable.

        Raises:
            ConfigError: see `from_file`.
        """
        path = os.environ.get(PRICES_VARIABLE)
        if not path:
            return cls()
        try:
            return cls.from_file(path)
        except ConfigError as exc:
            raise ConfigError(f"{PRICES_VARIABLE}: {exc}") from exc

    @classmethod
    def effective(
        cls, given: "PriceList | Iterable[Mapping[str, Any]] | None" = None
    ) -> "PriceList":
        """Return the prices given in code, followed by those of the environment."""
        own = given if isinstance(given, PriceList) else cls.from_mappings(given or ())
        return cls((*own.prices, *cls.from_environment().prices))

    def lookup(self, *names: str) -> PriceLookup | None:
        """Return what a model registry is given for a vendor or provider of any of these names.

        None when the list holds no price for it: `registry.use_prices(list.lookup("runway"))`.
        """
        own = tuple(price for price in self.prices if price.vendor in names)
        if not own:
            return None
        known: dict[tuple[str, str], tuple[Price, ...]] = {}

        def look(model: str, spec: ModelSpec) -> Priced | None:
            key = (model, spec.model_id)
            if key not in known:
                if len(known) >= _KEPT_MODELS:
                    known.clear()
                # They fit by one of its names; a strategy gets to know only that of the step.
                known[key] = tuple(
                    replace(p, model="*") for p in own if p.fits(model) or p.fits(spec.model_id)
                )
            found = known[key]
            return Priced(found, spec.pricing, spec.extras.get(CREDITS)) if found else None

        return look

    def token_rate(self, vendor: str, model: str) -> TokenRate | None:
        """Return what a chat model's tokens cost, None when the list does not say.

        Chats have no parameters of steps, so what holds for some only is not for them.
        """
        own = (p for p in self.prices if p.vendor == vendor and p.fits(model))
        rates = (price.tokens for price in own if not price.when)
        return next((rate for rate in rates if rate is not None), None)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> PriceList:
    if size > _LARGEST_FILE:
        raise ConfigError(f"price list {path}: has {size} bytes; {_LARGEST_FILE} are allowed")
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"price list {path}: is no TOML: {exc}") from exc
    entries = document.pop("price", None)
    if document or not isinstance(entries, list):
        found = f"holds {_quoted(next(iter(document)))}" if document else "holds none"
        raise ConfigError(f"price list {path}: {found}; expected [[price]] tables and nothing else")
    lines = [n for n, line in enumerate(text.splitlines(), 1) if _HEADER.match(line)]
    listed = cast(list[object], entries)

    def place(index: int) -> str:
        # Headers in a text, or an inline array, would count wrong.
        line = f" (line {lines[index]})" if len(lines) == len(listed) else ""
        return f"price list {path}: entry {index + 1}{line}"

    return _made(listed, place)


def _made(entries: Sequence[object], place: Callable[[int], str]) -> PriceList:
    if len(entries) > _MOST_PRICES:
        raise ConfigError(f"{place(0)}: there are more than {_MOST_PRICES} prices; use patterns")
    seen: dict[object, int] = {}
    prices: list[Price] = []
    for index, entry in enumerate(entries):
        price = _price(entry, place(index))
        same = seen.setdefault((price.vendor, price.model, price.when), index)
        if same != index:
            raise ConfigError(
                f"{place(index)}: {price.vendor} {price.model} has a price already, in entry "
                f"{same + 1}, for the same parameters; leave one of the two out"
            )
        prices.append(price)
    return PriceList(tuple(sorted(prices, key=lambda price: not price.is_exact)))


def _price(entry: object, where: str) -> Price:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: is no table; expected vendor, model, unit and usd")
    fields = cast(Mapping[str, object], entry)
    unknown = [name for name in fields if name not in _FIELDS]
    if unknown:
        raise ConfigError(
            f"{where}: {_quoted(unknown[0])} is no field; known: {', '.join(sorted(_FIELDS))}"
        )
    unit = _unit(fields.get("unit"), where)
    is_tokens = unit is PriceUnit.MILLION_TOKENS
    misplaced = ("usd",) if is_tokens else _TOKEN_FIELDS
    for name in misplaced:
        if name in fields:
            wanted = "usd_in, usd_out and usd_cached" if is_tokens else "usd"
            raise ConfigError(f"{where}: {name} is not for the unit {unit}; give {wanted}")
    return Price(
        model=_text(fields, "model", where),
        vendor=_text(fields, "vendor", where),
        unit=unit,
        usd=None if is_tokens else _usd(fields, "usd", where),
        tokens=_tokens(fields, where) if is_tokens else None,
        when=_conditions(fields.get("when", {}), where),
        seconds=None if "seconds" not in fields else _usd(fields, "seconds", where),
    )


def _unit(given: object, where: str) -> PriceUnit:
    try:
        return PriceUnit(cast(str, given))
    except ValueError:
        fact = "is missing" if given is None else f"is {_quoted(given)}"
        units = ", ".join(PriceUnit)
        raise ConfigError(f"{where}: unit {fact}; expected one of {units}") from None


def _tokens(fields: Mapping[str, object], where: str) -> TokenRate:
    cached = None if "usd_cached" not in fields else _usd(fields, "usd_cached", where)
    return TokenRate(_usd(fields, "usd_in", where), _usd(fields, "usd_out", where), cached)


def _usd(fields: Mapping[str, object], name: str, where: str) -> Decimal:
    amount = amount_of(fields.get(name))
    if amount is None:
        fact = f"is {_quoted(fields[name])}" if name in fields else "is missing"
        raise ConfigError(f"{where}: {name} {fact}; expected a number of 0 or more")
    return amount


def _text(fields: Mapping[str, object], name: str, where: str) -> str:
    given = fields.get(name)
    if not isinstance(given, str) or not given or len(given) > _LONGEST_TEXT:
        fact = f"is {_quoted(given)}" if name in fields else "is missing"
        raise ConfigError(f"{where}: {name} {fact}; expected a name")
    return given


def _conditions(given: object, where: str) -> tuple[Condition, ...]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: when is {_quoted(given)}; expected a table of parameters")
    fields = cast(Mapping[str, object], given)
    return tuple(_condition(name, fields[name], where) for name in sorted(fields))


def _condition(name: str, given: object, where: str) -> Condition:
    if isinstance(given, Mapping):
        bounds = cast(Mapping[str, object], given)
        if not bounds or not set(bounds) <= {"from", "below"}:
            raise ConfigError(
                f"{where}: when.{name} has other bounds than from and below; give one or both"
            )
        low, high = (
            None if bound not in bounds else _usd(bounds, bound, f"{where}: when.{name}")
            for bound in ("from", "below")
        )
        if low is not None and high is not None and low >= high:
            raise ConfigError(
                f"{where}: when.{name} is from {low} and below {high}, which no value is; give a "
                "from that is less than below"
            )
        return Condition(name, low=low, high=high)
    values = cast(list[object], given) if isinstance(given, list | tuple) else [given]
    if not values or not all(isinstance(v, str | bool | int | float | Decimal) for v in values):
        raise ConfigError(
            f"{where}: when.{name} is {_quoted(given)}; expected a value, a list of values, or "
            "from and below"
        )
    return Condition(name, cast(tuple[Scalar, ...], tuple(values)))


def _quoted(given: object) -> str:
    said = repr(str(given) if isinstance(given, Decimal) else given)
    return said if len(said) <= 60 else f"{said[:59]}…"
