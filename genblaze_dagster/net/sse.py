"""Server-sent events: the `data` of each event of a stream, whatever its chunks.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import codecs
from collections.abc import AsyncIterator

from genblaze_dagster.errors import OutputError

_MAX_EVENT_CHARS = 16 * 1024 * 1024


async def event_data(chunks: AsyncIterator[bytes], *, provider: str) -> AsyncIterator[str]:
    """Yield the data of every event; comments, names and ids are left out.

    Raises:
        OutputError: an event is larger than 16 MiB.
    """
    data: list[str] = []
    size = 0
    async for line in _lines(chunks, provider):
        if not line:
            if data:
                yield "\n".join(data)
            data, size = [], 0
            continue
        name, _, value = line.partition(":")
        if name == "data":
            size += len(value)
            _check_size(size, provider)
            data.append(value.removeprefix(" "))
    if data:
        # The standard drops an event that no blank line ends; vendors forget the last one.
        yield "\n".join(data)


async def _lines(chunks: AsyncIterator[bytes], provider: str) -> AsyncIterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    async for chunk in chunks:
        rest += decoder.decode(chunk)
        # A CR at the end may be half of a CRLF: it waits for what follows.
        kept = "\r" if rest.endswith("\r") else ""
        # Not splitlines(), which also breaks at characters that stand inside JSON texts.
        *lines, rest = rest.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        rest += kept
        _check_size(len(rest), provider)
        for line in lines:
            yield line
    if rest:
        yield rest.rstrip("\r")


def _check_size(chars: int, provider: str) -> None:
    if chars > _MAX_EVENT_CHARS:
        raise OutputError(
            f"{provider}: an event of the stream is larger than {_MAX_EVENT_CHARS} characters",
            provider=provider,
        )
