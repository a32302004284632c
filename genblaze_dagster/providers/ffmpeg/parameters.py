"""Parameters of a transformation, read one by one and refused by name."""

from collections.abc import Mapping
from typing import Any

from genblaze_dagster.errors import InvalidRequestError


class Parameters:
    """Reads the caller's parameters and remembers which were asked for."""

    def __init__(self, provider: str, params: Mapping[str, Any]) -> None:
        self._provider = provider
        self._params = params
        self._known: set[str] = set()

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        """Return a word of a closed set.

        Raises:
            InvalidRequestError: it is missing or not in the set.
        """
        value = self._get(name)
        if isinstance(value, str) and value in allowed:
            return value
        raise self.wrong(name, f"one of {', '.join(allowed)}")

    def number(
        self, name: str, low: float, high: float, default: float | None = None
    ) -> int | float:
        """Return a number within limits.

        Raises:
            InvalidRequestError: it is missing and has no default, or is not such a number.
        """
        value = self._get(name, default)
        # NaN is within no limits.
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if numeric and low <= value <= high:
            return value
        raise self.wrong(name, f"a number from {low:g} to {high:g}")

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number within limits.

        Raises:
            InvalidRequestError: it is missing and has no default, or is not such a number.
        """
        value = self._get(name, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise self.wrong(name, f"a whole number from {low} to {high}")

    def text(self, name: str, default: str | None = None, *, longest: int) -> str:
        """Return a text that is not empty.

        Raises:
            InvalidRequestError: it is missing and has no default, or is no such text.
        """
        value = self._get(name, default)
        if isinstance(value, str) and 0 < len(value) <= longest and "\0" not in value:
            return value
        raise self.wrong(name, f"a text of 1 to {longest} characters")

    def refuse_others(self) -> None:
        """Refuse parameters nobody asked for.

        Raises:
            InvalidRequestError: names the first and what there is.
        """
        for name in self._params:
            if name not in self._known:
                raise InvalidRequestError(
                    f"{self._provider}: this operation has no parameter {name[:80]!r}; it takes "
                    f"{', '.join(sorted(self._known))}",
                    param=name[:80],
                    sent=False,
                )

    def wrong(self, name: str, allowed: str) -> InvalidRequestError:
        """Return the error of a parameter that is not what is allowed."""
        value = self._params.get(name)
        shown = "missing" if value is None else f"{value!r:.80}"
        return InvalidRequestError(
            f"{self._provider}: {name} is {shown}; give {allowed}", param=name, sent=False
        )

    def _get(self, name: str, default: object = None) -> Any:
        self._known.add(name)
        value = self._params.get(name)
        return default if value is None else value
