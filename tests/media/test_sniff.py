from pathlib import Path

import pytest

from genblaze_dagster.media.sniff import (
    canonical_media_type,
    extension_for,
    media_type_for_extension,
    sniff_media_type,
)

BY_SUFFIX = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".txt": None,
}


def test_every_vector_file_is_recognised_by_its_first_64_bytes(vectors: Path) -> None:
    """The media files of the vectors sniff as what their names say."""
    files = sorted((vectors / "genblaze" / "media" / "original").iterdir())
    assert len(files) >= 20
    for file in files:
        if file.suffix != ".m4a":
            assert sniff_media_type(file.read_bytes()[:64]) == BY_SUFFIX[file.suffix], file.name


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\0\0\0\x20ftypM4A \0\0\2\0M4A mp42isom", "audio/mp4"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "video/quicktime"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf", "image/avif"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "image/avif"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image/heic"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "video/mp4"),
        (b"\0\0\0\x14ftypisom\0\0\2\0isom\0\0\0\x08qt  ", "video/mp4"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x84webm", "video/webm"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x88matroska", "video/x-matroska"),
        (b"OggS" + bytes(24) + b"OpusHead", "audio/ogg"),
        (b"OggS" + bytes(24) + b"\x80theora", "video/ogg"),
        (b"RF64\xff\xff\xff\xffWAVE", "audio/wav"),
        (b"RIFF\0\0\0\0AVI ", "video/x-msvideo"),
        (b"RIFF\0\0\0\0what", None),
        (b"\xff\xf1\x50\x80", "audio/aac"),
        (b"\xff\xfb\x90\x00", "audio/mpeg"),
        (b"\xff\xf3\x40\xc0", "audio/mpeg"),
        (b"\xff\xff\xff\xff", None),
        (b"ID3\4\0\0", "audio/mpeg"),
        (b"glTF\2\0\0\0", "model/gltf-binary"),
        (b'{"run": {}}', None),
        ('{"run": {}}'.encode("utf-16"), None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_first_bytes_prove_the_media_type(head: bytes, media_type: str | None) -> None:
    """Containers that share a signature are told apart, and noise proves nothing."""
    assert sniff_media_type(head) == media_type


def test_extensions_do_not_depend_on_the_machine_and_lead_back() -> None:
    """Every type with an extension gets it under each of its names, and the extension names it."""
    for media_type in ("image/png", "image/jpeg", "video/mp4", "audio/wav", "audio/mpeg"):
        assert media_type_for_extension(extension_for(media_type)) == media_type
    assert extension_for("audio/x-wav") == extension_for("audio/wave") == ".wav"
    assert extension_for("Image/JPEG; charset=x") == ".jpg"
    assert media_type_for_extension("JPEG") == "image/jpeg"
    assert extension_for("application/x-unheard-of") == ""
    assert media_type_for_extension(".unheard-of") is None
    assert canonical_media_type("audio/x-m4a") == "audio/mp4"
