"""Films for transfers: real boxes, any size, content that differs from piece to piece."""

import asyncio
import struct
from collections.abc import AsyncIterator

KIB = 1024
FTYP = struct.pack(">I4s4sI8s", 24, b"ftyp", b"isom", 0, b"isommp42")


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body) + 8, kind) + body


def film(size: int, seed: int = 1) -> bytes:
    """Return an MP4 of `size` bytes; nothing plays it, its boxes end where it ends."""
    block = bytes((seed * 31 + n * 7) % 256 for n in range(4093))
    body = size - len(FTYP) - 8
    return FTYP + box(b"mdat", (block * (body // len(block) + 1))[:body])


def endless_film(size: int) -> bytes:
    """Return an MP4 whose last box reaches to the end of the file, so that nothing may follow."""
    whole = film(size)
    return whole[: len(FTYP)] + bytes(4) + whole[len(FTYP) + 4 :]


async def pieces(data: bytes, size: int = 256 * KIB) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def stalling(data: bytes, reached: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield the data and never end."""
    async for piece in pieces(data):
        yield piece
    reached.set()
    await asyncio.sleep(60)
