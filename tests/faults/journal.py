"""Outcomes in a file as they come: a matrix that was broken off after hours goes on where it was."""

import json
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

from tests.faults.invariants import Verdict
from tests.faults.scenarios import Outcome, scenario


class Journal:
    """A line for every outcome; None keeps none."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def good(self) -> Iterator[Outcome]:
        """Yield what was played with nothing wrong; what was wrong is to be played again."""
        if self._file is None or not self._file.exists():
            return
        for line in self._file.read_text().splitlines():
            said = json.loads(line)
            if said["problems"]:
                continue
            violations, *counts = said["verdict"]
            yield Outcome(
                scenario(said["seed"], crash=said["crash"]),
                said["layer"],
                said["reached"],
                said["seconds"],
                Verdict(tuple(violations), *counts),
            )

    def add(self, outcome: Outcome) -> None:
        """Write an outcome down."""
        if self._file is None:
            return
        said = {
            "layer": outcome.layer,
            "seed": outcome.scenario.seed,
            "crash": outcome.scenario.crash,
            "reached": outcome.reached,
            "seconds": outcome.recovery_seconds,
            "verdict": astuple(outcome.verdict),
            "problems": outcome.problems,
        }
        with self._file.open("a") as file:
            file.write(json.dumps(said) + "\n")
