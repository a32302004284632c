"""What a batch costs: 200 partitions of 256 KiB in one Dagster run, provider without latency.

    python bench/dagster_batch.py [--partitions 200] [--kib 256] [--rounds 3]

Prints the wall time of one run of all partitions, its ratio to an EMPTY asset over the same
partitions in one run (what Dagster itself costs), and to one run per partition: those are measured
ten times in this process and four times in a process each, as a run launcher does, and extrapolated.
Everything is on a persistent SQLite instance, a file store and an SQLite ledger.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from genblaze_dagster import Pipeline, PromptTable, genblaze_resources
from genblaze_dagster._compat import partition_range_tags
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobStatus,
    Output,
    Result,
    Submission,
)

RUNS_HERE = 10
RUNS_IN_PROCESSES = 4


class Instant:
    """A provider that answers at once with as many bytes as it is told to."""

    name = "instant"
    version = "1"
    deduplicates = True

    def __init__(self, size_bytes: int) -> None:
        self._body = os.urandom(size_bytes)

    def validate(self, request: GenerationRequest) -> None:
        return None

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        return 0.0

    async def submit(self, request: GenerationRequest) -> Submission:
        body = (request.prompt or "").encode().ljust(64) + self._body[64:]
        output = Output(data=body, media_type="application/octet-stream")
        return Submission(result=Result(outputs=(output,), cost_usd=0.0))

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        raise NotImplementedError

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        raise NotImplementedError

    async def cancel(self, job_id: str) -> bool:
        return False

    async def aclose(self) -> None:
        return None


class Batch:
    """The assets and resources that are measured, in a folder of their own."""

    def __init__(self, folder: Path, partitions: int, kib: int) -> None:
        self.table = PromptTable.from_rows({"key": f"p{i:05}"} for i in range(partitions))
        pipeline = Pipeline("bench").step(
            Instant(kib * 1024), model="m", name="media", prompt="{partition_key}"
        )
        self.generated = pipeline.to_assets(partitions=self.table)
        self.resources = genblaze_resources(
            store=(folder / "store").as_uri(), ledger=f"sqlite:///{folder / 'ledger.db'}"
        )
        (folder / "dagster").mkdir(exist_ok=True)
        (folder / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        self.instance = dg.DagsterInstance.from_config(str(folder / "dagster"))

    def all_at_once(self, assets: list[dg.AssetsDefinition]) -> None:
        self._run(assets, tags=partition_range_tags(self.table.keys[0], self.table.keys[-1]))

    def one(self, key: str) -> None:
        self._run(self.generated, partition_key=key)

    def _run(self, assets: list[dg.AssetsDefinition], **options: object) -> None:
        result = dg.materialize(
            assets,
            instance=self.instance,
            resources=self.resources,
            **options,  # type: ignore[arg-type]
        )
        assert result.success


def empty_asset(table: PromptTable) -> dg.AssetsDefinition:
    """An asset over the same partitions whose body does nothing."""

    @dg.asset(
        name="empty",
        partitions_def=table.static_partitions(),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def empty() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult()

    return empty


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(options: argparse.Namespace) -> None:
    batch_seconds: list[float] = []
    empty_seconds: list[float] = []
    for _ in range(options.rounds):
        # A fresh folder each time: nothing is cached, and the event log does not grow.
        with TemporaryDirectory() as name:
            batch = Batch(Path(name), options.partitions, options.kib)
            batch.one(batch.table.keys[0])
            empty = empty_asset(batch.table)
            empty_seconds.append(seconds(lambda b=batch, e=empty: b.all_at_once([e])))
            batch_seconds.append(seconds(lambda b=batch: b.all_at_once(b.generated)))
    with TemporaryDirectory() as name:
        batch = Batch(Path(name), options.partitions, options.kib)
        keys = batch.table.keys
        batch.one(keys[0])
        here = seconds(lambda: [batch.one(key) for key in keys[1 : RUNS_HERE + 1]]) / RUNS_HERE
        command = [sys.executable, __file__, "--folder", name, "--kib", str(options.kib)]
        apart = (
            seconds(
                lambda: [
                    subprocess.run([*command, "--one", key], check=True, capture_output=True)
                    for key in keys[-RUNS_IN_PROCESSES:]
                ]
            )
            / RUNS_IN_PROCESSES
        )
    report(options, batch_seconds, empty_seconds, here, apart)


def report(
    options: argparse.Namespace,
    batch_seconds: list[float],
    empty_seconds: list[float],
    here: float,
    apart: float,
) -> None:
    ours, empty = statistics.median(batch_seconds), statistics.median(empty_seconds)
    total = options.partitions
    print(f"{total} partitions x {options.kib} KiB, median of {options.rounds} rounds")
    print(f"one run, all partitions         {ours:8.2f} s   {ours / total * 1000:.1f} ms each")
    print(
        f"one run, EMPTY asset            {empty:8.2f} s   ratio {ours / empty:.2f} (goal <= 1.3)"
    )
    print(
        f"a run each, in this process     {here * total:8.1f} s   {here * total / ours:.0f}x slower"
        f"   (extrapolated from {RUNS_HERE} runs of {here:.2f} s)"
    )
    print(
        f"a run each, in its own process  {apart * total:8.1f} s   {apart * total / ours:.0f}x "
        f"slower (goal >= 20x; extrapolated from {RUNS_IN_PROCESSES} runs of {apart:.2f} s)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--partitions", type=int, default=200)
    parser.add_argument("--kib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("dagster").setLevel(logging.WARNING)
    if options.one:
        Batch(options.folder, options.partitions, options.kib).one(options.one)
    else:
        measure(options)


if __name__ == "__main__":
    main()
