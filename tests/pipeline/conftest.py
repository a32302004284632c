import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.storage.store import MediaStore
from tests.pipeline.webhook_receiver import Receiver, receiving


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    book = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield book
    book.close()


class SteadyClock:
    """`time.monotonic`, by which event loops and timeouts go, and which a test can put forward.

    A timeout of minutes, of which the test says when it is over, is over at no other moment.
    """

    def __init__(self) -> None:
        self._now = time.monotonic
        self._ahead = 0.0

    def __call__(self) -> float:
        return self._now() + self._ahead

    def skip(self, seconds: float) -> None:
        """Let so much time pass at once; called on the loop whose timers shall be due."""
        self._ahead += seconds


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> SteadyClock:
    clock = SteadyClock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that notes the webhooks it gets."""
    with receiving() as receiver:
        yield receiver
