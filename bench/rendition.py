"""What an embedded rendition costs: one large film into S3, with and without it.

Both sides store the film and its manifest through the code that generated outputs go through; the
server counts bytes and keeps none. Every measurement is a process of its own.

    python bench/rendition.py [--size MIB]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from transfer import Measurement, _peak_memory, _server

if TYPE_CHECKING:
    from genblaze_dagster.core.policy import EmbedPolicy
    from genblaze_dagster.core.reference import MediaObject
    from genblaze_dagster.providers.protocol import Output
    from genblaze_dagster.storage.store import MediaStore

MIB = 1024 * 1024
SOURCES = ("path", "bytes")


def main() -> None:
    arguments = _arguments()
    if arguments.url:
        with arguments.film.open("rb") as film:
            start = film.read(12 * MIB)
            data = start + film.read() if arguments.source == "bytes" else None
        print(json.dumps(asdict(asyncio.run(_measure(arguments, start, data)))))
        return
    with tempfile.TemporaryDirectory(prefix="genblaze-bench-") as folder:
        film = Path(folder) / "film.mp4"
        _make_film(film, arguments.size * MIB)
        for source in SOURCES:
            _compare(source, film)


def _compare(source: str, film: Path) -> None:
    size = film.stat().st_size
    print(f"\n{size / MIB:.0f} MiB MP4 from {source}")
    found: dict[str, Measurement] = {}
    for embed in ("no", "yes"):
        with _server() as url:
            found[embed] = m = _run(source, embed, url, film)
        print(
            f"  rendition: {embed:<4}{m.seconds:6.2f} s {size / m.seconds / 1e6:6.0f} MB/s   "
            f"CPU {m.cpu_seconds:5.2f} s   memory +{m.added_bytes / 1e6:.0f} MB"
        )
    ratio = found["yes"].seconds / found["no"].seconds
    added = found["yes"].added_bytes - found["no"].added_bytes
    print(f"  the rendition takes x{ratio:.2f} the time and {added / 1e6:+.0f} MB of memory")


def _run(source: str, embed: str, url: str, film: Path) -> Measurement:
    command = [sys.executable, __file__, "--source", source, "--embed", embed]
    done = subprocess.run(
        [*command, "--url", url, "--film", str(film)], check=True, capture_output=True, text=True
    )
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


async def _measure(arguments: argparse.Namespace, start: bytes, data: bytes | None) -> Measurement:
    from genblaze_dagster.core.policy import EmbedPolicy
    from genblaze_dagster.providers.protocol import Output
    from genblaze_dagster.storage.store import MediaStore

    store = MediaStore(
        "s3://bench/genblaze",
        endpoint_url=arguments.url,
        access_key_id="test",
        secret_access_key="test",  # noqa: S106 - not a secret
    )
    policy = EmbedPolicy() if arguments.embed == "yes" else None
    output = Output(data=data, path=arguments.film if data is None else None)
    # Opens the connections; what is cut off in the middle gets no rendition.
    await _store(store, Output(data=start), policy)
    with _peak_memory() as peak:
        cpu, began = time.process_time(), time.perf_counter()
        made = await _store(store, output, policy)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    if policy is not None and made.embedded is None:
        raise SystemExit(f"no rendition: {made.not_embedded}")
    return Measurement(seconds, cpu_seconds, peak())


async def _store(
    store: "MediaStore", output: "Output", policy: "EmbedPolicy | None"
) -> "MediaObject":
    from genblaze_dagster.core.manifest import Manifest
    from genblaze_dagster.core.models import Run, Step
    from genblaze_dagster.pipeline.outputs import OutputStorage
    from genblaze_dagster.storage.manifests import write_manifest
    from genblaze_dagster.storage.rendition import Renditions

    run_id, now = str(uuid.uuid4()), datetime.now(UTC)
    async with Renditions(store, policy) as renditions:
        ((asset, media),) = await OutputStorage(store, run_id, None, now, renditions).keep([output])
        step = Step(provider="bench", model="bench", prompt="a film", assets=[asset])
        manifest = Manifest.from_run(Run(run_id=run_id, steps=[step]))
        await write_manifest(store, manifest)
        (made,) = await renditions.made([media], manifest)
    return made


def _make_film(path: Path, size: int) -> None:
    """Write boxes that end where the file ends; what is in them does not matter here."""
    header = (24).to_bytes(4) + b"ftypisom" + bytes(4) + b"isommp42"
    index = (4096).to_bytes(4) + b"free" + bytes(4088)
    block = os.urandom(MIB)
    with path.open("wb") as file:
        file.write(header + index)
        body = size - file.tell()
        file.write(body.to_bytes(4) + b"mdat")
        while (left := size - file.tell()) > 0:
            file.write(block[:left])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=200, help="MiB of the film")
    parser.add_argument("--source", choices=SOURCES, help="internal")
    parser.add_argument("--embed", choices=["yes", "no"], help="internal")
    parser.add_argument("--url", help="internal")
    parser.add_argument("--film", type=Path, help="internal")
    return parser.parse_args()


if __name__ == "__main__":
    main()
