"""The XMP packet that carries the manifest in JPEG and WebP, wherever in the file it is.

Other programs move the packet or put theirs in front, so no container is parsed. As in genblaze, a
packet is what stands between `<x:xmpmeta` and the end of the next trailer, and the first one with a
manifest in it counts. What genblaze cannot pass over is read nevertheless, but nothing is embedded
behind it: packets without a trailer, and packets that are not UTF-8.
"""

import html
from collections.abc import Iterator
from dataclasses import dataclass

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.edit import Range
from genblaze_dagster.media.source import Source

PACKET = b"<x:xmpmeta"
TRAILER = b"<?xpacket end"
OPENING = b"<mf:manifest>"
CLOSING = b"</mf:manifest>"
BLOCK = 1 << 20
MAX_PACKETS = 1_000
MAX_ESCAPED_BYTES = 2 * MAX_MANIFEST_BYTES
"""JSON has few characters to escape; twice the limit leaves room for a prompt full of them."""
MAX_REFERENCES = 100_000
"""Character references of other writers than genblaze and us, of which each takes its time."""

_FIRST_BLOCK = 4096
_START = (
    '<?xpacket begin="{mark}" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    ' xmlns:mf="https://github.com/backblaze-labs/genblaze/ns/1.0/">'
    '<rdf:Description rdf:about=""><mf:manifest>'
)
_OUR_START = _START.format(mark="\ufeff").encode()
# genblaze encodes the bytes of the mark a second time.
_GENBLAZE_START = _START.format(mark="\u00ef\u00bb\u00bf").encode()
_END = b'</mf:manifest></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'


@dataclass(frozen=True, slots=True)
class _Packet:
    """Where a packet is; one without a trailer reaches up to the end of what was searched."""

    start: int
    end: int
    has_trailer: bool


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text from the first packet that has one, None when there is none.

    Raises:
        EmbeddingError: the text is cut off, not UTF-8, or above the size limit.
    """
    text = _find(source)
    if text is None:
        return None
    if len(text) > MAX_ESCAPED_BYTES:
        raise EmbeddingError(
            f"XMP manifest has {len(text)} bytes; the limit is {MAX_ESCAPED_BYTES}"
        )
    try:
        escaped = source.at(text.start, len(text)).decode()
    except UnicodeDecodeError as exc:
        raise EmbeddingError("XMP manifest is not UTF-8 text") from exc
    return _unescaped(escaped).encode()


def packet(payload: bytes) -> bytes:
    """Return the packet that carries a manifest's text.

    Raises:
        EmbeddingError: the text is above the size limit.
    """
    escaped = payload.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")
    if len(payload) > MAX_MANIFEST_BYTES or len(escaped) > MAX_ESCAPED_BYTES:
        raise EmbeddingError(
            f"manifest has {len(payload)} bytes, {len(escaped)} in XMP; the limits are "
            f"{MAX_MANIFEST_BYTES} and {MAX_ESCAPED_BYTES}"
        )
    return _OUR_START + escaped + _END


def find_packet(source: Source) -> Range | None:
    """Return where the packet with the first manifest is, if genblaze or we have written it.

    Raises:
        EmbeddingError: the manifest's text is cut off.
    """
    text = _find(source)
    if text is None or source.at(text.end, len(_END)) != _END:
        return None
    for start in (_OUR_START, _GENBLAZE_START):
        before = text.start - len(start)
        if source.at(before, len(start)) == start:
            return Range(before, text.end + len(_END))
    return None


def find_obstacle(source: Source, end: int) -> int | None:
    """Return where the first packet is that hides a manifest at `end` from readers.

    It has a manifest itself, or genblaze cannot pass over it.

    Raises:
        EmbeddingError: there are too many packets.
    """
    for found in _packets(source, end):
        if (
            not found.has_trailer
            or _search(source, OPENING, found.start, found.end) is not None
            or not _is_text(source, found)
        ):
            return found.start
    return None


def _find(source: Source) -> Range | None:
    """Return where the escaped text of the first manifest is."""
    for found in _packets(source, source.size):
        opening = _search(source, OPENING, found.start, found.end)
        if opening is None:
            continue
        start = opening + len(OPENING)
        end = _search(source, CLOSING, start, found.end)
        if end is not None:
            return Range(start, end)
        if not found.has_trailer:
            raise EmbeddingError("XMP manifest is cut off: it has no end")
    return None


def _packets(source: Source, end: int) -> Iterator[_Packet]:
    position = 0
    for _ in range(MAX_PACKETS):
        start = _search(source, PACKET, position, end)
        if start is None:
            return
        trailer = _search(source, TRAILER, start, end)
        mark = None if trailer is None else _search(source, b"?>", trailer, end)
        if mark is None:
            yield _Packet(start, end, has_trailer=False)
            return
        position = mark + 2
        yield _Packet(start, position, has_trailer=True)
    raise EmbeddingError(f"file has more than {MAX_PACKETS} XMP packets")


def _search(source: Source, marker: bytes, start: int, end: int) -> int | None:
    """Return the offset of the first `marker` between two offsets."""
    length = _FIRST_BLOCK
    while start < end:
        block = source.at(start, min(length, end - start))
        found = block.find(marker)
        if found >= 0:
            return start + found
        if len(block) < length:
            return None
        start += length - len(marker) + 1
        length = BLOCK
    return None


def _is_text(source: Source, found: _Packet) -> bool:
    if found.end - found.start > MAX_ESCAPED_BYTES:
        return False
    try:
        source.at(found.start, found.end - found.start).decode()
    except UnicodeDecodeError:
        return False
    return True


def _unescaped(text: str) -> str:
    references = text.count("&")
    if references == sum(text.count(known) for known in ("&amp;", "&lt;", "&gt;")):
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    if references > MAX_REFERENCES:
        raise EmbeddingError(
            f"XMP manifest has {references} character references; the limit is {MAX_REFERENCES}"
        )
    try:
        return html.unescape(text)
    except ValueError as exc:
        # A number of thousands of digits.
        raise EmbeddingError("XMP manifest refers to a character that cannot be") from exc
