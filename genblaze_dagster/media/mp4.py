"""MP4, MOV, M4A and AVIF: the manifest in a `uuid` box, or as iTunes freeform metadata.

Our box goes to the end of the file, where it moves nothing, or in front of an older one, since
readers take the first. Where the last box has the size 0, for all up to the end of the file, it
would swallow ours: its real size is written first. A box directly in front of the manifest's
records that, so that the original comes back exactly:

    4 bytes   the size: 25
    4 bytes   "uuid"
    16 bytes  `UNDO_UUID`
    1 byte    1 = the box in front of this one had the size 0; 0 = nothing was changed

The value 0 is needed in one case: the file ends in such a box and has no manifest behind it. A
record is believed only if embedding again in what it gives makes the same file.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.boxes import Box, chain, chain_fault, children, find, walk
from genblaze_dagster.media.edit import Edit, EditedSource, Splice, undoes
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source

MANIFEST_UUID = bytes.fromhex("6d6f64616c666c6f7700000000000001")
UNDO_UUID = bytes.fromhex("192e4d0b933f49919f47d8606a24389f")
FREEFORM = (b"genblaze", b"manifest")
"""Mean and name of the freeform atom."""
MAX_PARTS = 8

_SIZE_WAS_OPEN, _NOTHING_CHANGED = b"\1", b"\0"
_LARGEST_SIZE = 0xFFFF_FFFF
_EMPTY_FREE = (8).to_bytes(4) + b"free"
# No table in the file says where these are, so that they may move.
_MOVABLE = frozenset({b"uuid", b"free", b"skip", b"wide", b"moov", b"udta", b"meta", b"mfra"})


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text, None when there is none.

    Raises:
        EmbeddingError: it is above the size limit.
    """
    movie: Box | None = None
    last: Box | None = None
    for box in walk(source, 0, source.size):
        if is_manifest(source, box):
            return source.payload(box.body + 16, box.end)
        if box.type == b"moov":
            movie = movie or box
        last = box
    start = next(_swallowed(source, last), None)
    if start is not None:
        return source.payload(start + 24, source.size)
    return _read_freeform(source, movie) if movie else None


def plan_embed(source: Source, payload: bytes) -> Edit:
    """Return the edit that puts a manifest's text in.

    Raises:
        EmbeddingError: the boxes do not make up the file, media would have to move, or a size is
            above its limit.
    """
    ours = manifest_box(payload)
    boxes = chain(source)
    older = next((at for at, box in enumerate(boxes) if is_manifest(source, box)), None)
    if older is not None:
        return (Splice(_in_front(source, boxes, older), 0, ours),)
    last = boxes[-1]
    if last.size == 0:
        size = last.end - last.start
        if size > _LARGEST_SIZE:
            raise EmbeddingError(
                f"last box of the MP4 has no size and {size} bytes; a size can be given to boxes "
                f"of up to {_LARGEST_SIZE}"
            )
        undo = _uuid_box(UNDO_UUID, _SIZE_WAS_OPEN)
        return Splice(last.start, 4, size.to_bytes(4)), Splice(source.size, 0, undo + ours)
    if is_undo(source, last):
        ours = _uuid_box(UNDO_UUID, _NOTHING_CHANGED) + ours
    return (Splice(source.size, 0, ours),)


def originals(source: Source) -> Iterator[Original]:
    """Yield what the file may have been before its first manifest; nothing for a freeform one.

    Without its box the file is certain, unless a record says otherwise or the boxes do not make up
    the file. Only genblaze drops something: up to 8 bytes from the end.
    """
    boxes = list(walk(source, 0, source.size))
    at = next((at for at, box in enumerate(boxes) if is_manifest(source, box)), None)
    if at is None:
        yield from _unswallowed(source, boxes)
        return
    recorded = _undo_recorded(source, boxes, at)
    if recorded is not None:
        yield Original(recorded, certain=True, removed="its uuid box and the record beside it")
        return
    box = boxes[at]
    length = box.end - box.start
    undo, plain = (Splice(box.start, length, b""),), _is_plain(source, boxes, at)
    yield Original(undo, certain=plain, removed="its uuid box")
    if plain and box.end == source.size:
        dropped = (Splice(box.start, length, _EMPTY_FREE),)
        removed = "its uuid box, which took the place of an empty free box"
        yield Original(dropped, certain=False, removed=removed)


def manifest_box(payload: bytes) -> bytes:
    """Return the box that holds a manifest's text.

    Raises:
        EmbeddingError: the text is longer than readers accept.
    """
    if len(payload) > MAX_MANIFEST_BYTES:
        raise EmbeddingError(
            f"manifest has {len(payload)} bytes; the limit in an MP4 is {MAX_MANIFEST_BYTES}"
        )
    return _uuid_box(MANIFEST_UUID, payload)


def is_manifest(source: Source, box: Box) -> bool:
    """Whether a box holds a manifest, of ours or of genblaze's."""
    return box.type == b"uuid" and source.at(box.body, 16) == MANIFEST_UUID


def is_undo(source: Source, box: Box) -> bool:
    """Whether a box is a record of ours of what was changed."""
    return box.type == b"uuid" and source.at(box.body, 16) == UNDO_UUID


def is_scrap(source: Source, box: Box) -> bool:
    """Whether a box is what a killed `append_in_place` leaves: no manifest any more, or not yet."""
    return box.type == b"free" and source.at(box.body, 16) == MANIFEST_UUID


def _uuid_box(name: bytes, body: bytes) -> bytes:
    return (24 + len(body)).to_bytes(4) + b"uuid" + name + body


def _in_front(source: Source, boxes: Sequence[Box], older: int) -> int:
    """Return where a box goes that is to be found before an older one."""
    # A record stays beside the manifest it belongs to.
    while is_undo(source, boxes[older - 1]):
        older -= 1
    for box in boxes[older:]:
        if box.type not in _MOVABLE:
            raise EmbeddingError(
                "MP4 has media behind an older manifest, and the new one would move it; strip "
                "the older one first"
            )
    return boxes[older].start


def _is_plain(source: Source, boxes: Sequence[Box], at: int) -> bool:
    """Whether taking a manifest out leaves exactly what was there before."""
    if chain_fault(boxes, source.size) is not None or boxes[-1].size == 0:
        return False
    beside = boxes[at - 1 : at + 2]
    return not any(is_undo(source, box) or is_scrap(source, box) for box in beside)


def _undo_recorded(source: Source, boxes: Sequence[Box], at: int) -> Edit | None:
    """Return how a manifest comes out by the record in front of it; None when that is not true."""
    box, record = boxes[at], boxes[at - 1]
    if at < 2 or not is_undo(source, record):
        return None
    cut = Splice(record.start, box.end - record.start, b"")
    undo: Edit = (cut,)
    if source.at(record.body + 16, 1) == _SIZE_WAS_OPEN:
        undo = (Splice(boxes[at - 2].start, 4, bytes(4)), cut)
    try:
        again = plan_embed(EditedSource(source, undo), source.payload(box.body + 16, box.end))
    except EmbeddingError:
        return None
    return undo if undoes(source, undo, again) else None


def _swallowed(source: Source, last: Box | None) -> Iterator[int]:
    """Yield where boxes start that were appended although the last one never ends, newest first."""
    if last is None or not last.open_ended or is_scrap(source, last):
        return
    end = source.size
    for match in source.tail_matches(b"uuid" + MANIFEST_UUID, last.body):
        start = match - 4
        if source.number(start, 4) == end - start:
            yield start
            end = start


def _unswallowed(source: Source, boxes: Sequence[Box]) -> Iterator[Original]:
    """Yield what was there before genblaze appended to a box that never ends, perhaps twice."""
    starts = list(_swallowed(source, boxes[-1] if boxes else None))
    for start in dict.fromkeys(starts[:1] + starts[-1:]):
        undo = (Splice(start, source.size - start, b""),)
        yield Original(undo, certain=False, removed="what was appended to its last box")


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
