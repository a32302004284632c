"""A file as another one with a few ranges replaced: the shape that every embed and strip has."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from genblaze_dagster.media.source import Source

CHUNK = 1 << 20
_PAGE = 4096
_LARGEST_KERNEL_COPY = 1 << 30


@dataclass(frozen=True, slots=True)
class Splice:
    """`length` bytes at `offset` give way to `data`."""

    offset: int
    length: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """The bytes of the edited file from `start` up to `end`."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


Edit = tuple[Splice, ...]
"""What happens to a file: splices in ascending order that do not overlap; none keeps it as it is."""

Pieces = tuple[Range | bytes, ...]
"""What a new file consists of, in order: ranges of the old one and new bytes."""


def pieces(size: int, edit: Edit) -> Pieces:
    """Return what a file of `size` bytes consists of after an edit.

    Raises:
        ValueError: the splices overlap, are out of order, or reach outside the file.
    """
    return edited((Range(0, size),), edit)


def edited(content: Pieces, edit: Edit) -> Pieces:
    """Return the pieces of an edited file after one more edit.

    Raises:
        ValueError: the splices overlap, are out of order, or reach outside the file.
    """
    size = total(content)
    bounds = [0, *(edge for s in edit for edge in (s.offset, s.offset + s.length)), size]
    if any(before > after for before, after in pairwise(bounds)):
        raise ValueError("splices overlap, are out of order, or reach outside the file")
    found: list[Range | bytes] = []
    position = 0
    for splice in edit:
        found += _cut(content, position, splice.offset)
        found.append(splice.data)
        position = splice.offset + splice.length
    found += _cut(content, position, size)
    return _joined(found)


def composed(size: int, first: Edit, second: Edit) -> Edit:
    """Return the one edit of a file of `size` bytes that does what two do after each other.

    Raises:
        ValueError: one of them overlaps, is out of order, or reaches outside its file.
    """
    found: list[Splice] = []
    position, data = 0, b""
    for piece in (*edited(pieces(size, first), second), Range(size, size)):
        if isinstance(piece, bytes):
            data += piece
            continue
        if data or piece.start > position:
            found.append(Splice(position, piece.start - position, data))
        position, data = piece.end, b""
    return tuple(found)


def total(content: Iterable[Range | bytes]) -> int:
    """Return the size in bytes of the file that pieces make."""
    return sum(len(piece) for piece in content)


def undoes(source: Source, edit: Edit, undo: Edit) -> bool:
    """Whether `undo`, applied to what `edit` makes of `source`, gives exactly `source` again.

    Nothing but the spliced ranges is read, however large the file is.
    """
    try:
        content = edited(pieces(source.size, edit), undo)
    except ValueError:
        return False
    position = 0
    for piece in content:
        if isinstance(piece, Range):
            if piece.start != position:
                return False
        elif source.at(position, len(piece)) != piece:
            return False
        position += len(piece)
    return position == source.size


def sha256_edited(source: Source, edit: Edit) -> str:
    """Return the SHA-256, in lower-case hex, of what an edit makes of a file."""
    digest = hashlib.sha256()
    for chunk in chunks(source, pieces(source.size, edit)):
        digest.update(chunk)
    return digest.hexdigest()


def chunks(source: Source, content: Pieces) -> Iterator[bytes]:
    """Yield the bytes that pieces of `source` make, at most 1 MiB at a time."""
    for piece in content:
        if isinstance(piece, bytes):
            if piece:
                yield piece
            continue
        for start in range(piece.start, piece.end, CHUNK):
            chunk = source.at(start, min(CHUNK, piece.end - start))
            if not chunk:
                raise OSError("file became shorter while it was read")
            yield chunk


def write_pieces(path: Path, content: Pieces, destination: Path) -> None:
    """Write what pieces of the file at `path` make to a new file; the kernel copies the ranges.

    Raises:
        OSError: reading or writing failed, or the file became shorter meanwhile.
    """
    with path.open("rb", 0) as old, destination.open("wb", 0) as new:
        for piece in content:
            if isinstance(piece, bytes):
                _write_all(new.fileno(), piece)
            else:
                _copy_range(old.fileno(), new.fileno(), piece)


def _write_all(to: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(to, view) :]


def _copy_range(old: int, new: int, piece: Range) -> None:
    start, place = piece.start, os.lseek(new, 0, os.SEEK_CUR)
    # What moves by less than a page the kernel copies page by page, slower than through a buffer.
    if hasattr(os, "copy_file_range") and (place - start) % _PAGE == 0:
        start = _copy_by_kernel(old, new, piece)
    buffer = memoryview(bytearray(min(CHUNK, piece.end - start)))
    # The first write ends where a page does, so that no later one has to share a page.
    room = CHUNK - place % _PAGE
    while start < piece.end:
        read = os.preadv(old, [buffer[: min(room, piece.end - start)]], start)
        if not read:
            raise OSError("file became shorter while it was read")
        _write_all(new, buffer[:read])
        start, room = start + read, CHUNK


def _copy_by_kernel(old: int, new: int, piece: Range) -> int:
    """Copy as much of a range as the kernel can, and return where it stopped."""
    start = piece.start
    while start < piece.end:
        wanted = min(piece.end - start, _LARGEST_KERNEL_COPY)
        try:
            copied = os.copy_file_range(old, new, wanted, start)
        except OSError:
            # Not between these two file systems; reading and writing shows any real fault.
            break
        if not copied:
            break
        start += copied
    return start


class EditedSource(Source):
    """What an edit makes of a file, readable without being written anywhere."""

    def __init__(self, source: Source, edit: Edit) -> None:
        self._source = source
        self._content = pieces(source.size, edit)
        ends = list(accumulate(map(len, self._content)))
        self._placed = tuple(zip([0, *ends], ends, self._content, strict=False))
        self.size = ends[-1] if ends else 0
        self.file = io.BytesIO()

    def at(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer at the end, none outside the file."""
        if length <= 0 or not 0 <= offset < self.size:
            return b""
        end = min(offset + length, self.size)
        # Nearly all reads are of headers, each inside of one piece, and there are very many.
        for piece_start, piece_end, piece in self._placed:
            if piece_start <= offset and end <= piece_end:
                if isinstance(piece, bytes):
                    return piece[offset - piece_start : end - piece_start]
                return self._source.at(piece.start + offset - piece_start, end - offset)
        found = _cut(self._content, offset, end)
        return b"".join(
            piece if isinstance(piece, bytes) else self._source.at(piece.start, len(piece))
            for piece in found
        )


def _cut(content: Sequence[Range | bytes], start: int, end: int) -> list[Range | bytes]:
    """Return the pieces between two offsets of the file that pieces make."""
    found: list[Range | bytes] = []
    position = 0
    for piece in content:
        size = len(piece)
        first, last = max(start - position, 0), min(end - position, size)
        if first < last:
            if isinstance(piece, bytes):
                found.append(piece[first:last])
            else:
                found.append(Range(piece.start + first, piece.start + last))
        position += size
        if position >= end:
            break
    return found


def _joined(content: Iterable[Range | bytes]) -> Pieces:
    found: list[Range | bytes] = []
    for piece in content:
        last = found[-1] if found else None
        if isinstance(piece, Range) and isinstance(last, Range) and last.end == piece.start:
            found[-1] = Range(last.start, piece.end)
        elif isinstance(piece, bytes) and isinstance(last, bytes):
            found[-1] = last + piece
        elif piece:
            found.append(piece)
    return tuple(found)
