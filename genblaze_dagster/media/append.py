"""Manifests at the end of MP4, MOV and M4A files, in a time that does not depend on their size.

`append_in_place` writes into the file itself: nothing is copied, and only headers are read. The new
bytes go behind the old end first, as a `free` box of size 0 (all up to the end of the file), which
players and readers skip. One write of 8 bytes then makes it the manifest's `uuid` box. Every step
is on the disk before the next one begins. A process that is killed leaves one of these, and each
of them plays and is read:

    [film][free ...                        nothing embedded yet; written in part or as a whole
    [film][uuid]                           done

An earlier manifest at the end is replaced in five steps, with one of the two readable at any time
(old and new are whole `uuid` boxes, and readers take the first):

    [film][old][free ... new]              old: the new one is inside a `free` box of size 0
    [film][free ........][new]             new: one header over the old box and what follows it
    [film][free new.....][new]             new: written a second time, to its place
    [film][new][free ...][new]             new: one header again
    [film][new]                            done: cut off

Each of these `free` boxes starts with the 16 bytes that a manifest's box starts with. The next
`append_in_place` knows them by that and writes over them; `leftover` tells everybody else what to
take out. There are two rare ends that are neither: the kernel may cut a write in two where a page
of memory ends, and a kill at that very moment may cut a header; and when the power fails, the file
system may have kept the new length and zeros in place of the first step's bytes. Such a film plays,
has at most the manifest it had, and embedding says what is wrong with its end.

`AppendCheck` and `tail` are for films that pass as a stream.
"""

import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.boxes import MAX_CHAIN, Box, chain, header_of
from genblaze_dagster.media.edit import Edit, Splice
from genblaze_dagster.media.mp4 import (
    MANIFEST_UUID,
    UNDO_UUID,
    is_manifest,
    is_scrap,
    is_undo,
    manifest_box,
    read_payload,
)
from genblaze_dagster.media.source import Source

MAX_REPLACED_BYTES = 4 * MAX_MANIFEST_BYTES
"""What is replaced is held in memory, to be put back when writing fails."""

_HEADER = 8
_FREE_HEADER = _HEADER + len(MANIFEST_UUID)
_LONGEST_HEADER = 16 + len(MANIFEST_UUID)


def append_in_place(path: Path, payload: bytes) -> None:
    """Put a manifest's text at the end of an MP4 file, which is changed where it is.

    A single manifest at the end is replaced: make sure first that the new one is about the same
    film. On any error the file is as it was. The result is the file that `mp4.plan_embed` makes.

    Raises:
        EmbeddingError: nothing can be appended to this file, or another process is doing it.
        OSError: it cannot be read or written.
    """
    box = manifest_box(payload)
    with path.open("r+b", 0) as file:
        _lock(file)
        source = Source(file)
        start = _place(source)
        old = source.at(start, source.size - start)
        try:
            if old:
                _replace(file.fileno(), start, len(old), box)
            else:
                _add(file.fileno(), start, box)
            _check(Source(file), start, payload)
        except BaseException:
            _put_back(file, start, old)
            raise


def leftover(source: Source) -> Edit:
    """Return the edit that takes out what a killed `append_in_place` left in a file.

    The manifest that readers find stays. Nothing is to be done for almost every file.
    """
    if source.at(4, 4) != b"ftyp":
        return ()
    try:
        ours = _ours(source, chain(source))
    except EmbeddingError:
        return ()
    if not any(is_scrap(source, box) for box in ours):
        return ()
    start = ours[0].start
    kept = next((box for box in ours if is_manifest(source, box)), None)
    if kept is None:
        return (Splice(start, source.size - start, b""),)
    around = (
        Splice(start, kept.start - start, b""),
        Splice(kept.end, source.size - kept.end, b""),
    )
    return tuple(splice for splice in around if splice.length)


def tail(payload: bytes) -> bytes:
    """Return what is to follow a film that `AppendCheck` allows it for.

    Raises:
        EmbeddingError: the text is longer than readers accept.
    """
    return manifest_box(payload)


class AppendCheck:
    """Says of a film that went by whether a manifest may simply follow it.

    That is so when its boxes end where it ends and none of them is ours, `ftyp` is the first and
    the last one has a size. It keeps a few bytes, whatever the size of the film.
    """

    def __init__(self) -> None:
        self._boxes = 0
        self._next = 0
        self._passed = 0
        self._kept = b""
        self._plain = True

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes of the film."""
        seen = self._kept + chunk
        start = self._passed - len(self._kept)
        self._passed += len(chunk)
        while self._plain and self._next + _LONGEST_HEADER <= self._passed:
            at = self._next - start
            self._see(seen[at : at + _LONGEST_HEADER])
        self._kept = seen[self._next - start :] if self._plain else b""

    def allows(self, size: int) -> bool:
        """Whether a manifest may follow, now that all of the film, `size` bytes, went by."""
        while self._plain and self._next + _HEADER <= self._passed:
            before = self._next
            self._see(self._kept)
            self._kept = self._kept[self._next - before :]
        return self._plain and self._boxes > 0 and self._next == self._passed == size

    def _see(self, head: bytes) -> None:
        size, header = header_of(head)
        self._plain = (
            size >= header
            and (self._next > 0 or head[4:8] == b"ftyp")
            and self._boxes < MAX_CHAIN
            and head[header : header + 16] not in (MANIFEST_UUID, UNDO_UUID)
        )
        self._boxes += 1
        self._next += size


def _lock(file: BinaryIO) -> None:
    """Keep other processes from appending to the same file; the lock ends with the file.

    Raises:
        EmbeddingError: one is at it.
    """
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EmbeddingError(
            "another process is embedding into this file; try again when it is done"
        ) from None
    except OSError:
        # This file system has no locks: as without this function, one writer at a time is assumed.
        return


def _place(source: Source) -> int:
    """Return where the new box goes: to the end, or where what is ours at the end begins.

    Raises:
        EmbeddingError: nothing can be appended.
    """
    boxes = chain(source)
    ours = _ours(source, boxes)
    film = boxes[: len(boxes) - len(ours)]
    manifests = [box for box in ours if is_manifest(source, box)]
    if any(is_manifest(source, box) for box in film) or (
        len(manifests) > 1 and len(manifests) == len(ours)
    ):
        raise EmbeddingError("MP4 holds an older manifest besides; embed into a copy")
    if any(box.body - box.start > _HEADER for box in manifests):
        raise EmbeddingError("older manifest in the MP4 has a long header; embed into a copy")
    if boxes[-1].size == 0 and not is_scrap(source, boxes[-1]):
        raise EmbeddingError("last box of the MP4 has no size; embed into a copy")
    if is_undo(source, film[-1]) and not manifests:
        raise EmbeddingError("MP4 ends in a record of a manifest that is gone; embed into a copy")
    start = film[-1].end
    if source.size - start > MAX_REPLACED_BYTES:
        raise EmbeddingError(
            f"MP4 ends in an older manifest of {source.size - start} bytes; up to "
            f"{MAX_REPLACED_BYTES} are replaced in place"
        )
    return start


def _ours(source: Source, boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes at the end of a file that are ours: manifests, and what became of some."""
    found = takewhile(
        lambda box: is_manifest(source, box) or is_scrap(source, box), reversed(boxes)
    )
    return [*found][::-1]


def _add(file: int, start: int, box: bytes) -> None:
    _write(file, start, _free(0) + box[_FREE_HEADER:])
    os.fsync(file)
    _write(file, start, box[:_HEADER])
    os.fsync(file)


def _replace(file: int, start: int, replaced: int, box: bytes) -> None:
    """Write a box over `replaced` bytes at the end of a file; see the steps above."""
    end, new_end = start + replaced, start + len(box)
    # Behind the old box and behind the new one, with room for a header after either.
    second = max(end, new_end) + _FREE_HEADER
    _write(file, end, _free(0) + bytes(second - end - _FREE_HEADER) + box)
    os.fsync(file)
    _write(file, start, _free(second - start)[:_HEADER])
    os.fsync(file)
    _write(file, start + _HEADER, box[_HEADER:] + _free(second - new_end))
    os.fsync(file)
    _write(file, start, box[:_HEADER])
    os.fsync(file)
    os.ftruncate(file, new_end)
    os.fsync(file)


def _free(size: int) -> bytes:
    return size.to_bytes(4) + b"free" + MANIFEST_UUID


def _put_back(file: BinaryIO, start: int, old: bytes) -> None:
    number = file.fileno()
    if Source(file).at(start, len(old)) != old:
        # As above: what is not whole is inside of a free box.
        _write(number, start, _free(0)[:_HEADER])
        _write(number, start + _HEADER, old[_HEADER:])
    os.ftruncate(number, start + len(old))
    _write(number, start, old[:_HEADER])
    os.fsync(number)


def _write(file: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    os.lseek(file, offset, os.SEEK_SET)
    while view:
        view = view[os.write(file, view) :]


def _check(source: Source, start: int, payload: bytes) -> None:
    """Read back what was written: the manifest is found, and cutting it off is all of the undo."""
    last = chain(source)[-1]
    if read_payload(source) != payload or (last.start, last.end) != (start, source.size):
        raise EmbeddingError("the file on disk does not hold what was written; try again")
