"""Facts about media from their own headers: size, duration, codecs, rates."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from genblaze_dagster.media import aac, avif, flac, gif, jpeg, movie, mp3, ogg, png, wav, webp
from genblaze_dagster.media.sniff import canonical_media_type, sniff_media_type
from genblaze_dagster.media.source import Source

_READERS: Mapping[str, Callable[[Source], dict[str, Any]]] = {
    "image/png": png.read_facts,
    "image/jpeg": jpeg.read_facts,
    "image/gif": gif.read_facts,
    "image/webp": webp.read_facts,
    "image/avif": avif.read_facts,
    "image/heic": avif.read_facts,
    "video/mp4": movie.read_facts,
    "video/quicktime": movie.read_facts,
    "audio/mp4": movie.read_facts,
    "audio/mpeg": mp3.read_facts,
    "audio/wav": wav.read_facts,
    "audio/flac": flac.read_facts,
    "audio/ogg": ogg.read_facts,
    "audio/aac": aac.read_facts,
}


def probe(data: bytes | Path, media_type: str) -> dict[str, Any]:
    """Return the fields of an `Asset` that the media themselves prove.

    `width` and `height` in pixels, `duration` in seconds, `video` and `audio` as the fields of
    their metadata models. What the file proves to be goes before `media_type`. Only headers are
    read, whatever the size of the file; what is broken or unknown is left out.

    Raises:
        OSError: the path cannot be opened or read.
    """
    with Source.open(data) as source:
        actual = sniff_media_type(source.at(0, 64)) or canonical_media_type(media_type)
        reader = _READERS.get(actual)
        return _valid(_read(reader, source)) if reader else {}


def _read(reader: Callable[[Source], dict[str, Any]], source: Source) -> dict[str, Any]:
    from mutagen import MutagenError

    try:
        return reader(source)
    except (MutagenError, ValueError, IndexError, ZeroDivisionError, OverflowError):
        return {}


def _valid(facts: dict[str, Any]) -> dict[str, Any]:
    """Drop what the manifest format does not allow: zero, infinite, absent."""
    kept: dict[str, Any] = {}
    for name, fact in facts.items():
        if isinstance(fact, dict):
            kept[name] = _valid(cast(dict[str, Any], fact))
        elif isinstance(fact, float):
            kept[name] = round(fact, 6) if fact > 0 and math.isfinite(fact) else None
        elif isinstance(fact, (bool, str)) or (isinstance(fact, int) and fact > 0):
            kept[name] = fact
    return {name: fact for name, fact in kept.items() if fact not in (None, {})}
