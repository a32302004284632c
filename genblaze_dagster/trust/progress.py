"""How work that takes long reports on itself."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with how much more is done; from any thread."""


class Progress(Protocol):
    """Shows one piece of work while its block runs."""

    def __call__(
        self, description: str, *, total: int | None, in_bytes: bool = False
    ) -> AbstractContextManager[Advance]:
        """Start showing; `total` is None when nobody knows the end, `in_bytes` says the unit."""
        ...


@contextmanager
def silent(description: str, *, total: int | None, in_bytes: bool = False) -> Generator[Advance]:
    """Show nothing."""
    yield _nothing


def _nothing(_amount: int) -> None:
    """Stand in for a bar nobody sees."""
