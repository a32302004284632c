"""Where a file ends by what its container says: one walk for each container.

A walk is a generator that asks for the bytes it has to see, from the start of the file on. It
returns when nothing more is known to come. A file that is over while a walk asks for something is
cut off, so nothing is asked for that a valid file may lack: sizes that a streaming encoder never
wrote, structures that make no sense and bytes behind the end all let the walk return.
"""

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Final

from genblaze_dagster.media.boxes import header_of
from genblaze_dagster.media.flac_blocks import LAST, STREAM_INFO
from genblaze_dagster.media.id3 import HEADER_BYTES, unpack_synchsafe

# Encoders that cannot seek back leave a size like this: 0, the largest number, or nearly that.
_LARGEST_CHUNK: Final = 0x7F00_0000
# Sizes count the pad byte behind the last chunk, which some writers leave out.
_PAD: Final = 1
# Boxes that stand side by side in a file; anything else may be bytes of somebody behind its end.
_BOXES: Final = frozenset(
    b"ftyp styp moov moof mdat meta free skip wide uuid udta sidx ssix mfra emsg prft pdin".split()
)
_STREAM_INFO_BYTES: Final = 34
_MPEG_START_BYTES: Final = 50
# Tags behind the sound, which some encoders count and some programs take away.
_MPEG_TAGS_BYTES: Final = 4096
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_SEGMENT: Final = b"\x18\x53\x80\x67"
_LONGEST_VINT: Final = 8


@dataclass(frozen=True, slots=True)
class Take:
    """Asks for the next `size` bytes; the file may be over before them if `may_end`."""

    size: int
    may_end: bool = False


@dataclass(frozen=True, slots=True)
class Skip:
    """Asks for `size` bytes to go by."""

    size: int


@dataclass(frozen=True, slots=True)
class Find:
    """Asks for the next two bytes that match; what is before them goes by."""

    pattern: re.Pattern[bytes]


Walk = Generator[Take | Skip | Find, bytes, None]

# In the scans of a JPEG: neither a stuffed 0xFF nor a restart marker.
_NEXT_MARKER: Final = Find(re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]", re.DOTALL))


def walk(media_type: str) -> Walk | None:
    """Return the walk through a file of a media type, None when there is none for it."""
    make = _WALKS.get(media_type)
    return make() if make is not None else None


def _png() -> Walk:
    yield Skip(8)
    while True:
        head = yield Take(8)
        if not head[4:].isalpha() or head[0] & 0x80 or head[4:] == b"IEND":
            return
        # With the checksum behind it.
        yield Skip(int.from_bytes(head[:4]) + 4)


def _jpeg() -> Walk:
    yield Skip(2)
    marker = yield Take(2)
    while marker[0] == 0xFF and marker[1] != _END_OF_IMAGE:
        if marker[1] == 0xFF:
            marker = b"\xff" + (yield Take(1))
        elif marker[1] in _WITHOUT_LENGTH:
            marker = yield Take(2)
        else:
            length = int.from_bytes((yield Take(2)))
            if length < 2:
                return
            yield Skip(length - 2)
            marker = yield _NEXT_MARKER if marker[1] == _START_OF_SCAN else Take(2)


def _gif() -> Walk:
    head = yield Take(13)
    yield Skip(_colour_table(head[10]))
    while True:
        # Some writers leave the mark at the end out.
        kind = yield Take(1, may_end=True)
        if kind == b"!":
            yield Skip(1)
        elif kind == b",":
            yield Skip(_colour_table((yield Take(9))[8]) + 1)
        else:
            return
        while size := (yield Take(1))[0]:
            yield Skip(size)


def _colour_table(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp() -> Walk:
    size = int.from_bytes((yield Take(12))[4:8], "little")
    if 4 + _PAD <= size < _LARGEST_CHUNK:
        yield Skip(size - 4 - _PAD)


def _wav() -> Walk:
    head = yield Take(12)
    left = int.from_bytes(head[4:8], "little") - 4
    if head[:4] != b"RIFF" or not 0 < left < _LARGEST_CHUNK:
        return
    while True:
        head = yield Take(8, may_end=left < 8)
        size = int.from_bytes(head[4:], "little")
        left -= 8 + size
        # The two sizes must agree: many a header is written before the length is known.
        if not head[:4].isascii() or left < -_PAD:
            return
        yield Skip(size)
        if head[:4] == b"data":
            return
        left -= size % 2
        if size % 2 and left > 0:
            yield Skip(1)


def _boxes() -> Walk:
    while True:
        head = yield Take(8, may_end=True)
        if head[4:] not in _BOXES:
            return
        if head[:4] == b"\0\0\0\1":
            head += yield Take(8)
        size, header = header_of(head)
        if size < header:
            # 0 stands for all up to the end of the file, wherever that is.
            return
        yield Skip(size - header)


def _flac() -> Walk:
    yield Skip(4)
    info, kind = b"", 0
    while not kind & LAST:
        head = yield Take(4)
        kind, size = head[0], int.from_bytes(head[1:])
        if kind & ~LAST == STREAM_INFO and size == _STREAM_INFO_BYTES:
            info = yield Take(size)
        else:
            yield Skip(size)
    longest_block, shortest_frame = int.from_bytes(info[2:4]), int.from_bytes(info[4:7])
    samples = int.from_bytes(info[10:18]) & (1 << 36) - 1
    if longest_block:
        # The last frame may be a short one.
        yield Skip(samples // longest_block * shortest_frame)


def _mpeg_audio() -> Walk:
    tag_bytes = 0
    head = yield Take(HEADER_BYTES, may_end=True)
    if head[:3] == b"ID3":
        tag_bytes = HEADER_BYTES + unpack_synchsafe(head[6:])
        yield Skip(tag_bytes - HEADER_BYTES)
        head = yield Take(HEADER_BYTES, may_end=True)
    frame = head + (yield Take(_MPEG_START_BYTES, may_end=True))
    # Xing's header in the first frame has the size of the sound. It stands behind space for what
    # is there in every frame, which is shorter for mono and for version 2.
    is_mono, is_first_version = frame[3] >> 6 == 3, frame[1] >> 3 & 3 == 3
    at = 4 + ((17 if is_mono else 32) if is_first_version else (9 if is_mono else 17))
    flags = int.from_bytes(frame[at + 4 : at + 8])
    if frame[at : at + 4] not in (b"Xing", b"Info") or not flags & 2:
        return
    at += 8 + 4 * (flags & 1)
    left = int.from_bytes(frame[at : at + 4]) - len(frame) - tag_bytes - _MPEG_TAGS_BYTES
    if 0 < left < _LARGEST_CHUNK:
        yield Skip(left)


def _ogg() -> Walk:
    while True:
        head = yield Take(27, may_end=True)
        if head[:4] != b"OggS":
            return
        yield Skip(sum((yield Take(head[26]))))


def _matroska() -> Walk:
    yield Skip(4)
    header = yield from _vint()
    if header is None:
        return
    yield Skip(header)
    if (yield Take(4)) == _SEGMENT and (size := (yield from _vint())) is not None:
        yield Skip(size)


def _vint() -> Generator[Take, bytes, int | None]:
    """Return the next size; None when it is unknown, as in a live stream."""
    first = (yield Take(1))[0]
    length = 9 - first.bit_length()
    if length > _LONGEST_VINT:
        return None
    value = int.from_bytes(bytes([first]) + (yield Take(length - 1)))
    digits = (1 << 7 * length) - 1
    return None if value & digits == digits else value & digits


def _gltf() -> Walk:
    size = int.from_bytes((yield Take(12))[8:], "little")
    yield Skip(max(size - 12, 0))


_WALKS: Mapping[str, Callable[[], Walk]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
    "image/avif": _boxes,
    "image/heic": _boxes,
    "video/mp4": _boxes,
    "video/quicktime": _boxes,
    "video/ogg": _ogg,
    "video/webm": _matroska,
    "video/x-matroska": _matroska,
    "audio/mp4": _boxes,
    "audio/mpeg": _mpeg_audio,
    "audio/ogg": _ogg,
    "audio/wav": _wav,
    "audio/flac": _flac,
    "model/gltf-binary": _gltf,
}
