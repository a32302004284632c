"""What is said once, so that a batch of a thousand steps does not say it a thousand times."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

_REMEMBERED = 1024


class Once:
    """Remembers what was said; of more than 1024 things the oldest may be said again."""

    def __init__(self) -> None:
        self._said: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, thing: Hashable) -> bool:
        """Return whether a thing is new; from now on it is not."""
        with self._lock:
            is_new = thing not in self._said
            self._said[thing] = None
            self._said.move_to_end(thing)
            if len(self._said) > _REMEMBERED:
                self._said.popitem(last=False)
            return is_new
