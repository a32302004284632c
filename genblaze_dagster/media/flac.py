"""FLAC: the manifest in a Vorbis comment, and what the stream info says."""

from collections.abc import Iterator
from typing import Any

from genblaze_dagster.media.source import Source

COMMENT_KEY = b"GENBLAZE_MANIFEST="
MAX_BLOCKS = 1024
MAX_COMMENTS = 65_536
_STREAM_INFO, _VORBIS_COMMENT = 0, 4


def read_payload(source: Source) -> bytes | None:
    """Return the text of the first comment with our key, None when there is none.

    Raises:
        EmbeddingError: it is above the size limit.
    """
    for block_type, start, end in _blocks(source):
        if block_type == _VORBIS_COMMENT:
            return _find_comment(source, start, end)
    return None


def _blocks(source: Source) -> Iterator[tuple[int, int, int]]:
    """Yield type, start and end of the metadata blocks."""
    offset = 4
    for _ in range(MAX_BLOCKS):
        header = source.at(offset, 4)
        if len(header) < 4:
            return
        start = offset + 4
        end = min(start + int.from_bytes(header[1:]), source.size)
        yield header[0] & 0x7F, start, end
        if header[0] & 0x80:
            return
        offset = end


def _find_comment(source: Source, start: int, end: int) -> bytes | None:
    offset = start + 4 + source.number(start, 4, "little")
    count = source.number(offset, 4, "little")
    offset += 4
    for _ in range(min(count, MAX_COMMENTS)):
        text = offset + 4
        offset = text + source.number(offset, 4, "little")
        if offset > end:
            return None
        if source.at(text, len(COMMENT_KEY)).upper() == COMMENT_KEY:
            return source.payload(text + len(COMMENT_KEY), offset)
    return None


def read_facts(source: Source) -> dict[str, Any]:
    """Return duration in seconds, and sample rate, channels, codec and bit rate."""
    audio_start, facts = 4, {}
    for block_type, start, end in _blocks(source):
        audio_start = end
        if block_type == _STREAM_INFO:
            facts = stream_info(source.at(start, 18))
    if "duration" in facts and facts["duration"] > 0:
        facts["audio"]["bitrate"] = round((source.size - audio_start) * 8 / facts["duration"])
    return facts


def stream_info(block: bytes) -> dict[str, Any]:
    """Return the facts of a STREAMINFO block (its first 18 bytes)."""
    # From byte 10: 20 bits of sample rate, 3 of channels - 1, 5 of depth - 1, 36 of samples.
    bits = int.from_bytes(block[10:18])
    sample_rate, samples = bits >> 44, bits & 0xF_FFFF_FFFF
    if len(block) < 18 or not sample_rate:
        return {}
    facts: dict[str, Any] = {
        "audio": {
            "sample_rate": sample_rate,
            "channels": (bits >> 41 & 7) + 1,
            "codec": "flac",
        }
    }
    if samples:
        facts["duration"] = samples / sample_rate
    return facts
