"""Damages files as disks, networks and attackers do."""

import random
from collections.abc import Callable, Iterator, Sequence

EXTREME_SIZES = (
    b"\0\0\0\0",
    b"\0\0\0\x01",
    b"\x01\0\0\0",
    b"\0\0\0\x08",
    b"\x08\0\0\0",
    b"\0\0\0\x10",
    b"\0\x01\0\0",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xf8",
)
MARKERS = (
    b"IEND",
    b"iTXt",
    b"genblaze:manifest\0\0\0\0\0{}",
    b"\xff\xd9",
    b"\xff\xe1\x00\x40http://ns.adobe.com/xap/1.0/\0",
    b"<x:xmpmeta",
    b"<mf:manifest>",
    b"</mf:manifest>",
    b'<?xpacket end="w"?>',
    b"VP8X\x0a\0\0\0",
    b"XMP \x04\0\0\0",
    b"RIFF",
    b"LIST\x04\0\0\0INFO",
    b"IMFL\x02\0\0\0{}",
    b"data\xff\xff\xff\xff",
    b"\0\0\0\x1auuidmodalflow\0\0\0\0\0\0\x01{}",
    b"\0\0\0\x20freemodalflow\0\0\0\0\0\0\x01leftover",
    b"\0\0\0\0freemodalflow\0\0\0\0\0\0\x01",
    b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x10",
    b"\0\0\0\0mdat",
    b"moov",
    b"----",
    b"ID3\4\0\0\0\0\0\x20",
    b"ID3\3\0\x80\0\0\x10\0",
    b"TXXX\0\0\0\x15\0\0\3genblaze:manifest\0{}\0",
    b"\x14\0\0\0GENBLAZE_MANIFEST={}",
    b"\x84\0\0\x08\0\0\0\0\0\0\0\0",
)
KEPT = 16
"""Bytes at the start that mostly stay, so that the file is still taken for what it was."""


def damaged(files: Sequence[bytes], rounds: int, seed: int) -> Iterator[bytes]:
    """Yield `rounds` damaged copies of the files, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    for _ in range(rounds):
        kept = KEPT if rng.random() < 0.9 else 0
        yield _damage(rng.choice(files), rng.choice(files), kept, rng)


def _damage(data: bytes, other: bytes, kept: int, rng: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = kept + int(rng.random() * max(1, len(broken) - kept))
        rng.choice(_DAMAGES)(broken, at, other, rng)
    return bytes(broken)


def _cut_off(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    if rng.random() < 0.3:
        del broken[at:]


def _change_bit(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    if at < len(broken):
        broken[at] ^= 1 << rng.randrange(8)


def _change_byte(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    broken[at : at + 1] = rng.randbytes(1)


def _change_size(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    broken[at : at + 4] = rng.choice(EXTREME_SIZES)


def _nudge_number(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    number = int.from_bytes(broken[at : at + 4]) + rng.choice((-256, -8, -2, -1, 1, 2, 8, 256))
    broken[at : at + 4] = (number & 0xFFFFFFFF).to_bytes(4)


def _insert_noise(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    broken[at:at] = rng.randbytes(rng.randint(1, 40))


def _insert_marker(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    broken[at : at + rng.choice((0, 0, 8))] = rng.choice(MARKERS)


def _remove(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    del broken[at : at + rng.randint(1, 40)]


def _append(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    broken += rng.choice((broken[at : at + 200], rng.choice(MARKERS), b"\0" * rng.randint(1, 9)))


def _transplant(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    start = rng.randrange(len(other) or 1)
    broken[at : at + rng.choice((0, 40, len(broken)))] = other[
        start : start + rng.choice((64, 4096))
    ]


def _move(broken: bytearray, at: int, other: bytes, rng: random.Random) -> None:
    taken = bytes(broken[at : at + rng.randint(4, 200)])
    if rng.random() < 0.5:
        del broken[at : at + len(taken)]
    to = rng.randrange(KEPT, max(KEPT, len(broken)) + 1)
    broken[to:to] = taken


_DAMAGES: tuple[Callable[[bytearray, int, bytes, random.Random], None], ...] = (
    _cut_off,
    _change_bit,
    _change_byte,
    _change_size,
    _nudge_number,
    _insert_noise,
    _insert_marker,
    _remove,
    _append,
    _transplant,
    _move,
)
