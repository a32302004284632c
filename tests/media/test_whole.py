"""Files that are there whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from genblaze_dagster.media.whole import replacing


def test_a_file_is_replaced_when_the_block_ends_well(tmp_path: Path) -> None:
    """The new content takes the place of the old, with its permissions."""
    path = tmp_path / "new folder" / "a.bin"
    with replacing(path) as part:
        part.write_bytes(b"one")
    path.chmod(0o640)
    with replacing(path) as part:
        part.write_bytes(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["a.bin"]


def test_the_old_file_stays_when_the_block_fails(tmp_path: Path) -> None:
    """A failure leaves the old content and nothing beside it."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")

    def fail() -> None:
        with replacing(path) as part:
            part.write_bytes(b"tw")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_link_keeps_pointing_where_it_does(tmp_path: Path) -> None:
    """Replacing through a symbolic link replaces the file behind it."""
    (tmp_path / "real").write_bytes(b"one")
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as part:
        part.write_bytes(b"two")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"two"
