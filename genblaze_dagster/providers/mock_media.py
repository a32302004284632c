"""Small files that are what they claim to be, for mocks: a store, a probe and a player accept them."""

import base64
import hashlib
import struct
import zlib

_PNG_SIDE = 8
# MPEG-1 layer III, 128 kbit/s, 44.1 kHz, mono; the side information says: silence.
_MP3_HEADER = bytes((0xFF, 0xFB, 0x90, 0xC4)) + bytes(17)
_MP3_FRAME_BYTES = 417
_MP3_FRAMES = 40
# Two frames of H.264, 32x32, one second; zlib in base 85.
_MP4 = (
    b"c-nnZy-UMD6n~d0h&oBZ4iO@B6;yN*A;qOGZt5aP+Pj+2ToaOOK$nU*=;SVf|A4!=DY%HUh?|0gTg49$w8nR7N@M(Z"
    b"<lXP?z2AE;@7@7`RuSv2<vSce0g0%SMo^yM?$iVT^i@2@5Oq!sftX`E+b|T~hrPF-FEh*gjrZorJ2Mv=(pT6Y&26n-"
    b"UwsU3Tr{3*XUC7N=YiM5P0ano9VbAJ%>$FdH_1FiN<e;HA>Uc)vkw1?f?q*+Miuufq8ioA{LCh6|6k|Vx>~FNc}9hg"
    b"s509Z-H14E6iZGxwG0`-X}Whk(#7-WFlJKQ>v#f-vLtf}&rZ>(QJYB)q1>ufaFY#qlr;I9dD`}=)MJ%I8-"
    b"sPv*4lfL_eIIZ{gE$xn&2GB;s0?JvS|&9h{Zn{X~~5luJTFE5eog`9SpA_9^K5Fx*UmINalQ(Z4&4)n|qh7w>KG=Ee"
    b"S8aP;%PI<%{UDJC&7q3R&zSX_u;^t(>wcF-rbM>{DYq+R9FXKaM(Er$P>HnzIO{j3$SKgY^v8wUZ6^S@;sZ09w(2bp"
)


def file_of(media_type: str, identity: str) -> bytes:
    """Return a file of a media type (image, audio, video, else text) that depends on a text.

    A PNG, a second of silent MP3 or a second of MP4: the other types of a family get these too.
    """
    family = media_type.partition("/")[0]
    if family == "image":
        return _png(identity)
    if family == "audio":
        return _mp3(identity)
    if family == "video":
        return _mp4(identity)
    return f"mock {_digest(identity).hex()}".encode()


def _digest(identity: str) -> bytes:
    return hashlib.sha256(identity.encode(errors="surrogatepass")).digest()


def _png(identity: str) -> bytes:
    pixels = _digest(identity) * 6
    width = _PNG_SIDE * 3
    rows = b"".join(b"\0" + pixels[y * width : (y + 1) * width] for y in range(_PNG_SIDE))
    header = struct.pack(">IIBBBBB", _PNG_SIDE, _PNG_SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _mp3(identity: str) -> bytes:
    # Behind the side information of a silent frame any bytes may stand.
    frame = (_MP3_HEADER + _digest(identity)).ljust(_MP3_FRAME_BYTES, b"\0")
    return frame * _MP3_FRAMES


def _mp4(identity: str) -> bytes:
    digest = _digest(identity)
    free = struct.pack(">I", 8 + len(digest)) + b"free" + digest
    return zlib.decompress(base64.b85decode(_MP4)) + free
