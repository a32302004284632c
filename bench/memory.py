"""Resident memory of one process over 10,000 runs of a pipeline, 100 at a time.

    python bench/memory.py                    both ways, each in a process of its own
    python bench/memory.py --ways stream --runs 2000

`stream` takes every outcome of `abatch_stream` and lets it go: memory must stay flat. `all` is
`abatch_run`, whose list holds the result of every run until it is returned. Media is 4 KB, the
store a temporary folder, the ledger a file in it. Linux only: resident memory is read from /proc.
"""

import argparse
import asyncio
import gc
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONCURRENCY = 100
WAYS = ("stream", "all")
SHOWN = (500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000)
# What starts with a process, such as threads and pools, is there after this many runs.
SETTLED = 1_000


def main() -> None:
    """Measure both ways, or be the process in which one is measured."""
    arguments = _arguments()
    if arguments.way:
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory(prefix="genblaze-bench-") as folder:
            _measure(arguments.way, arguments.runs, Path(folder))
        return
    for way in arguments.ways:
        print(f"\n{way}: {arguments.runs} runs", flush=True)
        command = [sys.executable, __file__, "--way", way, "--runs", str(arguments.runs)]
        subprocess.run(command, check=True)


def _measure(way: str, runs: int, folder: Path) -> None:
    from genblaze_dagster import Pipeline

    provider: Any = _provider()
    pipeline = Pipeline("memory", preflight=False).step(provider, model="m", prompt="?")
    options: dict[str, Any] = {
        "store": (folder / "store").as_uri(),
        "ledger": f"sqlite:///{folder / 'ledger.db'}",
        "max_concurrency": CONCURRENCY,
        "progress": False,
    }
    watch = _Watch(runs)
    if way == "stream":
        asyncio.run(_consume(pipeline, watch, options))
    else:
        results = asyncio.run(pipeline.abatch_run(watch.prompts(), **options))
        print(f"  returned{len(results):8d} results")
    watch.conclude()


async def _consume(pipeline: Any, watch: "_Watch", options: dict[str, Any]) -> None:
    async for outcome in pipeline.abatch_stream(watch.prompts(), **options):
        if outcome.error is not None:
            raise outcome.error


class _Watch:
    """Gives out the prompts and, as it does, looks at the memory."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._seen: dict[int, int] = {}

    def prompts(self) -> Iterator[str]:
        for number in range(self._runs):
            self._look(number)
            yield f"prompt {number}"

    def conclude(self) -> None:
        self._look(self._runs)
        if self._runs > SETTLED:
            grown = self._seen[self._runs] - self._seen[SETTLED]
            per_run = grown / (self._runs - SETTLED)
            print(f"  from {SETTLED} on: {grown / 2**20:+.1f} MiB, {per_run:+.0f} bytes per run")

    def _look(self, done: int) -> None:
        if done in SHOWN or done == self._runs:
            gc.collect()
            self._seen[done] = _resident_bytes()
            print(f"  after {done:8d} runs {self._seen[done] / 2**20:8.1f} MiB", flush=True)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no VmRSS in /proc/self/status")


def _provider() -> object:
    from genblaze_dagster.providers.protocol import Output, Result, Submission

    class Provider:
        name = "bench"
        version = "1"
        deduplicates = False

        def validate(self, request: Any) -> None:
            return None

        def estimate_cost(self, request: Any) -> None:
            return None

        async def submit(self, request: Any) -> Submission:
            data = request.prompt.encode().ljust(4096, b".")
            return Submission(result=Result((Output(data=data, media_type="image/png"),)))

        async def poll(self, job_id: str, request: Any) -> Any:
            raise NotImplementedError

        async def fetch_output(self, job_id: str, request: Any) -> Any:
            raise NotImplementedError

        async def cancel(self, job_id: str) -> bool:
            return False

        async def aclose(self) -> None:
            return None

    return Provider()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--way", choices=WAYS, help="internal")
    return parser.parse_args()


if __name__ == "__main__":
    main()
