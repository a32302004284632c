"""MP3: the manifest in an ID3v2 user text frame, and what the audio frames say."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.source import Source

DESCRIPTION = "genblaze:manifest"
MAX_FRAMES = 50_000
MAX_TAG_BYTES = 64 << 20
_ENCODINGS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One ID3v2 frame; `flags` is its second flag byte, the offsets are in the tag's source."""

    id: bytes
    flags: int
    body: int
    end: int


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text, None when there is none.

    Raises:
        EmbeddingError: the frame is broken, or above the size limit.
    """
    header = source.at(0, 10)
    if len(header) < 10 or header[:3] != b"ID3" or header[3] not in (3, 4):
        return None
    version, flags = header[3], header[5]
    tag, start, end = source, 10, min(10 + _synchsafe(header[6:10]), source.size)
    if version == 3 and flags & 0x80:
        if end > MAX_TAG_BYTES:
            raise EmbeddingError(f"ID3 tag has {end} bytes; the limit is {MAX_TAG_BYTES}")
        # In 2.3 frame sizes count the bytes from before unsynchronisation.
        plain = source.at(10, end - 10).replace(b"\xff\x00", b"\xff")
        tag, start, end = Source(io.BytesIO(plain)), 0, len(plain)
    if flags & 0x40:
        extended = tag.at(start, 4)
        start += _synchsafe(extended) if version == 4 else 4 + int.from_bytes(extended)
    for frame in _frames(tag, version, start, end):
        text = _manifest_text(tag, version, frame) if frame.id == b"TXXX" else None
        if text is not None:
            return text.encode("utf-8", "surrogatepass")
    return None


def _synchsafe(data: bytes) -> int:
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value


def _frames(tag: Source, version: int, start: int, end: int) -> Iterator[Frame]:
    for _ in range(MAX_FRAMES):
        header = tag.at(start, 10)
        if start + 10 > end or len(header) < 10 or not _is_frame_id(header[:4]):
            return
        size = int.from_bytes(header[4:8])
        # Some writers of 2.4 leave sizes plain; then only the plain one leads to another frame.
        if version == 4 and _leads_on(tag, start + 10 + _synchsafe(header[4:8]), end):
            size = _synchsafe(header[4:8])
        body_end = start + 10 + size
        if body_end > end:
            return
        yield Frame(header[:4], header[9], start + 10, body_end)
        start = body_end


def _is_frame_id(data: bytes) -> bool:
    return len(data) == 4 and data.isalnum() and data.isupper()


def _leads_on(tag: Source, offset: int, end: int) -> bool:
    following = tag.at(offset, 4)
    return offset >= end or following[:1] == b"\0" or _is_frame_id(following)


def _manifest_text(tag: Source, version: int, frame: Frame) -> str | None:
    body, flags = frame.body, frame.flags
    compressed, encrypted, grouped = (0x80, 0x40, 0x20) if version == 3 else (0x08, 0x04, 0x40)
    if flags & (compressed | encrypted):
        return None
    body += 1 if flags & grouped else 0
    body += 4 if version == 4 and flags & 0x01 else 0
    encoding = _ENCODINGS.get(tag.number(body, 1))
    if encoding is None:
        return None
    # Enough for the description in any encoding; only our own frame is read to its end.
    head = tag.at(body + 1, min(2 * len(DESCRIPTION) + 4, frame.end - body - 1))
    if DESCRIPTION not in head.decode(encoding, "replace"):
        return None
    if frame.end - body > 2 * MAX_MANIFEST_BYTES + 64:
        raise EmbeddingError(f"ID3 manifest frame has {frame.end - body} bytes; too large")
    return _split_text(tag.at(body + 1, frame.end - body - 1), encoding)


def _split_text(data: bytes, encoding: str) -> str | None:
    wide = 2 if encoding.startswith("utf-16") else 1
    for at in range(0, min(len(data), 2 * len(DESCRIPTION) + 4), wide):
        if data[at : at + wide] == b"\0" * wide:
            break
    else:
        return None
    try:
        # A byte order mark stands before the description and before the text.
        if data[:at].decode(encoding) != DESCRIPTION:
            return None
        text = data[at + wide :].decode(encoding)
    except UnicodeDecodeError as exc:
        raise EmbeddingError("ID3 manifest frame is not text in the encoding it names") from exc
    return text.partition("\0")[0]


def read_facts(source: Source) -> dict[str, Any]:
    """Return duration in seconds, and sample rate, channels, codec and bit rate."""
    from mutagen.mp3 import MPEGInfo

    source.file.seek(0)
    info: Any = MPEGInfo(source.file)
    return {
        "duration": info.length,
        "audio": {
            "sample_rate": info.sample_rate,
            "channels": info.channels,
            "codec": f"mp{info.layer}",
            "bitrate": info.bitrate,
        },
    }
