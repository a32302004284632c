"""MP4, MOV, M4A and AVIF: the manifest in a `uuid` box, or as iTunes freeform metadata."""

from itertools import islice

from genblaze_dagster.media.boxes import Box, children, find, walk
from genblaze_dagster.media.source import Source

MANIFEST_UUID = bytes.fromhex("6d6f64616c666c6f7700000000000001")
FREEFORM = (b"genblaze", b"manifest")
"""Mean and name of the freeform atom."""
MAX_PARTS = 8


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text, None when there is none.

    Raises:
        EmbeddingError: it is above the size limit.
    """
    movie: Box | None = None
    last: Box | None = None
    for box in walk(source, 0, source.size):
        if _is_ours(source, box):
            return source.payload(box.body + 16, box.end)
        if box.type == b"moov":
            movie = movie or box
        last = box
    if last is not None and last.open_ended:
        payload = _read_swallowed(source, last)
        if payload is not None:
            return payload
    return _read_freeform(source, movie) if movie else None


def _is_ours(source: Source, box: Box) -> bool:
    return box.type == b"uuid" and source.at(box.body, 16) == MANIFEST_UUID


def _read_swallowed(source: Source, last: Box) -> bytes | None:
    """Find a box that was appended although the last one reaches to the end of the file."""
    for match in source.tail_matches(b"uuid" + MANIFEST_UUID, last.body):
        start = match - 4
        if source.number(start, 4) == source.size - start:
            return source.payload(start + 24, source.size)
    return None


def _read_freeform(source: Source, movie: Box) -> bytes | None:
    items = find(source, movie, b"udta", b"meta", b"ilst")
    if items is None:
        return None
    for item in children(source, items):
        if item.type != b"----":
            continue
        parts = {part.type: part for part in islice(children(source, item), MAX_PARTS)}
        if not parts.keys() >= {b"mean", b"name", b"data"}:
            continue
        # Each part starts with version and flags; in `data` these are the type, then the locale.
        if (_text(source, parts[b"mean"]), _text(source, parts[b"name"])) == FREEFORM:
            data = parts[b"data"]
            return source.payload(data.body + 8, data.end)
    return None


def _text(source: Source, part: Box) -> bytes:
    return source.at(part.body + 4, min(64, part.end - part.body - 4))
