"""Files made to keep a reader busy, or to fill its memory: structure without end, text without end.

Each is valid as far as its container goes, small enough to be sent by anyone, and as bad as the
readers' limits let it be. `BOMBS` make structures of about a size in bytes, `CARRIERS` put a text
where the manifest is expected, and `texts` has texts for them.
"""

import struct
from collections.abc import Callable, Iterator, Mapping

from genblaze_dagster.core.parse import MAX_BRACKETS
from tests.media.corpus import files
from tests.media.corpus_movies import box
from tests.media.corpus_pictures import png_chunk, riff_chunk
from tests.media.corpus_sounds import synchsafe

Named = Iterator[tuple[str, bytes]]

MIB = 1 << 20
MANIFEST_UUID = bytes.fromhex("6d6f64616c666c6f7700000000000001")
ROOM = 16 * MIB - 4096
"""What is left of the limit for manifests when the containers have had theirs."""


def texts() -> Named:
    """Yield manifests, and what is none, that take long to read, or much memory."""
    yield "objects", b'{"run":{"steps":[' + b'{"":0},' * (ROOM // 7) + b"0]}}"
    step = b'{"provider":"a","model":"b"}'
    yield "steps", b'{"run":{"steps":[' + (step + b",") * (MAX_BRACKETS - 9) + step + b"]}}"
    yield "arrays", b'{"run":[' + b"[]," * (ROOM // 3) + b"0]}"
    yield "nested", b'{"run":' + b"[" * 5000 + b"]" * 5000 + b"}"
    yield "digits", b'{"run":' + b"9" * ROOM + b"}"
    yield "names", b"{" + b",".join(b'"%x":0' % n for n in range(ROOM // 12)) + b'"":0}'
    yield "numbers", b'{"run":[' + b"1e9," * (ROOM // 4) + b"0]}"
    yield "escapes", b'{"run":"' + b"\\u00e9" * (ROOM // 6) + b'"}'
    yield "spaces", b" " * ROOM + b"{}"
    yield "nothing", bytes(ROOM)


def _original(container: str) -> bytes:
    return next(data for _, data in files(container, 1, 71))


def _png(size: int) -> Named:
    data = _original("png")
    yield "chunks", data[:33] + png_chunk(b"prVt", b"") * (size // 12) + data[33:]
    language = b"genblaze:manifest\0\0\0" + b"e" * size
    yield "language", data[:33] + png_chunk(b"iTXt", language) + data[33:]


def _png_carrier(text: bytes) -> bytes:
    data = _original("png")
    return data[:33] + png_chunk(b"iTXt", b"genblaze:manifest\0\0\0\0\0" + text) + data[33:]


def _jpeg(size: int) -> Named:
    data = _original("jpg")
    yield "segments", data[:2] + b"\xff\xe5\0\2" * (size // 4) + data[2:]
    yield "fill", data[:2] + b"\xff" * size + data[2:]
    for name, xmp in _packets(size):
        yield name, data + xmp


def _jpeg_carrier(text: bytes) -> bytes:
    return _original("jpg") + _PACKET % text


def _webp(size: int) -> Named:
    yield "chunks", _webp_with(riff_chunk(b"prVt", b"") * (size // 8))
    for name, xmp in _packets(size):
        yield name, _webp_with(riff_chunk(b"XMP ", xmp))


def _webp_carrier(text: bytes) -> bytes:
    return _webp_with(riff_chunk(b"XMP ", _PACKET % text))


def _webp_with(chunks: bytes) -> bytes:
    data = _original("webp")
    body = data[8 : 8 + int.from_bytes(data[4:8], "little")] + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


_PACKET = b"<x:xmpmeta><mf:manifest>%b</mf:manifest><?xpacket end?>"


def _packets(size: int) -> Named:
    start = _PACKET.partition(b"%b")[0]
    yield "starts", b"<x:xmpmeta" * (size // 10)
    yield "open", start * (size // len(start))
    yield "empty packets", b"<x:xmpmeta<?xpacket end?>" * (size // 25)
    yield "trailers", start + b"<?xpacket end" * (size // 13)
    yield "references", _PACKET % (b"&#x41;" * (size // 6))
    yield "entities", _PACKET % (b"&amp;" * (size // 5))
    yield "wrong entities", _PACKET % (b"&CounterClockwiseContourIntegra" * (size // 31))
    yield "number", _PACKET % (b"&#" + b"9" * size + b";")


def _mp4(size: int) -> Named:
    start, ours = _MP4_START, box(b"uuid", MANIFEST_UUID + b"{}")
    yield "boxes", start + box(b"free", b"") * (size // 8)
    yield "others", start + box(b"uuid", bytes(16)) * (size // 24)
    yield "manifests", start + ours * (size // len(ours))
    yield "swallowed", start + b"\0\0\0\0mdat" + ours * (size // len(ours))
    marker = b"uuid" + MANIFEST_UUID
    yield "markers", start + b"\0\0\0\0mdat" + marker * (size // len(marker))
    item = box(b"----", box(b"mean", b"") * 100)
    items = box(b"ilst", item * (size // len(item)))
    meta = box(b"udta", box(b"meta", bytes(4) + items))
    yield "items", start + box(b"moov", meta)
    deep = b"".join((size - 8 * n).to_bytes(4) + b"moov" for n in range(size // 8))
    yield "deep", start + box(b"moov", deep)


_MP4_START = box(b"ftyp", b"isom\0\0\2\0isom") + box(b"mdat", bytes(50))


def _mp4_carrier(text: bytes) -> bytes:
    return _MP4_START + box(b"uuid", MANIFEST_UUID + text)


def _mp3(size: int) -> Named:
    frame, other = b"TIT2\0\0\0\1\0\0\0", b"TXXX\0\0\0\3\0\0\1\xff\xfe"
    for version in (3, 4):
        yield f"frames of 2.{version}", _tagged(frame * (size // 11), version)
        yield f"texts of 2.{version}", _tagged(other * (size // 13), version)
    yield "unsynchronised", _tagged(b"\xff\0" * (size // 2), 3, 0x80)
    yield "padding", _tagged(bytes(size))


def _mp3_carrier(text: bytes) -> bytes:
    body = b"\3genblaze:manifest\0" + text
    return _tagged(b"TXXX" + synchsafe(len(body)) + b"\0\0" + body)


def _tagged(body: bytes, version: int = 4, flags: int = 0) -> bytes:
    silence = (b"\xff\xfb\x90\0" + bytes(413)) * 4
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(body)) + body + silence


def _wav(size: int) -> Named:
    yield "chunks", _WAV_START + riff_chunk(b"prVt", b"") * (size // 8) + _WAV_DATA
    yield "lists", _WAV_START + riff_chunk(b"LIST", b"INFO") * (size // 12) + _WAV_DATA
    entries = riff_chunk(b"LIST", b"INFO" + riff_chunk(b"INAM", b"") * 100_000)
    yield "entries", _WAV_START + entries * (size // len(entries)) + _WAV_DATA
    endless, marker = _WAV_START + b"data\xff\xff\xff\xff", b"INFOIMFL\xff\xff\xff\xff"
    yield "swallowed", endless + marker * (size // len(marker))
    listed = b"LIST\xff\xff\xff\xff" + marker
    yield "markers", endless + listed * (size // len(listed))


_WAV_START = b"RIFF\xff\xff\xff\xffWAVE" + riff_chunk(b"fmt ", b"\1\0\1\0" + bytes(12))
_WAV_DATA = riff_chunk(b"data", bytes(50))


def _wav_carrier(text: bytes) -> bytes:
    return _WAV_START + riff_chunk(b"LIST", b"INFO" + riff_chunk(b"IMFL", text)) + _WAV_DATA


def _flac(size: int) -> Named:
    start = _flac_start()
    yield "blocks", start + _flac_block(2, b"") * (size // 4) + _flac_block(0x81, b"")
    count = min(size, ROOM) // 4
    yield "comments", start + _flac_comments(count, bytes(4) * count)
    yield "count", start + _flac_comments(0xFFFFFFFF, bytes(4000))


def _flac_start() -> bytes:
    return b"fLaC" + _flac_block(0, _original("flac")[8:42])


def _flac_block(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3) + body


def _flac_comments(count: int, comments: bytes) -> bytes:
    body = bytes(4) + struct.pack("<I", count) + comments
    return _flac_block(0x84, body) + b"\xff\xf8" + bytes(100)


def _flac_carrier(text: bytes) -> bytes:
    comment = b"GENBLAZE_MANIFEST=" + text
    return _flac_start() + _flac_comments(1, struct.pack("<I", len(comment)) + comment)


BOMBS: Mapping[str, Callable[[int], Named]] = {
    "png": _png,
    "jpg": _jpeg,
    "webp": _webp,
    "mp4": _mp4,
    "mp3": _mp3,
    "wav": _wav,
    "flac": _flac,
}
CARRIERS: Mapping[str, Callable[[bytes], bytes]] = {
    "png": _png_carrier,
    "jpg": _jpeg_carrier,
    "webp": _webp_carrier,
    "mp4": _mp4_carrier,
    "mp3": _mp3_carrier,
    "wav": _wav_carrier,
    "flac": _flac_carrier,
}
