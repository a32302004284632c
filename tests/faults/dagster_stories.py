"""The seeded sample of scenarios in the layers of Dagster, and what is asked of all of them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.faults.dagster_layers import (
    BEFORE_EVENT,
    DAEMON,
    EXECUTOR,
    IN_PROCESS,
    POINTS,
    RUN_WORKER,
)
from tests.faults.dagster_side import DagsterSide
from tests.faults.order import PRIVATE_MARK
from tests.faults.scenarios import RECOVERIES, Outcome, Scenario, scenario
from tests.faults.vendor import SIGNATURE_MARK

_IN_PROCESS = 20
# Tens of seconds each.
_DEAR: Mapping[str, Sequence[str]] = {
    EXECUTOR: (
        "after answer before commit",
        "polling",
        "mid-multipart",
        "after bytes before manifest",
        BEFORE_EVENT,
    ),
    RUN_WORKER: ("after send before answer", "mid-download", "staged", BEFORE_EVENT),
    DAEMON: ("on the wire", "polling", "after manifest before reference"),
}
_BY_DEFAULT: Mapping[str, int] = {EXECUTOR: 3, RUN_WORKER: 3, DAEMON: 2}


def _recovery_of(number: int) -> str:
    return RECOVERIES[number % len(RECOVERIES)]


def _all() -> list[tuple[str, Scenario]]:
    """Return the sample of all layers; the seeds of those that are there must stay as they are."""
    found = [
        (IN_PROCESS, scenario(5000 + n, crash=POINTS[n % len(POINTS)], recovery=_recovery_of(n)))
        for n in range(_IN_PROCESS)
    ]
    for layer, points in _DEAR.items():
        found += [
            (layer, scenario(6000 + len(found) + n, crash=point, recovery=_recovery_of(n)))
            for n, point in enumerate(points)
        ]
    return found


_STORIES = _all()


def stories_of(layer: str) -> list[tuple[str, Scenario]]:
    """Return the stories of a layer that are in the default run."""
    return [story for story in _STORIES if story[0] == layer][: _BY_DEFAULT.get(layer)]


def more_of(layer: str) -> list[tuple[str, Scenario]]:
    """Return the stories of a layer that are left for the slow run."""
    default = stories_of(layer)
    return [story for story in _STORIES if story[0] == layer and story not in default]


def name_of(story: tuple[str, Scenario]) -> str:
    """Return the id of a story's test."""
    layer, scenario = story
    return f"{layer.replace(' ', '-')}-{scenario.seed}"


def missed(outcomes: Iterable[Outcome]) -> list[str]:
    """Return the stories whose kill did not reach its point."""
    return [one.scenario.describe() for one in outcomes if not one.reached]


def leaks(side: DagsterSide) -> list[tuple[str, bytes]]:
    """Return the files of all instances, and logs, that hold what they must not.

    Raises:
        AssertionError: there is nothing to look at.
    """
    marks = [b"sk-faults-", b"s3cr3t", SIGNATURE_MARK.encode(), PRIVATE_MARK.encode()]
    files = [file for file in side.folder.rglob("*") if _is_recorded(side, file)]
    assert any(file.suffix == ".db" for file in files)
    return [(file.name, mark) for file in files for mark in marks if mark in file.read_bytes()]


def _is_recorded(side: DagsterSide, file: Path) -> bool:
    # Orders hold the keys: they are the harness's own.
    return file.is_file() and side.worlds not in file.parents
