"""A last look before the bytes of a request leave: may it still be sent?

A process can stand still for minutes between deciding to send and sending: stopped, swapped out, a
virtual machine that is paused. What allowed the request may have ended meanwhile.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from genblaze_dagster.errors import ProviderTimeoutError

_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
_WRITES: Final = ("send_request_headers.started", "send_request_body.started")

Objection = Callable[[], str | None]
"""Says why nothing may be sent any more; None while it may."""


class Fence:
    """Guards the requests of one submit that change something at the vendor.

    Args:
        objection: asked before each of them; from any thread.
    """

    def __init__(self, objection: Objection) -> None:
        self._objection = objection
        self._has_left = False

    def check(self, *, leaves: bool = False) -> None:
        """Let a request pass.

        Args:
            leaves: its bytes are written right after this.

        Raises:
            ProviderTimeoutError: it may not be sent any more. `sent` is False when no request of
                this submit has left before, None when one has.
        """
        reason = self._objection()
        if reason is not None:
            raise ProviderTimeoutError(
                f"not sent: {reason}", sent=None if self._has_left else False
            )
        self._has_left = self._has_left or leaves

    async def trace(self, event: str, _: object) -> None:
        """Look once more at what httpx is about to do."""
        if event.endswith(_WRITES):
            self.check(leaves=True)


_fence: ContextVar[Fence | None] = ContextVar("genblaze_fence", default=None)


@contextmanager
def fenced(objection: Objection) -> Generator[Fence]:
    """Let the requests of the block, and of the threads it starts, be looked at before they leave."""
    fence = Fence(objection)
    token = _fence.set(fence)
    try:
        yield fence
    finally:
        _fence.reset(token)


def fence_of(method: str = "POST") -> Fence | None:
    """Return what guards a request that is made now; None when nothing does."""
    return None if method.upper() in _SAFE_METHODS else _fence.get()
