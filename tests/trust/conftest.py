import asyncio
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.media.embedding import EmbedMethod, embed
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.storage.sink import ObjectStorageSink
from genblaze_dagster.storage.store import MediaStore
from tests.cli.conftest import Shelf

# Small files of every container that carries a manifest inside.
KINDS = {
    "png": ("local-image", Modality.IMAGE, {"width": 48, "height": 32}),
    "jpg": ("local-image", Modality.IMAGE, {"width": 48, "output_format": "jpeg"}),
    "webp": ("local-image", Modality.IMAGE, {"width": 48, "output_format": "webp"}),
    "mp4": ("local-video", Modality.VIDEO, {"duration": 0.2, "width": 64}),
    "mp3": ("local-audio", Modality.AUDIO, {"duration": 0.2, "output_format": "mp3"}),
    "wav": ("local-audio", Modality.AUDIO, {"duration": 0.2}),
    "flac": ("local-audio", Modality.AUDIO, {"duration": 0.2, "output_format": "flac"}),
}


def made_by(*outputs: bytes, prompt: str = "a pier", url: str | None = None) -> Manifest:
    """Return the manifest of a run that put out these bytes."""
    assets = [
        Asset(
            url=url or f"https://cdn.example.com/{number}",
            media_type="image/png",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
        )
        for number, data in enumerate(outputs)
    ]
    return Manifest.from_run(
        Run(steps=[Step(provider="local", model="m", prompt=prompt, assets=assets)])
    )


def write(path: Path, data: bytes) -> Path:
    """Write a file and the folders it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_sidecar(path: Path, manifest: Manifest) -> Path:
    """Put a manifest beside a file."""
    return write(
        path.with_name(f"{path.name}.genblaze.json"), manifest.to_canonical_json().encode()
    )


def embedded(path: Path, data: bytes, manifest: Manifest | None = None) -> Path:
    """Write a file with a manifest inside, its own unless another is given."""
    result = embed(write(path, data), manifest or made_by(data))
    assert result.method is EmbedMethod.INLINE, result
    return path


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Change bytes in the middle of a file."""
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)


@pytest.fixture(scope="session")
def media() -> Mapping[str, tuple[bytes, bytes]]:
    """Two different files of each container, by extension."""
    provider = LocalProvider()

    def make(kind: str, prompt: str) -> bytes:
        model, modality, params = KINDS[kind]
        request = GenerationRequest(model=model, modality=modality, params=params, prompt=prompt)
        result = asyncio.run(provider.submit(request)).result
        assert result is not None
        data = result.outputs[0].data
        assert data is not None
        return data

    return {kind: (make(kind, "a pier"), make(kind, "a reef")) for kind in KINDS}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """An empty store in a directory, filled with references the way the Runner does."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return Shelf(MediaStore(folder.as_uri()))


@pytest.fixture
def sunk(tmp_path: Path) -> Callable[..., Manifest]:
    """Stores runs below `tmp_path/sunk/genblaze` as sinks do: manifests, and no references."""

    def write_run(*outputs: bytes, prompt: str = "a pier") -> Manifest:
        assets = [
            Asset(url=write(tmp_path / "made" / f"{i}.png", data).as_uri(), media_type="image/png")
            for i, data in enumerate(outputs)
        ]
        run = Run(steps=[Step(provider="local", model="m", prompt=prompt, assets=assets)])
        manifest = Manifest.from_run(run)
        (tmp_path / "sunk").mkdir(exist_ok=True)
        store = MediaStore((tmp_path / "sunk").as_uri())
        ObjectStorageSink(store, allowed_roots=[tmp_path]).write_run(run, manifest)
        return manifest

    return write_run
