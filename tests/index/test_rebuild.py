"""Rebuilding gives the same index from the manifests alone, whatever state the old one is in."""

import asyncio

import pytest

from genblaze_dagster.errors import IndexQueryError
from genblaze_dagster.index.catalog import IndexCatalog, RebuildReport, rebuild
from genblaze_dagster.index.schema import TableName
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.storage.keys import KeyStrategy
from genblaze_dagster.storage.store import MediaStore
from tests.index.making import generation, keep, media


def content(store: MediaStore) -> dict[str, list[dict[str, object]]]:
    catalog = IndexCatalog(store)
    asyncio.run(catalog.load())
    return {
        table.value: catalog.query(f"from {table} order by all").to_pylist() for table in TableName
    }


async def fill(store: MediaStore) -> None:
    """Three partitions of image → video, one of them refined twice; a segment per step."""
    images, videos = SegmentWriter(store), SegmentWriter(store)
    for name in ("fox", "owl", None):
        parent = None
        for version in range(3 if name == "fox" else 1):
            image = generation(
                [media(f"{name} {version}")], parent_run_id=parent, seed=version, prompt=f"{name}"
            )
            parent = image.run.run_id
            await keep(store, images, image, "media/image", name)
            await images.flush()
        video = generation([media(f"{name} moves", "video/mp4")], upstream=[image])
        await keep(store, videos, video, "media/video", name)
    await videos.flush()


@pytest.mark.parametrize("strategy", list(KeyStrategy))
@pytest.mark.parametrize("state", ["as it was", "gone", "damaged"])
def test_the_rebuilt_index_is_the_same(tmp_path, strategy, state):
    """Every table equals what was written step by step, asset and partition keys included."""
    store = MediaStore((tmp_path / "store").as_uri(), key_strategy=strategy)
    asyncio.run(fill(store))
    before = content(store)
    files = sorted((tmp_path / "store" / "index").rglob("*.parquet"))
    for file in files:
        if state == "gone":
            file.unlink()
        elif state == "damaged":
            file.write_bytes(b"noise")
    if state == "damaged":
        with pytest.raises(IndexQueryError, match="rebuild"):
            content(store)
    report = asyncio.run(rebuild(store))
    assert content(store) == before
    assert len(before["runs"]) == 8
    removed = 0 if state == "gone" else len(files)
    assert report == RebuildReport(runs=8, segments=1, removed=removed, skipped=())
    assert not any(file.exists() for file in files)


def test_a_run_that_was_overtaken_finds_its_partition(store):
    """A parent that is newer than its child gets asset and partition too."""

    async def write() -> None:
        writer = SegmentWriter(store)
        slow = generation([media("slow")], run_id="01990000-1111-7000-8000-000000000000")
        fast = generation([media("fast")], run_id="01990000-2222-7000-8000-000000000000")
        oldest = generation([media("oldest")], run_id="01990000-3333-7000-8000-000000000000")
        fast.run.parent_run_id = oldest.run.run_id
        slow.run.parent_run_id = fast.run.run_id
        for manifest in (oldest, fast, slow):
            await keep(store, writer, manifest, "media/image", "fox")
        await rebuild(store)

    asyncio.run(write())
    owners = [(run["asset_key"], run["partition_key"]) for run in content(store)["runs"]]
    assert owners == [("media/image", "fox")] * 3


def test_bad_manifests_are_skipped_and_reported(tmp_path, store):
    """Truncated, tampered, foreign, future and oversized documents stop nothing else."""

    async def write() -> RebuildReport:
        writer = SegmentWriter(store)
        good = generation([media("good")])
        key = await keep(store, writer, good)
        text = await store.get(key)
        bad = {
            "truncated": text[:100],
            "tampered": text.replace(b"a fox", b"a wolf"),
            "foreign": b'{"hello": "world"}',
            "future": text.replace(b'"schema_version":"1.5"', b'"schema_version":"7.0"'),
            "oversized": b"[" + b" " * (16 * 1024 * 1024) + b"]",
        }
        for name, data in bad.items():
            await store.put(f"manifests/{name}.json", data, media_type="application/json")
        return await rebuild(store)

    report = asyncio.run(write())
    assert report.runs == 1
    reasons = {skipped.key.split("/")[1]: skipped.reason for skipped in report.skipped}
    assert sorted(reasons) == [
        "foreign.json",
        "future.json",
        "oversized.json",
        "tampered.json",
        "truncated.json",
    ]
    assert "IntegrityError" in reasons["tampered.json"]
    assert "UnsupportedSchemaVersionError" in reasons["future.json"]
    assert "bytes" in reasons["oversized.json"]
    assert len(content(store)["runs"]) == 1


def test_an_empty_store_rebuilds_to_an_empty_index(store):
    """Nothing to index is not an error."""
    assert asyncio.run(rebuild(store)) == RebuildReport(0, 0, 0, ())
    assert content(store)["runs"] == []


def test_readers_see_the_whole_index_while_it_is_rebuilt(store):
    """At no moment of a rebuild does a reader miss a run or fail."""

    async def race() -> list[int]:
        await fill(store)
        catalog, counts = IndexCatalog(store), []
        rebuilding = asyncio.create_task(rebuild(store))
        while not rebuilding.done():
            await catalog.load()
            counts.append(catalog.query("select * from runs").num_rows)
        await rebuilding
        return counts

    counts = asyncio.run(race())
    assert set(counts) == {8}


def test_a_segment_written_during_a_rebuild_stays(store):
    """Only what was listed at the start is removed."""

    async def race() -> None:
        await fill(store)
        rebuilding = asyncio.create_task(rebuild(store))
        writer = SegmentWriter(store)
        await asyncio.sleep(0)
        await keep(store, writer, generation([media("late")]), "media/image", "late")
        await writer.flush()
        await rebuilding

    asyncio.run(race())
    assert len(content(store)["runs"]) == 9
