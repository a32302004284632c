import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.media.extraction import ManifestSource, extract_payload
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest

EMBED = """
import json, pathlib, sys
from genblaze_core import parse_manifest
from genblaze_core.media import SmartEmbedder

folder = pathlib.Path(sys.argv[1])
manifest = parse_manifest(json.loads((folder / "manifest.json").read_text()))
methods = {
    file.name: SmartEmbedder().embed(file, manifest).method
    for file in sorted(folder.glob("media.*"))
}
print(json.dumps(methods))
"""

FILES = {
    "media.png": ("local-image", Modality.IMAGE, {"width": 64}),
    "media.jpg": ("local-image", Modality.IMAGE, {"width": 64, "output_format": "jpeg"}),
    "media.webp": ("local-image", Modality.IMAGE, {"width": 64, "output_format": "webp"}),
    "media.wav": ("local-audio", Modality.AUDIO, {"duration": 0.2}),
    "media.flac": ("local-audio", Modality.AUDIO, {"duration": 0.2, "output_format": "flac"}),
    "media.mp3": ("local-audio", Modality.AUDIO, {"duration": 0.2, "output_format": "mp3"}),
    "media.mp4": ("local-video", Modality.VIDEO, {"duration": 0.2, "width": 64}),
}


@pytest.fixture
def folder(tmp_path: Path, vectors: Path) -> Path:
    """One file of each kind from the local provider, with a manifest embedded by genblaze."""
    provider = LocalProvider()
    for name, (model, modality, params) in FILES.items():
        request = GenerationRequest(model=model, modality=modality, params=params, prompt="x")
        result = asyncio.run(provider.submit(request)).result
        assert result is not None
        assert result.outputs[0].data is not None
        (tmp_path / name).write_bytes(result.outputs[0].data)
    shutil.copy(vectors / "genblaze/manifests/008_unicode.json", tmp_path / "manifest.json")
    done = subprocess.run(
        [sys.executable, "-c", EMBED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == dict.fromkeys(FILES, "inline")
    return tmp_path


def test_what_genblaze_embeds_into_local_media_is_read(folder: Path) -> None:
    """genblaze can embed into every format the local provider makes, and we read all of it."""
    expected = extract_payload(folder / "manifest.json").manifest.to_canonical_json()
    for name in FILES:
        found = extract_payload(folder / name)
        assert found.source == ManifestSource.INLINE
        assert found.manifest.to_canonical_json() == expected
