"""Batches side by side: this package's abatch_run and genblaze's, same prompts, same S3 server.

    python bench/batch.py                       both cases, both packages
    python bench/batch.py --cases slow --runs 200

`slow`: every call takes 1 s, 100 runs at once. `quick`: 50 ms, 32 at once. Every S3 request takes
20 ms. Ideal is runs / concurrency x seconds of a call, as if nothing else took time. Every
measurement is a process of its own and imports are not timed. genblaze's provider blocks (it has no
other kind); ours is measured blocking (`SyncProvider`, the same code) and async.
"""

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUEST_SECONDS = 0.02
SIDES = ("genblaze", "blocking", "async")
BUCKET = "bench"


@dataclass(frozen=True, slots=True)
class Case:
    """What a call takes, how many runs go at once, and what is aimed at."""

    seconds: float
    concurrency: int
    times_ideal: float | None
    times_genblaze: float


CASES = {"slow": Case(1.0, 100, 1.25, 15.0), "quick": Case(0.05, 32, None, 18.0)}


def main() -> None:
    """Compare, or be one side of the comparison."""
    arguments = _arguments()
    if arguments.serve:
        asyncio.run(_serve(arguments.serve))
        return
    if arguments.side:
        print(_measure(arguments.side, CASES[arguments.cases[0]], arguments.runs, arguments.url))
        return
    for name in arguments.cases:
        _compare(name, CASES[name], arguments.runs, arguments.sides)


def _compare(name: str, case: Case, runs: int, sides: list[str]) -> None:
    ideal = runs / case.concurrency * case.seconds
    print(
        f"\n{name}: {runs} runs, {case.seconds:g} s, {case.concurrency} at once, ideal {ideal:.2f} s"
    )
    found: dict[str, float] = {}
    for side in sides:
        with _server() as url:
            command = [sys.executable, __file__, "--side", side, "--url", url, "--runs", str(runs)]
            command += ["--cases", name]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[side] = float(done.stdout.splitlines()[-1])
        line = f"  {side:<10}{found[side]:8.2f} s   {found[side] / ideal:6.2f} x ideal"
        if side != "genblaze" and "genblaze" in found:
            line += f"   {found['genblaze'] / found[side]:6.1f} x genblaze"
        print(line)
    goals = f"  goals: {case.times_genblaze:g} x genblaze"
    print(goals + (f", {case.times_ideal:g} x ideal" if case.times_ideal else ""))


def _measure(side: str, case: Case, runs: int, url: str) -> float:
    warnings.simplefilter("ignore")
    prepare = _genblaze if side == "genblaze" else _ours
    with tempfile.TemporaryDirectory(prefix="genblaze-bench-") as folder:
        run = prepare(side, case, Path(folder), url)
        run([f"warm up {number}" for number in range(2)])
        prompts = [f"prompt {number}" for number in range(runs)]
        start = time.perf_counter()
        run(prompts)
        return time.perf_counter() - start


def _output(folder: Path, prompt: str) -> Path:
    path = folder / f"{prompt.replace(' ', '-')}.bin"
    path.write_bytes(prompt.encode().ljust(4096, b"."))
    return path


def _backend(kind: Any, url: str) -> Any:
    return kind(
        BUCKET,
        endpoint_url=url,
        region="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - not a secret
    )


def _genblaze(_: str, case: Case, folder: Path, url: str) -> Callable[[list[str]], None]:
    from genblaze_core import Asset, Pipeline, SyncProvider
    from genblaze_core.storage.sink import ObjectStorageSink
    from genblaze_s3 import S3StorageBackend

    class Blocking(SyncProvider):
        name = "bench"

        def generate(self, step: Any, config: Any = None) -> Any:
            time.sleep(case.seconds)
            uri = _output(folder, step.prompt).as_uri()
            step.assets.append(Asset(url=uri, media_type="image/png"))
            return step

    def run(prompts: list[str]) -> None:
        sink = ObjectStorageSink(_backend(S3StorageBackend, url))
        pipeline = Pipeline("bench", preflight=False).step(Blocking(), model="m", prompt="?")
        results = asyncio.run(
            pipeline.abatch_run(prompts, max_concurrency=case.concurrency, sink=sink)
        )
        failed = [result.error_summary() for result in results if result.failed_steps()]
        if failed:
            raise SystemExit(f"genblaze failed: {failed[0]}")

    return run


def _ours(side: str, case: Case, folder: Path, url: str) -> Callable[[list[str]], None]:
    from genblaze_dagster import Asset, ObjectStorageSink, Pipeline, S3StorageBackend
    from genblaze_dagster.providers.base import SyncProvider
    from genblaze_dagster.providers.protocol import Output, Result, Submission

    class Blocking(SyncProvider):
        name = "bench"

        def generate(self, step: Any, config: Any = None) -> Any:
            time.sleep(case.seconds)
            uri = _output(folder, step.prompt).as_uri()
            step.assets.append(Asset(url=uri, media_type="image/png"))
            return step

    class Async:
        name = "bench"
        version = "1"
        deduplicates = False

        def validate(self, request: Any) -> None:
            return None

        def estimate_cost(self, request: Any) -> None:
            return None

        async def submit(self, request: Any) -> Submission:
            await asyncio.sleep(case.seconds)
            path = _output(folder, request.prompt)
            return Submission(result=Result((Output(path=path, media_type="image/png"),)))

        async def poll(self, job_id: str, request: Any) -> Any:
            raise NotImplementedError

        async def fetch_output(self, job_id: str, request: Any) -> Any:
            raise NotImplementedError

        async def cancel(self, job_id: str) -> bool:
            return False

        async def aclose(self) -> None:
            return None

    provider: Any = Blocking() if side == "blocking" else Async()

    def run(prompts: list[str]) -> None:
        sink = ObjectStorageSink(_backend(S3StorageBackend, url))
        pipeline = Pipeline("bench", preflight=False).step(provider, model="m", prompt="?")
        asyncio.run(
            pipeline.abatch_run(
                prompts,
                max_concurrency=case.concurrency,
                sink=sink,
                ledger=f"sqlite:///{folder / 'ledger.db'}",
                progress=False,
            )
        )

    return run


@contextmanager
def _server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)


async def _serve(port: int) -> None:
    """Answer as discard_s3 does, every request 20 ms late, and keep what is small."""
    import discard_s3

    discard_s3.KEPT_BYTES = 64 * 1024
    # A connection's buffer is filled with zeros; those of 100 new ones at once would be measured.
    discard_s3.BUFFER_BYTES = 64 * 1024
    loop = asyncio.get_running_loop()

    class Late:
        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def write(self, data: bytes) -> None:
            loop.call_later(REQUEST_SECONDS, self._transport.write, data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

    class LateConnection(discard_s3.Connection):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(Late(transport))

    objects = discard_s3.Objects()
    server = await loop.create_server(lambda: LateConnection(objects), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--serve", type=int, help="internal")
    parser.add_argument("--side", choices=SIDES, help="internal")
    parser.add_argument("--url", help="internal")
    return parser.parse_args()


if __name__ == "__main__":
    main()
