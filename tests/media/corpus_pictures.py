"""PNG, JPEG and WebP files of many structures. PNG is written by hand, the others by Pillow."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from PIL import Image

_PNG_MODES = (
    *((0, depth) for depth in (1, 2, 4, 8, 16)),
    *((3, depth) for depth in (1, 2, 4, 8)),
    *((kind, depth) for kind in (2, 4, 6) for depth in (8, 16)),
)
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><dc:title>{}</dc:title></rdf:RDF></x:xmpmeta>'
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rng: random.Random) -> bytes:
    """Return a PNG of any colour type, depth and interlacing, with or without other chunks."""
    kind, depth = rng.choice(_PNG_MODES)
    width, height, interlaced = rng.randint(1, 40), rng.randint(1, 40), rng.randrange(2)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    chunks = [png_chunk(b"IHDR", header), *_png_before_palette(rng)]
    if kind == 3:
        chunks.append(png_chunk(b"PLTE", rng.randbytes(3 << depth)))
        if rng.random() < 0.5:
            chunks.append(png_chunk(b"tRNS", rng.randbytes(rng.randint(1, 1 << depth))))
    chunks += _png_texts(rng)
    rows = bytearray()
    for columns, lines in _passes(width, height, interlaced):
        for _ in range(lines):
            rows.append(rng.randrange(5))
            rows += rng.randbytes(1) * ((columns * depth * _SAMPLES[kind] + 7) // 8)
    chunks += _png_data(rng, zlib.compress(rows, rng.randrange(10)))
    chunks += _png_texts(rng) if rng.random() < 0.3 else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"") + trailing(rng)


def _passes(width: int, height: int, interlaced: int) -> Iterator[tuple[int, int]]:
    for left, top, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and lines > 0:
            yield columns, lines


def _png_data(rng: random.Random, packed: bytes) -> list[bytes]:
    size = rng.choice([len(packed), 1 + len(packed) // 3, 11])
    parts = [packed[at : at + size] for at in range(0, len(packed), size)]
    if rng.random() < 0.2:
        parts.insert(rng.randrange(len(parts)), b"")
    return [png_chunk(b"IDAT", part) for part in parts]


def _png_before_palette(rng: random.Random) -> list[bytes]:
    known = [
        png_chunk(b"gAMA", struct.pack(">I", 45455)),
        png_chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        png_chunk(b"sRGB", b"\0"),
        png_chunk(b"vpAg", rng.randbytes(9)),
    ]
    return rng.sample(known, rng.randint(0, 3))


def _png_texts(rng: random.Random) -> list[bytes]:
    known = [
        png_chunk(b"tEXt", b"Comment\0" + rng.randbytes(5).hex().encode()),
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello")),
        png_chunk(b"iTXt", b"Title\0\0\0en\0Titel\0" + "\u00e9\u2713".encode()),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.format("png").encode()),
        png_chunk(b"iTXt", b"genblaze:manifests\0\0\0\0\0{}"),
        png_chunk(b"eXIf", _exif()),
        png_chunk(b"prVt", rng.randbytes(rng.randrange(50))),
        png_chunk(b"prVt", b""),
    ]
    return rng.sample(known, rng.choice([0, 0, 1, 2, 4]))


def trailing(rng: random.Random) -> bytes:
    """Return nothing, or bytes as some programs leave them behind the end of a picture."""
    if rng.random() < 0.7:
        return b""
    return rng.choice(
        [b"\0", b"\0" * 100, rng.randbytes(7), b"\xff\xd8\xff\xd9", XMP.format("tail").encode()]
    )


@cache
def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a picture", 1
    return exif.tobytes().removeprefix(b"Exif\0\0")


@cache
def _icc() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _picture(mode: str, rng: random.Random) -> Image.Image:
    size = rng.choice([(8, 8), (17, 9), (40, 24), (33, 33)])
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (4, 4), rng.randbytes(16 * bands)).resize(size, Image.BICUBIC)


def jpeg(rng: random.Random) -> bytes:
    """Return a JPEG: grey to CMYK, baseline or progressive, with segments of other programs."""
    options: dict[str, Any] = {
        "quality": rng.choice([10, 50, 75, 95, 100]),
        "progressive": rng.random() < 0.3,
        "optimize": rng.random() < 0.5,
        "subsampling": rng.choice([0, 1, 2]),
        "restart_marker_blocks": rng.choice([0, 0, 1, 3]),
        "comment": rng.choice([None, None, b"made by hand"]),
        "exif": b"Exif\0\0" + _exif() if rng.random() < 0.4 else b"",
        "icc_profile": _icc() if rng.random() < 0.3 else None,
    }
    if rng.random() < 0.2:
        options["xmp"] = XMP.format("pillow").encode()
    file = io.BytesIO()
    _picture(rng.choice(["RGB", "RGB", "L", "CMYK"]), rng).save(file, "JPEG", **options)
    return _jpeg_rearranged(file.getvalue(), rng) + trailing(rng)


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _jpeg_rearranged(data: bytes, rng: random.Random) -> bytes:
    at, segments = 2, []
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        segments.append(data[at:end])
        at = end
    if rng.random() < 0.15 and segments[0][1] == 0xE0:
        del segments[0]
    known = [
        _segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0"),
        _segment(0xE1, _XMP_HEADER + XMP.format("bare").encode()),
        _segment(0xE1, _XMP_HEADER + _whole_packet("whole")),
        _segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + rng.randbytes(60)),
        _segment(0xE5, rng.randbytes(rng.randrange(200))),
        _segment(0xE1, b"Exif\0\0" + _exif()),
        _segment(0xFE, b"a second comment"),
        _segment(0xE2, b"FPXR\0" + rng.randbytes(20)),
        _segment(0xE0, b"JFXX\0\x10"),
    ]
    for extra in rng.sample(known, rng.choice([0, 0, 1, 2, 4])):
        segments.insert(rng.randrange(len(segments) + 1), extra)
    if rng.random() < 0.2:
        # Any marker may be preceded by fill bytes.
        filled = rng.randrange(len(segments))
        segments[filled] = b"\xff" * rng.randint(1, 3) + segments[filled]
    return data[:2] + b"".join(segments) + data[at:]


def _whole_packet(title: str) -> bytes:
    start = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    return (start + XMP.format(title) + " " * 40 + '\n<?xpacket end="w"?>').encode()


def webp(rng: random.Random) -> bytes:
    """Return a WebP: lossy, lossless, with alpha or animated, with chunks of other programs."""
    options: dict[str, Any] = {
        "lossless": rng.random() < 0.5,
        "quality": rng.choice([5, 60, 90]),
        "method": 0,
        "exif": _exif() if rng.random() < 0.25 else b"",
        "icc_profile": _icc() if rng.random() < 0.2 else None,
        "xmp": _whole_packet("webp") if rng.random() < 0.2 else b"",
    }
    mode = rng.choice(["RGB", "RGBA"])
    picture = _picture(mode, rng)
    if rng.random() < 0.3:
        frames = [_picture(mode, rng).resize(picture.size) for _ in range(rng.randint(1, 3))]
        options |= {"save_all": True, "append_images": frames, "duration": 40, "loop": 0}
    file = io.BytesIO()
    picture.save(file, "WEBP", **options)
    return _webp_rearranged(file.getvalue(), rng) + trailing(rng)


def riff_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one RIFF chunk with its pad byte."""
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _webp_rearranged(data: bytes, rng: random.Random) -> bytes:
    body = data[12:]
    if body[:4] != b"VP8X" and rng.random() < 0.3:
        with Image.open(io.BytesIO(data)) as picture:
            width, height, has_alpha = *picture.size, picture.mode == "RGBA"
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = riff_chunk(b"VP8X", bytes([0x10 * has_alpha, 0, 0, 0]) + canvas) + body
    if body[:4] == b"VP8X":
        for _ in range(rng.choice([0, 0, 1, 2])):
            body += riff_chunk(rng.choice([b"prVt", b"ZZZZ"]), rng.randbytes(rng.randrange(30)))
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
