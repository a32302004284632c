"""Manifests against genblaze-core: build the objects, hash them, write the text.

Both sides do the same steps in one process, in alternating rounds; the table shows medians. The
hash and every hashed byte are compared before anything is timed.

    python bench/manifest.py
"""

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from genblaze_core.models import asset as theirs_asset
from genblaze_core.models import manifest as theirs_manifest
from genblaze_core.models import run as theirs_run
from genblaze_core.models import step as theirs_step

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step

PROMPT = "a lighthouse at dusk, volumetric fog, 35mm film, wide angle"
STEPS = (1, 10, 100)
GOAL = 5.0
CALLS_PER_ROUND = 200
"""Steps handled between two looks at the clock, so that one look costs nothing."""


class Library(NamedTuple):
    """The four classes that both libraries have."""

    asset: Any
    step: Any
    run: Any
    manifest: Any


OURS = Library(Asset, Step, Run, Manifest)
THEIRS = Library(theirs_asset.Asset, theirs_step.Step, theirs_run.Run, theirs_manifest.Manifest)


def build(library: Library, steps: int, sha256: list[str]) -> Any:
    """Return a run of image steps, each with the output of the one before as its input."""
    made: list[Any] = []
    inputs: list[Any] = []
    for index in range(steps):
        output = library.asset(
            url=f"https://cdn.example.test/media/{index}.png",
            media_type="image/png",
            sha256=sha256[index],
            size_bytes=123_456 + index,
            width=1024,
            height=768,
            metadata={"index": index},
        )
        step = library.step(
            provider="acme",
            model="image-1",
            prompt=PROMPT,
            params={"size": "1024x768", "guidance": 7.5, "steps": 30, "styles": ["film", "35mm"]},
            seed=index,
            status="succeeded",
            inputs=inputs,
            assets=[output],
            cost_usd=0.04,
            metadata={"scene": index, "take": "a"},
        )
        made.append(step)
        inputs = [output]
    return library.run(name="bench", status="completed", steps=made, metadata={"project": "b"})


def phases(library: Library, steps: int, sha256: list[str]) -> dict[str, Callable[[], Any]]:
    """Return what is timed: each phase from what the one before made, and all in a row."""
    run = build(library, steps, sha256)
    manifest = library.manifest.from_run(run)
    return {
        "build": lambda: build(library, steps, sha256),
        "hash": lambda: library.manifest.from_run(run),
        "serialise": manifest.to_canonical_json,
        "all three": lambda: library.manifest.from_run(
            build(library, steps, sha256)
        ).to_canonical_json(),
    }


def timed(call: Callable[[], Any], times: int) -> float:
    """Return microseconds per call."""
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times * 1e6


def measure(steps: int, rounds: int, sha256: list[str]) -> tuple[dict[str, float], ...]:
    """Return the median microseconds of each phase, ours and theirs."""
    calls = [phases(library, steps, sha256) for library in (OURS, THEIRS)]
    assert calls[0]["hash"]().canonical_hash == calls[1]["hash"]().canonical_hash
    times = max(1, CALLS_PER_ROUND // steps)
    taken = [{name: [] for name in calls[0]} for _ in calls]
    for turn in range(rounds + 1):
        for side, phase in enumerate(calls):
            for name, call in phase.items():
                duration = timed(call, times)
                if turn:
                    taken[side][name].append(duration)
    return tuple({name: statistics.median(t) for name, t in side.items()} for side in taken)


def main() -> int:
    """Print the table; return 1 when a ratio misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    rounds = parser.parse_args().rounds
    sha256 = [hashlib.sha256(str(index).encode()).hexdigest() for index in range(max(STEPS))]
    missed = False
    print(f"{'steps':>5}  {'phase':<10}{'ours µs':>10}{'genblaze µs':>13}{'ratio':>8}")
    for steps in STEPS:
        ours, theirs = measure(steps, rounds, sha256)
        for name in ours:
            print(row(steps, name, ours[name], theirs[name]))
        missed = missed or theirs["all three"] / ours["all three"] < GOAL
    print(f"goal: all three at least {GOAL:g}x: {'missed' if missed else 'met'}")
    return int(missed)


def row(steps: int, phase: str, ours: float, theirs: float) -> str:
    """Return one line of the table."""
    return f"{steps:>5}  {phase:<10}{ours:>10.1f}{theirs:>13.1f}{theirs / ours:>7.1f}x"


if __name__ == "__main__":
    raise SystemExit(main())
