"""JPEG: the manifest in an XMP packet, and the size of the picture."""

from typing import Any

from genblaze_dagster.media import xmp
from genblaze_dagster.media.source import Source

MAX_SEGMENTS = 10_000
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}

read_payload = xmp.read_payload


def read_facts(source: Source) -> dict[str, Any]:
    """Return width and height in pixels as stored; a rotation in Exif is not applied."""
    offset = 2
    for _ in range(MAX_SEGMENTS):
        header = source.at(offset, 9)
        if len(header) < 4 or header[0] != 0xFF:
            return {}
        marker, length = header[1], int.from_bytes(header[2:4])
        if marker in _FRAME_HEADERS and len(header) == 9:
            return {"width": int.from_bytes(header[7:9]), "height": int.from_bytes(header[5:7])}
        if marker == 0xFF:
            offset += 1
        elif marker in _WITHOUT_LENGTH:
            offset += 2
        elif marker in (0xD9, 0xDA) or length < 2:
            return {}
        else:
            offset += 2 + length
    return {}
