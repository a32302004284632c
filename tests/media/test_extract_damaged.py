import time
from pathlib import Path

import pytest

from genblaze_dagster.errors import EmbeddingError, ManifestError
from genblaze_dagster.media.extraction import extract_manifest
from tests.media.damage import damaged


@pytest.fixture
def files(vectors: Path) -> list[bytes]:
    return [
        file.read_bytes() for file in sorted((vectors / "genblaze" / "media/embedded").iterdir())
    ]


def check(files: list[bytes], folder: Path, rounds: int, seed: int) -> None:
    path = folder / "damaged"
    outcomes = {"read": 0, "refused": 0}
    slowest = 0.0
    for data in damaged(files, rounds, seed):
        path.write_bytes(data)
        started = time.thread_time()
        try:
            extract_manifest(path)
            outcomes["read"] += 1
        except (EmbeddingError, ManifestError):
            outcomes["refused"] += 1
        slowest = max(slowest, time.thread_time() - started)
    assert slowest < 2
    assert min(outcomes.values()) > rounds / 20


def test_damaged_files_are_read_or_refused(files: list[bytes], tmp_path: Path) -> None:
    """Damage never gives anything but a manifest or a typed error, and never a hang."""
    check(files, tmp_path, 2_000, seed=30)


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_long(files: list[bytes], tmp_path: Path) -> None:
    """The same with a hundred thousand damaged files."""
    check(files, tmp_path, 100_000, seed=31)
