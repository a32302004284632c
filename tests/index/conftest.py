from pathlib import Path

import pytest

from genblaze_dagster.storage.store import MediaStore


@pytest.fixture
def store(tmp_path: Path) -> MediaStore:
    return MediaStore((tmp_path / "store").as_uri())
