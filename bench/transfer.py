"""Transfers side by side: this package's sink and genblaze's, same files, same S3 server process.

    python bench/transfer.py                    1 GiB in one object, 2,000 objects of 64 KiB
    python bench/transfer.py --large 200 --small 300

Every measurement is a process of its own: start-up and imports are not timed, a first small run
opens connections beforehand. The server (`discard_s3.py`) counts bytes and keeps none, and is
asked afterwards whether everything arrived. Memory is the peak above what the process had when the
transfer began. With both cores busy elsewhere compare the CPU seconds, not the clock.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1024 * 1024
GOALS = {"large": 3.5, "small": 9.0}
SERVER = Path(__file__).with_name("discard_s3.py")
BUCKET = "bench"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One transfer of one side. Seconds, bytes."""

    seconds: float
    cpu_seconds: float
    added_bytes: int


def main() -> None:
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(asdict(_measure(arguments.side, arguments.url, arguments.folder))))
        return
    with tempfile.TemporaryDirectory(prefix="genblaze-bench-") as folder:
        for case, count, size in (
            ("large", 1, arguments.large * MIB),
            ("small", arguments.small, 64 * 1024),
        ):
            if count and size:
                _compare(case, Path(folder) / case, count, size)


def _compare(case: str, folder: Path, count: int, size: int) -> None:
    _make_files(folder, count, size)
    total = count * size
    print(f"\n{case}: {count} x {size / MIB:g} MiB")
    found: dict[str, Measurement] = {}
    for side in ("genblaze", "genblaze_dagster"):
        with _server() as url:
            found[side] = _run_side(side, url, folder)
            _check_arrived(url, count, total)
        m = found[side]
        print(
            f"  {side:<18}{m.seconds:7.2f} s {total / m.seconds / 1e6:8.0f} MB/s "
            f"{count / m.seconds:8.0f} objects/s   CPU {m.cpu_seconds:6.2f} s   "
            f"memory +{m.added_bytes / 1e6:.0f} MB"
        )
    theirs, ours = found["genblaze"], found["genblaze_dagster"]
    print(
        f"  ratio {theirs.seconds / ours.seconds:.1f} (CPU "
        f"{theirs.cpu_seconds / ours.cpu_seconds:.1f}), goal {GOALS[case]}"
    )


def _run_side(side: str, url: str, folder: Path) -> Measurement:
    command = [sys.executable, __file__, "--side", side, "--url", url, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _measure(side: str, url: str, folder: Path) -> Measurement:
    warnings.simplefilter("ignore")
    prepare = _genblaze if side == "genblaze" else _genblaze_dagster
    with tempfile.NamedTemporaryFile(suffix=".bin") as warm_up:
        warm_up.write(os.urandom(1024))
        warm_up.flush()
        prepare(url, [Path(warm_up.name)])()
    write = prepare(url, sorted(folder.iterdir()))
    with _peak_memory() as peak:
        cpu, start = time.process_time(), time.perf_counter()
        write()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    return Measurement(seconds, cpu_seconds, peak())


def _genblaze(url: str, files: list[Path]) -> Callable[[], None]:
    from genblaze_core.models.asset import Asset
    from genblaze_core.models.manifest import Manifest
    from genblaze_core.models.run import Run
    from genblaze_core.models.step import Step
    from genblaze_core.storage.sink import ObjectStorageSink
    from genblaze_s3 import S3StorageBackend

    assets = [Asset(url=file.as_uri(), media_type="video/mp4") for file in files]
    run = Run(steps=[Step(provider="bench", model="bench", assets=assets)])
    manifest = Manifest.from_run(run)
    backend = S3StorageBackend(
        BUCKET,
        endpoint_url=url,
        region="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - not a secret
    )
    sink = ObjectStorageSink(backend)
    return lambda: sink.write_run(run, manifest)


def _genblaze_dagster(url: str, files: list[Path]) -> Callable[[], None]:
    from genblaze_dagster.core.manifest import Manifest
    from genblaze_dagster.core.models import Asset, Run, Step
    from genblaze_dagster.storage.backend import S3StorageBackend
    from genblaze_dagster.storage.sink import ObjectStorageSink

    assets = [Asset(url=file.as_uri(), media_type="video/mp4") for file in files]
    run = Run(steps=[Step(provider="bench", model="bench", assets=assets)])
    manifest = Manifest.from_run(run)
    backend = S3StorageBackend(
        BUCKET,
        endpoint_url=url,
        region="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",  # noqa: S106 - not a secret
    )
    sink = ObjectStorageSink(backend)
    return lambda: sink.write_run(run, manifest)


@contextmanager
def _peak_memory() -> Iterator[Callable[[], int]]:
    """Sample resident memory; the function gives the peak above the start, in bytes."""
    page = os.sysconf("SC_PAGE_SIZE")

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    start = peak = resident()
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: peak - start
    finally:
        stop.set()
        watcher.join()


@contextmanager
def _server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(SERVER), str(port)])
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


def _check_arrived(url: str, count: int, total: int) -> None:
    question = f"{url}/{BUCKET}?total=genblaze/assets/"
    with urllib.request.urlopen(question, timeout=10) as answer:  # noqa: S310 - our server
        objects, stored, requests = map(int, answer.read().split())
    # The warm-up object comes on top.
    if (objects, stored) != (count + 1, total + 1024):
        raise SystemExit(f"the server has {objects} objects with {stored} bytes")
    print(f"  {requests} requests", end="")


def _make_files(folder: Path, count: int, size: int) -> None:
    folder.mkdir()
    block = os.urandom(min(size, MIB))
    for number in range(count):
        with (folder / f"{number:05}.bin").open("wb") as file:
            file.write(number.to_bytes(8))
            written = 8
            while written < size:
                written += file.write(block[: size - written])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=int, default=1024, help="MiB of the one large object")
    parser.add_argument("--small", type=int, default=2000, help="number of 64 KiB objects")
    parser.add_argument("--side", choices=["genblaze", "genblaze_dagster"], help="internal")
    parser.add_argument("--url", help="internal")
    parser.add_argument("--folder", type=Path, help="internal")
    return parser.parse_args()


if __name__ == "__main__":
    main()
