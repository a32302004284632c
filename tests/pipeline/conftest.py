import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.storage.store import MediaStore


@pytest.fixture
def store() -> MediaStore:
    return MediaStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    book = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield book
    book.close()
