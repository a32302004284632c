"""The provenance index at 10,000 runs: write, load, ask, rebuild.

    python bench/index.py [RUNS]

Half of the runs make an image, half a video from one of them; a segment per 500 runs, in a
directory. Times are of one run each, in this process.
"""

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import uuid_utils

from genblaze_dagster.core.enums import Modality, RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.index.catalog import IndexCatalog, rebuild
from genblaze_dagster.index.questions import cost_per_model, lineage, outputs_of_prompt
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.store import MediaStore

RUNS_PER_SEGMENT = 500


@contextmanager
def timed(name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    print(f"{name:<42}{(time.perf_counter() - started) * 1000:10.1f} ms")


def sha256(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def manifest(number: int, image: Manifest | None) -> Manifest:
    run_id = str(uuid_utils.uuid7())
    kind = Modality.IMAGE if image is None else Modality.VIDEO
    digest = sha256(f"{kind} {number}")
    before = [] if image is None else image.run.steps
    output = Asset(
        url=f"https://store.example/assets/{digest}",
        media_type="image/png" if image is None else "video/mp4",
        sha256=digest,
        size_bytes=number,
    )
    step = Step(
        run_id=run_id,
        provider="local",
        model=f"local-{kind.value}",
        modality=kind,
        prompt=f"prompt number {number % 1000}",
        params={"quality": "high", "n": 1},
        status=StepStatus.SUCCEEDED,
        inputs=[asset for known in before for asset in known.assets],
        assets=[output],
        cost_usd=0.04,
    )
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    steps = [*before, step]
    run = Run(run_id=run_id, status=RunStatus.COMPLETED, steps=steps, created_at=created)
    return Manifest.from_run(run)


def manifests(count: int) -> list[Manifest]:
    found: list[Manifest] = []
    for number in range(count // 2):
        image = manifest(number, None)
        found += [image, manifest(number, image)]
    return found


async def write(store: MediaStore, found: list[Manifest]) -> None:
    writer = SegmentWriter(store)
    for number, one in enumerate(found, 1):
        writer.add(one, asset_key="demo/media", partition_key=str(number))
        if number % RUNS_PER_SEGMENT == 0:
            await writer.flush()
    await writer.flush()


async def store_manifests(store: MediaStore, found: list[Manifest]) -> None:
    for start in range(0, len(found), 100):
        await asyncio.gather(*(write_manifest(store, one) for one in found[start : start + 100]))


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = MediaStore(Path(folder, "store").as_uri())
        found = manifests(count)
        print(f"{count} runs, {count // RUNS_PER_SEGMENT} segments")
        with timed("write segments"):
            await write(store, found)
        catalog = IndexCatalog(store)
        with timed("load"):
            await catalog.load()
        with timed("first query (builds the tables)"):
            catalog.query("SELECT count(*) FROM runs")
        with timed("cost per model"):
            cost_per_model(catalog)
        with timed("lineage of one video"):
            assert lineage(catalog, sha256("video 7")).num_rows == 2
        with timed("outputs of a prompt"):
            outputs_of_prompt(catalog, "prompt number 7")
        await store_manifests(store, found)
        with timed("rebuild from the manifests"):
            await rebuild(store)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000))
