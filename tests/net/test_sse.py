import asyncio
from collections.abc import AsyncIterator

import pytest

from genblaze_dagster.errors import OutputError
from genblaze_dagster.net.sse import event_data


def events(*chunks: bytes) -> list[str]:
    async def source() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def main() -> list[str]:
        return [data async for data in event_data(source(), provider="vendor")]

    return asyncio.run(main())


STREAM = (
    'data: {"a": "ä\u2028b"}\r\n\r\n: a comment\n\nevent: x\ndata:one\ndata: two\n\ndata: [DONE]'
)
WANTED = ['{"a": "ä\u2028b"}', "one\ntwo", "[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_stream_is_cut(size: int) -> None:
    """Cuts inside characters and line ends change nothing; comments and names are left out."""
    raw = STREAM.encode()
    assert events(*(raw[i : i + size] for i in range(0, len(raw), size))) == WANTED


def test_lone_carriage_returns_end_lines() -> None:
    """A CR alone is a line end, as the standard says."""
    assert events(b"data: 1\r\rdata: 2\r\r") == ["1", "2"]


def test_an_endless_event_is_refused() -> None:
    """A line without an end does not fill the memory."""
    with pytest.raises(OutputError, match="larger than"):
        events(b"data: ", *([b"x" * 1024 * 1024] * 20))
