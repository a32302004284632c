"""What the ledger costs a generation: claim, mark as sending, stored, each durable when it returns.

    python bench/ledger.py                                  a new SQLite file
    python bench/ledger.py --url postgresql://user@host/db  an empty PostgreSQL database as well
    python bench/ledger.py --against ../older-checkout      the same work done by other code

`single` is one generation after the other, `100 at once` is what a batch does. Milliseconds per
generation, wall and CPU of the process; every figure is the best of three processes.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
ROUNDS = 3
AT_ONCE = {"single": 1, "100 at once": 100}


def main() -> None:
    """Compare, or be one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="PostgreSQL database; rows stay in it")
    parser.add_argument("--against", type=Path, help="another checkout to compare with, on SQLite")
    parser.add_argument("--generations", type=int, default=1000)
    parser.add_argument(
        "--folder", type=Path, help="where SQLite files go; on the disk that counts"
    )
    parser.add_argument("--measure", nargs=2, metavar=("URL", "AT_ONCE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        url, at_once = arguments.measure
        print(*asyncio.run(_measure(url, int(at_once), arguments.generations)))
        return
    for name, url in (("SQLite", None), ("PostgreSQL", arguments.url)):
        if name == "SQLite" or url:
            _compare(name, url, arguments)


def _compare(name: str, url: str | None, arguments: argparse.Namespace) -> None:
    codes = {"now": HERE}
    if arguments.against and url is None:
        codes["before"] = arguments.against
    print(f"\n{name}: ms per generation (claim + mark_sending + stored)")
    single: tuple[float, float] | None = None
    for title, at_once in AT_ONCE.items():
        found = {code: _best(url, at_once, path, arguments) for code, path in codes.items()}
        wall, cpu = found["now"]
        line = f"  {title:<12} wall {wall:6.2f}  cpu {cpu:6.2f}"
        if single is not None:
            line += f"   single is {single[0] / wall:4.1f} x wall, {single[1] / cpu:4.1f} x cpu"
        if "before" in found:
            before = found["before"]
            line += f"   before {before[0]:6.2f} and {before[1]:6.2f}:"
            line += f" {before[0] / wall:4.1f} x wall, {before[1] / cpu:4.1f} x cpu"
        single = single or found["now"]
        print(line)


def _best(
    url: str | None, at_once: int, code: Path, arguments: argparse.Namespace
) -> tuple[float, float]:
    found = [_one(url, at_once, code, arguments) for _ in range(ROUNDS)]
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


def _one(
    url: str | None, at_once: int, code: Path, arguments: argparse.Namespace
) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="bench-ledger-", dir=arguments.folder) as folder:
        where = url or f"sqlite:///{folder}/ledger.db"
        count = arguments.generations if at_once > 1 else arguments.generations // 4
        done = subprocess.run(
            [sys.executable, __file__, "--measure", where, str(at_once), f"--generations={count}"],
            env={**os.environ, "PYTHONPATH": str(code)},
            check=True,
            capture_output=True,
            text=True,
        )
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


async def _measure(url: str, at_once: int, generations: int) -> tuple[float, float]:
    from genblaze_dagster.ledger.ledger import Intent, Ledger
    from genblaze_dagster.pipeline.claims import Claims

    ledger = Ledger(url)
    claims = Claims(ledger, lease_seconds=60)
    scope = uuid.uuid4().hex
    limit = asyncio.Semaphore(at_once)

    async def generation(number: int) -> None:
        async with limit:
            intent = Intent("media/image", f"{number}", scope, "g" * 64, "vendor", "model-1")
            async with await claims.claim(intent, patience_seconds=60) as lease:
                await lease.sending()
                await lease.apply(ledger.stored, {"manifest": "m" * 200}, 0.04)

    await asyncio.gather(*(generation(-number) for number in range(1, 21)))
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(generation(number) for number in range(generations)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    claims.close()
    ledger.close()
    return wall / generations * 1000, cpu / generations * 1000


if __name__ == "__main__":
    main()
