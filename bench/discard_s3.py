"""An S3 endpoint that counts bytes and throws them away, so that a benchmark measures the client.

It speaks what uploads need: PUT (with If-None-Match), multipart, CopyObject, HEAD, GET of small
objects, DELETE and an empty listing. Sizes are checked; signatures are not. Run it as a process:

    python bench/discard_s3.py PORT
"""

import asyncio
import re
import sys
from urllib.parse import parse_qs, unquote, urlsplit

KEPT_BYTES = 1024
BUFFER_BYTES = 1024 * 1024
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]+)[^\r\n]*\r\n")


class Objects:
    """What is stored: sizes, and the content of tiny objects."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.content: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, int]] = {}
        self.requests = 0

    def keep(self, key: str, size: int, body: bytes) -> None:
        self.sizes[key] = size
        self.content[key] = body if size <= KEPT_BYTES else b""


class Connection(asyncio.BufferedProtocol):
    """One keep-alive connection; bodies are received into one buffer and only counted."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self.buffer = bytearray(BUFFER_BYTES)
        self.head = bytearray()
        self.remaining: int | None = None
        self.chunked = False
        self.tail = bytearray()
        self.kept = bytearray()
        self.size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.remaining is not None and not self.chunked and nbytes < self.remaining:
            self._count(nbytes, memoryview(self.buffer)[:nbytes])
            self.remaining -= nbytes
            return
        self._feed(bytes(memoryview(self.buffer)[:nbytes]))

    def _feed(self, data: bytes) -> None:
        while data:
            if self.remaining is None and not self.chunked:
                data = self._feed_head(data)
            elif self.chunked:
                data = self._feed_chunks(data)
            else:
                data = self._feed_body(data)

    def _feed_head(self, data: bytes) -> bytes:
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return b""
        rest = bytes(self.head[end + 4 :])
        lines = bytes(self.head[:end]).decode("latin-1").split("\r\n")
        self.head.clear()
        self.method, target, _ = lines[0].split(" ", 2)
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        parts = urlsplit(target)
        self.key = unquote(parts.path).lstrip("/")
        self.query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        self.size = 0
        self.kept.clear()
        if self.headers.get("expect", "").lower() == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.chunked = self.headers.get("transfer-encoding", "").lower() == "chunked"
        self.tail.clear()
        if not self.chunked:
            self.remaining = int(self.headers.get("content-length", 0))
            if self.remaining == 0:
                self._finish()
        return rest

    def _feed_body(self, data: bytes) -> bytes:
        taken = min(self.remaining or 0, len(data))
        self._count(taken, memoryview(data)[:taken])
        self.remaining = (self.remaining or 0) - taken
        if self.remaining == 0:
            self._finish()
        return data[taken:]

    def _feed_chunks(self, data: bytes) -> bytes:
        self.tail += data
        while True:
            match = _CHUNK_SIZE.match(self.tail)
            if match is None:
                return b""
            size = int(match[1], 16)
            end = match.end() + size + 2
            if len(self.tail) < end:
                return b""
            self._count(size, memoryview(bytes(self.tail[match.end() : match.end() + size])))
            del self.tail[:end]
            if size == 0:
                rest = bytes(self.tail)
                self.chunked = False
                self._finish()
                return rest

    def _count(self, size: int, data: memoryview) -> None:
        self.size += size
        if len(self.kept) < KEPT_BYTES:
            self.kept += data[: KEPT_BYTES - len(self.kept)]

    def _finish(self) -> None:
        self.remaining = None
        self.chunked = False
        self.objects.requests += 1
        status, headers, body = self._answer()
        lines = [f"HTTP/1.1 {status}", 'ETag: "0"', f"Content-Length: {len(body)}", *headers]
        if self.method == "HEAD":
            lines = [line for line in lines if headers == [] or line != "Content-Length: 0"]
            body = b""
        self.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)

    def _answer(self) -> tuple[str, list[str], bytes]:
        handler = getattr(self, f"_{self.method.lower()}")
        return handler()

    def _put(self) -> tuple[str, list[str], bytes]:
        size = int(self.headers.get("x-amz-decoded-content-length", self.size))
        if "partNumber" in self.query:
            number = int(self.query["partNumber"])
            self.objects.parts[self.query["uploadId"]][number] = size
            return "200 OK", [], b""
        if source := self.headers.get("x-amz-copy-source"):
            name = unquote(source).lstrip("/")
            self.objects.keep(
                self.key, self.objects.sizes[name], self.objects.content.get(name, b"")
            )
            body = b"<CopyObjectResult><ETag>0</ETag></CopyObjectResult>"
            return "200 OK", [], body
        if self.headers.get("if-none-match") == "*" and self.key in self.objects.sizes:
            return "412 Precondition Failed", [], b""
        self.objects.keep(self.key, size, bytes(self.kept))
        return "200 OK", [], b""

    def _post(self) -> tuple[str, list[str], bytes]:
        if "uploads" in self.query:
            upload = f"u{len(self.objects.parts)}"
            self.objects.parts[upload] = {}
            body = (
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
            return "200 OK", [], body.encode()
        sizes = self.objects.parts.pop(self.query["uploadId"])
        self.objects.keep(self.key, sum(sizes.values()), b"")
        body = (
            "<CompleteMultipartUploadResult><Location>l</Location><Bucket>b</Bucket><Key>k</Key>"
            '<ETag>"0"</ETag></CompleteMultipartUploadResult>'
        )
        return "200 OK", [], body.encode()

    def _head(self) -> tuple[str, list[str], bytes]:
        if "/" not in self.key:
            return "200 OK", [], b""
        size = self.objects.sizes.get(self.key)
        if size is None:
            return "404 Not Found", [], b""
        return "200 OK", [f"Content-Length: {size}", *_DATES], b""

    def _get(self) -> tuple[str, list[str], bytes]:
        if "/" not in self.key.rstrip("/"):
            if "total" in self.query:
                folder = f"{self.key}/{self.query['total']}"
                mine = [v for k, v in self.objects.sizes.items() if k.startswith(folder)]
                return "200 OK", [], f"{len(mine)} {sum(mine)} {self.objects.requests}".encode()
            return "200 OK", [], b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
        if self.key not in self.objects.sizes:
            return "404 Not Found", [], b"<Error><Code>NoSuchKey</Code></Error>"
        return "200 OK", _DATES, self.objects.content.get(self.key, b"")

    def _delete(self) -> tuple[str, list[str], bytes]:
        if "uploadId" in self.query:
            self.objects.parts.pop(self.query["uploadId"], None)
        self.objects.sizes.pop(self.key, None)
        return "204 No Content", [], b""


_DATES = ["Last-Modified: Fri, 20 Nov 2026 10:00:00 GMT"]


async def serve(port: int) -> None:
    objects = Objects()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(objects), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
