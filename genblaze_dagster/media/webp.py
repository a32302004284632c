"""WebP: the manifest in an XMP packet, and the size of the picture."""

from typing import Any

from genblaze_dagster.media import xmp
from genblaze_dagster.media.source import Source

read_payload = xmp.read_payload


def read_facts(source: Source) -> dict[str, Any]:
    """Return width and height in pixels, of the canvas when the file has one."""
    head = source.at(12, 20)
    if len(head) < 18:
        return {}
    if head[:4] == b"VP8X":
        width = int.from_bytes(head[12:15], "little") + 1
        return {"width": width, "height": int.from_bytes(head[15:18], "little") + 1}
    if head[:4] == b"VP8L" and head[8] == 0x2F:
        bits = int.from_bytes(head[9:13], "little")
        return {"width": (bits & 0x3FFF) + 1, "height": (bits >> 14 & 0x3FFF) + 1}
    if head[:4] == b"VP8 " and head[11:14] == b"\x9d\x01\x2a":
        width = int.from_bytes(head[14:16], "little") & 0x3FFF
        return {"width": width, "height": int.from_bytes(head[16:18], "little") & 0x3FFF}
    return {}
