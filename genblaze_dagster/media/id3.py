"""ID3v2 tags as a list of frames, walked without reading them."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.source import Source

HEADER_BYTES = 10
"""Of a tag and of a frame."""
MAX_FRAMES = 10_000
MAX_SIZE = (1 << 28) - 1
_MAX_UNSYNCHRONISED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `flags` is its second flag byte, the offsets are in the tag's source.

    `plain_size` is true when a frame of version 2.4 names its size as version 2.3 would.
    """

    id: bytes
    flags: int
    start: int
    body: int
    end: int
    plain_size: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag of version 2.3 or 2.4 at the start of a file.

    Attributes:
        header: its first ten bytes.
        source: what holds the frames: the file, or a copy without unsynchronisation.
        start: where the first frame is.
        end: where frames and padding end; no further than the file.
    """

    header: bytes
    source: Source
    start: int
    end: int

    @property
    def version(self) -> int:
        """3 or 4."""
        return self.header[3]


def read_tag(source: Source) -> Tag | None:
    """Return the tag that a file starts with, None when there is none of version 2.3 or 2.4.

    Raises:
        EmbeddingError: it is unsynchronised as a whole, and too large to be copied.
    """
    header = source.at(0, HEADER_BYTES)
    if len(header) < HEADER_BYTES or header[:3] != b"ID3" or header[3] not in (3, 4):
        return None
    version, flags = header[3], header[5]
    frames, start = source, HEADER_BYTES
    end = min(start + unpack_synchsafe(header[6:]), source.size)
    if version == 3 and flags & 0x80:
        if end > _MAX_UNSYNCHRONISED_BYTES:
            raise EmbeddingError(f"ID3 tag has {end} bytes; above {_MAX_UNSYNCHRONISED_BYTES}")
        # In 2.3 frame sizes count the bytes from before unsynchronisation.
        plain = source.at(start, end - start).replace(b"\xff\x00", b"\xff")
        frames, start, end = Source(io.BytesIO(plain)), 0, len(plain)
    if flags & 0x40:
        extended = frames.at(start, 4)
        start += unpack_synchsafe(extended) if version == 4 else 4 + int.from_bytes(extended)
    return Tag(header, frames, start, end)


def walk(tag: Tag) -> Iterator[Frame]:
    """Yield the frames in front of the padding."""
    start = tag.start
    for _ in range(MAX_FRAMES):
        header, body = tag.source.at(start, HEADER_BYTES), start + HEADER_BYTES
        if body > tag.end or len(header) < HEADER_BYTES or not _is_frame_id(header[:4]):
            return
        size = int.from_bytes(header[4:8])
        plain_size = False
        if tag.version == 4:
            safe = unpack_synchsafe(header[4:8])
            # Some writers of 2.4 leave sizes plain; then only the plain one leads to another frame.
            plain_size = size != safe and not _leads_on(tag, body + safe)
            size = size if plain_size else safe
        if body + size > tag.end:
            return
        yield Frame(header[:4], header[9], start, body, body + size, plain_size)
        start = body + size


def _is_frame_id(data: bytes) -> bool:
    # Some writers of 2.3 take over the names of 2.2, which have three letters.
    name = data[:3] if data[3:] == b"\0" else data
    return len(name) >= 3 and name.isalnum() and name.isupper()


def _leads_on(tag: Tag, offset: int) -> bool:
    following = tag.source.at(offset, 4)
    nothing_fits = offset + HEADER_BYTES > tag.end
    return nothing_fits or following[:1] == b"\0" or _is_frame_id(following)


def unpack_synchsafe(data: bytes) -> int:
    """Return a number of seven bits in each byte; the eighth is passed over."""
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value


def pack_synchsafe(value: int) -> bytes:
    """Return a number up to `MAX_SIZE` in four bytes of seven bits."""
    return bytes(value >> shift & 0x7F for shift in (21, 14, 7, 0))
