from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.support.world import World


@pytest.fixture(scope="session")
def _ephemeral() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def instance(_ephemeral: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """An empty Dagster instance; made once, because making one takes longer than most tests."""
    yield _ephemeral
    _ephemeral.wipe()
    assert not _ephemeral.get_runs()


@pytest.fixture
def world(tmp_path: Path, instance: dg.DagsterInstance) -> World:
    """A file store, an SQLite ledger and an ephemeral Dagster instance."""
    return World(tmp_path, instance)
