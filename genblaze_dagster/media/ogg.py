"""Ogg (Vorbis, Opus, FLAC): duration, sample rate and channels from the first and last page."""

from typing import Any

from genblaze_dagster.media.flac import stream_info
from genblaze_dagster.media.source import Source

LONGEST_PAGE = 65_307
OPUS_RATE = 48_000
"""Opus counts its position in samples of this rate, whatever the sound was recorded at."""


def read_facts(source: Source) -> dict[str, Any]:
    """Return duration in seconds, and sample rate, channels and codec."""
    packet = source.at(28, 51)
    skipped = 0
    if packet.startswith(b"\x01vorbis"):
        rate = int.from_bytes(packet[12:16], "little")
        audio = {"sample_rate": rate, "channels": packet[11], "codec": "vorbis"}
    elif packet.startswith(b"OpusHead"):
        rate, skipped = OPUS_RATE, int.from_bytes(packet[10:12], "little")
        audio = {"sample_rate": rate, "channels": packet[9], "codec": "opus"}
    elif packet.startswith(b"\x7fFLAC"):
        audio = stream_info(packet[17:35]).get("audio", {})
        rate = audio.get("sample_rate", 0)
    else:
        return {}
    facts: dict[str, Any] = {"audio": audio}
    position = _last_position(source) - skipped
    if rate and position > 0:
        facts["duration"] = position / rate
    return facts


def _last_position(source: Source) -> int:
    """Return the position the last page of the first stream ends at, in samples."""
    serial = source.at(14, 4)
    start = max(0, source.size - 2 * LONGEST_PAGE)
    tail = source.at(start, source.size - start)
    page = tail.rfind(b"OggS")
    while page >= 0:
        position = int.from_bytes(tail[page + 6 : page + 14], "little", signed=True)
        if tail[page + 14 : page + 18] == serial and position >= 0:
            return position
        page = tail.rfind(b"OggS", 0, page)
    return 0
