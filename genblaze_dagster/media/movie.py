"""MP4, MOV and M4A: what the movie header and the tracks say."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

from genblaze_dagster.media.boxes import MAX_CHILDREN, Box, children, find, walk
from genblaze_dagster.media.source import Source

MAX_TRACKS = 64
_CODECS = {
    b"avc1": "h264",
    b"avc3": "h264",
    b"hvc1": "hevc",
    b"hev1": "hevc",
    b"av01": "av1",
    b"vp08": "vp8",
    b"vp09": "vp9",
    b"mp4v": "mpeg4",
    b"mp4a": "aac",
    b"ac-3": "ac3",
    b"ec-3": "eac3",
    b"Opus": "opus",
    b"fLaC": "flac",
    b"alac": "alac",
    b"apcn": "prores",
    b"apch": "prores",
    b"ap4h": "prores",
}
_MP3_IN_MP4 = (0x69, 0x6B)


@dataclass(frozen=True, slots=True)
class Times:
    """A duration in units of 1/scale seconds."""

    scale: int
    duration: int

    @property
    def seconds(self) -> float | None:
        """The duration in seconds, None when unknown (as in a file still being written)."""
        unknown = self.duration in (0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)
        return None if unknown or not self.scale else self.duration / self.scale


def read_facts(source: Source) -> dict[str, Any]:
    """Return size in pixels, duration in seconds, and the facts of the first picture and sound."""
    movie = next((box for box in walk(source, 0, source.size) if box.type == b"moov"), None)
    if movie is None:
        return {}
    facts: dict[str, Any] = {"duration": _duration(source, movie)}
    tracks = (box for box in children(source, movie) if box.type == b"trak")
    for track in islice(tracks, MAX_TRACKS):
        handler = find(source, track, b"mdia", b"hdlr")
        kind = source.at(handler.body + 8, 4) if handler else b""
        if kind == b"vide" and "video" not in facts:
            facts |= _video(source, track)
        elif kind == b"soun" and "audio" not in facts:
            facts["audio"] = _audio(source, track)
    if "video" in facts:
        facts["video"]["has_audio"] = "audio" in facts
    return facts


def _duration(source: Source, movie: Box) -> float | None:
    header = find(source, movie, b"mvhd")
    times = _times(source, header)
    if times.duration == 0:
        # Fragmented: the tracks in the header are empty, the total may stand here.
        total = find(source, movie, b"mvex", b"mehd")
        if total is not None:
            wide = source.number(total.body, 1) == 1
            duration = source.number(total.body + 4, 8 if wide else 4)
            return Times(times.scale, duration).seconds
        return None
    return times.seconds


def _times(source: Source, header: Box | None) -> Times:
    """Return the times of an `mvhd` or `mdhd` box, which start alike."""
    if header is None:
        return Times(0, 0)
    if source.number(header.body, 1) == 1:
        return Times(source.number(header.body + 20, 4), source.number(header.body + 24, 8))
    return Times(source.number(header.body + 12, 4), source.number(header.body + 16, 4))


def _video(source: Source, track: Box) -> dict[str, Any]:
    facts: dict[str, Any] = {"video": {"frame_rate": _frame_rate(source, track)}}
    entry = _sample_entry(source, track)
    if entry is None:
        return facts
    width, height = source.number(entry.body + 24, 2), source.number(entry.body + 26, 2)
    if _is_on_its_side(source, track):
        width, height = height, width
    facts["video"]["codec"] = _codec(entry)
    return facts | {"width": width, "height": height}


def _frame_rate(source: Source, track: Box) -> float | None:
    seconds = _times(source, find(source, track, b"mdia", b"mdhd")).seconds
    sizes = find(source, track, b"mdia", b"minf", b"stbl", b"stsz")
    samples = source.number(sizes.body + 8, 4) if sizes else 0
    return round(samples / seconds, 3) if samples and seconds else None


def _is_on_its_side(source: Source, track: Box) -> bool:
    header = find(source, track, b"tkhd")
    if header is None:
        return False
    matrix = header.body + (52 if source.number(header.body, 1) == 1 else 40)
    # A quarter turn has nothing on the diagonal and something beside it.
    return source.number(matrix, 4) == 0 and source.number(matrix + 4, 4) != 0


def _sample_entry(source: Source, track: Box) -> Box | None:
    table = find(source, track, b"mdia", b"minf", b"stbl", b"stsd")
    return next(walk(source, table.body + 8, table.end), None) if table else None


def _codec(entry: Box) -> str | None:
    if entry.type in _CODECS:
        return _CODECS[entry.type]
    name = entry.type.decode("ascii", "replace").strip().lower()
    return name if name.isalnum() else None


def _audio(source: Source, track: Box) -> dict[str, Any]:
    entry = _sample_entry(source, track)
    if entry is None:
        return {}
    facts: dict[str, Any] = {
        "codec": _codec(entry),
        "channels": source.number(entry.body + 16, 2),
        # 16 bits cannot hold 96 kHz; the time scale of an audio track is its sample rate.
        "sample_rate": source.number(entry.body + 24, 2)
        or _times(source, find(source, track, b"mdia", b"mdhd")).scale,
    }
    parts = walk(source, entry.body + 28, entry.end, limit=MAX_CHILDREN)
    config = next((part for part in parts if part.type == b"esds"), None)
    if config is not None:
        facts |= _decoder_config(source.at(config.body + 4, 64))
    return facts


def _decoder_config(data: bytes) -> dict[str, Any]:
    """Return bit rate, and the codec where it is not AAC, of an MPEG-4 ES descriptor."""
    offset = _skip_tag(data, 0) + 3 if data[:1] == b"\x03" else 0
    if data[offset : offset + 1] != b"\x04":
        return {}
    config = data[_skip_tag(data, offset) :]
    if len(config) < 13:
        return {}
    facts: dict[str, Any] = {"bitrate": int.from_bytes(config[9:13])}
    return facts | ({"codec": "mp3"} if config[0] in _MP3_IN_MP4 else {})


def _skip_tag(data: bytes, offset: int) -> int:
    """Return where the content of a descriptor starts: its length has up to four bytes."""
    offset += 1
    for _ in range(3):
        if offset < len(data) and data[offset] & 0x80:
            offset += 1
    return offset + 1
