"""Damages files as disks, networks and attackers do."""

import random
from collections.abc import Iterator

EXTREME_SIZES = (
    b"\0\0\0\0",
    b"\0\0\0\x01",
    b"\0\0\0\x08",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
)


def damaged(files: list[bytes], rounds: int, seed: int) -> Iterator[bytes]:
    """Yield `rounds` damaged copies of the files, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    for _ in range(rounds):
        yield _damage(rng.choice(files), rng)


def _damage(data: bytes, rng: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        kind, at = rng.randrange(6), rng.randrange(len(broken) or 1)
        if kind == 0 and rng.random() < 0.3:
            del broken[at:]
        elif kind == 1:
            broken[at : at + 1] = rng.randbytes(1)
        elif kind == 2:
            broken[at : at + 4] = rng.choice(EXTREME_SIZES)
        elif kind == 3:
            broken[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 4:
            del broken[at : at + rng.randint(1, 40)]
        else:
            broken += broken[at : at + 200]
    return bytes(broken)
