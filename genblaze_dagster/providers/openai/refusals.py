"""How a request is refused before it is sent."""

from collections.abc import Iterable

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.net.redact import redact


def refuse(param: str, message: str) -> InvalidRequestError:
    """Return the error for a parameter OpenAI does not take; nothing was sent."""
    return InvalidRequestError(f"openai: {message}", provider="openai", param=param, sent=False)


def listed(values: Iterable[str]) -> str:
    """Return allowed values for a message; sets are sorted."""
    return ", ".join(sorted(values) if isinstance(values, (set, frozenset)) else values)


def shown(value: object) -> str:
    """Return a refused value for a message: short, and never a secret."""
    return redact(repr(value), max_chars=60)
