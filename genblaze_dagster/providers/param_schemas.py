"""What a model's parameter may be: one small schema per JSON type.

A refusal names the parameter, the type of what was given and what is allowed, never the value,
which may be a private prompt. None of them takes a bool for a number.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast

from genblaze_dagster.errors import ConfigError, InvalidRequestError

_LISTED = 20


class ParamSchema(Protocol):
    """Anything that can check a parameter; the classes below, or one of your own."""

    def validate(self, key: str, value: Any) -> None:
        """Raise `InvalidRequestError` when the value is not one the parameter can have."""
        ...


@dataclass(frozen=True, slots=True)
class IntSchema:
    """A whole number from `min` to `max`, both included, or one of `enum`."""

    min: int | None = None
    max: int | None = None
    enum: frozenset[int] | None = None

    def validate(self, key: str, value: Any) -> None:
        """Refuse what is no whole number, or not in range.

        Raises:
            InvalidRequestError: names the parameter and what is allowed.
        """
        wanted = "a whole number" + _range(self.min, self.max)
        if isinstance(value, bool) or not isinstance(value, int):
            _wrong_type(key, value, wanted)
        if not _is_between(value, self.min, self.max):
            refuse(key, f"the number is out of range; expected {wanted}")
        if self.enum is not None and value not in self.enum:
            refuse(key, f"the number is not allowed; expected one of {_listed(self.enum)}")


@dataclass(frozen=True, slots=True)
class FloatSchema:
    """A finite number from `min` to `max`, both included; a whole number is one."""

    min: float | None = None
    max: float | None = None

    def validate(self, key: str, value: Any) -> None:
        """Refuse what is no finite number, or not in range.

        Raises:
            InvalidRequestError: names the parameter and what is allowed.
        """
        wanted = "a finite number" + _range(self.min, self.max)
        if isinstance(value, bool) or not isinstance(value, int | float):
            _wrong_type(key, value, wanted)
        # Not math.isfinite for an int: one above 1e308 does not fit into a float.
        is_finite = isinstance(value, int) or math.isfinite(value)
        if not is_finite or not _is_between(value, self.min, self.max):
            refuse(key, f"the number is out of range; expected {wanted}")


@dataclass(frozen=True, slots=True)
class EnumSchema:
    """One of `values`. True is not 1."""

    values: frozenset[Any]

    def validate(self, key: str, value: Any) -> None:
        """Refuse everything else.

        Raises:
            InvalidRequestError: names the parameter and what is allowed.
        """
        if not any(
            isinstance(value, bool) == isinstance(allowed, bool) and value == allowed
            for allowed in self.values
        ):
            kind = type(value).__name__
            refuse(key, f"this {kind} is not allowed; expected one of {_listed(self.values)}")


@dataclass(frozen=True, slots=True)
class StringSchema:
    """A text of `min_len` to `max_len` characters that starts as `pattern` says, or is in `enum`.

    The pattern is matched from the start; end it with `$` to have it match all of the text.
    """

    min_len: int | None = None
    max_len: int | None = None
    enum: frozenset[str] | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern or "")
        except re.error as exc:
            raise ConfigError(f"StringSchema pattern {self.pattern!r} is broken: {exc}") from exc

    def validate(self, key: str, value: Any) -> None:
        """Refuse what is no text, or not one like that.

        Raises:
            InvalidRequestError: names the parameter and what is allowed.
        """
        if not isinstance(value, str):
            _wrong_type(key, value, "a text")
        _check_length(key, len(value), "characters", self.min_len, self.max_len)
        if self.enum is not None and value not in self.enum:
            refuse(key, f"the text is not allowed; expected one of {_listed(self.enum)}")
        if self.pattern is not None and re.match(self.pattern, value) is None:
            refuse(key, f"the text does not match the pattern {self.pattern!r}")


@dataclass(frozen=True, slots=True)
class BoolSchema:
    """True or False."""

    def validate(self, key: str, value: Any) -> None:
        """Refuse everything else.

        Raises:
            InvalidRequestError: names the parameter and what is allowed.
        """
        if not isinstance(value, bool):
            _wrong_type(key, value, "true or false")


@dataclass(frozen=True, slots=True)
class ArraySchema:
    """A list of `min_len` to `max_len` items, each of them as `item` says."""

    min_len: int | None = None
    max_len: int | None = None
    item: ParamSchema | None = None

    def validate(self, key: str, value: Any) -> None:
        """Refuse what is no list, or not one like that; an item is named as `key[0]`.

        Raises:
            InvalidRequestError: names the parameter and what is allowed.
        """
        if not isinstance(value, list | tuple):
            _wrong_type(key, value, "a list")
        items = cast("list[Any] | tuple[Any, ...]", value)
        _check_length(key, len(items), "items", self.min_len, self.max_len)
        if self.item is not None:
            for index, item in enumerate(items):
                self.item.validate(f"{key}[{index}]", item)


def refuse(key: str, fact: str) -> NoReturn:
    """Raise `InvalidRequestError` about a parameter; nothing has been sent yet."""
    raise InvalidRequestError(f"{key}: {fact}", param=key, sent=False)


def _wrong_type(key: str, value: object, wanted: str) -> NoReturn:
    refuse(key, f"expected {wanted}, got {type(value).__name__}")


def _check_length(key: str, length: int, unit: str, low: int | None, high: int | None) -> None:
    if not _is_between(length, low, high):
        refuse(key, f"has {length} {unit}; expected a number{_range(low, high)}")


def _is_between(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of {low} or more"
    return "" if high is None else f" of {high} or less"


def _listed(values: Iterable[object]) -> str:
    # By type first: 1 and "a" have no order.
    names = [repr(v) for v in sorted(values, key=lambda v: (type(v).__name__, repr(v)))]
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + rest
