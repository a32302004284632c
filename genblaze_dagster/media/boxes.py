"""ISO base media files (MP4, MOV, M4A, AVIF) as a tree of boxes, walked without reading them."""

from collections.abc import Iterator
from dataclasses import dataclass

from genblaze_dagster.media.source import Source

MAX_BOXES = 200_000
MAX_CHILDREN = 2_000
"""More boxes than that side by side are not a film but an attack; the walk ends there."""


@dataclass(frozen=True, slots=True)
class Box:
    """One box: its four-character type and where it is, in bytes from the start of the file.

    `open_ended` is true when the size field is 0 (up to the end of the file) or reaches beyond it.
    """

    type: bytes
    start: int
    body: int
    end: int
    open_ended: bool


def walk(source: Source, start: int, end: int, *, limit: int = MAX_BOXES) -> Iterator[Box]:
    """Yield the boxes between two offsets; stops where the bytes are not a box."""
    for _ in range(limit):
        header = source.at(start, 16)
        if start + 8 > end or len(header) < 8:
            return
        size, body = int.from_bytes(header[:4]), start + 8
        if size == 1:
            size, body = int.from_bytes(header[8:16]), start + 16
        open_ended = size == 0 or start + size > end
        box_end = end if open_ended else start + size
        if box_end < body:
            return
        yield Box(header[4:8], start, body, box_end, open_ended)
        start = box_end


def find(source: Source, parent: Box, *path: bytes) -> Box | None:
    """Return the first descendant along a path of box types."""
    for box_type in path:
        child = next((box for box in children(source, parent) if box.type == box_type), None)
        if child is None:
            return None
        parent = child
    return parent


def children(source: Source, parent: Box) -> Iterator[Box]:
    """Yield the boxes inside a box."""
    body = parent.body
    # Of MP4, but not of QuickTime, `meta` has version and flags before its children.
    if parent.type == b"meta" and source.at(body + 4, 4) != b"hdlr":
        body += 4
    return walk(source, body, parent.end, limit=MAX_CHILDREN)
