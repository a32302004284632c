"""WAV: the manifest in a `LIST`/`INFO` chunk, and what the format chunk says.

Our list holds the manifest and nothing else, as genblaze's does; other lists stay as they are. It
goes behind all chunks of a file that is in order. Of any other file nothing has to be known but
how it begins: the list goes in front of the sound, and sizes that a streaming encoder never wrote,
a missing pad byte and bytes behind the last chunk all stay as they are. The RIFF size grows by the
list, unless it is 0 or 0xFFFFFFFF, which stand for "unknown". So taking the list out again gives
the original without any record of it.

genblaze's list always goes to the end, and other lists are deleted for it. Ours has two NULs behind
the text there, where genblaze's has one, because only ours tells what the original was.
"""

from collections.abc import Iterator
from typing import Any

from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.edit import Edit, Range, Splice
from genblaze_dagster.media.limits import check_readable
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.riff import Chunk, walk
from genblaze_dagster.media.source import Source

MANIFEST_ID = b"IMFL"
MAX_ENTRIES = 10_000
"""More entries than that in the lists of one file are not titles; the search ends there."""

_FIRST_CHUNK = 12
_NULS_AT_THE_END = 2
_UNKNOWN_SIZES = (0, 0xFFFF_FFFF)
_EXTENSIBLE = 0xFFFE
_CODECS = {3: "pcm_f{bits}le", 6: "pcm_alaw", 7: "pcm_mulaw"}


def read_payload(source: Source) -> bytes | None:
    """Return the manifest's text, None when there is none.

    Raises:
        EmbeddingError: it is above the size limit.
    """
    found = _find(source)
    if found is None:
        return None
    _, text = found
    return source.payload(text.start, text.end).rstrip(b"\0")


def plan_embed(source: Source, payload: bytes) -> Edit:
    """Return the edit that puts a manifest's text in, where it is read before an older one.

    Raises:
        EmbeddingError: the chunks cannot be followed up to the sound, or a size is above its limit.
    """
    if source.at(0, 4) != b"RIFF" or source.at(8, 4) != b"WAVE":
        raise EmbeddingError("WAV is no plain RIFF: genblaze reads no RF64, BW64 or RIFX")
    # Readers count the NULs behind the text.
    if len(payload) > MAX_MANIFEST_BYTES - _NULS_AT_THE_END:
        raise EmbeddingError(
            f"manifest has {len(payload)} bytes; the limit in a WAV is "
            f"{MAX_MANIFEST_BYTES - _NULS_AT_THE_END}"
        )
    place = _place(source)
    ours = _list(payload, nuls=_NULS_AT_THE_END if place == source.size else 1)
    check_readable(source.size + len(ours))
    return (*_resized(source, len(ours)), Splice(place, 0, ours))


def originals(source: Source) -> Iterator[Original]:
    """Yield what the file may have been before its first manifest.

    genblaze overwrites the RIFF size, and deletes other lists, which cannot be told from a file
    that had none.
    """
    found = _find(source)
    if found is None:
        return
    chunk, text = found
    payload = source.payload(text.start, text.end).rstrip(b"\0")
    nuls = text.end - text.start - len(payload)
    if nuls not in (1, _NULS_AT_THE_END):
        return
    whole = _list(payload, nuls=nuls)
    if chunk.end - chunk.start != len(whole) or source.at(chunk.start, len(whole)) != whole:
        return
    removal = Splice(chunk.start, len(whole), b"")
    for riff in _riff_sizes(source, chunk):
        yield Original((*riff, removal), certain=False, removed="its INFO list")


def read_facts(source: Source) -> dict[str, Any]:
    """Return duration in seconds, and sample rate, channels, codec and bit rate."""
    facts: dict[str, Any] = {}
    bytes_per_second = 0
    for chunk in walk(source, _FIRST_CHUNK, source.size):
        if chunk.id == b"fmt ":
            header = source.at(chunk.body, min(26, chunk.end - chunk.body))
            bytes_per_second = int.from_bytes(header[8:12], "little")
            facts["audio"] = {
                "sample_rate": int.from_bytes(header[4:8], "little"),
                "channels": int.from_bytes(header[2:4], "little"),
                "codec": _codec(header),
                "bitrate": bytes_per_second * 8,
            }
        elif chunk.id == b"data" and bytes_per_second:
            facts["duration"] = (chunk.end - chunk.body) / bytes_per_second
            break
    return facts


def _codec(header: bytes) -> str | None:
    tag, bits = (int.from_bytes(header[at : at + 2], "little") for at in (0, 14))
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(header[24:26], "little")
    if tag == 1:
        return "pcm_u8" if bits == 8 else f"pcm_s{bits}le"
    return _CODECS[tag].format(bits=bits) if tag in _CODECS else None


def _find(source: Source) -> tuple[Chunk, Range] | None:
    """Return the first list that holds a manifest, and where its text is."""
    last: Chunk | None = None
    for chunk, text in _chunks(source):
        if text is not None:
            return chunk, text
        last = chunk
    if last is None or not last.open_ended:
        return None
    return _find_swallowed(source, last)


def _chunks(source: Source) -> Iterator[tuple[Chunk, Range | None]]:
    """Yield the chunks, and where the text of a manifest is in them."""
    entries = 0
    for chunk in walk(source, _FIRST_CHUNK, source.size):
        text: Range | None = None
        if chunk.id == b"LIST" and source.at(chunk.body, 4) == b"INFO":
            for entry in walk(source, chunk.body + 4, chunk.end):
                entries += 1
                if entries > MAX_ENTRIES:
                    return
                if entry.id == MANIFEST_ID:
                    text = Range(entry.body, entry.end)
                    break
        yield chunk, text


def _find_swallowed(source: Source, last: Chunk) -> tuple[Chunk, Range] | None:
    """Find a list that was appended to audio whose header says that it never ends."""
    for match in source.tail_matches(b"INFO" + MANIFEST_ID, last.body):
        start = match - 8
        chunk = next(walk(source, start, source.size), None)
        if chunk is not None and chunk.id == b"LIST":
            text = match + 12
            end = text + source.number(match + 8, 4, "little")
            return chunk, Range(text, min(end, source.size))
    return None


def _place(source: Source) -> int:
    """Return where the list goes: to the end, or in front of the sound and every older manifest."""
    front: int | None = None
    expected, in_order = _FIRST_CHUNK, source.number(4, 4, "little") == source.size - 8
    for chunk, text in _chunks(source):
        in_order = in_order and chunk.start == expected and not chunk.open_ended
        if front is None and chunk.start != expected:
            raise EmbeddingError("WAV is broken: a chunk in front of the sound lacks its pad byte")
        if front is None and (chunk.id == b"data" or text is not None):
            front = chunk.start
        if text is not None:
            in_order = False
            break
        expected = chunk.end + (chunk.end - chunk.body) % 2
    if front is None:
        raise EmbeddingError("WAV is broken: no data chunk is found in it")
    return source.size if in_order and expected == source.size else front


def _resized(source: Source, by: int) -> Edit:
    """Return the edit that makes the RIFF size larger, unless it is an unknown one."""
    size = source.number(4, 4, "little")
    if size in _UNKNOWN_SIZES:
        return ()
    if size + by >= max(_UNKNOWN_SIZES):
        raise EmbeddingError(
            f"WAV gives itself a RIFF size of {size}, to which nothing can be added"
        )
    return (Splice(4, 4, _u32(size + by)),)


def _riff_sizes(source: Source, chunk: Chunk) -> Iterator[Edit]:
    """Yield what the RIFF size may have been without a list: ours grew, genblaze's was set."""
    size, length = source.number(4, 4, "little"), chunk.end - chunk.start
    if size in _UNKNOWN_SIZES:
        yield ()
    elif size > length:
        yield (Splice(4, 4, _u32(size - length)),)
    if chunk.end < source.size or chunk.end - 8 != size:
        return
    if chunk.start % 2:
        # Writers that leave a pad byte out may count it.
        yield (Splice(4, 4, _u32(size - length + 1)),)
    for unknown in _UNKNOWN_SIZES:
        yield (Splice(4, 4, _u32(unknown)),)


def _list(payload: bytes, *, nuls: int) -> bytes:
    return _chunk(b"LIST", b"INFO" + _chunk(MANIFEST_ID, payload + bytes(nuls)))


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + _u32(len(body)) + body + b"\0" * (len(body) % 2)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
