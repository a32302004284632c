"""Kills at moments that nobody has named."""

import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import library
from tests.faults.invariants import check
from tests.faults.scenarios import LARGE_BYTES, scenario
from tests.faults.simulator import Fault
from tests.faults.world import Harness

PARTITIONS = tuple(f"p{number}" for number in range(5))
KILLS = 4
LONGEST_LIFE = 2.0


def wrongs(simulators: Harness, seed: int) -> list[str]:
    """Kill several workers at random moments under a seed's faults; return what is wrong then."""
    draw = random.Random(seed)  # noqa: S311 - for the same moments again, not for secrets
    story = scenario(seed)
    settings = story.world()
    if draw.random() < 0.3:
        settings["vendor"]["media_bytes"] = LARGE_BYTES
    world = simulators.world(f"moments-{seed}", partitions=PARTITIONS, **settings)
    for _ in range(KILLS):
        library.meet_faults(world, story)
        if draw.random() < 0.3:
            world.store_control.faults(Fault("put", "status-before:503", 200))
        worker = world.start(machine=draw.choice([None, "one-machine", "another-machine"]))
        time.sleep(draw.uniform(0.05, LONGEST_LIFE))
        assert worker.kill() in (-signal.SIGKILL, 0, 1)
    world.quiet()
    library.recover_all(world, story)
    wrong = [*library.not_settled(world), *library.not_stored(world), *check(world).violations]
    return [f"{story.describe()}: {what}" for what in wrong]


def all_wrongs(simulators: Harness, seeds: range) -> list[str]:
    """Return what is wrong after any of the seeds."""
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda seed: wrongs(simulators, seed), seeds)
        return [wrong for of_one in found for wrong in of_one]


def test_kills_at_random_moments(simulators: Harness) -> None:
    """Wherever they land, nothing is paid twice, and nothing paid is lost."""
    assert all_wrongs(simulators, range(6)) == []


@pytest.mark.slow
def test_many_kills_at_random_moments(simulators: Harness) -> None:
    """The same with hundreds of kills."""
    assert all_wrongs(simulators, range(100, 200)) == []
