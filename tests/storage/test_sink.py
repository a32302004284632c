"""What the sink does when something cannot be stored."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.errors import (
    ConfigError,
    ConflictError,
    ManifestError,
    ProviderUnavailableError,
    SinkError,
    StorageUnavailableError,
    UnverifiedAssetError,
)
from genblaze_dagster.storage.backend import S3StorageBackend
from genblaze_dagster.storage.fetch import Fetch
from genblaze_dagster.storage.sink import ObjectStorageSink
from genblaze_dagster.storage.store import MediaStore
from tests.storage.faults import Answer, FaultServer

CONTENT = {"https://cdn.test/a.png": b"aaa", "https://cdn.test/b.png": b"bbb"}


class _Remote:
    content_type = "image/png"
    content_length = None

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def aiter(self) -> AsyncIterator[bytes]:
        yield self._body


def _web(fetched: list[str] | None = None) -> Fetch:
    @asynccontextmanager
    async def fetch(url: str) -> AsyncGenerator[_Remote]:
        if fetched is not None:
            fetched.append(url)
        if url not in CONTENT:
            raise ProviderUnavailableError("https://cdn.test/missing.png: answers 503")
        yield _Remote(CONTENT[url])

    return fetch


def _run(*urls: str, **asset: Any) -> tuple[Run, Manifest]:
    assets = [
        Asset(asset_id=f"asset-{number}", url=url, media_type="image/png", **asset)
        for number, url in enumerate(urls)
    ]
    run = Run(run_id="run-1", steps=[Step(provider="acme", model="m", assets=assets)])
    return run, Manifest.from_run(run)


async def _keys(store: MediaStore) -> list[str]:
    return sorted([info.key async for info in store.list()])


def test_a_failed_asset_is_named_and_the_others_are_safe(store: MediaStore) -> None:
    """The error names the failed id, the manifest is not stored, what could be stored is."""
    sink = ObjectStorageSink(store, fetch=_web())
    run, manifest = _run("https://cdn.test/a.png", "https://cdn.test/missing.png")
    with pytest.raises(SinkError, match="asset-1") as caught:
        sink.write_run(run, manifest)
    assert caught.value.failed_asset_ids == ("asset-1",)
    assert isinstance(caught.value.__cause__, ProviderUnavailableError)
    assert manifest.transfer_failures == ["asset-1"]
    assert manifest.verify_hash()
    sha256 = hashlib.sha256(b"aaa").hexdigest()
    assert asyncio.run(_keys(sink.store)) == [f"assets/{sha256[:2]}/{sha256[2:4]}/{sha256}.png"]
    assert run.steps[0].assets[0].sha256 == sha256


def test_a_second_attempt_transfers_only_what_is_missing(store: MediaStore) -> None:
    """After a failure the stored assets are not fetched again, and the run is completed."""
    fetched: list[str] = []
    sink = ObjectStorageSink(store, fetch=_web(fetched))
    run, manifest = _run("https://cdn.test/a.png", "https://cdn.test/missing.png")
    with pytest.raises(SinkError):
        sink.write_run(run, manifest)
    run.steps[0].assets[1].url = "https://cdn.test/b.png"
    sink.write_run(run, manifest)
    assert fetched.count("https://cdn.test/a.png") == 1
    assert manifest.transfer_failures == []
    assert sink.read_manifest(run) == manifest
    assert sink.read_manifest("run-1").verify()


def test_other_content_under_a_run_id_is_a_conflict(store: MediaStore) -> None:
    """The first manifest stays, the second writer is told; the same content again is fine."""
    sink = ObjectStorageSink(store, fetch=_web())
    run, manifest = _run("https://cdn.test/a.png")
    sink.write_run(run, manifest)
    sink.write_run(*_run("https://cdn.test/a.png"))
    with pytest.raises(ConflictError, match="nothing was overwritten"):
        sink.write_run(*_run("https://cdn.test/b.png"))
    assert sink.read_manifest(run) == manifest


def test_an_asset_that_is_not_what_it_claims_is_not_stored(store: MediaStore) -> None:
    """A declared sha256 is compared with what arrived."""
    sink = ObjectStorageSink(store, fetch=_web())
    run, manifest = _run("https://cdn.test/a.png", sha256="0" * 64)
    with pytest.raises(SinkError, match="do not hash"):
        sink.write_run(run, manifest)
    assert asyncio.run(_keys(sink.store)) == []


def test_local_files_are_read_below_allowed_roots_only(tmp_path: Path) -> None:
    """The temporary folder and named ones; links out of them and other schemes are refused."""
    # A file of the standard library: the checkout itself may lie in the temporary folder.
    outside = Path(os.__file__).resolve()
    local = tmp_path / "out put" / "x.PNG"
    local.parent.mkdir()
    local.write_bytes(b"local")
    link = tmp_path / "link.py"
    link.symlink_to(outside)
    store = MediaStore("memory://local-files")
    run, manifest = _run(local.as_uri())
    ObjectStorageSink(store).write_run(run, manifest)
    assert run.steps[0].assets[0].url.endswith(".png")
    for url in (
        outside.as_uri(),
        link.as_uri(),
        f"{tmp_path.as_uri()}/../../../../etc/hostname",
        "ftp://h.test/x.png",
        "http://h.test/x.png",
        "x.png",
    ):
        with pytest.raises(SinkError, match="asset-0"):
            ObjectStorageSink(store).write_run(*_run(url))
    run, manifest = _run(outside.as_uri())
    ObjectStorageSink(store, prefix="2", allowed_roots=[outside.parent]).write_run(run, manifest)
    assert run.steps[0].assets[0].size_bytes == outside.stat().st_size


def test_the_manifest_is_last(faulty: Callable[..., MediaStore], faults: FaultServer) -> None:
    """When the store fails at the manifest, the assets are there, no manifest is, and it is said."""
    faults.rule = lambda r: Answer(503, "SlowDown") if "manifests/" in r.key else None
    run, manifest = _run("https://cdn.test/a.png")
    with pytest.raises(StorageUnavailableError, match=r"manifests/run-1\.json"):
        ObjectStorageSink(faulty(), fetch=_web()).write_run(run, manifest)
    assert manifest.manifest_uri is None
    assert [key for key in faults.visible_keys() if "assets/" in key] == faults.visible_keys()
    assert len(faults.visible_keys()) == 1


def test_a_read_only_schema_is_refused_before_anything_is_stored(store: MediaStore) -> None:
    """Schema 1.6 cannot be written, so its assets are not either."""
    sink = ObjectStorageSink(store, fetch=_web())
    run, manifest = _run("https://cdn.test/a.png")
    manifest.schema_version = "1.6"
    with pytest.raises(ManifestError, match=r"1\.6"):
        sink.write_run(run, manifest)
    assert asyncio.run(_keys(sink.store)) == []


def test_url_policies_are_checked_when_made(caplog: pytest.LogCaptureFixture) -> None:
    """PRESIGNED is refused, PUBLIC needs a base, AUTO without one warns once per bucket."""
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region": "us-east-1"}
    private = S3StorageBackend("policy-bucket", **keys)
    with pytest.raises(ConfigError, match="PRESIGNED"):
        ObjectStorageSink(private, asset_url_policy="presigned")
    with pytest.raises(ConfigError, match="public_url_base"):
        ObjectStorageSink(private, asset_url_policy="public")
    ObjectStorageSink(private)
    ObjectStorageSink(private)
    assert caplog.text.count("policy-bucket") == 1
    public = S3StorageBackend("policy-bucket-2", public_url_base="https://cdn.test", **keys)
    sink = ObjectStorageSink(public, asset_url_policy="public")
    assert sink.manifest_url_for(_run()[0]) == "https://cdn.test/genblaze/manifests/run-1.json"
    assert sink.manifest_key_for(_run()[0]) == "genblaze/manifests/run-1.json"
    assert "policy-bucket-2" not in caplog.text


def test_strict_reads_can_be_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument or GENBLAZE_STRICT_MANIFEST_READS."""
    store = MediaStore("memory://strict")
    run, manifest = _run()
    run.steps[0].assets.append(Asset(url="https://cdn.test/z", media_type="image/png"))
    from genblaze_dagster.storage.manifests import write_manifest

    manifest.compute_hash()
    asyncio.run(write_manifest(store.below("genblaze"), manifest))
    ObjectStorageSink(store).read_manifest(run)
    with pytest.raises(UnverifiedAssetError):
        ObjectStorageSink(store, strict_manifest_reads=True).read_manifest(run)
    monkeypatch.setenv("GENBLAZE_STRICT_MANIFEST_READS", "Yes")
    with pytest.raises(UnverifiedAssetError):
        ObjectStorageSink(store).read_manifest(run)


def test_an_unreachable_store_loses_nothing(quick: Any) -> None:
    """All assets are named as failed and keep their old URLs."""
    backend = S3StorageBackend(
        "b",
        "http://127.0.0.1:9",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        options=quick,
    )
    run, manifest = _run("https://cdn.test/a.png", "https://cdn.test/b.png")
    with pytest.raises(SinkError) as caught:
        ObjectStorageSink(backend, fetch=_web()).write_run(run, manifest)
    assert caught.value.failed_asset_ids == ("asset-0", "asset-1")
    assert isinstance(caught.value.__cause__, StorageUnavailableError)
    assert [asset.url for asset in run.steps[0].assets] == list(CONTENT)
