import io
import json
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from mutagen.id3 import APIC, ID3, TIT2, TXXX

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import flac, jpeg, mp3, mp4, png, wav, webp
from genblaze_dagster.media.mp4 import MANIFEST_UUID
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.xmp import BLOCK

MANIFEST = '{"canonical_hash":"","run":{"name":"<&> \u2713 \u00e9"}}'
PAYLOAD = MANIFEST.encode()
LIMIT = 16 << 20


def read(container: object, data: bytes) -> bytes | None:
    return container.read_payload(Source(io.BytesIO(data)))  # type: ignore[attr-defined]


def box(kind: bytes, *parts: bytes, wide: bool = False) -> bytes:
    body = b"".join(parts)
    if wide:
        return struct.pack(">I4sQ", 1, kind, len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, kind) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


FTYP = box(b"ftyp", b"isom\0\0\2\0isom")
OURS = box(b"uuid", MANIFEST_UUID, PAYLOAD)
PNG_START = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(13))
PNG_OURS = png_chunk(b"iTXt", b"genblaze:manifest\0\0\0\0\0" + PAYLOAD)


def test_reads_outside_the_file_give_nothing() -> None:
    """Offsets and lengths from broken size fields never turn into a read of the whole file."""
    source = Source(io.BytesIO(b"0123456789"))
    assert source.at(8, 100) == b"89"
    for offset, length in ((3, -1), (3, 0), (-1, 4), (10, 4)):
        assert source.at(offset, length) == b""
    assert source.number(8, 4) == 0


def test_png_manifest_is_found_anywhere_before_the_end() -> None:
    """The chunk may stand after the pixels, has a language tag or none, and its CRC may be wrong."""
    pixels, end = png_chunk(b"IDAT", b"x"), png_chunk(b"IEND", b"")
    tagged = png_chunk(b"iTXt", b"genblaze:manifest\0\0\0en\0Manifest\0" + PAYLOAD)
    foreign = png_chunk(b"iTXt", b"Comment\0\0\0\0\0hello") + png_chunk(b"tEXt", b"a\0b")
    for ours in (PNG_OURS, tagged, PNG_OURS[:-4] + b"\0\0\0\0"):
        assert read(png, PNG_START + foreign + pixels + ours + end) == PAYLOAD
    assert read(png, PNG_START + pixels + end + PNG_OURS) is None
    assert read(png, PNG_START + pixels) is None


def test_compressed_png_manifest_is_refused() -> None:
    """Compressed text raises instead of being inflated without a bound."""
    packed = png_chunk(b"iTXt", b"genblaze:manifest\0\1\0\0\0" + zlib.compress(PAYLOAD))
    with pytest.raises(EmbeddingError, match="compressed"):
        read(png, PNG_START + packed)


def test_mp4_manifest_box_is_found_wherever_it_is() -> None:
    """First, last, behind a 64-bit size, itself with one, and twice: the first one wins."""
    media, large = box(b"mdat", bytes(50)), box(b"mdat", bytes(50), wide=True)
    foreign = box(b"uuid", bytes(16), b"other")
    other = box(b"uuid", MANIFEST_UUID, b'{"second":1}')
    for layout in (
        FTYP + OURS + media,
        FTYP + media + OURS,
        FTYP + large + foreign + OURS + other,
        FTYP + box(b"uuid", MANIFEST_UUID, PAYLOAD, wide=True) + media,
    ):
        assert read(mp4, layout) == PAYLOAD
    assert read(mp4, FTYP + media + foreign) is None


def test_mp4_manifest_behind_an_endless_or_truncated_box_is_found() -> None:
    """What was appended to a file whose last box never ends is found; the newest wins."""
    endless = struct.pack(">I4s", 0, b"mdat") + bytes(50)
    truncated = struct.pack(">I4s", 5000, b"mdat") + bytes(50)
    older = box(b"uuid", MANIFEST_UUID, b'{"older":1}')
    for start in (endless, truncated):
        assert read(mp4, FTYP + start + OURS) == PAYLOAD
        assert read(mp4, FTYP + start + older + OURS) == PAYLOAD
        assert read(mp4, FTYP + start + OURS + b"tail") is None


@pytest.mark.parametrize("quicktime", [False, True])
def test_m4a_freeform_manifest_is_found(quicktime: bool) -> None:
    """The freeform atom is read with and without version and flags on `meta`."""

    def item(mean: bytes, name: bytes, text: bytes) -> bytes:
        return box(
            b"----",
            box(b"mean", bytes(4), mean),
            box(b"name", bytes(4), name),
            box(b"data", b"\0\0\0\1", bytes(4), text),
        )

    handler = box(b"hdlr", bytes(25))
    foreign = item(b"com.apple.iTunes", b"manifest", b"no") + item(b"genblaze", b"other", b"no")
    items = box(b"ilst", box(b"----"), foreign, item(b"genblaze", b"manifest", PAYLOAD))
    meta = box(b"meta", b"" if quicktime else bytes(4), handler, items)
    data = FTYP + box(b"moov", box(b"mvhd", bytes(100)), box(b"udta", meta))
    assert read(mp4, data) == PAYLOAD
    assert read(mp4, data + box(b"uuid", MANIFEST_UUID, b"{}")) == b"{}"


def packet(manifest: str, marker: str = "\ufeff", trailer: str = '<?xpacket end="w"?>') -> bytes:
    return (
        f'<?xpacket begin="{marker}" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="a"><rdf:RDF>'
        f"{manifest}</rdf:RDF></x:xmpmeta>{trailer}"
    ).encode()


ESCAPED = "<mf:manifest>" + MANIFEST.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
ESCAPED += "</mf:manifest>"


@pytest.mark.parametrize("container", [jpeg, webp])
@pytest.mark.parametrize("marker", ["\ufeff", "\u00ef\u00bb\u00bf", ""])
def test_xmp_manifest_is_read_with_any_byte_order_mark(container: object, marker: str) -> None:
    """The right mark, genblaze's double-encoded one and none are the same to the reader."""
    assert read(container, b"\xff\xd8\xff\xe1" + packet(ESCAPED, marker) + b"\xff\xd9") == PAYLOAD


@pytest.mark.parametrize("before", [0, BLOCK - 40, BLOCK - 5, 3 * BLOCK + 17])
def test_xmp_manifest_is_found_after_foreign_packets_and_across_blocks(before: int) -> None:
    """Position, a packet of another program, and one without an end make no difference."""
    foreign = packet("<dc:title>x</dc:title>") + packet("<a/>", trailer="") + b"\xff\0\xfe"
    data = b"\xff\xd8" + bytes(before) + foreign + b"\xff\xd9" + packet(ESCAPED)
    assert read(jpeg, data) == PAYLOAD


def test_broken_xmp_manifests_are_errors() -> None:
    """A manifest without an end or not in UTF-8 raises EmbeddingError."""
    whole = packet(ESCAPED)
    with pytest.raises(EmbeddingError, match="no end"):
        read(jpeg, whole[: whole.index(b"</mf:manifest>")])
    with pytest.raises(EmbeddingError, match="UTF-8"):
        read(jpeg, whole.replace(b'"run"', b'"\xffun"'))


def wav_file(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16))
INFO = chunk(b"LIST", b"INFO" + chunk(b"IMFL", PAYLOAD + b"\0"))


def test_wav_manifest_is_found_among_other_lists() -> None:
    """Foreign lists before ours are passed over, and trailing NULs are not part of the text."""
    title = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"abc\0"))
    other = chunk(b"LIST", b"adtl" + chunk(b"IMFL", b"no"))
    assert read(wav, wav_file(FMT, chunk(b"data", bytes(8)), title, other, INFO)) == PAYLOAD
    both = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"abc") + chunk(b"IMFL", PAYLOAD + bytes(3)))
    assert read(wav, wav_file(FMT, both, chunk(b"data", bytes(8)))) == PAYLOAD
    assert read(wav, wav_file(FMT, title, other)) is None


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_wav_manifest_behind_a_streaming_header_is_found(size: int) -> None:
    """A `data` chunk that claims to be endless hides nothing that was appended."""
    endless = b"data" + struct.pack("<I", size) + b"LIST" + bytes(60)
    assert read(wav, wav_file(FMT, endless, INFO, size=0xFFFF_FFFF)) == PAYLOAD


def test_flac_comment_is_found_whatever_its_case_and_block_order() -> None:
    """The key is compared without case; the first value counts."""

    def comments(*texts: bytes) -> bytes:
        body = struct.pack("<I", 4) + b"test" + struct.pack("<I", len(texts))
        return body + b"".join(struct.pack("<I", len(t)) + t for t in texts)

    def block(kind: int, body: bytes, *, last: bool = False) -> bytes:
        return bytes([kind | 0x80 * last]) + len(body).to_bytes(3) + body

    body = comments(b"TITLE=x", b"genblaze_Manifest=" + PAYLOAD, b"GENBLAZE_MANIFEST={}")
    start = b"fLaC" + block(0, bytes(34)) + block(1, bytes(9))
    assert read(flac, start + block(4, body, last=True)) == PAYLOAD
    assert read(flac, start + block(4, comments(b"TITLE=x")) + block(4, body, last=True)) is None
    assert read(flac, start + block(4, body[:60], last=True)) is None


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("encoding", [0, 1, 3])
def test_id3_manifest_is_read_in_every_version_and_encoding(version: int, encoding: int) -> None:
    """What mutagen writes as ID3v2.3 and 2.4, between other frames, is read back."""
    text = json.dumps(json.loads(MANIFEST)) if encoding == 0 else MANIFEST
    tag = ID3()
    tag.add(TIT2(encoding=1, text="title"))
    tag.add(APIC(encoding=0, mime="image/png", type=3, desc="", data=bytes(300) + b"\xff\xe0"))
    tag.add(TXXX(encoding=3, desc="replaygain", text="1"))
    tag.add(TXXX(encoding=encoding, desc="genblaze:manifest", text=text))
    file = io.BytesIO(b"\xff\xfb\x90\x00" + bytes(400))
    tag.save(file, v2_version=version)
    found = read(mp3, file.getvalue())
    assert found is not None
    assert json.loads(found) == json.loads(MANIFEST)


def synchsafe(value: int) -> bytes:
    return bytes(value >> shift & 0x7F for shift in (21, 14, 7, 0))


TEXT_FRAME = b"\x03genblaze:manifest\0" + PAYLOAD + b"\0"


def id3(version: int, flags: int, frames: bytes) -> bytes:
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(frames)) + frames


def test_id3_layouts_of_other_writers_are_read() -> None:
    """Unsynchronisation, extended header, group byte, length indicator and plain sizes."""
    picture = b"APIC" + (4).to_bytes(4) + b"\0\0" + b"\xff\xe0\0\xff"
    text = b"TXXX" + len(TEXT_FRAME).to_bytes(4) + b"\0\0" + TEXT_FRAME
    unsynchronised = (picture + text).replace(b"\xff", b"\xff\0")
    assert read(mp3, id3(3, 0x80, unsynchronised)) == PAYLOAD
    assert read(mp3, id3(3, 0x40, (6).to_bytes(4) + bytes(6) + text)) == PAYLOAD
    grouped = b"TXXX" + (len(TEXT_FRAME) + 1).to_bytes(4) + b"\0\x20G" + TEXT_FRAME
    assert read(mp3, id3(3, 0, grouped)) == PAYLOAD
    safe = synchsafe(len(TEXT_FRAME) + 4)
    indicated = b"TXXX" + safe + b"\0\x01" + synchsafe(len(TEXT_FRAME)) + TEXT_FRAME
    assert read(mp3, id3(4, 0x40, synchsafe(6) + b"\x01\0" + indicated)) == PAYLOAD
    plain = b"APIC" + (200).to_bytes(4) + b"\0\0" + b"\x01" * 200
    assert (
        read(mp3, id3(4, 0, plain + b"TXXX" + synchsafe(len(TEXT_FRAME)) + b"\0\0" + TEXT_FRAME))
        == PAYLOAD
    )


def test_id3_frames_that_must_not_be_inflated_are_passed_over() -> None:
    """Compressed and encrypted frames are not ours, as is a tag of version 2.2."""
    for flags in (0x08, 0x04):
        frame = b"TXXX" + synchsafe(len(TEXT_FRAME)) + bytes([0, flags]) + TEXT_FRAME
        assert read(mp3, id3(4, 0, frame)) is None
    assert read(mp3, id3(2, 0, b"TXX" + bytes(20))) is None


def test_manifests_above_the_limit_are_refused_without_being_read() -> None:
    """Every container raises EmbeddingError above 16 MiB, at no cost in memory."""
    large = b" " * (LIMIT + 1)
    text = b"\x03genblaze:manifest\0" + large * 2 + b" " * 64
    comment = b"GENBLAZE_MANIFEST=" + large
    files = [
        (png, PNG_START + png_chunk(b"iTXt", b"genblaze:manifest\0\0\0\0\0" + large)),
        (mp4, FTYP + box(b"uuid", MANIFEST_UUID, large)),
        (wav, wav_file(FMT, chunk(b"LIST", b"INFO" + chunk(b"IMFL", large)))),
        (jpeg, b"\xff\xd8" + packet("<mf:manifest>" + " " * (2 * LIMIT + 1) + "</mf:manifest>")),
        (mp3, id3(4, 0, b"TXXX" + synchsafe(len(text)) + b"\0\0" + text)),
        (
            flac,
            b"fLaC\x84\xff\xff\xff" + bytes(4) + struct.pack("<II", 1, len(comment)) + comment,
        ),
    ]
    for container, data in files:
        source = Source(io.BytesIO(data))
        if container is flac:
            # A block cannot be that long: what reaches beyond it is not a comment.
            assert container.read_payload(source) is None
            continue
        tracemalloc.start()
        with pytest.raises(EmbeddingError, match=r"limit|too large"):
            container.read_payload(source)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 3 * BLOCK


class Counting(io.FileIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size) or b""
        self.count += len(data)
        return data


def test_huge_mp4_is_read_by_hopping_over_its_media(tmp_path: Path) -> None:
    """A manifest at the end of 6 GB is found in kilobytes of it, with kilobytes of memory."""
    file = tmp_path / "huge.mp4"
    size = 6 << 30
    with file.open("wb") as output:
        output.write(FTYP + struct.pack(">I4sQ", 1, b"mdat", size))
        output.seek(size - 16, 1)
        output.write(OURS)
    tracemalloc.start()
    with Counting(file) as opened:
        assert mp4.read_payload(Source(opened)) == PAYLOAD
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < opened.count < 1 << 20
    assert peak < 1 << 20


@pytest.mark.parametrize(
    ("container", "start", "unit"),
    [
        (mp4, FTYP, box(b"free")),
        (png, PNG_START, png_chunk(b"tEXt", b"")),
        (wav, wav_file(FMT), chunk(b"junk", b"")),
        (wav, wav_file(FMT) + b"data\xff\xff\xff\xff", b"LISTINFOIMFL"),
        (mp4, FTYP + bytes(4) + b"mdat", b"uuid" + MANIFEST_UUID),
        (flac, b"fLaC", b"\x01\0\0\0"),
        (mp3, b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"TIT2" + bytes(6)),
        (jpeg, b"\xff\xd8", b"<x:xmpmeta"),
    ],
    ids=["mp4", "png", "wav", "wav-endless", "mp4-endless", "flac", "mp3", "jpeg"],
)
def test_endless_chains_of_tiny_parts_end_soon(
    container: object, start: bytes, unit: bytes
) -> None:
    """A file made of nothing but headers does not keep a reader busy."""
    data = start + unit * ((12 << 20) // len(unit))
    started = time.thread_time()
    assert read(container, data) is None
    assert time.thread_time() - started < 5
