"""The XMP packet that carries the manifest in JPEG and WebP, wherever in the file it is."""

import html

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.source import Source

PACKET = b"<x:xmpmeta"
OPENING = b"<mf:manifest>"
CLOSING = b"</mf:manifest>"
BLOCK = 1 << 20
MAX_ESCAPED_BYTES = 2 * MAX_MANIFEST_BYTES
"""JSON has few characters to escape; twice the limit leaves room for a prompt full of them."""


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text from the first packet that has one, None when there is none.

    Other programs move the packet or put theirs in front, so no container is parsed: the bytes
    are searched in blocks. The marker at the start of a packet is not looked at, as genblaze
    writes it in an encoding of its own.

    Raises:
        EmbeddingError: the packet is cut off, not UTF-8, or above the size limit.
    """
    packet = _search(source, PACKET, 0, source.size)
    if packet is None:
        return None
    opening = _search(source, OPENING, packet, source.size)
    if opening is None:
        return None
    start = opening + len(OPENING)
    end = _search(source, CLOSING, start, min(source.size, start + MAX_ESCAPED_BYTES))
    if end is None:
        raise EmbeddingError("XMP manifest is cut off or above the size limit: it has no end")
    try:
        text = source.at(start, end - start).decode()
    except UnicodeDecodeError as exc:
        raise EmbeddingError("XMP manifest is not UTF-8 text") from exc
    payload = html.unescape(text).encode("utf-8", "surrogatepass")
    return payload


def _search(source: Source, marker: bytes, start: int, end: int) -> int | None:
    """Return the offset of the first `marker` between two offsets."""
    while start < end:
        block = source.at(start, min(BLOCK, end - start))
        found = block.find(marker)
        if found >= 0:
            return start + found
        if len(block) < BLOCK:
            return None
        start += BLOCK - len(marker) + 1
    return None
