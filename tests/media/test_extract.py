import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.errors import EmbeddingError, ManifestError, PointerSidecarError
from genblaze_dagster.media.extraction import ManifestSource, extract_manifest, extract_payload
from genblaze_dagster.media.sidecar import sidecar_path

CONTAINERS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".webp": "webp",
    ".mp4": "mp4",
    ".m4a": "mp4",
    ".mp3": "mp3",
    ".wav": "wav",
    ".flac": "flac",
}


@pytest.fixture
def media(vectors: Path) -> Path:
    return vectors / "genblaze" / "media"


def cases(media: Path) -> list[dict[str, Any]]:
    return json.loads((media / "index.json").read_text())


def test_every_file_genblaze_embedded_into_is_read(media: Path) -> None:
    """All inline vectors give exactly their manifest, also those genblaze cannot read back."""
    inline = [case for case in cases(media) if case["method"] == "inline"]
    assert len(inline) == 20
    unread_by_genblaze = 0
    for case in inline:
        found = extract_payload(media / case["embedded"])
        assert found.manifest.to_canonical_json() == (media / case["manifest"]).read_text()
        assert found.manifest.verify_hash()
        assert found.source == ManifestSource.INLINE
        assert found.container == CONTAINERS[Path(case["embedded"]).suffix]
        unread_by_genblaze += not case["genblaze_cli_reads"]
    assert unread_by_genblaze == 3


def test_files_without_a_manifest_are_an_error(media: Path) -> None:
    """The originals hold no manifest, and the message names the file."""
    originals = sorted((media / "original").iterdir())
    assert len(originals) >= 20
    for file in originals:
        with pytest.raises(EmbeddingError, match=f"{file.name}: holds no manifest"):
            extract_manifest(file)


def test_sidecars_are_read_beside_their_media(media: Path, tmp_path: Path) -> None:
    """A file that cannot carry a manifest has it in the file beside it."""
    sidecars = [case for case in cases(media) if case["method"] == "sidecar"]
    assert len(sidecars) == 2
    for case in sidecars:
        file = shutil.copy(media / case["original"], tmp_path)
        shutil.copy(media / case["sidecar"], tmp_path)
        found = extract_payload(file)
        assert found.manifest.to_canonical_json() == (media / case["manifest"]).read_text()
        assert (found.source, found.container) == (ManifestSource.SIDECAR, "json")


def test_pointer_says_where_the_manifest_is(media: Path, tmp_path: Path) -> None:
    """A pointer raises PointerSidecarError with the address and the hash, beside and alone."""
    pointer = media / "embedded" / "pointer.png.genblaze.json"
    image = tmp_path / "pointer.png"
    shutil.copy(media / "original" / "plain.png", image)
    shutil.copy(pointer, tmp_path)
    expected = json.loads(pointer.read_text())
    for file in (image, pointer):
        with pytest.raises(PointerSidecarError) as caught:
            extract_manifest(file)
        assert caught.value.manifest_uri == expected["manifest_uri"]
        assert caught.value.canonical_hash == expected["canonical_hash"]


def test_manifest_file_is_read_as_itself(media: Path, tmp_path: Path) -> None:
    """A manifest on its own is read by its content, whatever it is called."""
    source = media / "manifest" / "plain.png.json"
    renamed = tmp_path / "manifest"
    shutil.copy(source, renamed)
    for file in (source, renamed, str(source)):
        found = extract_payload(file)
        assert (found.source, found.container) == (ManifestSource.STANDALONE, "json")
        assert found.manifest.to_canonical_json() == source.read_text()


def test_json_that_is_itself_the_medium_has_a_sidecar(media: Path, tmp_path: Path) -> None:
    """A JSON file that is not a manifest is looked up beside itself, and alone is an error."""
    data = tmp_path / "timings.json"
    data.write_text('{"words": []}')
    with pytest.raises(ManifestError):
        extract_manifest(data)
    shutil.copy(media / "manifest" / "plain.png.json", sidecar_path(data))
    assert extract_payload(data).source == ManifestSource.SIDECAR


def test_embedded_manifest_goes_before_a_sidecar(media: Path, tmp_path: Path) -> None:
    """Inline wins, and a sidecar for another file changes nothing."""
    file = tmp_path / "plain.png"
    shutil.copy(media / "embedded" / "plain.png", file)
    shutil.copy(media / "manifest" / "alpha.png.json", sidecar_path(file))
    found = extract_payload(file)
    assert found.source == ManifestSource.INLINE
    assert found.manifest.run.name == "plain.png"


def test_content_decides_not_the_name(media: Path, tmp_path: Path) -> None:
    """A WebP that is called .png is read as WebP."""
    file = tmp_path / "misnamed.png"
    shutil.copy(media / "embedded" / "lossy.webp", file)
    assert extract_payload(file).container == "webp"


def test_invalid_embedded_manifest_is_not_hidden_by_a_sidecar(media: Path, tmp_path: Path) -> None:
    """A damaged manifest inside the file is reported although a good one stands beside it."""
    file = tmp_path / "plain.png"
    data = (media / "embedded" / "plain.png").read_bytes()
    file.write_bytes(data.replace(b'"run":{', b'"run":[', 1))
    shutil.copy(media / "manifest" / "plain.png.json", sidecar_path(file))
    with pytest.raises(ManifestError):
        extract_manifest(file)


def test_missing_and_unreadable_files_are_named(tmp_path: Path, media: Path) -> None:
    """A path that is missing or a folder is an EmbeddingError; its sidecar is still found."""
    missing = tmp_path / "gone.mp4"
    with pytest.raises(EmbeddingError, match=r"gone\.mp4: cannot be read \(No such file"):
        extract_manifest(missing)
    with pytest.raises(EmbeddingError, match=r"cannot be read \(Is a directory"):
        extract_manifest(tmp_path)
    shutil.copy(media / "manifest" / "plain.png.json", sidecar_path(missing))
    assert extract_payload(missing).source == ManifestSource.SIDECAR


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b'{"run": 1}', b"\xff\xfe{"])
def test_json_that_is_no_manifest_is_a_typed_error(content: bytes, tmp_path: Path) -> None:
    """Empty, broken and foreign JSON raise ManifestError."""
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(ManifestError):
        extract_manifest(file)


def test_manifest_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    """A manifest file of more than 16 MiB is not parsed."""
    file = tmp_path / "big.json"
    with file.open("wb") as output:
        output.write(b'{"run":')
        output.truncate((16 << 20) + 1)
    with pytest.raises(EmbeddingError, match="limit of 16777216 bytes"):
        extract_manifest(file)
