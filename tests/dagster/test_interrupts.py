import os
import signal

import pytest

from genblaze_dagster._background import interrupts_held_back


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_end_of_a_write(number: signal.Signals) -> None:
    """A signal in the middle of the body arrives after it, once, at the handler that was there."""
    order: list[str] = []
    previous = signal.signal(number, lambda *_: order.append("interrupted"))
    try:
        with interrupts_held_back():
            order.append("first statement")
            os.kill(os.getpid(), number)
            order.append("second statement")
        assert order == ["first statement", "second statement", "interrupted"]
        assert signal.getsignal(number) not in (previous, signal.SIG_DFL)
    finally:
        signal.signal(number, previous)


def test_an_interrupt_during_a_failing_write_is_not_lost() -> None:
    """The handler comes back and is called although the body raised."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def failing_write() -> None:
        with interrupts_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("the write failed")

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            failing_write()
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
