"""ISO base media files (MP4, MOV, M4A, AVIF) as a tree of boxes, walked without reading them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.source import Source

MAX_BOXES = 100_000
MAX_CHILDREN = 2_000
"""More boxes than that side by side are not a film but an attack; the walk ends there."""
MAX_CHAIN = MAX_BOXES - 2
"""Films of more boxes get none of ours, of which there may be two: readers would miss it."""


@dataclass(frozen=True, slots=True)
class Box:
    """One box: its four-character type and where it is, in bytes from the start of the file.

    `size` is what its header says; 0 stands for all up to the end of the file.
    """

    type: bytes
    start: int
    body: int
    end: int
    size: int

    @property
    def open_ended(self) -> bool:
        """Whether its size is 0 or reaches beyond what holds it."""
        return self.size != self.end - self.start


def header_of(head: bytes) -> tuple[int, int]:
    """Return the size that the first 16 bytes of a box give it, and how long its header is."""
    size = int.from_bytes(head[:4])
    # 0 has its meaning in the short form only: as a long size it is as wrong as 1 is.
    return (int.from_bytes(head[8:16]) or 1, 16) if size == 1 else (size, 8)


def walk(source: Source, start: int, end: int, *, limit: int = MAX_BOXES) -> Iterator[Box]:
    """Yield the boxes between two offsets; stops where the bytes are not a box."""
    for _ in range(limit):
        head = source.at(start, 16)
        if start + 8 > end or len(head) < 8:
            return
        size, header = header_of(head)
        box_end = end if size == 0 else min(start + size, end)
        if box_end < start + header:
            return
        yield Box(head[4:8], start, start + header, box_end, size)
        start = box_end


def chain(source: Source) -> list[Box]:
    """Return the boxes that make up a whole film; only the last one may have the size 0.

    Raises:
        EmbeddingError: see `chain_fault`.
    """
    boxes = list(walk(source, 0, source.size))
    fault = chain_fault(boxes, source.size)
    if fault is not None:
        raise EmbeddingError(fault)
    return boxes


def chain_fault(boxes: Sequence[Box], size: int) -> str | None:
    """Say why boxes do not make up a film of `size` bytes, None when they do."""
    if not boxes or boxes[0].type != b"ftyp":
        return "MP4 does not begin with an ftyp box"
    last = boxes[-1]
    if len(boxes) > MAX_CHAIN:
        return f"MP4 has more than {MAX_CHAIN} boxes side by side"
    if last.size > last.end - last.start:
        return "MP4 is cut off: it ends in the middle of a box"
    if last.end < size:
        return f"MP4 is broken: the {size - last.end} bytes at its end are no box"
    return None


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
