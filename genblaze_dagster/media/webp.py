"""WebP: the manifest in an XMP packet, and the size of the picture.

The packet is an `XMP ` chunk at the end of the RIFF. That needs a `VP8X` chunk with the XMP flag,
and a new RIFF size. What these were before stands in a chunk of our own behind the packet, so that
the original comes back exactly:

    "GBUN", size 8, then
    1 byte   what was done: 1 = VP8X put in, 2 = its XMP flag set, 4 = a pad byte put in front
    3 bytes  0
    4 bytes  the RIFF size as it was, little-endian

A record is believed only if embedding again in what it gives makes the same file.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import xmp
from genblaze_dagster.media.edit import Edit, EditedSource, Splice, undoes
from genblaze_dagster.media.limits import check_readable
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.riff import Chunk, walk
from genblaze_dagster.media.source import Source

UNDO_ID = b"GBUN"
MAX_RIFF_SIZE = 0xFFFF_FFFE
MAX_CHUNKS = 50_000

_VP8X_INSERTED, _FLAG_SET, _PADDED = 1, 2, 4
_XMP_ID = b"XMP "
_HAS_XMP = 0x04
_HAS_ALPHA = 0x10
_FIRST_CHUNK = 12
_VP8X_BYTES = 10

read_payload = xmp.read_payload


def plan_embed(source: Source, payload: bytes) -> Edit:
    """Return the edit that puts a manifest's text in.

    It goes to the end of the RIFF, or in front of the first chunk that would hide it there.

    Raises:
        EmbeddingError: the chunks do not make up the file, or the size is above a limit.
    """
    packet = xmp.packet(payload)
    chunks = _chunks(source)
    end = _riff_end(source)
    header, done = _announced(source, chunks[0])
    place = _place(source, chunks, end)
    pad = b""
    if place == end == chunks[-1].end and _length(chunks[-1]) % 2:
        pad, done = b"\0", done | _PADDED
    record = bytes([done, 0, 0, 0]) + source.at(4, 4)
    added = pad + _chunk(_XMP_ID, packet) + _chunk(UNDO_ID, record)
    grown = len(header.data) - header.length + len(added)
    check_readable(source.size + grown)
    size = end - 8 + grown
    if size > MAX_RIFF_SIZE:
        raise EmbeddingError(f"WebP would have {size} bytes; a RIFF holds {MAX_RIFF_SIZE}")
    return (Splice(4, 4, _u32(size)), header, Splice(place, 0, added))


def originals(source: Source) -> Iterator[Original]:
    """Yield what the file may have been before its first manifest.

    With a record of ours that is one, and certain. Without, there are three ways in which genblaze
    may have got its packet in.
    """
    packet = xmp.find_packet(source)
    if packet is None:
        return
    try:
        chunks = _chunks(source)
    except EmbeddingError:
        return
    at = next((at for at, chunk in enumerate(chunks) if chunk.body == packet.start), 0)
    if at == 0 or chunks[at].id != _XMP_ID or chunks[at].end != packet.end:
        return
    if chunks[0].id != b"VP8X" or _length(chunks[0]) != _VP8X_BYTES:
        return
    if at + 1 < len(chunks) and chunks[at + 1].id == UNDO_ID:
        undo = _undo_recorded(source, chunks, at)
        if undo is not None and _is_ours(source, undo):
            yield Original(undo, certain=True, removed="its XMP chunk")
    elif 8 + source.number(4, 4, "little") <= source.size:
        for undo in _undo_guessed(source, chunks, at):
            yield Original(undo, certain=False, removed="its XMP chunk")


def read_facts(source: Source) -> dict[str, Any]:
    """Return width and height in pixels, of the canvas when the file has one."""
    size = _size(source.at(_FIRST_CHUNK, 20))
    return {"width": size[0], "height": size[1]} if size else {}


def _size(head: bytes) -> tuple[int, int] | None:
    """Return width and height from the first 20 bytes of a chunk, if it has them."""
    if len(head) < 18:
        return None
    if head[:4] == b"VP8X":
        width = int.from_bytes(head[12:15], "little") + 1
        return width, int.from_bytes(head[15:18], "little") + 1
    if head[:4] == b"VP8L" and head[8] == 0x2F:
        bits = int.from_bytes(head[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[:4] == b"VP8 " and head[11:14] == b"\x9d\x01\x2a":
        width = int.from_bytes(head[14:16], "little") & 0x3FFF
        return width, int.from_bytes(head[16:18], "little") & 0x3FFF
    return None


def _riff_end(source: Source) -> int:
    """Return where the RIFF ends; a size that reaches beyond the file is a wrong one."""
    return min(8 + source.number(4, 4, "little"), source.size)


def _chunks(source: Source) -> list[Chunk]:
    """Return the chunks, which fill the RIFF; only the very last pad byte may be missing."""
    if source.at(0, 4) != b"RIFF" or source.at(8, 4) != b"WEBP":
        raise EmbeddingError("file does not begin as a WebP does")
    end = _riff_end(source)
    chunks = list(islice(walk(source, _FIRST_CHUNK, end), MAX_CHUNKS + 1))
    if len(chunks) > MAX_CHUNKS:
        raise EmbeddingError(f"WebP has more than {MAX_CHUNKS} chunks")
    if not chunks:
        raise EmbeddingError("WebP has no chunks within the size that it gives itself")
    last = chunks[-1]
    if last.open_ended:
        raise EmbeddingError("WebP is broken: it ends in the middle of a chunk")
    if end - last.end > _length(last) % 2:
        raise EmbeddingError("WebP is broken: it has bytes outside of its chunks")
    return chunks


def _length(chunk: Chunk) -> int:
    return chunk.end - chunk.body


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + _u32(len(body)) + body + b"\0" * (len(body) % 2)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _announced(source: Source, first: Chunk) -> tuple[Splice, int]:
    """Return the splice that says in the header that there is XMP, and what that does."""
    if first.id != b"VP8X":
        return Splice(_FIRST_CHUNK, 0, _vp8x(source, first)), _VP8X_INSERTED
    if _length(first) != _VP8X_BYTES:
        raise EmbeddingError("WebP is broken: its VP8X chunk has a wrong size")
    flags = source.number(first.body, 1)
    return Splice(first.body, 1, bytes([flags | _HAS_XMP])), 0 if flags & _HAS_XMP else _FLAG_SET


def _vp8x(source: Source, picture: Chunk) -> bytes:
    """Return the chunk in front of a picture that says that there is XMP."""
    width, height = _size(source.at(picture.start, 20)) or (0, 0)
    if not width or not height or picture.id == b"VP8X":
        raise EmbeddingError("WebP is broken: it does not begin with a picture")
    flags = _HAS_XMP
    if picture.id == b"VP8L" and source.number(picture.body + 1, 4, "little") >> 28 & 1:
        flags |= _HAS_ALPHA
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return _chunk(b"VP8X", bytes([flags, 0, 0, 0]) + canvas)


def _place(source: Source, chunks: list[Chunk], end: int) -> int:
    """Return where the manifest goes: to the end, if nothing hides it there."""
    obstacle = xmp.find_obstacle(source, end)
    if obstacle is None:
        return end
    hiding = next(chunk for chunk in reversed(chunks) if chunk.start <= obstacle)
    if hiding.id == b"VP8X":
        raise EmbeddingError("WebP is broken: it has XMP in its header")
    return hiding.start


def _undo_recorded(source: Source, chunks: list[Chunk], at: int) -> Edit | None:
    """Return how the packet comes out by the record behind it, None when that makes no sense."""
    record = chunks[at + 1]
    data = source.at(record.body, min(_length(record), 9))
    if len(data) != 8 or (data[0] & _VP8X_INSERTED and data[0] & _FLAG_SET):
        return None
    start = chunks[at].start
    if data[0] & _PADDED:
        if chunks[at - 1].end != start - 1:
            return None
        start -= 1
    edit = [Splice(4, 4, data[4:])]
    if data[0] & _VP8X_INSERTED:
        edit.append(_without_vp8x(chunks))
    if data[0] & _FLAG_SET:
        edit.append(_flags(source, chunks, set_to=0))
    return (*edit, Splice(start, record.end - start, b""))


def _is_ours(source: Source, undo: Edit) -> bool:
    """Whether embedding what is in the file, in what the undo gives, makes this very file."""
    payload = read_payload(source)
    try:
        again = plan_embed(EditedSource(source, undo), payload or b"")
    except EmbeddingError:
        return False
    return undoes(source, undo, again)


def _undo_guessed(source: Source, chunks: list[Chunk], at: int) -> Iterator[Edit]:
    """Yield how genblaze's packet may come out: what its encoder did leaves no trace."""
    start, end = chunks[at].start, _riff_end(source)
    if at + 1 < len(chunks):
        end = chunks[at + 1].start
    removal = Splice(start, end - start, b"")
    size = _riff_end(source) - 8 - removal.length
    vp8x = _without_vp8x(chunks)
    if _is_implied(source, chunks):
        yield Splice(4, 4, _u32(size - vp8x.length)), vp8x, removal
    for flag in (0, _HAS_XMP):
        yield Splice(4, 4, _u32(size)), _flags(source, chunks, set_to=flag), removal


def _is_implied(source: Source, chunks: list[Chunk]) -> bool:
    """Whether the first chunk says no more than the picture behind it and that there is XMP."""
    try:
        return source.at(_FIRST_CHUNK, 8 + _VP8X_BYTES) == _vp8x(source, chunks[1])
    except EmbeddingError:
        return False


def _without_vp8x(chunks: list[Chunk]) -> Splice:
    return Splice(_FIRST_CHUNK, chunks[0].end - _FIRST_CHUNK, b"")


def _flags(source: Source, chunks: list[Chunk], *, set_to: int) -> Splice:
    flags = source.number(chunks[0].body, 1) & ~_HAS_XMP | set_to
    return Splice(chunks[0].body, 1, bytes([flags]))
