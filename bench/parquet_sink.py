"""ParquetSink against genblaze's: write runs, write them again, write what changed.

Both sides write the same runs in one process, in alternating rounds and fresh directories; the
table shows medians. What both wrote is compared, row by row, before anything is timed. The last
line is the `index` command over a folder: one call of ours, one call a manifest of genblaze's.

    python bench/parquet_sink.py [--runs 200] [--rounds 5] [--commands 10]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from genblaze_core.models import asset as theirs_asset
from genblaze_core.models import manifest as theirs_manifest
from genblaze_core.models import run as theirs_run
from genblaze_core.models import step as theirs_step
from genblaze_core.sinks import parquet as theirs_sink

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.index.parquet_sink import ParquetSink

TABLES = ("runs", "steps", "assets")
PROGRAMS = ("genblaze-dagster", "genblaze")


class Library(NamedTuple):
    """The classes that both libraries have."""

    asset: Any
    step: Any
    run: Any
    manifest: Any
    sink: Any


OURS = Library(Asset, Step, Run, Manifest, ParquetSink)
THEIRS = Library(
    theirs_asset.Asset,
    theirs_step.Step,
    theirs_run.Run,
    theirs_manifest.Manifest,
    theirs_sink.ParquetSink,
)


def manifest(library: Library, number: int, hashed: str) -> Any:
    """Return the manifest of an image and the video made from it; `hashed` is part of the hash."""
    image = library.asset(
        asset_id=f"aa000000-0000-4000-8000-{number:012d}",
        url=f"https://cdn.example.test/{number}.png",
        media_type="image/png",
        sha256=f"{number:064x}",
        size_bytes=number,
        width=1024,
        height=768,
    )
    video = library.asset(
        asset_id=f"ab000000-0000-4000-8000-{number:012d}",
        url=f"https://cdn.example.test/{number}.mp4",
        media_type="video/mp4",
        sha256=f"{number + 1:064x}",
        size_bytes=number,
        duration=5.0,
    )
    facts = {"provider": "acme", "status": "succeeded", "cost_usd": 0.04, "seed": number}
    steps = [
        library.step(
            step_id=f"5a000000-0000-4000-8000-{number:012d}",
            model="image-1",
            prompt=hashed,
            params={"size": "1024x768", "guidance": 7.5},
            assets=[image],
            **facts,
        ),
        library.step(
            step_id=f"5b000000-0000-4000-8000-{number:012d}",
            model="video-1",
            modality="video",
            prompt="slow push-in",
            inputs=[image],
            assets=[video],
            **facts,
        ),
    ]
    run = library.run(
        run_id=f"7a000000-0000-4000-8000-{number:012d}",
        created_at="2026-03-01T00:00:00Z",
        status="completed",
        steps=steps,
    )
    return library.manifest.from_run(run)


def rounds_of(library: Library, runs: int) -> dict[str, Sequence[Any]]:
    """Return what is written in each phase, in this order into one directory."""
    first = [manifest(library, number, "a paper boat") for number in range(runs)]
    changed = [manifest(library, number, "a paper plane") for number in range(runs)]
    return {"write": first, "write again": first, "write changed": changed}


def timed(call: Callable[[], Any]) -> float:
    """Return seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def write_all(library: Library, base: Path, manifests: Sequence[Any]) -> None:
    """Write every manifest, each side with its quickest call."""
    sink = library.sink(base)
    if library is OURS:
        sink.write_many(manifests)
    else:
        for one in manifests:
            sink.write_run(one.run, one)
    sink.close()


def rows(base: Path) -> dict[str, str]:
    """Return the rows of every file by its path."""
    files = sorted(path for table in TABLES for path in (base / table).rglob("*.parquet"))
    return {
        str(path.relative_to(base)): json.dumps(pq.ParquetFile(path).read().to_pylist())
        for path in files
    }


def compare() -> None:
    """Fail when the two directories differ."""
    found = []
    for library in (OURS, THEIRS):
        with tempfile.TemporaryDirectory() as folder:
            write_all(library, Path(folder), [manifest(library, 7, "a paper boat")])
            found.append(rows(Path(folder)))
    assert found[0] == found[1]
    assert len(found[0]) == len(TABLES)


def command_seconds(folder: Path, count: int) -> tuple[float, float]:
    """Return how long the commands take for `count` manifest files, start included."""
    paths = [folder / "in" / f"{number}.json" for number in range(count)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        path.write_text(manifest(OURS, number, "a paper boat").to_canonical_json())
    ours, theirs = (Path(sys.executable).with_name(name) for name in PROGRAMS)
    one_call = [ours, "index", paths[0].parent, "-o", folder / "ours"]
    calls = [[theirs, "index", path, "-o", folder / "theirs"] for path in paths]
    return tuple(
        timed(lambda c=commands: [subprocess.run(x, check=True, capture_output=True) for x in c])
        for commands in ([one_call], calls)
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", type=int, default=10)
    options = parser.parse_args()
    compare()
    sides = (OURS, THEIRS)
    work = [rounds_of(library, options.runs) for library in sides]
    taken: list[dict[str, list[float]]] = [{name: [] for name in work[0]} for _ in sides]
    for turn in range(options.rounds + 1):
        for side, library in enumerate(sides):
            with tempfile.TemporaryDirectory() as folder:
                for name, manifests in work[side].items():
                    seconds = timed(lambda m=manifests: write_all(library, Path(folder), m))  # noqa: B023 - called at once
                    if turn:
                        taken[side][name].append(seconds / options.runs * 1000)
    print(f"{options.runs} runs of 2 steps, milliseconds per run")
    print(f"{'phase':<16}{'ours':>10}{'genblaze':>12}{'ratio':>8}")
    for name in taken[0]:
        print(row(name, *(statistics.median(side[name]) for side in taken)))
    with tempfile.TemporaryDirectory() as folder:
        seconds = command_seconds(Path(folder), options.commands)
    print(row("index command", *(value / options.commands * 1000 for value in seconds)))


def row(name: str, ours: float, theirs: float) -> str:
    """Return one line of the table."""
    return f"{name:<16}{ours:>10.2f}{theirs:>12.2f}{theirs / ours:>7.1f}x"


if __name__ == "__main__":
    main()
