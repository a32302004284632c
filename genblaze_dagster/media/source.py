"""Random access to the bytes of a file without reading all of it."""

import io
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Self

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError

MAX_MATCHES = 10_000


class Source:
    """A seekable file of known size. Offsets and lengths are in bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)

    @classmethod
    @contextmanager
    def open(cls, data: bytes | Path) -> Generator[Self]:
        """Open bytes in memory, or a file on disk until the block ends."""
        if isinstance(data, Path):
            with data.open("rb") as file:
                yield cls(file)
        else:
            yield cls(io.BytesIO(data))

    def at(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer at the end, none outside the file."""
        # A negative length, from a broken size field, would mean "all of it" to read().
        if length <= 0 or not 0 <= offset < self.size:
            return b""
        self.file.seek(offset)
        return self.file.read(length)

    def number(self, offset: int, length: int, byteorder: Literal["big", "little"] = "big") -> int:
        """Return an unsigned number; 0 when the file ends before it does."""
        data = self.at(offset, length)
        return int.from_bytes(data, byteorder) if len(data) == length else 0

    def payload(self, start: int, end: int) -> bytes:
        """Return a manifest's text, if it is not above the limit all readers share.

        Raises:
            EmbeddingError: it is longer than `MAX_MANIFEST_BYTES`; nothing was read.
        """
        if end - start > MAX_MANIFEST_BYTES:
            raise EmbeddingError(
                f"embedded manifest has {end - start} bytes; the limit is {MAX_MANIFEST_BYTES}"
            )
        return self.at(start, end - start)

    def tail_matches(self, marker: bytes, start: int) -> Iterator[int]:
        """Yield offsets of `marker`, last first, in what a manifest at the end could span."""
        start = max(start, self.size - MAX_MANIFEST_BYTES - 1024)
        tail = self.at(start, self.size - start)
        found = len(tail)
        for _ in range(MAX_MATCHES):
            found = tail.rfind(marker, 0, found)
            if found < 0:
                return
            yield start + found
