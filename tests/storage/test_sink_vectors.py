"""The sink writes what genblaze's wrote, object for object: keys, headers, bodies, hashes."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.errors import SinkError
from genblaze_dagster.storage.backend import S3StorageBackend
from genblaze_dagster.storage.options import StoreOptions
from genblaze_dagster.storage.sink import ObjectStorageSink
from tests.storage.faults import FaultServer

PUBLIC_BASE = "https://store.example.test/bucket"
BODIES = {
    hashlib.sha256(body).hexdigest(): body
    for body in (
        b"png-shared",
        b"mp4-shared",
        b"mp3-shared",
        b"tgz-shared",
        b"prm-shared",
        b"none-shared",
    )
}


@dataclass(frozen=True)
class Served:
    """What the recorded web server answers."""

    body: bytes
    content_type: str | None

    @property
    def content_length(self) -> int:
        return len(self.body)

    async def aiter(self) -> AsyncIterator[bytes]:
        yield self.body


@pytest.fixture
def recorded(vectors: Path) -> dict[str, Any]:
    return json.loads((vectors / "genblaze" / "storage_keys.json").read_text())


@pytest.fixture
def backend(faults: FaultServer, quick: StoreOptions) -> S3StorageBackend:
    return S3StorageBackend(
        "bucket",
        faults.url,
        public_url_base=PUBLIC_BASE,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        options=quick,
    )


def _sink(
    backend: S3StorageBackend, recorded: dict[str, Any], **settings: Any
) -> ObjectStorageSink:
    @asynccontextmanager
    async def fetch(url: str) -> AsyncGenerator[Served]:
        facts = recorded["served"][url]
        yield Served(BODIES[facts["body_sha256"]], facts["content_type"])

    return ObjectStorageSink(backend, fetch=fetch, **settings)


def _run(recorded: dict[str, Any], run: dict[str, Any]) -> Run:
    assets = [
        Asset(asset_id=asset["asset_id"], url=url, media_type=asset["media_type"])
        for url, asset in zip(recorded["served"], run["assets"], strict=True)
    ]
    step = Step(
        step_id="5a000000-0000-4000-8000-000000000001",
        provider="acme",
        model="model-1",
        assets=assets,
    )
    return Run(
        run_id=run["run_id"],
        tenant_id=run["tenant_id"],
        created_at=datetime.fromisoformat(run["created_at"]),
        steps=[step],
    )


def _final_puts(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What each recorded object ends as, whether it was put there or copied from a temporary one."""
    found: dict[str, dict[str, Any]] = {}
    for operation in run["operations"]:
        if operation["op"] == "put":
            found[operation["key"]] = operation
        elif operation["op"] == "copy":
            found[operation["key"]] = found[operation["from"]]
        elif operation["op"] == "delete":
            del found[operation["key"]]
    return found


def test_every_recorded_run_is_written_the_same(
    backend: S3StorageBackend, faults: FaultServer, recorded: dict[str, Any]
) -> None:
    """Both strategies, every prefix and tenant: the same objects, headers, hashes and URLs."""
    for recording in recorded["runs"]:
        faults.objects.clear()
        sink = _sink(
            backend,
            recorded,
            prefix=recording["prefix"],
            key_strategy=recording["key_strategy"],
        )
        run = _run(recorded, recording)
        manifest = Manifest.from_run(run)
        sink.write_run(run, manifest)

        expected = _final_puts(recording)
        assert faults.visible_keys() == sorted(expected)
        for key, operation in expected.items():
            body, headers = faults.objects[key]
            assert hashlib.sha256(body).hexdigest() == operation["sha256"], key
            assert headers.get("content-type") == operation["content_type"], key
            assert headers["cache-control"] == operation["extra_args"]["CacheControl"], key
        assert sink.manifest_key_for(run) == recording["manifest_key"]
        assert sink.manifest_url_for(run) == recording["manifest_uri"]
        assert manifest.manifest_uri == recording["manifest_uri"]
        assert manifest.canonical_hash == recording["canonical_hash"]
        stored = [
            {name: getattr(asset, name) for name in recording["assets"][0]}
            for asset in run.steps[0].assets
        ]
        assert stored == recording["assets"]


def test_index_entries_are_the_recorded_ones(
    backend: S3StorageBackend, faults: FaultServer, recorded: dict[str, Any]
) -> None:
    """An asset with a manifest gets two entries, to the byte, without caching headers."""
    recording = recorded["put_asset_index"]
    sink = _sink(backend, recorded)
    asset = Asset(
        asset_id=recording["asset_id"],
        url="https://cdn.example.test/shared/dup.png",
        media_type="image/png",
    )
    uri = f"{PUBLIC_BASE}/genblaze/manifests/x.json"
    sink.put_asset(asset, manifest_uri=uri, tenant_id=recording["tenant_id"])
    puts = {o["key"]: o for o in recording["operations"] if o["op"] == "put"}
    assert faults.visible_keys() == sorted(puts)
    for key, body in recording["index_bodies"].items():
        assert faults.objects[key] == (body.encode(), {"content-type": "application/json"})
    sink.put_asset(asset, manifest_uri=uri, tenant_id=recording["tenant_id"])
    with pytest.raises(SinkError, match="another manifest"):
        sink.put_asset(asset, manifest_uri=f"{uri}2", tenant_id=recording["tenant_id"])


def test_an_asset_id_leads_to_its_manifest_for_its_tenant_only(
    backend: S3StorageBackend, recorded: dict[str, Any]
) -> None:
    """The entry is followed, the manifest verified, and another tenant sees nothing."""
    recording = next(run for run in recorded["runs"] if run["tenant_id"] == "acme")
    sink = _sink(backend, recorded)
    run = _run(recorded, recording)
    manifest = Manifest.from_run(run)
    asset = run.steps[0].assets[0]

    async def body() -> None:
        await sink.awrite_run(run, manifest)
        await sink.aput_asset(asset, manifest_uri=manifest.manifest_uri, tenant_id=" acme ")
        found = await sink.aread_manifest_for_asset(asset.asset_id, tenant_id="acme")
        assert found is not None
        assert found.canonical_hash == recording["canonical_hash"]
        assert await sink.aread_manifest_for_asset(asset.asset_id, tenant_id="other") is None
        unknown = run.steps[0].assets[1].asset_id
        assert await sink.aread_manifest_for_asset(unknown, tenant_id="acme") is None
        with pytest.raises(SinkError, match="not a UUID"):
            await sink.aread_manifest_for_asset("../secrets", tenant_id="acme")

    asyncio.run(body())
