"""FLAC: the manifest in a Vorbis comment, and what the stream info says."""

import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.edit import Edit, Splice
from genblaze_dagster.media.flac_blocks import (
    KEY,
    LAST,
    MAX_BLOCK_BYTES,
    PADDING,
    STREAM_INFO,
    VORBIS_COMMENT,
    Block,
    Comments,
    Entry,
    fault,
    find_entry,
    read_blocks,
    read_comments,
)
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source

# Readers take keys in any case; genblaze's are in capitals, which tells its comments from ours.
_OUR_KEY = KEY.lower()
# The vendor of a block tells who made it. This one is part of the format and never changes.
_OUR_VENDOR = b"genblaze-dagster"
_GENBLAZE_VENDOR = re.compile(rb"Mutagen [0-9.]{1,16}")
# What encoders reserve: flac before 1.1, flac and ffmpeg, flac for more than 20 minutes; or nothing.
_USUAL_PADDINGS = (None, 4096, 8192, 65536)


def read_payload(source: Source) -> bytes | None:
    """Return the text of the first comment with our key, None when there is none.

    Raises:
        EmbeddingError: it is above the size limit.
    """
    comments = read_comments(source, read_blocks(source))
    entry = find_entry(source, comments) if comments else None
    return source.payload(entry.value, entry.end) if entry else None


def plan_embed(source: Source, payload: bytes) -> Edit:
    """Return the edit that adds a comment in front of all others.

    Without a comment block there will be one, behind the stream info. Padding is left alone.

    Raises:
        EmbeddingError: the metadata is broken, or the comment block would become too large.
    """
    blocks = list(read_blocks(source))
    comments = read_comments(source, blocks)
    found = fault(source, blocks, comments)
    if found:
        raise EmbeddingError(f"FLAC {found}")
    comment = _little(len(_OUR_KEY) + len(payload)) + _OUR_KEY + payload
    if comments is None:
        return _block_added(blocks[0], _little(1) + comment)
    if comments.vendor == _OUR_VENDOR and not comments.count:
        # Taking the comment out of it and taking it away would look the same.
        raise EmbeddingError("FLAC comment block is one of ours that was emptied; remove it first")
    return (
        _resized(comments.block, len(comment)),
        Splice(comments.count_at, 4, _little(comments.count + 1) + comment),
    )


def _block_added(stream_info: Block, comments: bytes) -> Edit:
    body = _little(len(_OUR_VENDOR)) + _OUR_VENDOR + comments
    header = VORBIS_COMMENT | (LAST if stream_info.is_last else 0)
    return (
        Splice(stream_info.start, 1, bytes([STREAM_INFO])),
        Splice(stream_info.end, 0, bytes([header]) + _block_size(len(body)) + body),
    )


def _resized(block: Block, change: int) -> Splice:
    return Splice(block.start + 1, 3, _block_size(block.end - block.body + change))


def _block_size(size: int) -> bytes:
    if size > MAX_BLOCK_BYTES:
        raise EmbeddingError(
            f"FLAC comment block would have {size} bytes; the limit is {MAX_BLOCK_BYTES}"
        )
    return size.to_bytes(3)


def _little(number: int) -> bytes:
    return number.to_bytes(4, "little")


def originals(source: Source) -> Iterator[Original]:
    """Yield what the file may have been before its first manifest.

    Other comments, and padding that holds anything, are never dropped: what somebody hides there
    stays, and the bytes differ.
    """
    blocks = list(read_blocks(source))
    comments = read_comments(source, blocks)
    entry = find_entry(source, comments) if comments else None
    if comments is None or entry is None or fault(source, blocks, comments):
        return
    if entry.key == KEY:
        yield from _before_genblaze(source, blocks, comments, entry)
    elif entry.key == _OUR_KEY:
        whole = comments.vendor == _OUR_VENDOR and comments.count == 1
        undo = _undo(blocks, comments, None if whole else entry)
        removed = "its Vorbis comment block" if whole else "its Vorbis comment"
        yield Original(undo, certain=False, removed=removed)


def _before_genblaze(
    source: Source, blocks: list[Block], comments: Comments, entry: Entry
) -> Iterator[Original]:
    """Yield originals of a file that mutagen wrote, which moves all padding to the end."""
    last = blocks[-1]
    padding = last.end - last.body
    if last.type != PADDING or source.at(last.body, padding).strip(b"\0"):
        return
    is_new = _GENBLAZE_VENDOR.fullmatch(comments.vendor) or comments.vendor == _OUR_VENDOR
    removals = (None, entry) if is_new and comments.count == 1 else (entry,)
    for removal in removals:
        gone = removal or comments.block
        # Padding gives way to the manifest, or is as long as mutagen makes it every time.
        before = (padding + gone.end - gone.start, padding, *_USUAL_PADDINGS)
        for amount in dict.fromkeys(before):
            if amount is not None and amount > MAX_BLOCK_BYTES:
                continue
            undo = _undo(blocks, comments, removal, padding=_padding(amount))
            removed = f"its Vorbis comment, {amount or 0} bytes of padding restored"
            yield Original(undo, certain=False, removed=removed)


def _padding(amount: int | None) -> bytes:
    """Return the padding block at the end of the metadata; nothing for None."""
    return b"" if amount is None else bytes([PADDING | LAST]) + _block_size(amount) + bytes(amount)


def _undo(
    blocks: list[Block], comments: Comments, entry: Entry | None, *, padding: bytes | None = None
) -> Edit:
    """Take a comment out, or all of its block, and put other padding in place of the last block."""
    block, last = comments.block, blocks[-1]
    edit: list[Splice] = []
    if entry:
        length = entry.end - entry.start
        edit.append(_resized(block, -length))
        edit.append(Splice(comments.count_at, 4, _little(comments.count - 1)))
        edit.append(Splice(entry.start, length, b""))
    else:
        edit.append(Splice(block.start, block.end - block.start, b""))
    if padding is not None:
        edit.append(Splice(last.start, last.end - last.start, padding))
    gone = ([] if entry else [block]) + ([last] if padding == b"" else [])
    final = next(kept for kept in reversed(blocks) if kept not in gone)
    if final is not last:
        edit.append(Splice(final.start, 1, bytes([final.type | LAST])))
    return tuple(sorted(edit, key=attrgetter("offset")))


def read_facts(source: Source) -> dict[str, Any]:
    """Return duration in seconds, and sample rate, channels, codec and bit rate."""
    audio_start, facts = 4, {}
    for block in read_blocks(source):
        audio_start = block.end
        if block.type == STREAM_INFO:
            facts = stream_info(source.at(block.body, 18))
    if "duration" in facts and facts["duration"] > 0:
        facts["audio"]["bitrate"] = round((source.size - audio_start) * 8 / facts["duration"])
    return facts


def stream_info(block: bytes) -> dict[str, Any]:
    """Return the facts of a STREAMINFO block (its first 18 bytes)."""
    # From byte 10: 20 bits of sample rate, 3 of channels - 1, 5 of depth - 1, 36 of samples.
    bits = int.from_bytes(block[10:18])
    sample_rate, samples = bits >> 44, bits & 0xF_FFFF_FFFF
    if len(block) < 18 or not sample_rate:
        return {}
    facts: dict[str, Any] = {
        "audio": {
            "sample_rate": sample_rate,
            "channels": (bits >> 41 & 7) + 1,
            "codec": "flac",
        }
    }
    if samples:
        facts["duration"] = samples / sample_rate
    return facts
