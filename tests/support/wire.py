"""Replay of the wire vectors: a loopback server that answers as a vendor did, and the comparison.

An adapter is called with `WireServer.client()`. Its requests, whatever host they name, travel over
a real socket to the server, which records them and gives the scenario's answers in order.
"""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx

from genblaze_dagster.core.models import Asset
from genblaze_dagster.providers.protocol import InputMedia

API_KEY = "sk-wire-0123456789abcdef0123456789"

_ORIGIN = "x-wire-origin"
_ERROR = "x-wire-error"
_CREDENTIAL_HEADERS = ("authorization", "cookie", "x-api-key", "xi-api-key", "x-goog-api-key")
_URL_SAFE = str.maketrans("-_", "+/")


@dataclass(frozen=True, slots=True)
class Scenario:
    """One file of the vectors."""

    name: str
    provider: str
    expect: Mapping[str, Any]
    exchanges: list[Mapping[str, Any]]
    downloads: list[Mapping[str, Any]] = field(default_factory=list)
    """Fetches of the output URLs, which vendors' clients leave to their users."""

    @classmethod
    def load(cls, path: Path) -> "Scenario":
        """Read a scenario file."""
        data = json.loads(path.read_text())
        return cls(
            data["scenario"],
            data["provider"],
            data.get("expect", {}),
            data["exchanges"],
            data.get("downloads", []),
        )


def scenarios(vectors: Path, provider: str, pattern: str = "*") -> list[Scenario]:
    """Return a provider's scenarios whose file names match, sorted."""
    paths = sorted((vectors / "wire" / provider).glob(f"{pattern}.json"))
    return [Scenario.load(path) for path in paths]


def scenario_names(provider: str, pattern: str = "*") -> list[str]:
    """Return the file names of a provider's scenarios, for parametrizing; from the copy in here."""
    folder = Path(__file__).parents[1] / "data" / "vectors" / "wire" / provider
    return sorted(path.stem for path in folder.glob(f"{pattern}.json"))


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body."""

    file_name: str | None
    content_type: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived; header names in lower case, `url` with its original host."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def parts(self) -> dict[str, list[Part]]:
        """Parse a multipart body: part name to parts, in order."""
        return _multipart(self.headers.get("content-type", ""), self.body)


@dataclass
class WireServer:
    """A running replay: where it listens, and what it has received so far."""

    port: int
    received: list[Received] = field(default_factory=list)

    def client(self) -> httpx.AsyncClient:
        """Return a client whose requests all go to this server; close it after use."""
        return httpx.AsyncClient(transport=_Reroute(self.port), timeout=60.0)


@contextmanager
def replay(scenario: Scenario) -> Iterator[WireServer]:
    """Serve a scenario's answers in order; one more request than it has is answered 599."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            received = _read(self)
            with lock:
                wire.received.append(received)
                position = len(wire.received) - 1
            known = position < len(scenario.exchanges)
            answer = scenario.exchanges[position]["response"] if known else {"status": 599}
            self.close_connection = True
            _write(self, answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = False

    server = Server(("127.0.0.1", 0), Handler)
    wire = WireServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield wire
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def differences(
    expected: Mapping[str, Any], actual: Received, *, api_key: str = API_KEY, provider: str = ""
) -> list[str]:
    """Return how a request differs from the captured one, by the rules of the vectors' README."""
    found = []
    if expected["method"] != actual.method:
        found.append(f"method {actual.method}, expected {expected['method']}")
    if _url(expected["url"]) != _url(actual.url):
        found.append(f"url {actual.url}, expected {expected['url']}")
    has_body = any(key in expected for key in ("json", "multipart", "form", "body_base64"))
    found += _header_differences(expected["headers"], actual, api_key, has_body)
    if "json" in expected:
        given = json.loads(actual.body)
        if not _equal(_keys(expected["json"], provider), _keys(given, provider)):
            found.append(f"json {given}, expected {expected['json']}")
    elif "multipart" in expected:
        found += _part_differences(expected["multipart"], actual.parts())
    elif "form" in expected:
        if parse_qs(actual.body.decode()) != _form(expected["form"]):
            found.append(f"form {actual.body!r}, expected {expected['form']}")
    elif base64.b64decode(expected.get("body_base64", "")) != actual.body:
        found.append(f"body of {len(actual.body)} bytes is not the captured one")
    return found


def input_media(
    data: bytes,
    media_type: str,
    *,
    url: str = "https://example.com/in.png",
    public_url: str | None = None,
    **facts: Any,
) -> InputMedia:
    """Return an input whose bytes are in memory; `facts` are fields of its Asset."""

    async def read() -> bytes:
        return data

    async def stream() -> Any:
        yield data

    asset = Asset(url=url, media_type=media_type, **{"size_bytes": len(data), **facts})
    return InputMedia(asset=asset, read=read, stream=stream, public_url=lambda: public_url)


class _Reroute(httpx.AsyncBaseTransport):
    def __init__(self, port: int) -> None:
        self._port = port
        self._inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        origin = f"{request.url.scheme}://{request.url.netloc.decode()}"
        request.headers[_ORIGIN] = origin
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        response = await self._inner.handle_async_request(request)
        error = response.headers.get(_ERROR)
        if error is not None:
            await response.aclose()
            raise getattr(httpx, error)("played back", request=request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def _read(handler: BaseHTTPRequestHandler) -> Received:
    headers = {name.lower(): value for name, value in handler.headers.items()}
    origin = headers.pop(_ORIGIN, "")
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(_chunks(handler))
    else:
        body = handler.rfile.read(int(headers.get("content-length", 0)))
    return Received(handler.command, origin + handler.path, headers, body)


def _chunks(handler: BaseHTTPRequestHandler) -> Iterator[bytes]:
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        yield handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()


def _write(handler: BaseHTTPRequestHandler, answer: Mapping[str, Any]) -> None:
    if "json" in answer:
        body = json.dumps(answer["json"]).encode()
    elif "body_text" in answer:
        body = answer["body_text"].encode()
    else:
        body = base64.b64decode(answer.get("body_base64", ""))
    handler.send_response(answer.get("status", 599))
    if "transport_error" in answer:
        handler.send_header(_ERROR, answer["transport_error"])
    for name, value in answer.get("headers", {}).items():
        if name.lower() not in ("content-length", "transfer-encoding", "connection"):
            handler.send_header(name, value)
    handler.send_header("content-length", str(len(body)))
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.wfile.write(body)


def _url(url: str) -> tuple[str, str, str, tuple[tuple[str, str], ...]]:
    parts = urlsplit(url)
    query = sorted(parse_qsl(parts.query, keep_blank_values=True))
    return parts.scheme, parts.netloc, parts.path, tuple(query)


def _header_differences(
    expected: Mapping[str, str], actual: Received, api_key: str, has_body: bool
) -> list[str]:
    found = []
    for name, template in expected.items():
        if (name == "accept" and template == "*/*") or (name == "content-type" and not has_body):
            continue
        value = template.replace("{{API_KEY}}", api_key)
        given = actual.headers.get(name)
        if name == "content-type" and given is not None:
            value, given = value.partition(";")[0], given.partition(";")[0]
        if value != given:
            found.append(f"header {name} differs")
    surplus = [
        name for name in _CREDENTIAL_HEADERS if name in actual.headers and name not in expected
    ]
    return found + [f"header {name} must not be sent" for name in surplus]


def _equal(expected: Any, actual: Any) -> bool:
    if isinstance(expected, dict) and isinstance(actual, dict):
        return expected.keys() == actual.keys() and all(
            _equal(value, actual[key]) for key, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(actual, list):
        return len(expected) == len(actual) and all(map(_equal, expected, actual))
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    if isinstance(expected, str) and isinstance(actual, str) and expected != actual:
        return len(expected) >= 16 and _base64(expected) == _base64(actual)
    return expected == actual


def _base64(text: str) -> str:
    return text.translate(_URL_SAFE).rstrip("=")


def _keys(value: Any, provider: str) -> Any:
    """Google spells one field `inlineData` or `inline_data`; others mean what they write."""
    if provider != "google":
        return value
    if isinstance(value, dict):
        return {_snake(key): _keys(child, provider) for key, child in value.items()}
    return [_keys(child, provider) for child in value] if isinstance(value, list) else value


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)


def _form(fields: Any) -> dict[str, list[str]]:
    pairs = fields.items() if isinstance(fields, dict) else fields
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).extend(map(str, value if isinstance(value, list) else [value]))
    return grouped


def _part_differences(
    expected: list[Mapping[str, Any]], actual: Mapping[str, list[Part]]
) -> list[str]:
    wanted: dict[str, list[Part]] = {}
    for item in expected:
        body = (
            base64.b64decode(item["body_base64"])
            if "body_base64" in item
            else str(item["value"]).encode()
        )
        part = Part(item.get("filename"), item.get("content_type"), body)
        wanted.setdefault(item["name"], []).append(part)
    found = [f"part {name} is missing" for name in wanted.keys() - actual.keys()]
    found += [f"part {name} must not be sent" for name in actual.keys() - wanted.keys()]
    found += [
        f"part {name} differs"
        for name in wanted.keys() & actual.keys()
        if wanted[name] != actual[name]
    ]
    return found


def _multipart(content_type: str, body: bytes) -> dict[str, list[Part]]:
    boundary = _parameters(content_type, "content-type").get("boundary", "")
    parts: dict[str, list[Part]] = {}
    for raw in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, content = raw.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.decode().split("\r\n"))
        }
        named = _parameters(headers["content-disposition"], "content-disposition")
        part = Part(named.get("filename"), headers.get("content-type"), content)
        parts.setdefault(named["name"], []).append(part)
    return parts


def _parameters(value: str, header: str) -> dict[str, str]:
    message = Message()
    message[header] = value
    return dict(message.get_params(failobj=[], header=header))
