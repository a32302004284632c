"""JPEG: the manifest in an XMP packet, and the size of the picture.

The packet is a segment of its own at the start of the file, after the two that other programs
expect there. One that is too long for a segment stands bare behind everything else.
"""

from collections.abc import Iterator
from typing import Any

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import xmp
from genblaze_dagster.media.edit import Edit, Range, Splice
from genblaze_dagster.media.limits import check_readable
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source

MAX_SEGMENTS = 10_000
MAX_SEGMENT_BYTES = 65_533
"""What the two bytes of a segment's length leave for its content."""

_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD8)) | {0x01}
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_AT_THE_START = ((0xE0, b"JFIF\0"), (0xE0, b"JFXX\0"), (0xE1, b"Exif\0"))

read_payload = xmp.read_payload


def plan_embed(source: Source, payload: bytes) -> Edit:
    """Return the edit that puts a manifest's text in.

    Raises:
        EmbeddingError: the file does not begin as a JPEG does, the size is above a limit, or the
            text is too long for a segment and XMP in the file would hide it behind the picture.
    """
    packet = xmp.packet(payload)
    if source.at(0, 3) != b"\xff\xd8\xff":
        raise EmbeddingError("JPEG does not begin with a marker")
    if _fits(packet):
        splice = Splice(_place(source), 0, _segment_start(packet) + packet)
    else:
        splice = Splice(_place_behind(source), 0, packet)
    check_readable(source.size + len(splice.data))
    return (splice,)


def originals(source: Source) -> Iterator[Original]:
    """Yield the file without its first manifest, if genblaze or we have written it."""
    packet = xmp.find_packet(source)
    if packet is None:
        return
    if _fits(packet):
        before = _segment_start(packet)
        start = packet.start - len(before)
        if source.at(start, len(before)) == before:
            undo = (Splice(start, packet.end - start, b""),)
            yield Original(undo, certain=False, removed="its XMP segment")
    else:
        undo = (Splice(packet.start, len(packet), b""),)
        yield Original(undo, certain=False, removed="the XMP packet behind the picture")


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


def _fits(packet: bytes | Range) -> bool:
    return len(_XMP_HEADER) + len(packet) <= MAX_SEGMENT_BYTES


def _segment_start(packet: bytes | Range) -> bytes:
    """Return marker, length and header of the segment around a packet."""
    return b"\xff\xe1" + (2 + len(_XMP_HEADER) + len(packet)).to_bytes(2) + _XMP_HEADER


def _place(source: Source) -> int:
    """Return where the segment goes: in front of every other XMP.

    That is behind JFIF and Exif segments, which expect to be the first. Only when one of them has
    something in it that would hide the manifest, as the preview of a camera may, it goes before.
    """
    places = [2]
    for marker, name in _AT_THE_START:
        header = source.at(places[-1], 4 + len(name))
        end = places[-1] + 2 + int.from_bytes(header[2:4])
        is_there = header[:2] == bytes([0xFF, marker]) and header[4:] == name
        if is_there and source.at(end, 1) == b"\xff":
            places.append(end)
    obstacle = xmp.find_obstacle(source, places[-1])
    return max(place for place in places if obstacle is None or place <= obstacle)


def _place_behind(source: Source) -> int:
    """Return where a packet goes that is too long for a segment: to the end of the file.

    Or in front of an earlier one of that kind, which cannot be inside of a segment either.

    Raises:
        EmbeddingError: other XMP would hide it there.
    """
    obstacle = xmp.find_obstacle(source, source.size)
    if obstacle is None:
        return source.size
    earlier = xmp.find_packet(source)
    if earlier is None or _fits(earlier) or not earlier.start < obstacle < earlier.end:
        raise EmbeddingError(
            f"manifest is too long for a JPEG segment, which holds {MAX_SEGMENT_BYTES} bytes, and "
            "behind the picture other XMP in the file would hide it"
        )
    return earlier.start
