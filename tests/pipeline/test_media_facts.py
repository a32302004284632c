import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from genblaze_dagster.pipeline.media_facts import sniffed
from tests.support.providers import png

PNG = png("x")


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_a_type_is_proven_however_small_the_pieces_are(size: int) -> None:
    """A download may begin with a single byte; none of it is lost by looking at it."""

    async def body() -> tuple[str, bytes]:
        media_type, whole = await sniffed(_pieces(PNG, size), said="text/html")
        assert not isinstance(whole, bytes | Path)
        return media_type, b"".join([piece async for piece in whole])

    assert asyncio.run(body()) == ("image/png", PNG)


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "bytes"])
def test_media_at_hand_is_looked_at_where_it_is(is_file: bool, tmp_path: Path) -> None:
    """Bytes and files are given back as they are."""
    source: bytes | Path = PNG
    if is_file:
        source = tmp_path / "picture"
        source.write_bytes(PNG)
    assert asyncio.run(sniffed(source)) == ("image/png", source)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("text/plain; charset=utf-8", "text/plain"),
        (None, "application/octet-stream"),
        (" ", "application/octet-stream"),
    ],
    ids=["said", "silent", "blank"],
)
def test_bytes_that_prove_nothing_are_what_they_were_said_to_be(
    said: str | None, expected: str
) -> None:
    """The Content-Type counts last, without its parameters."""
    assert asyncio.run(sniffed(b"hello", said=said))[0] == expected
    assert asyncio.run(sniffed(_pieces(b"", 1), said=said))[0] == expected
