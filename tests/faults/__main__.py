"""The whole matrix: every layer, every point, many seeds; writes the table of docs/reliability.md.

Only the rows of what was played are replaced. Ctrl-C begins nothing more, and waits for the end of
what is under way; the scenarios that had ended by then are written. With `--resume FILE` they are
also kept in a file, and the same command plays what is left.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from pathlib import Path

from tests.faults import dagster_layers, library
from tests.faults.crashes import CRASHES
from tests.faults.dagster_side import dagster_side, side_of
from tests.faults.journal import Journal
from tests.faults.scenarios import LAYERS, Outcome, Scenario, scenario
from tests.faults.table import write
from tests.faults.world import ROOT, Harness, harness

PAGE = ROOT / "docs" / "reliability.md"
# Most of a scenario is waiting: for a lease to end, for a vendor, for Dagster to notice.
AT_ONCE = 8


def points_of(layer: str) -> Sequence[str]:
    """Return where a layer is killed; only Dagster's have an event to be killed before."""
    return dagster_layers.POINTS if layer in dagster_layers.KINDS else list(CRASHES)


def play(simulators: Harness, layer: str, wanted: Scenario) -> Outcome:
    """Play one scenario in a world of its own; its traces are kept when something is wrong."""
    name = f"{wanted.name}-{list(LAYERS).index(layer)}"
    world = simulators.world(name, **wanted.world())
    try:
        outcome = LAYERS[layer](wanted, world)
    except Exception as exc:
        return library.unfinished(exc, wanted, layer)
    if not outcome.problems:
        shutil.rmtree(world.folder, ignore_errors=True)
    return outcome


def stories_of(layer: str, seeds: int) -> Sequence[Scenario]:
    """Return all scenarios of a layer."""
    points = points_of(layer)
    return [
        scenario(len(points) * seed + number, crash=crash)
        for seed in range(seeds)
        for number, crash in enumerate(points)
    ]


def matrix(simulators: Harness, layer: str, stories: Sequence[Scenario]) -> Iterator[Outcome]:
    """Play scenarios of a layer, several at once; what has not begun at the end never does."""
    if layer != dagster_layers.DAEMON:
        yield from _at_once(simulators, layer, stories)
        return
    side = side_of(simulators.folder)
    for first in range(0, len(stories), AT_ONCE):
        cohort = stories[first : first + AT_ONCE]
        with side.cohort(len(cohort)):
            yield from _at_once(simulators, layer, cohort)


def _at_once(simulators: Harness, layer: str, stories: Sequence[Scenario]) -> Iterator[Outcome]:
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        running = [pool.submit(play, simulators, layer, story) for story in stories]
        for ended in as_completed(running):
            yield ended.result()
    finally:
        pool.shutdown(cancel_futures=True)


def layers(
    folder: Path, wanted: Mapping[str, Sequence[Scenario]]
) -> Generator[Outcome, None, None]:
    """Play layer after layer; everything that was started is ended in the end."""
    with ExitStack() as started:
        simulators = started.enter_context(harness(folder))
        if set(wanted) & set(dagster_layers.KINDS):
            started.enter_context(dagster_side(folder / "dagster"))
        for layer, stories in wanted.items():
            began, count = time.monotonic(), 0
            for outcome in matrix(simulators, layer, stories):
                yield outcome
                count += 1
            print(f"{layer}: {count} scenarios in {time.monotonic() - began:.0f} s", flush=True)


def gather(
    played: Generator[Outcome, None, None], outcomes: list[Outcome], journal: Journal
) -> bool:
    """Collect outcomes and tell what is wrong; False when somebody broke it off."""
    try:
        with closing(played):
            for outcome in played:
                outcomes.append(outcome)
                journal.add(outcome)
                for problem in outcome.problems:
                    story = outcome.scenario.describe()
                    print(f"{outcome.layer}: {story}\n    {problem}", flush=True)
    except KeyboardInterrupt:
        return False
    return True


def main() -> int:
    """Run what was asked for; 1 when anything is wrong or it was broken off."""
    asked = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    asked.add_argument("--seeds", type=int, default=20, help="scenarios of each point")
    asked.add_argument("--layer", action="append", choices=LAYERS, help="only this one")
    asked.add_argument("--page", type=Path, default=PAGE, help="where the table stands")
    asked.add_argument("--resume", type=Path, metavar="FILE", help="where outcomes are kept")
    options = asked.parse_args()
    journal = Journal(options.resume)
    wanted = {layer: stories_of(layer, options.seeds) for layer in options.layer or LAYERS}
    planned = sum(map(len, wanted.values()))
    seeds = {(layer, one.seed) for layer, stories in wanted.items() for one in stories}
    outcomes = [one for one in journal.good() if (one.layer, one.scenario.seed) in seeds]
    played = {(one.layer, one.scenario.seed) for one in outcomes}
    left = {
        layer: [one for one in stories if (layer, one.seed) not in played]
        for layer, stories in wanted.items()
    }
    folder = Path(tempfile.mkdtemp(prefix="genblaze-faults-"))
    is_whole = gather(layers(folder, left), outcomes, journal)
    write(options.page, outcomes)
    if not is_whole:
        print(f"broken off after {len(outcomes)} of {planned} scenarios; these are on the page")
    wrong = sum(bool(outcome.problems) for outcome in outcomes)
    if wrong:
        print(f"{wrong} of {len(outcomes)} are wrong; their traces are in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_whole and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
