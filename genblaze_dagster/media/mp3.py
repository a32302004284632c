"""MP3: the manifest in an ID3v2 user text frame, and what the audio frames say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.edit import Edit, Splice
from genblaze_dagster.media.id3 import (
    HEADER_BYTES,
    MAX_SIZE,
    Frame,
    Tag,
    pack_synchsafe,
    read_tag,
    unpack_synchsafe,
    walk,
)
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.media.source import Source

DESCRIPTION = "genblaze:manifest"
_ENCODINGS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}
# mutagen reads the three-letter name of 2.2 as the same frame.
_USER_TEXT = (b"TXXX", b"TXX\0")
# "Experimental" changes nothing about the frames; all other flags do, or forbid padding.
_HARMLESS_FLAGS = 0x20
_FFMPEG_PADDING = 10


@dataclass(frozen=True, slots=True)
class _Found:
    tag: Tag
    frame: Frame
    payload: bytes


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text, None when there is none.

    Raises:
        EmbeddingError: the frame is broken, or above the size limit.
    """
    found = _find(source)
    return found.payload if found else None


def _find(source: Source) -> _Found | None:
    tag = read_tag(source)
    if tag is None:
        return None
    for frame in walk(tag):
        text = _manifest_text(tag, frame) if frame.id in _USER_TEXT else None
        if text is not None:
            return _Found(tag, frame, _within_limit(text.encode("utf-8", "surrogatepass")))
    return None


def _within_limit(text: bytes) -> bytes:
    if len(text) > MAX_MANIFEST_BYTES:
        raise EmbeddingError(
            f"manifest has {len(text)} bytes in an ID3 tag; the limit is {MAX_MANIFEST_BYTES}"
        )
    return text


def _manifest_text(tag: Tag, frame: Frame) -> str | None:
    body, flags = frame.body, frame.flags
    compressed, encrypted, grouped = (0x80, 0x40, 0x20) if tag.version == 3 else (0x08, 0x04, 0x40)
    if flags & (compressed | encrypted):
        return None
    body += 1 if flags & grouped else 0
    body += 4 if tag.version == 4 and flags & 0x01 else 0
    # Enough for the description in any encoding; only our own frame is read to its end.
    head = tag.source.at(body, min(2 * len(DESCRIPTION) + 5, frame.end - body))
    encoding = _ENCODINGS.get(head[0]) if head else None
    if encoding is None or DESCRIPTION not in head[1:].decode(encoding, "replace"):
        return None
    if frame.end - body > 2 * MAX_MANIFEST_BYTES + 64:
        raise EmbeddingError(f"ID3 manifest frame has {frame.end - body} bytes; too large")
    return _split_text(tag.source.at(body + 1, frame.end - body - 1), encoding)


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


def plan_embed(source: Source, payload: bytes) -> Edit:
    """Return the edit that adds a frame, in a tag of its own where there is none.

    It goes in front of the first user text frame, because of two with the same description
    readers take the first, and behind all frames where there is no other.

    Raises:
        EmbeddingError: the tag has a layout that does not take a frame reversibly, the payload is
            above the size limit, or this is no MP3.
    """
    if source.at(0, 3) != b"ID3":
        # What proves nothing may be an MP3 that starts in the middle of a frame.
        if sniff_media_type(source.at(0, 64)) not in ("audio/mpeg", None):
            raise EmbeddingError("file is no MP3; an ID3 tag in front would break it")
        frame = _frame(4, _text(4, payload))
        return (Splice(0, 0, _own_header(len(frame)) + frame),)
    tag = _open_tag(source)
    frame = _frame(tag.version, _text(tag.version, payload))
    place = _place(tag)
    if tag.end - HEADER_BYTES + len(frame) > MAX_SIZE:
        raise EmbeddingError(f"ID3 tag would grow above {MAX_SIZE} bytes, its limit")
    return (_resized(tag, len(frame)), Splice(place, 0, frame))


def _open_tag(source: Source) -> Tag:
    """Return the tag of a file if a frame can be added by changing its size alone."""
    tag = read_tag(source)
    if tag is None:
        raise EmbeddingError("ID3 tag is not of version 2.3 or 2.4, which alone can be added to")
    if tag.header[5] & ~_HARMLESS_FLAGS:
        raise EmbeddingError(
            "ID3 tag is unsynchronised or has an extended header or a footer, so that a frame"
            " cannot be added and taken out again"
        )
    if any(byte & 0x80 for byte in tag.header[6:]):
        raise EmbeddingError("ID3 tag has a broken size, which readers refuse")
    size = unpack_synchsafe(tag.header[6:])
    if not size:
        # Taking a frame out of an empty tag and taking a tag away would look the same.
        raise EmbeddingError("ID3 tag is empty, which ID3 does not allow")
    if tag.end != HEADER_BYTES + size:
        raise EmbeddingError("ID3 tag reaches beyond the end of the file")
    return tag


def _place(tag: Tag) -> int:
    """Return where a frame goes in."""
    first_text, end = None, tag.start
    for frame in walk(tag):
        if frame.plain_size:
            raise EmbeddingError("ID3 tag has frame sizes that readers understand differently")
        if first_text is None and frame.id in _USER_TEXT:
            first_text = frame.start
        end = frame.end
    if tag.end - end >= HEADER_BYTES and tag.source.at(end, 4).strip(b"\0"):
        raise EmbeddingError("ID3 tag has bytes behind its last frame that are no padding")
    return end if first_text is None else first_text


def _text(version: int, payload: bytes) -> bytes:
    """Return a manifest as a tag of a version can hold it."""
    # UTF-8 came with 2.4; before it the text has to do with ASCII.
    return _within_limit(payload if version == 4 else _ascii(payload))


def _ascii(payload: bytes) -> bytes:
    if payload.isascii():
        return payload
    text = payload.decode()
    # Whatever is not ASCII in JSON stands inside a string, where it can be escaped.
    escapes = {ord(char): json.dumps(char)[1:-1] for char in set(text) if char > "\x7f"}
    return text.translate(escapes).encode()


def _frame(version: int, text: bytes) -> bytes:
    """Return our frame. Its text is not terminated, which tells it from genblaze's."""
    body = (b"\x03" if version == 4 else b"\0") + DESCRIPTION.encode() + b"\0" + text
    size = pack_synchsafe(len(body)) if version == 4 else len(body).to_bytes(4)
    return b"TXXX" + size + b"\0\0" + body


def _own_header(size: int) -> bytes:
    return b"ID3\x04\0\0" + pack_synchsafe(size)


def _resized(tag: Tag, change: int) -> Splice:
    return Splice(6, 4, pack_synchsafe(tag.end - HEADER_BYTES + change))


def originals(source: Source) -> Iterator[Original]:
    """Yield what the file may have been before its first manifest.

    A frame that holds anything but the manifest, and a tag with other frames, are never dropped:
    what somebody hides there stays, and the bytes differ.

    Raises:
        EmbeddingError: the manifest in the file is broken.
    """
    found = _find(source)
    if found is None or found.tag.source is not source:
        return
    tag, frame = found.tag, found.frame
    length = frame.end - frame.start
    written = source.at(frame.start, length)
    if written == _frame(tag.version, found.payload):
        if tag.header == _own_header(length):
            yield Original((Splice(0, tag.end, b""),), certain=False, removed="its ID3 tag")
        else:
            undo = (_resized(tag, -length), Splice(frame.start, length, b""))
            yield Original(undo, certain=False, removed="its ID3 frame")
    elif tag.header[:6] == b"ID3\x04\0\0" and written == _frame(4, found.payload + b"\0"):
        yield from _before_genblaze(source, tag, frame)


def _before_genblaze(source: Source, tag: Tag, manifest: Frame) -> Iterator[Original]:
    """Yield originals of a tag that mutagen wrote, which sets the amount of padding anew."""
    frames = list(walk(tag))
    start, padding = frames[-1].end, tag.end - frames[-1].end
    if padding > MAX_MANIFEST_BYTES or source.at(start, padding).strip(b"\0"):
        return
    if len(frames) == 1:
        yield Original((Splice(0, tag.end, b""),), certain=False, removed="the whole ID3 tag")
        return
    length = manifest.end - manifest.start
    as_mutagen_tags = 1024 + (source.size - tag.end) // 1000
    before = (padding + length, _FFMPEG_PADDING, 0, as_mutagen_tags)
    for amount in dict.fromkeys(before):
        undo = (
            _resized(tag, amount - padding - length),
            Splice(manifest.start, length, b""),
            Splice(start, padding, bytes(amount)),
        )
        removed = f"its ID3 frame, {amount} bytes of padding restored"
        yield Original(undo, certain=False, removed=removed)


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
