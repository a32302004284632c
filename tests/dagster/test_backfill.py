from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.support.daemon import Daemon, backfill, daemon, keys_of, sqlite_instance
from tests.support.world import selection

# Dagster's own backfill code calls its deprecated AssetSelection.sources, and a run that is executed
# where it is submitted meets the daemon's running loop.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

LOCATION = Path(__file__).parent / "locations" / "backfill.py"
IMAGE, VIDEO, POSTER = selection("story/image", "story/video", "poster")


@pytest.fixture(scope="module")
def workspace() -> Iterator[Daemon]:
    """One daemon for all tests here; each uses partitions of its own."""
    with sqlite_instance() as instance, daemon(LOCATION, instance) as started:
        yield started


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the runs, which are executed in this process, store things."""
    monkeypatch.setenv("GENBLAZE_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("GENBLAZE_LEDGER", f"sqlite:///{(tmp_path / 'ledger.db').as_posix()}")


def materialized(workspace: Daemon, key: dg.AssetKey, partitions: str) -> set[str]:
    return set(workspace.instance.get_materialized_partitions(key)) & set(partitions)


def test_a_backfill_counts_exactly_what_failed_and_goes_on_with_the_rest(
    workspace: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refused image: the daemon fails that chain alone and launches downstream for the rest."""
    monkeypatch.setenv("REFUSED_PROMPTS", "draw b,move c")
    status, data = backfill(workspace, [IMAGE, VIDEO, POSTER], [*"abcd"])
    assert status == "COMPLETED_FAILED"
    assert keys_of(data.failed_and_downstream_subset) == {
        ("story/image", "b"),
        ("story/video", "b"),
        ("story/video", "c"),
        ("poster", "b"),
        ("poster", "c"),
    }
    assert materialized(workspace, IMAGE, "abcd") == {"a", "c", "d"}
    assert materialized(workspace, VIDEO, "abcd") == {"a", "d"}
    assert materialized(workspace, POSTER, "abcd") == {"a", "d"}


def test_a_backfill_is_one_run_for_the_chain_and_one_for_what_has_its_own_policy(
    workspace: Daemon,
) -> None:
    """Everything succeeds; failed partitions are none; the runs are ranges, not one per key."""
    before = len(workspace.instance.get_runs())
    status, data = backfill(workspace, [IMAGE, VIDEO, POSTER], [*"efgh"])
    assert status == "COMPLETED_SUCCESS"
    assert keys_of(data.failed_and_downstream_subset) == set()
    assert materialized(workspace, POSTER, "efgh") == {*"efgh"}
    assert len(workspace.instance.get_runs()) - before == 2
