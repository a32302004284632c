"""WAV: the manifest in a `LIST`/`INFO` chunk, and what the format chunk says."""

from typing import Any

from genblaze_dagster.media.riff import Chunk, walk
from genblaze_dagster.media.source import Source

MANIFEST_ID = b"IMFL"
_EXTENSIBLE = 0xFFFE
_CODECS = {3: "pcm_f{bits}le", 6: "pcm_alaw", 7: "pcm_mulaw"}


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text, None when there is none.

    Raises:
        EmbeddingError: it is above the size limit.
    """
    last: Chunk | None = None
    for chunk in walk(source, 12, source.size):
        payload = _read_list(source, chunk)
        if payload is not None:
            return payload
        last = chunk
    if last is None or not last.open_ended:
        return None
    return _read_swallowed(source, last)


def _read_swallowed(source: Source, last: Chunk) -> bytes | None:
    """Find a list that was appended to audio whose header says that it never ends."""
    for match in source.tail_matches(b"INFO" + MANIFEST_ID, last.body):
        if source.at(match - 8, 4) == b"LIST":
            text = match + 12
            end = text + source.number(match + 8, 4, "little")
            return source.payload(text, min(end, source.size)).rstrip(b"\0")
    return None


def _read_list(source: Source, chunk: Chunk) -> bytes | None:
    if chunk.id != b"LIST" or source.at(chunk.body, 4) != b"INFO":
        return None
    for entry in walk(source, chunk.body + 4, chunk.end):
        if entry.id == MANIFEST_ID:
            return source.payload(entry.body, entry.end).rstrip(b"\0")
    return None


def read_facts(source: Source) -> dict[str, Any]:
    """Return duration in seconds, and sample rate, channels, codec and bit rate."""
    facts: dict[str, Any] = {}
    bytes_per_second = 0
    for chunk in walk(source, 12, source.size):
        if chunk.id == b"fmt ":
            header = source.at(chunk.body, min(26, chunk.end - chunk.body))
            bytes_per_second = int.from_bytes(header[8:12], "little")
            facts["audio"] = {
                "sample_rate": int.from_bytes(header[4:8], "little"),
                "channels": int.from_bytes(header[2:4], "little"),
                "codec": _codec(header),
                "bitrate": bytes_per_second * 8,
            }
        elif chunk.id == b"data" and bytes_per_second:
            facts["duration"] = (chunk.end - chunk.body) / bytes_per_second
            break
    return facts


def _codec(header: bytes) -> str | None:
    tag, bits = (int.from_bytes(header[at : at + 2], "little") for at in (0, 14))
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(header[24:26], "little")
    if tag == 1:
        return "pcm_u8" if bits == 8 else f"pcm_s{bits}le"
    return _CODECS[tag].format(bits=bits) if tag in _CODECS else None
