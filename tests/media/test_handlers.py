"""Handlers by container, under the names of the genblaze guides."""

from pathlib import Path

import pytest

from genblaze_dagster import media
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import EmbedMethod
from genblaze_dagster.media.handlers import MediaHandler
from genblaze_dagster.media.sidecar import sidecar_path

FILES = {
    "plain.png": (media.PngHandler, "image/png"),
    "baseline.jpg": (media.JpegHandler, "image/jpg"),
    "lossy.webp": (media.WebpHandler, "image/webp"),
    "faststart.mp4": (media.Mp4Handler, "video/quicktime"),
    "audio.m4a": (media.Mp4Handler, "audio/x-m4a"),
    "no_tag.mp3": (media.Mp3Handler, "audio/mp3"),
    "plain.wav": (media.WavHandler, "audio/x-wav"),
    "tagged.flac": (media.FlacHandler, "audio/flac; rate=44100"),
}


@pytest.fixture
def originals(vectors: Path) -> Path:
    """Files of every kind, without a manifest."""
    return vectors / "genblaze/media/original"


@pytest.mark.parametrize("name", FILES)
def test_a_handler_embeds_extracts_and_strips(name: str, originals: Path, tmp_path: Path) -> None:
    """The handler of a media type, in any spelling, does all three."""
    kind, mime_type = FILES[name]
    handler = media.get_handler(mime_type)
    assert type(handler) is kind
    assert handler is not None
    manifest = Manifest.from_run(Run())
    result = handler.embed(originals / name, manifest, tmp_path / name)
    assert result.method is EmbedMethod.INLINE
    assert handler.extract(tmp_path / name).canonical_hash == manifest.canonical_hash
    assert handler.strip(tmp_path / name) == (originals / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_handler_refuses_other_files(name: str, originals: Path, tmp_path: Path) -> None:
    """Content decides what a file is; the error names the handler and nothing is written."""
    handler = FILES[name][0]()
    copy = tmp_path / name
    copy.write_bytes((originals / "picture.gif").read_bytes())
    for call in (handler.extract, handler.strip):
        with pytest.raises(EmbeddingError, match="image/gif"):
            call(copy)
    with pytest.raises(EmbeddingError, match=type(handler).__name__):
        handler.embed(copy, Manifest.from_run(Run()))
    assert not sidecar_path(copy).exists()
    with pytest.raises(EmbeddingError, match="cannot be read"):
        handler.extract(tmp_path / "missing")


def test_an_inline_handler_does_not_read_sidecars(originals: Path, tmp_path: Path) -> None:
    """`extract` of a handler is about the file itself; the sidecar has its own."""
    path = tmp_path / "a.png"
    path.write_bytes((originals / "plain.png").read_bytes())
    manifest = Manifest.from_run(Run())
    result = media.SidecarHandler().embed(path, manifest)
    assert result.sidecar_path == sidecar_path(path)
    assert media.SidecarHandler().extract(path).canonical_hash == manifest.canonical_hash
    assert media.SidecarHandler().strip(path) == path.read_bytes()
    with pytest.raises(EmbeddingError, match="beside it"):
        media.PngHandler().extract(path)


def test_types_without_a_container_have_no_handler() -> None:
    """For them `embed` writes a sidecar."""
    for mime_type in ("image/gif", "image/avif", "audio/aac", "text/plain", ""):
        assert media.get_handler(mime_type) is None


def test_the_smart_embedder_chooses_by_content(originals: Path, tmp_path: Path) -> None:
    """A wrong extension does not matter."""
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes((originals / "plain.png").read_bytes())
    result = media.SmartEmbedder().embed(path, Manifest.from_run(Run()))
    assert result.method is EmbedMethod.INLINE
    assert isinstance(media.PngHandler(), MediaHandler)
    assert media.PngHandler().extract(path).verify()
