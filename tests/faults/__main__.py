"""The whole matrix: every layer, every point, many seeds; writes the table of docs/reliability.md."""

import argparse
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.faults import dagster_layers, library
from tests.faults.crashes import CRASHES
from tests.faults.dagster_layers import BEFORE_EVENT
from tests.faults.scenarios import LAYERS, Outcome, Scenario, scenario
from tests.faults.world import ROOT, Harness, harness

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
# Most of a scenario is waiting; a Dagster run is mostly work.
AT_ONCE = {library.LAYER: 8}
_DAGSTER_AT_ONCE = 2
_HEAD = (
    "| killed | layer | runs | hit | double submits | lost outputs | held | recovery, s: median "
    "| max |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """All outcomes of one point in one layer."""

    crash: str
    layer: str
    outcomes: Sequence[Outcome]

    @property
    def row(self) -> str:
        """Return the row of the table."""
        seconds = [outcome.recovery_seconds for outcome in self.outcomes]
        return (
            f"| {self.crash} | {self.layer} | {len(self.outcomes)} "
            f"| {sum(outcome.reached for outcome in self.outcomes)} "
            f"| {sum(outcome.verdict.double_submits for outcome in self.outcomes)} "
            f"| {sum(outcome.verdict.lost_outputs for outcome in self.outcomes)} "
            f"| {sum(outcome.verdict.held for outcome in self.outcomes)} "
            f"| {median(seconds):.1f} | {max(seconds):.1f} |"
        )


def points_of(layer: str) -> list[str]:
    """Return where a layer is killed; only Dagster's have an event to be killed before."""
    return [*CRASHES, *([BEFORE_EVENT] if layer in dagster_layers.KINDS else [])]


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


def matrix(simulators: Harness, layer: str, seeds: int) -> Iterator[Outcome]:
    """Play all scenarios of a layer, several at once."""
    points = points_of(layer)
    stories = [
        scenario(len(points) * seed + number, crash=crash)
        for seed in range(seeds)
        for number, crash in enumerate(points)
    ]
    with ThreadPoolExecutor(AT_ONCE.get(layer, _DAGSTER_AT_ONCE)) as pool:
        yield from pool.map(lambda story: play(simulators, layer, story), stories)


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the table, in the order of points and layers."""
    grouped: Mapping[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        grouped[outcome.scenario.crash, outcome.layer].append(outcome)
    order = [(crash, layer) for crash in (*CRASHES, BEFORE_EVENT) for layer in LAYERS]
    cells = [Cell(*place, grouped[place]) for place in order if grouped[place]]
    every = [outcome for cell in cells for outcome in cell.outcomes]
    return "\n".join([*_HEAD, *(cell.row for cell in cells), Cell("all", "all", every).row])


def write(page: Path, text: str) -> None:
    """Put the table between its markers."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> int:
    """Run what was asked for; 1 when anything is wrong."""
    asked = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    asked.add_argument("--seeds", type=int, default=20, help="scenarios of each point")
    asked.add_argument("--layer", action="append", choices=LAYERS, help="only this one")
    asked.add_argument("--page", type=Path, default=PAGE, help="where the table stands")
    options = asked.parse_args()
    outcomes: list[Outcome] = []
    folder = Path(tempfile.mkdtemp(prefix="genblaze-faults-"))
    with harness(folder) as simulators:
        for layer in options.layer or LAYERS:
            started = time.monotonic()
            for outcome in matrix(simulators, layer, options.seeds):
                outcomes.append(outcome)
                for problem in outcome.problems:
                    print(f"{layer}: {outcome.scenario.describe()}\n    {problem}", flush=True)
            count = sum(outcome.layer == layer for outcome in outcomes)
            print(f"{layer}: {count} scenarios in {time.monotonic() - started:.0f} s", flush=True)
    write(options.page, table(outcomes))
    wrong = sum(bool(outcome.problems) for outcome in outcomes)
    if wrong:
        print(f"{wrong} of {len(outcomes)} are wrong; their traces are in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
