import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from genblaze_dagster.cli.app import cli
from genblaze_dagster.core.enums import Modality, RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.keys import KeyStrategy, Placement
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.refs import write_ref
from genblaze_dagster.storage.store import MediaStore
from tests.support.s3 import S3Server

PROGRAM = Path(sys.executable).with_name("genblaze-dagster")
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\6\0\0\0\x1f\x15\xc4\x89"
CREATED = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Stored:
    """One image in a store, with its manifest and reference."""

    ref: MediaRef
    manifest: Manifest
    data: bytes

    @property
    def key(self) -> str:
        return self.ref.media[0].key


@dataclass
class Shelf:
    """A store filled by hand, the way the Runner fills one."""

    store: MediaStore
    stored: list[Stored] = field(default_factory=list)

    def add(self, partition: str, *, prompt: str = "a lighthouse") -> Stored:
        """Store an image for one partition."""
        return run_sync(self._add(partition, prompt))

    async def _add(self, partition: str, prompt: str) -> Stored:
        data = PNG + partition.encode()
        number = len(self.stored)
        run_id = f"0199c0de-0000-7000-8000-{number:012d}"
        asset_id = f"0199c0de-0000-7000-9000-{number:012d}"
        kept = await self.store.put_media(
            data,
            media_type="image/png",
            extension=".png",
            placement=Placement(run_id=run_id, asset_id=asset_id, created_at=CREATED),
        )
        asset = Asset(
            asset_id=asset_id,
            url=kept.url,
            media_type="image/png",
            sha256=kept.sha256,
            size_bytes=kept.size_bytes,
        )
        step = Step(
            run_id=run_id,
            provider="local",
            model="local-image",
            modality=Modality.IMAGE,
            prompt=prompt,
            status=StepStatus.SUCCEEDED,
            cost_usd=0.5,
            assets=[asset],
        )
        run = Run(run_id=run_id, status=RunStatus.COMPLETED, created_at=CREATED, steps=[step])
        manifest = Manifest.from_run(run)
        key = await write_manifest(self.store, manifest)
        media = MediaObject(
            asset_id=asset_id,
            sha256=kept.sha256,
            size_bytes=kept.size_bytes,
            media_type="image/png",
            key=kept.key,
            url=kept.url,
        )
        ref = MediaRef(
            asset_key="still",
            partition_key=partition,
            run_id=run_id,
            step_id=step.step_id,
            manifest_key=key,
            manifest_url=self.store.durable_url(key),
            canonical_hash=manifest.canonical_hash,
            generation_key="g",
            provider="local",
            model="local-image",
            modality="image",
            cost_usd=0.5,
            created_at=CREATED.isoformat(),
            media=(media,),
        )
        await write_ref(self.store, ref)
        self.stored.append(Stored(ref, manifest, data))
        return self.stored[-1]

    def index(self) -> None:
        """Write one index segment of everything that was added."""
        writer = SegmentWriter(self.store)
        for stored in self.stored:
            writer.add(
                stored.manifest,
                asset_key=stored.ref.asset_key,
                partition_key=stored.ref.partition_key,
                manifest_key=stored.ref.manifest_key,
            )
        run_sync(writer.flush())

    def overwrite(self, key: str, data: bytes) -> None:
        """Put other bytes under a key."""
        run_sync(self.store.put(key, data, media_type=None))

    def delete(self, key: str) -> None:
        """Take an object away."""
        run_sync(self.store.delete(key))


@dataclass(frozen=True)
class Ended:
    """How one run of the command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def report(self) -> Any:
        """The JSON report on the only target of a verification."""
        (report,) = self.document["targets"]
        return report

    @property
    def checks(self) -> dict[str, str]:
        """The statuses of the checks of the only target."""
        return {check["name"]: check["status"] for check in self.report["checks"]}


Call = Callable[..., Ended]


@pytest.fixture
def invoke() -> Call:
    """The command in this process."""

    def call(*arguments: object, env: Mapping[str, str] | None = None) -> Ended:
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(cli, words, env=env, catch_exceptions=False)
        return Ended(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def launch(tmp_path: Path) -> Call:
    """The installed program in a process of its own."""

    def call(*arguments: object, env: Mapping[str, str] | None = None) -> Ended:
        done = subprocess.run(
            [PROGRAM, *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
        )
        assert "Traceback" not in done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """An empty store in a directory."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return Shelf(MediaStore(folder.as_uri()))


@pytest.fixture
def with_sidecar(tmp_path: Path) -> Callable[..., Path]:
    """A media file of the given bytes beside a sidecar that speaks of other ones, or of them."""

    def make(data: bytes | None = None) -> Path:
        asset = Asset(
            url="https://cdn.example.com/beach.png",
            media_type="image/png",
            sha256=hashlib.sha256(PNG).hexdigest(),
            size_bytes=len(PNG),
        )
        step = Step(provider="local", model="local-image", prompt="a beach", assets=[asset])
        manifest = Manifest.from_run(Run(steps=[step]))
        path = tmp_path / "beach.png"
        path.write_bytes(PNG if data is None else data)
        sidecar = tmp_path / "beach.png.genblaze.json"
        sidecar.write_text(manifest.to_canonical_json(), encoding="utf-8")
        return path

    return make


@pytest.fixture
def on_s3(s3_server: S3Server) -> Callable[..., Shelf]:
    """An empty store below `media/` in a bucket of the S3 server."""

    def make(bucket: str, *, strategy: KeyStrategy = KeyStrategy.CONTENT_ADDRESSABLE) -> Shelf:
        return Shelf(
            MediaStore(
                f"s3://{bucket}/media",
                endpoint_url=s3_server.url,
                access_key_id=s3_server.access_key,
                secret_access_key=s3_server.secret_key,
                key_strategy=strategy,
            )
        )

    return make
