"""What is written: types, names, completeness, and what never is."""

import asyncio
import json
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from genblaze_dagster.core.models import AudioMetadata, Track, VideoMetadata
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.errors import ConfigError, StorageError
from genblaze_dagster.index.catalog import IndexCatalog
from genblaze_dagster.index.schema import TableName, arrow_schema
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.storage.store import MediaStore
from tests.index.making import digest, generation, indexed, media, new_id


def files(store: MediaStore) -> list[str]:
    async def listed() -> list[str]:
        return sorted([info.key async for info in store.list("")])

    return asyncio.run(listed())


def flush(writer: SegmentWriter) -> list[str]:
    return asyncio.run(writer.flush())


def test_a_flush_writes_one_object_per_table_and_runs_last(store):
    """A thousand manifests are four objects; the run table completes the segment."""
    writer = SegmentWriter(store)
    for number in range(1000):
        image = generation([media(f"i{number}")])
        writer.add(generation([media(f"v{number}")], upstream=[image]))
    keys = flush(writer)
    assert [key.split("/")[2] for key in keys] == ["inputs", "assets", "steps", "runs"]
    assert files(store) == sorted(keys)


def test_nothing_collected_writes_nothing(store):
    """An empty flush makes no objects, and tables without rows have none."""
    writer = SegmentWriter(store)
    assert flush(writer) == []
    writer.add(generation([media("only an output")]))
    assert [key.split("/")[2] for key in flush(writer)] == ["assets", "steps", "runs"]
    assert flush(writer) == []


def test_segments_sort_by_time(store):
    """Later segments have greater names, so that the latest row of a run is known."""
    writer = SegmentWriter(store)
    keys = []
    for number in range(5):
        writer.add(generation([media(f"i{number}")]))
        keys.append(flush(writer)[-1])
    assert keys == sorted(set(keys))


def test_every_file_has_the_same_types_whatever_it_holds(store):
    """Columns that are all NULL keep their type; genblaze's own files drift to `null` here."""
    writer = SegmentWriter(store)
    bare = generation([media("bare")], cost_usd=None, prompt=None)
    full = generation(
        [
            media(
                "full",
                "video/mp4",
                width=64,
                height=48,
                duration=1.5,
                video=VideoMetadata(frame_rate=24.0, codec="h264", bitrate=9, has_audio=True),
                audio=AudioMetadata(sample_rate=44100, channels=2, codec="aac", bitrate=8),
                tracks=[Track(kind="video")],
            )
        ],
        upstream=[bare],
        negative_prompt="blur",
        seed=7,
        params={"quality": "hd", "n": 1},
    )
    for manifest in (bare, full):
        writer.add(manifest)
        for key in flush(writer):
            table = pq.read_table(pa.BufferReader(asyncio.run(store.get(key))))
            assert table.schema.equals(arrow_schema(TableName(key.split("/")[2])))
            assert "null" not in {str(column.type) for column in table.columns}


def test_every_fact_of_a_manifest_arrives_in_its_column(store):
    """Spot checks of every table against the manifest it was written from."""
    image = generation([media("i")], seed=42, negative_prompt="blur", params={"b": 1, "a": [2]})
    video = generation(
        [media("v", "video/mp4", duration=2.5, video=VideoMetadata(codec="h264"))],
        upstream=[image],
        modality="video",
        parent_run_id="earlier",
    )
    catalog = indexed(store, image, video)
    run = catalog.query("select * from runs where step_count = 2").to_pylist()[0]
    assert run["run_id"] == video.run.run_id
    assert (run["parent_run_id"], run["asset_key"], run["partition_key"]) == (
        "earlier",
        "media/image",
        "fox",
    )
    assert (run["canonical_hash"], run["status"]) == (video.canonical_hash, "completed")
    assert run["created_at"] == video.run.created_at
    step = catalog.query("select * from steps where seed = 42 and executed").to_pylist()[0]
    assert (step["negative_prompt"], step["prompt"]) == ("blur", "a fox")
    assert json.loads(step["params_json"]) == {"a": [2], "b": 1}
    asset = catalog.query("select * from assets where executed and duration = 2.5").to_pylist()[0]
    assert (asset["sha256"], asset["video_codec"], asset["media_type"]) == (
        digest("v"),
        "h264",
        "video/mp4",
    )
    (used,) = catalog.query("select * from inputs").to_pylist()
    assert (used["sha256"], used["size_bytes"], used["position"]) == (digest("i"), 1, 0)
    assert used["from_step_id"] == image.run.steps[-1].step_id
    assert used["from_run_id"] == image.run.run_id


@pytest.mark.parametrize("visibility", ["private", "redacted", "encrypted"])
def test_prompts_that_are_not_public_are_not_written(store, visibility):
    """Neither text is in any object of the index, in whatever encoding of the column."""
    secret, other = "the unreleased product", "never show this"
    manifest = generation(
        [media("i")], prompt=secret, negative_prompt=other, prompt_visibility=visibility
    )
    catalog = indexed(store, manifest)
    (step,) = catalog.query(
        "select prompt, negative_prompt, prompt_visibility from steps"
    ).to_pylist()
    assert step == {"prompt": None, "negative_prompt": None, "prompt_visibility": visibility}
    for key in files(store):
        table = pq.read_table(pa.BufferReader(asyncio.run(store.get(key))))
        text = str(table.to_pylist())
        assert secret not in text
        assert other not in text


def test_signatures_and_embedded_media_in_urls_are_not_written(store):
    """A foreign manifest's presigned URL loses its signature, a data URL its data."""
    signed = media("signed")
    signed.url = "https://user:pw@cdn.example/a.png?X-Amz-Signature=abc123&size=2#frag"
    inline = media("inline")
    inline.url = "data:image/png;base64,AAAA"
    broken = media("broken")
    broken.url = "https://[broken/?X-Amz-Signature=abc123"
    catalog = indexed(store, generation([signed, inline, broken]))
    urls = catalog.query("select url from assets order by position").column("url").to_pylist()
    assert urls == ["https://cdn.example/a.png?size=2", None, None]


def test_hostile_ids_never_become_paths(tmp_path, store):
    """Run, step and asset ids of a manifest are data; every object stays below index/."""
    hostile = "../../../escaped"
    manifest = generation([media("i")], run_id=hostile)
    manifest.run.steps[0].step_id = "/etc/passwd"
    manifest.run.steps[0].assets[0].asset_id = "..\\..\\x"
    manifest.run.tenant_id = "../t"
    catalog = indexed(store, manifest)
    assert catalog.query("select run_id from runs").to_pylist() == [{"run_id": hostile}]
    assert all(key.startswith("index/v1/") for key in files(store))
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and "index" not in p.parts]
    assert outside == []


@pytest.mark.parametrize("segment_id", ["", "../x", "a/b", "x" * 65, "a.b"])
def test_a_segment_id_must_be_a_plain_name(store, segment_id):
    """An id that could leave the folder is refused before anything is collected."""
    with pytest.raises(ConfigError, match="segment id"):
        SegmentWriter(store, segment_id=segment_id)


def test_unicode_survives(store):
    """Prompts, ids, keys and partitions in any script come back as they went in."""
    prompt = "狐 🦊 \u200f עברית e\u0301 \x00 'quoted' \"; --"
    manifest = generation([media("i")], prompt=prompt, run_id="läuft/🚀")
    asyncio.run(_write_one(store, manifest, "ünï/côdé", "パーティション"))
    catalog = IndexCatalog(store)
    asyncio.run(catalog.load())
    run = catalog.query("select run_id, asset_key, partition_key from runs").to_pylist()
    assert run == [
        {"run_id": "läuft/🚀", "asset_key": "ünï/côdé", "partition_key": "パーティション"}
    ]
    assert catalog.query("select prompt from steps").to_pylist() == [{"prompt": prompt}]


async def _write_one(store, manifest, asset_key, partition_key):
    writer = SegmentWriter(store)
    writer.add(manifest, asset_key=asset_key, partition_key=partition_key)
    await writer.flush()


def test_values_that_fit_no_column_are_null_and_stop_nothing(store):
    """A huge seed, NaN, a naive time or a lone surrogate in one manifest does not lose the others."""
    document = {
        "schema_version": "1.5",
        "run": {
            "run_id": "odd",
            "created_at": "2026-01-02T03:04:05",
            "steps": [
                {
                    "step_id": "s",
                    "provider": "x",
                    "model": "bad \ud800 model",
                    "seed": 2**70,
                    "cost_usd": float("nan"),
                    "assets": [
                        {
                            "url": "u",
                            "media_type": "image/png",
                            "size_bytes": 2**80,
                            "duration": float("inf"),
                        }
                    ],
                }
            ],
        },
    }
    catalog = indexed(store, parse_manifest(document), generation([media("fine")]))
    (odd,) = catalog.query("select * from steps where run_id = 'odd'").to_pylist()
    assert (odd["seed"], odd["cost_usd"], odd["model"]) == (None, None, "bad ? model")
    assert odd["executed"]
    (asset,) = catalog.query("select * from assets where run_id = 'odd'").to_pylist()
    assert (asset["size_bytes"], asset["duration"], asset["sha256"]) == (None, None, None)
    (run,) = catalog.query("select created_at from runs where run_id = 'odd'").to_pylist()
    assert run["created_at"] == datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    assert catalog.query("select count(*) as n from runs").to_pylist() == [{"n": 2}]


def test_a_failed_flush_keeps_everything_for_the_next(tmp_path):
    """While the store cannot be written nothing counts; the retry writes one whole segment."""
    root = tmp_path / "store"
    root.mkdir()
    (root / "index").write_text("a file where the folder goes")
    store = MediaStore(root.as_uri())
    writer = SegmentWriter(store)
    first, second = generation([media("1")]), generation([media("2")])
    writer.add(first)
    with pytest.raises(StorageError):
        flush(writer)
    (root / "index").unlink()
    writer.add(second)
    assert len({key.rsplit("/", 1)[1] for key in flush(writer)}) == 1
    catalog = IndexCatalog(store)
    asyncio.run(catalog.load())
    runs = catalog.query("select run_id from runs").column("run_id").to_pylist()
    assert runs == sorted([first.run.run_id, second.run.run_id])


def test_a_run_added_twice_is_written_once(store):
    """Within one segment the later manifest of a run replaces the earlier."""
    run_id = new_id()
    older = generation([media("old")], run_id=run_id)
    newer = generation([media("new")], run_id=run_id)
    catalog = indexed(store, older, newer)
    assert catalog.query("select sha256 from assets").to_pylist() == [{"sha256": digest("new")}]
