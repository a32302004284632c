"""RIFF files (WAV, WebP) as a list of chunks, walked without reading them."""

from collections.abc import Iterator
from dataclasses import dataclass

from genblaze_dagster.media.source import Source

MAX_CHUNKS = 200_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk: its four-character id and where its body is, in bytes from the start.

    `open_ended` is true when its size reaches beyond the end of what holds it, as the sizes that
    streaming encoders leave behind do.
    """

    id: bytes
    body: int
    end: int
    open_ended: bool

    @property
    def start(self) -> int:
        """Where its header begins."""
        return self.body - 8


def walk(source: Source, start: int, end: int) -> Iterator[Chunk]:
    """Yield the chunks between two offsets."""
    for _ in range(MAX_CHUNKS):
        header = source.at(start, 8)
        if start + 8 > end or len(header) < 8:
            return
        body, size = start + 8, int.from_bytes(header[4:], "little")
        open_ended = body + size > end
        chunk_end = end if open_ended else body + size
        yield Chunk(header[:4], body, chunk_end, open_ended)
        # Chunks start at even offsets, but some writers leave the pad byte out.
        padded = size % 2 == 1 and source.at(chunk_end, 4) != b"LIST"
        start = chunk_end + padded
