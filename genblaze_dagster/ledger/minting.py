"""New ids for work that may have to be done twice."""

from collections.abc import Callable, Iterator


class Minted:
    """Ids from a source, which gives the same ones again when a claim is tried again."""

    def __init__(self, source: Callable[[], str]) -> None:
        self._source = source
        self._given: list[str] = []

    def again(self) -> Callable[[], str]:
        """Return a function that gives the ids from the first one on."""
        return self._ids().__next__

    def _ids(self) -> Iterator[str]:
        position = 0
        while True:
            if position == len(self._given):
                self._given.append(self._source())
            yield self._given[position]
            position += 1
