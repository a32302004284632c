"""An S3 server in this process that checks what it gets and misbehaves on request.

It compares `x-amz-content-sha256` with the body, as every SigV4 service must. A rule sees each
request first and may answer it; the rest behaves like a small S3.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

DATE = "Fri, 20 Nov 2026 10:00:00 GMT"


@dataclass
class Request:
    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def is_object_write(self) -> bool:
        return self.method == "PUT" and "x-amz-copy-source" not in self.headers


@dataclass
class Answer:
    status: int
    code: str = ""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Rule = Callable[[Request], Answer | None]


class FaultServer:
    """`objects` maps keys to content and headers; `requests` is everything that was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.upload_headers: dict[str, dict[str, str]] = {}
        self.requests: list[Request] = []
        self.rule: Rule = lambda _: None
        self.supports_create_only = True
        self.url = ""

    def visible_keys(self) -> list[str]:
        return sorted(key for key in list(self.objects) if "/.probe/" not in f"/{key}")

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        if (answer := self.rule(request)) is not None:
            return answer
        signed = request.headers.get("x-amz-content-sha256", "")
        is_hash = re.fullmatch("[0-9a-f]{64}", signed) is not None
        if is_hash and hashlib.sha256(request.body).hexdigest() != signed:
            return Answer(400, "XAmzContentSHA256Mismatch")
        return getattr(self, f"_{request.method.lower()}")(request)

    def _put(self, request: Request) -> Answer:
        if source := request.headers.get("x-amz-copy-source"):
            name = unquote(source).partition("/")[2]
            self.objects[request.key] = self.objects[name]
            return Answer(200, body=b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>")
        if "partNumber" in request.query:
            self.uploads[request.query["uploadId"]][int(request.query["partNumber"])] = request.body
            return Answer(200, headers={"ETag": '"p"'})
        create_only = request.headers.get("if-none-match") == "*" and self.supports_create_only
        if create_only and request.key in self.objects:
            return Answer(412, "PreconditionFailed")
        self._keep(request, request.body)
        return Answer(200, headers={"ETag": '"x"'})

    def _post(self, request: Request) -> Answer:
        if "uploads" in request.query:
            upload = f"u{len(self.upload_headers)}"
            self.uploads[upload] = {}
            self.upload_headers[upload] = request.headers
            body = f"<R><Bucket>b</Bucket><Key>k</Key><UploadId>{upload}</UploadId></R>"
            body = body.replace("R>", "InitiateMultipartUploadResult>")
            return Answer(200, body=body.encode())
        parts = self.uploads.pop(request.query["uploadId"])
        request.headers = self.upload_headers[request.query["uploadId"]]
        self._keep(request, b"".join(parts[number] for number in sorted(parts)))
        body = (
            b"<CompleteMultipartUploadResult><Location>l</Location><Bucket>b</Bucket>"
            b"<Key>k</Key><ETag>x</ETag></CompleteMultipartUploadResult>"
        )
        return Answer(200, body=body)

    def _keep(self, request: Request, body: bytes) -> None:
        kept = ("content-type", "cache-control")
        self.objects[request.key] = (
            body,
            {name: request.headers[name] for name in kept if name in request.headers},
        )

    def _get(self, request: Request) -> Answer:
        if "list-type" in request.query:
            prefix = request.query.get("prefix", "")
            found = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(body)}</Size><ETag>x</ETag>"
                "<LastModified>2026-11-20T10:00:00.000Z</LastModified></Contents>"
                for key, (body, _) in sorted(self.objects.items())
                if key.startswith(prefix)
            )
            return Answer(200, body=f"<ListBucketResult>{found}</ListBucketResult>".encode())
        if request.key not in self.objects:
            return Answer(404, "NoSuchKey")
        body, headers = self.objects[request.key]
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            first, last = int(wanted[1]), min(int(wanted[2]), len(body) - 1)
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
            part = body[first : last + 1]
            return Answer(206, body=part, headers={"Last-Modified": DATE, "ETag": '"x"', **headers})
        return Answer(200, body=body, headers={"Last-Modified": DATE, "ETag": '"x"', **headers})

    def _head(self, request: Request) -> Answer:
        return self._get(request)

    def _delete(self, request: Request) -> Answer:
        if "uploadId" in request.query:
            self.uploads.pop(request.query["uploadId"], None)
        else:
            self.objects.pop(request.key, None)
        return Answer(204)


@contextmanager
def fault_server() -> Iterator[FaultServer]:
    faults = FaultServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            parts = urlsplit(self.path)
            request = Request(
                method=self.command,
                key=unquote(parts.path).lstrip("/").partition("/")[2],
                query={k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()},
                headers={name.lower(): value for name, value in self.headers.items()},
                body=self.rfile.read(length),
            )
            answer = faults.answer(request)
            body = answer.body
            if answer.code:
                body = (
                    f"<Error><Code>{answer.code}</Code><Message>m</Message>"
                    "<AWSAccessKeyId>AKIAQUOTED</AWSAccessKeyId></Error>"
                ).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients of these tests break connections on purpose."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    faults.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
