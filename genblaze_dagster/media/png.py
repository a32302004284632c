"""PNG: the manifest in an `iTXt` chunk, and the size of the picture."""

from typing import Any

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.source import Source

KEYWORD = b"genblaze:manifest"
MAX_CHUNKS = 500_000


def read_payload(source: Source) -> bytes | None:
    """Return the text of the first chunk with our keyword, None when there is none.

    Raises:
        EmbeddingError: the chunk is compressed, broken or above the size limit.
    """
    offset = 8
    for _ in range(MAX_CHUNKS):
        header = source.at(offset, 8)
        body, end = offset + 8, offset + 8 + int.from_bytes(header[:4])
        if len(header) < 8 or header[4:] == b"IEND" or end > source.size:
            return None
        if header[4:] == b"iTXt" and source.at(body, 18) == KEYWORD + b"\0":
            return source.payload(_text_start(source, body + len(KEYWORD) + 1, end), end)
        offset = end + 4
    return None


def _text_start(source: Source, offset: int, end: int) -> int:
    """Return where the text starts, after compression, language and translated keyword."""
    head = source.at(offset, min(1024, end - offset))
    if head[:1] != b"\0":
        raise EmbeddingError("PNG manifest is compressed, which readers refuse; embed it again")
    language = head.find(b"\0", 2)
    translated = head.find(b"\0", language + 1)
    if language < 0 or translated < 0:
        raise EmbeddingError("PNG manifest chunk is broken: its text has no start")
    return offset + translated + 1


def read_facts(source: Source) -> dict[str, Any]:
    """Return width and height in pixels, as far as they are there."""
    if source.at(12, 4) != b"IHDR":
        return {}
    return {"width": source.number(16, 4), "height": source.number(20, 4)}
