"""Seeded scenarios of the library layer: processes that run pipelines, killed and run again."""

import pytest

from tests.faults import library
from tests.faults.conftest import Played, Story
from tests.faults.crashes import CRASHES
from tests.faults.scenarios import scenario

SEEDS = range(105)
# Faults before the crash may keep it from happening: then it is a scenario without one.
REACHED_AT_LEAST = 85
STORIES = [(library.LAYER, scenario(seed)) for seed in SEEDS]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story[1].name)
def test_nothing_is_paid_twice_and_nothing_paid_is_lost(played: Played, story: Story) -> None:
    """After a kill at this point, under these faults, every invariant holds."""
    outcome = played[story]
    assert not outcome.problems, story[1].describe()


def test_the_kills_hit_every_point(played: Played) -> None:
    """Every named point is hit, most of them several times, and the hits are proven."""
    hit = [story[1].crash for story in STORIES if played[story].reached]
    assert set(hit) == set(CRASHES)
    assert len(hit) >= REACHED_AT_LEAST


def test_a_seed_is_always_the_same_scenario() -> None:
    """What failed once can be run again by its seed."""
    assert [scenario(seed) for seed in SEEDS] == [scenario(seed) for seed in SEEDS]
    assert len({scenario(seed).describe().partition(":")[2] for seed in SEEDS}) == len(SEEDS)
