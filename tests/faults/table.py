"""The table of docs/reliability.md: a row for every point in every layer that was ever played."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import median

from tests.faults.dagster_layers import POINTS
from tests.faults.scenarios import LAYERS, Outcome

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_HEAD = (
    "| killed | layer | seeds | hit | double submits | lost outputs | held | recovery, s: median "
    "| max |",
    "|---|---|--:|--:|--:|--:|--:|--:|--:|",
)


@dataclass(frozen=True, slots=True)
class Row:
    """All outcomes of one point in one layer."""

    crash: str
    layer: str
    seeds: int
    hit: int
    double_submits: int
    lost_outputs: int
    held: int
    median_seconds: float
    most_seconds: float

    @classmethod
    def of(cls, crash: str, layer: str, outcomes: Sequence[Outcome]) -> "Row":
        """Return the row of what was played; there is at least one outcome."""
        seconds = [outcome.recovery_seconds for outcome in outcomes]
        return cls(
            crash,
            layer,
            len(outcomes),
            sum(outcome.reached for outcome in outcomes),
            sum(outcome.verdict.double_submits for outcome in outcomes),
            sum(outcome.verdict.lost_outputs for outcome in outcomes),
            sum(outcome.verdict.held for outcome in outcomes),
            median(seconds),
            max(seconds),
        )

    @classmethod
    def read(cls, line: str) -> "Row":
        """Return the row that a line of the table says."""
        crash, layer, *numbers = (cell.strip() for cell in line.strip().strip("|").split("|"))
        *counts, middle, most = numbers
        return cls(crash, layer, *map(int, counts), float(middle), float(most))

    @property
    def line(self) -> str:
        """Return the line of the table."""
        *counts, middle, most = astuple(self)
        return f"| {' | '.join(map(str, counts))} | {middle:.1f} | {most:.1f} |"


def rows_of(outcomes: Iterable[Outcome]) -> list[Row]:
    """Return a row for every point and layer that was played."""
    grouped: Mapping[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        grouped[outcome.scenario.crash, outcome.layer].append(outcome)
    return [Row.of(*place, played) for place, played in grouped.items()]


def merged(text: str, rows: Iterable[Row]) -> str:
    """Return the page with these rows; those of other points and layers stay as they are.

    Rows of points and layers that are no more go.
    """
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    lines = [line for line in old.splitlines() if line.startswith("|")][len(_HEAD) :]
    known = [Row.read(line) for line in lines if not line.startswith("| all |")]
    newest = {(row.crash, row.layer): row for row in (*known, *rows)}
    order = [(crash, layer) for crash in POINTS for layer in LAYERS]
    kept = [newest[place] for place in order if place in newest]
    new = "\n".join([*_HEAD, *(row.line for row in kept), _total(kept)])
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def write(page: Path, outcomes: Iterable[Outcome]) -> None:
    """Put what was played into the table of a page."""
    page.write_text(merged(page.read_text(), rows_of(outcomes)))


def _total(rows: Sequence[Row]) -> str:
    # Of several rows only the counts can be added, and the longest recovery be told.
    counts = [astuple(row)[2:7] for row in rows]
    sums = " | ".join(str(sum(column)) for column in zip(*counts, strict=True))
    longest = max((row.most_seconds for row in rows), default=0.0)
    return f"| all | all | {sums} | | {longest:.1f} |"
