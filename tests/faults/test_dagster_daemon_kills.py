"""Seeded scenarios in backfills: the run worker, or the daemon itself, is killed."""

import pytest

from tests.faults.conftest import Played, Story
from tests.faults.dagster_layers import DAEMON, RUN_WORKER
from tests.faults.dagster_side import DagsterSide
from tests.faults.dagster_stories import leaks, missed, more_of, name_of, stories_of

pytestmark = [
    pytest.mark.usefixtures("side"),
    # Dagster's own backfill code calls it.
    pytest.mark.filterwarnings("ignore:Function `AssetSelection.sources`"),
]

LAYERS = (DAEMON, RUN_WORKER)
STORIES = [story for layer in LAYERS for story in stories_of(layer)]
MORE = [story for layer in LAYERS for story in more_of(layer)]


@pytest.mark.parametrize(
    "story",
    [*STORIES, *(pytest.param(story, marks=pytest.mark.slow) for story in MORE)],
    ids=name_of,
)
def test_nothing_is_paid_twice_and_dagster_knows_what_is_stored(
    played: Played, story: Story
) -> None:
    """After a kill in this layer every invariant holds, and events and references agree."""
    outcome = played[story]
    assert not outcome.problems, f"{story[0]}: {story[1].describe()}"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_kills_of_every_layer_hit_their_points(played: Played, layer: str) -> None:
    """Faults before a kill may keep it from happening; most kills do."""
    outcomes = [played[story] for story in stories_of(layer)]
    assert len(missed(outcomes)) <= max(1, 0.4 * len(outcomes)), missed(outcomes)


def test_dagster_has_recorded_no_secret(played: Played, side: DagsterSide) -> None:
    """No key, signed URL or private prompt is in a database, event or log of any instance."""
    assert all(played[story] for story in STORIES)
    assert leaks(side) == []
