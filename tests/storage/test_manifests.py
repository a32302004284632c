import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.errors import (
    ConflictError,
    IntegrityError,
    ManifestError,
    NotFoundError,
    StorageError,
    UnverifiedAssetError,
)
from genblaze_dagster.storage.keys import KeyStrategy
from genblaze_dagster.storage.manifests import manifest_keys, read_manifest, write_manifest
from genblaze_dagster.storage.store import MediaStore
from tests.storage.faults import Answer, FaultServer, Request

RUN_ID = "01890000-0000-7000-8000-000000000007"


def _manifest(prompt: str = "a boat", sha256: str | None = "a" * 64, **run: Any) -> Manifest:
    asset = Asset(url="https://h.test/x", media_type="image/png", sha256=sha256, size_bytes=1)
    step = Step(provider="acme", model="m", prompt=prompt, assets=[asset])
    fields = {"run_id": RUN_ID, "created_at": datetime(2026, 11, 20, tzinfo=UTC), **run}
    return Manifest.from_run(Run(steps=[step], **fields))


@pytest.fixture(params=list(KeyStrategy))
def layout(request: pytest.FixtureRequest, store: MediaStore) -> MediaStore:
    """The store with each key strategy."""
    return store.below("", key_strategy=request.param)


def test_a_manifest_reads_back_by_key_and_run_id(layout: MediaStore) -> None:
    """The same manifest comes back either way, with the URL it lies under."""

    async def body() -> None:
        manifest = _manifest(tenant_id="acme")
        key = await write_manifest(layout, manifest)
        assert manifest.manifest_uri == layout.durable_url(key)
        assert json.loads(await layout.get(key))["manifest_uri"] is None
        for name in (key, RUN_ID):
            assert await read_manifest(layout, name) == manifest
        assert [found async for found in manifest_keys(layout)] == [key]

    asyncio.run(body())


def test_the_first_content_of_a_run_id_stays(layout: MediaStore) -> None:
    """Other content is a conflict, the same content with other times is fine, nothing changes."""

    async def body() -> None:
        first = _manifest()
        key = await write_manifest(layout, first)
        stored = await layout.get(key)
        await write_manifest(layout, _manifest(started_at=datetime.now(UTC)))
        with pytest.raises(ConflictError, match=f"another manifest of run {RUN_ID}"):
            await write_manifest(layout, _manifest(prompt="a car"))
        assert await layout.get(key) == stored

    asyncio.run(body())


def test_a_damaged_manifest_is_a_conflict_and_not_replaced(layout: MediaStore) -> None:
    """Whatever else lies under the key, truncated or not a manifest, it is reported."""

    async def body() -> None:
        manifest = _manifest()
        key = await write_manifest(layout, manifest)
        whole = await layout.get(key)
        for damaged in (whole[:-20], b"{}", b"\xff\xfe", whole.replace(b"a boat", b"a goat")):
            await layout.put(key, damaged, media_type="application/json")
            with pytest.raises(ConflictError):
                await write_manifest(layout, _manifest())
            assert await layout.get(key) == damaged
            with pytest.raises(ManifestError):
                await read_manifest(layout, key)

    asyncio.run(body())


def test_many_writers_of_one_run_id_agree(layout: MediaStore) -> None:
    """Different contents at once: exactly one is stored, all others are told."""

    async def attempt(number: int) -> str | None:
        try:
            await write_manifest(layout, _manifest(prompt=f"prompt {number}"))
        except ConflictError:
            return None
        return f"prompt {number}"

    async def body() -> None:
        outcomes = await asyncio.gather(*(attempt(number) for number in range(6)))
        winners = [prompt for prompt in outcomes if prompt is not None]
        assert len(winners) == 1
        assert (await read_manifest(layout, RUN_ID)).run.steps[0].prompt == winners[0]

    asyncio.run(body())


def test_a_race_on_a_store_without_conditions_is_found_out(
    faulty: Callable[..., MediaStore], faults: FaultServer
) -> None:
    """Where create-only is not enforced, the writer reads back and the loser is told."""
    faults.supports_create_only = False
    store = faulty()
    other = _manifest(prompt="a car").to_canonical_json().encode()

    def overtake(request: Request) -> Answer | None:
        if request.is_object_write and "manifests/" in request.key:
            faults.objects[request.key] = (other, {})
            return Answer(200, headers={"ETag": '"x"'})
        return None

    faults.rule = overtake
    with pytest.raises(ConflictError):
        asyncio.run(write_manifest(store, _manifest()))


def test_a_stale_hash_is_not_written(store: MediaStore) -> None:
    """A manifest changed after hashing is refused and nothing is stored."""
    manifest = _manifest()
    manifest.run.steps[0].prompt = "changed"
    with pytest.raises(IntegrityError, match="compute_hash"):
        asyncio.run(write_manifest(store, manifest))
    with pytest.raises(NotFoundError):
        asyncio.run(read_manifest(store, RUN_ID))


def test_outputs_without_a_hash_are_refused_when_strict(
    store: MediaStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Strict reading raises, ordinary reading warns."""

    async def body() -> None:
        key = await write_manifest(store, _manifest(sha256=None))
        await read_manifest(store, key)
        assert "without a valid sha256" in caplog.text
        with pytest.raises(UnverifiedAssetError):
            await read_manifest(store, key, strict=True)

    asyncio.run(body())


def test_an_oversized_manifest_is_not_read() -> None:
    """16 MiB is the limit, known from the size before anything is transferred."""
    store = MediaStore("memory://oversized")
    asyncio.run(store.put("manifests/x.json", bytes(16 * 1024 * 1024 + 1), media_type=None))
    with pytest.raises(StorageError, match="more than the 16777216"):
        asyncio.run(read_manifest(store, "x"))


def test_an_unknown_run_is_not_found(layout: MediaStore) -> None:
    """A run id without a manifest is named in the error."""
    with pytest.raises(NotFoundError, match="no-such-run"):
        asyncio.run(read_manifest(layout, "no-such-run"))


@pytest.mark.parametrize("run_id", ["../../escaped", "x/../y", "a\nb"])
def test_a_run_id_cannot_climb_out_of_the_store(layout: MediaStore, run_id: str) -> None:
    """A run id is used raw in keys, so one that would leave the folder is refused."""

    async def body() -> None:
        with pytest.raises(StorageError, match="object key"):
            await write_manifest(layout, _manifest(run_id=run_id))
        assert [info.key async for info in layout.list()] == []

    asyncio.run(body())


def test_only_manifests_are_listed(layout: MediaStore) -> None:
    """Assets, references and index segments beside them are not taken for manifests."""

    async def body() -> None:
        keys = set()
        for day in range(3):
            manifest = _manifest(
                run_id=f"run-{day}",
                created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day),
            )
            keys.add(await write_manifest(layout, manifest))
        for other in ("assets/aa/bb/x.json", "refs/a/b.json", "index/v1/runs/x.parquet"):
            await layout.put(other, b"x", media_type=None)
        assert {key async for key in manifest_keys(layout)} == keys

    asyncio.run(body())
