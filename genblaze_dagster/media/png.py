"""PNG: the manifest in an `iTXt` chunk, and the size of the picture."""

import zlib
from collections.abc import Iterator
from typing import Any

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.edit import Edit, Range, Splice
from genblaze_dagster.media.limits import check_readable
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source

KEYWORD = b"genblaze:manifest"
MAX_CHUNKS = 500_000

_START = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + b"IHDR"
_PLACE = len(_START) + 13 + 4
"""Where genblaze and we put our chunk: after the first one and its checksum."""
# Keyword, no compression, no language, no translated keyword.
_TEXT_HEAD = KEYWORD + b"\0\0\0\0\0"


def read_payload(source: Source) -> bytes | None:
    """Return the text of the first chunk with our keyword, None when there is none.

    Raises:
        EmbeddingError: the chunk is compressed, broken or above the size limit.
    """
    body = _find(source)
    if body is None:
        return None
    start = _text_start(source, body.start + len(KEYWORD) + 1, body.end)
    return source.payload(start, body.end)


def plan_embed(source: Source, payload: bytes) -> Edit:
    """Return the edit that puts a manifest's text directly after the first chunk.

    Raises:
        EmbeddingError: the file does not begin as a PNG does, or readers would refuse the size.
    """
    body = _TEXT_HEAD + payload
    if len(body) > MAX_MANIFEST_BYTES:
        # What the readers' limit counts here is the chunk.
        raise EmbeddingError(
            f"manifest has {len(payload)} bytes; the limit in a PNG is "
            f"{MAX_MANIFEST_BYTES - len(_TEXT_HEAD)}"
        )
    if source.at(0, len(_START)) != _START or source.size < _PLACE:
        raise EmbeddingError("PNG does not begin with a whole IHDR chunk")
    content = b"iTXt" + body
    chunk = len(body).to_bytes(4) + content + zlib.crc32(content).to_bytes(4)
    check_readable(source.size + len(chunk))
    return (Splice(_PLACE, 0, chunk),)


def originals(source: Source) -> Iterator[Original]:
    """Yield the file without its first manifest.

    It is certain where the chunk is in the place and form that genblaze and we give it.
    """
    body = _find(source)
    if body is None:
        return
    start, end = body.start - 8, min(body.end + 4, source.size)
    untouched = start == _PLACE and source.at(body.start, len(_TEXT_HEAD)) == _TEXT_HEAD
    undo = (Splice(start, end - start, b""),)
    yield Original(undo, certain=untouched, removed="its iTXt chunk")


def read_facts(source: Source) -> dict[str, Any]:
    """Return width and height in pixels, as far as they are there."""
    if source.at(12, 4) != b"IHDR":
        return {}
    return {"width": source.number(16, 4), "height": source.number(20, 4)}


def _find(source: Source) -> Range | None:
    """Return where the body of the first chunk with our keyword is."""
    offset = 8
    for _ in range(MAX_CHUNKS):
        header = source.at(offset, 8)
        body, end = offset + 8, offset + 8 + int.from_bytes(header[:4])
        if len(header) < 8 or header[4:] == b"IEND" or end > source.size:
            return None
        if header[4:] == b"iTXt" and source.at(body, 18) == KEYWORD + b"\0":
            return Range(body, end)
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
