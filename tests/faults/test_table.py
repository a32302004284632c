"""The page keeps what earlier runs of the matrix have found."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.faults import dagster_layers, library
from tests.faults.__main__ import gather
from tests.faults.dagster_side import Cohort
from tests.faults.invariants import Verdict
from tests.faults.journal import Journal
from tests.faults.scenarios import Outcome, scenario
from tests.faults.table import BEGIN, END, merged, rows_of

PAGE = f"Before.\n\n{BEGIN}\n{END}\n\nAfter.\n"


def outcome(layer: str, *, crash: str = "polling", seconds: float = 1.0) -> Outcome:
    return Outcome(scenario(1, crash=crash), layer, True, seconds, Verdict((), 0, 0, 1))


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")][1:]


def test_a_run_of_one_layer_keeps_the_rows_of_the_others() -> None:
    """Rows that were played are replaced, each says for how many seeds, and all are added up."""
    first = [outcome(library.LAYER), outcome(dagster_layers.EXECUTOR, seconds=9.0)]
    page = merged(PAGE, rows_of(first))
    again = [outcome(library.LAYER, seconds=2.0), outcome(library.LAYER, seconds=4.0)]
    page = merged(page, rows_of(again))
    assert rows(page) == [
        "| polling | process | 2 | 2 | 0 | 0 | 2 | 3.0 | 4.0 |",
        "| polling | multiprocess executor | 1 | 1 | 0 | 0 | 1 | 9.0 | 9.0 |",
        "| all | all | 3 | 3 | 0 | 0 | 3 | | 9.0 |",
    ]
    assert page.startswith("Before.")
    assert page.endswith("After.\n")


def test_a_run_of_nothing_changes_nothing() -> None:
    """Who breaks off before the first scenario has ended finds the page as it was."""
    page = merged(PAGE, rows_of([outcome(library.LAYER), outcome(library.LAYER, crash="staged")]))
    assert merged(page, []) == page


def test_what_was_played_before_it_was_broken_off_counts() -> None:
    """Ctrl-C ends what was started, and keeps the outcomes until then."""
    ended: list[bool] = []

    def played() -> Generator[Outcome, None, None]:
        try:
            yield outcome(library.LAYER)
            raise KeyboardInterrupt
        finally:
            ended.append(True)

    outcomes: list[Outcome] = []
    assert gather(played(), outcomes, Journal(None)) is False
    assert (len(outcomes), ended) == (1, [True])


def test_what_was_good_is_not_played_again(tmp_path: Path) -> None:
    """Outcomes come back as they were written; a wrong one is left for the next run."""
    journal = Journal(tmp_path / "outcomes.jsonl")
    assert list(journal.good()) == []
    good = [outcome(library.LAYER, seconds=1.5), outcome(dagster_layers.DAEMON)]
    for one in (*good, replace(good[0], problems=("lost",))):
        journal.add(one)
    assert list(Journal(tmp_path / "outcomes.jsonl").good()) == good


def test_a_world_that_gives_up_does_not_spare_the_others_daemon() -> None:
    """Who only waited for it does what was to be done together, once."""
    cohort = Cohort(3)
    acted: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(cohort.together, lambda: acted.append("killed")) for _ in range(2)]
        cohort.leave()
        for one in waiting:
            one.result(timeout=30)
    assert acted == ["killed"]
