"""The metadata blocks of FLAC and the comments in one of them, walked without being read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from genblaze_dagster.media.source import Source

STREAM_INFO, PADDING, SEEK_TABLE, VORBIS_COMMENT, CUE_SHEET, PICTURE = 0, 1, 3, 4, 5, 6
LAST = 0x80
KEY = b"GENBLAZE_MANIFEST="
MAX_BLOCKS = 1024
MAX_BLOCK_BYTES = (1 << 24) - 1
MAX_COMMENTS = 10_000
_MAX_VENDOR_BYTES = 64
_STREAM_INFO_END = 4 + 4 + 34
_SAMPLE_RATE_AT = 4 + 4 + 10


@dataclass(frozen=True, slots=True)
class Block:
    """One metadata block; the offsets are those of its header, its body, and what follows."""

    type: int
    is_last: bool
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Comments:
    """The comment block, its vendor if that is short, and where the number of comments stands."""

    block: Block
    vendor: bytes
    count_at: int
    count: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One comment with its length field; `key` is what stands where our key would."""

    start: int
    end: int
    key: bytes

    @property
    def value(self) -> int:
        """Where the text starts if the key is ours."""
        return self.start + 4 + len(KEY)


def read_blocks(source: Source) -> Iterator[Block]:
    """Yield the metadata blocks; those of a cut file end where it ends."""
    start = 4
    for _ in range(MAX_BLOCKS):
        header = source.at(start, 4)
        if len(header) < 4:
            return
        end = min(start + 4 + int.from_bytes(header[1:]), source.size)
        is_last = bool(header[0] & LAST)
        yield Block(header[0] & ~LAST, is_last, start, start + 4, end)
        if is_last:
            return
        start = end


def read_comments(source: Source, blocks: Iterable[Block]) -> Comments | None:
    """Return the first comment block, the only one that readers look at."""
    block = next((block for block in blocks if block.type == VORBIS_COMMENT), None)
    if block is None:
        return None
    length = source.number(block.body, 4, "little")
    count_at = block.body + 4 + length
    vendor = source.at(block.body + 4, length) if length <= _MAX_VENDOR_BYTES else b""
    return Comments(block, vendor, count_at, source.number(count_at, 4, "little"))


def read_entries(source: Source, comments: Comments) -> Iterator[Entry]:
    """Yield the comments that are inside their block."""
    start = comments.count_at + 4
    for _ in range(min(comments.count, MAX_COMMENTS)):
        head = source.at(start, 4 + len(KEY))
        length = int.from_bytes(head[:4], "little")
        end = start + 4 + length
        if len(head) < 4 or end > comments.block.end:
            return
        yield Entry(start, end, head[4 : 4 + length])
        start = end


def find_entry(source: Source, comments: Comments) -> Entry | None:
    """Return the first comment with our key, in capitals or not."""
    entries = read_entries(source, comments)
    return next((entry for entry in entries if entry.key.upper() == KEY), None)


def fault(source: Source, blocks: list[Block], comments: Comments | None) -> str | None:
    """Say why the metadata cannot be trusted to be edited; None when it can."""
    if source.at(0, 4) != b"fLaC":
        return "signature is missing, or stands behind something else"
    if not blocks or (blocks[0].type, blocks[0].end) != (STREAM_INFO, _STREAM_INFO_END):
        return "file does not start with its stream info"
    last = blocks[-1]
    sync = source.number(last.end, 2)
    # The sync word of the first frame proves that no size on the way to it is wrong.
    reaches_audio = last.end == source.size or sync & 0xFFFE == 0xFFF8
    is_whole = last.end - last.body == source.number(last.start + 1, 3)
    if not (last.is_last and is_whole and reaches_audio):
        return "metadata blocks do not lead to the audio"
    if comments and not _adds_up(source, comments):
        return "comment block is not made of the comments that it counts"
    return _fault_for_mutagen(source, blocks)


def _fault_for_mutagen(source: Source, blocks: list[Block]) -> str | None:
    """Say why mutagen, and genblaze with it, does not read the file."""
    types = [block.type for block in blocks]
    if any(types.count(once) > 1 for once in (STREAM_INFO, SEEK_TABLE, CUE_SHEET)):
        return "file has two metadata blocks of a kind that it can have once"
    if not source.number(_SAMPLE_RATE_AT, 3) >> 4:
        return "stream info has no sample rate"
    for block in blocks:
        if block.type == PICTURE and _picture_end(source, block) != block.end:
            return "picture block is larger or smaller than its picture"
    return None


def _picture_end(source: Source, block: Block) -> int:
    # Type, and then media type and description, each behind its length; four numbers; the data.
    media_type = block.body + 4
    description = media_type + 4 + source.number(media_type, 4)
    data = description + 4 + source.number(description, 4) + 16
    return data + 4 + source.number(data, 4)


def _adds_up(source: Source, comments: Comments) -> bool:
    count, end = 0, comments.count_at + 4
    for entry in read_entries(source, comments):
        count, end = count + 1, entry.end
    return (count, end) == (comments.count, comments.block.end)
