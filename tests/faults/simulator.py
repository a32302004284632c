"""An HTTP server that misbehaves to order: the half that vendor and object store have in common.

A simulator serves many worlds at once, `/<world>/...`, each with faults of its own. A fault names
the kind of request it meets, what happens to it and how often. A held request is parked until it is
released, and whoever asks is told, so that a process can be killed exactly there.

    POST /_control/<world>            JSON settings: makes the world, or replaces its settings
    POST /_control/<world>/faults     JSON list of faults, in place of those that are left
    POST /_control/<world>/release    {"go": bool}: held requests go on, or are dropped
    GET  /_control/<world>/held?wait= kinds of request that are parked; waits for the first
    GET  /_control/<world>            what the simulator knows of the world
"""

import asyncio
import json
import signal
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

_MAX_BODY = 64 * 1024 * 1024
_LONGEST_HOLD = 120.0
CONTROL = "_control"


@dataclass
class Request:
    """One request; header names in lower case, `path` without the world."""

    method: str
    world: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass
class Response:
    """One answer. `length` is what Content-Length says when that is not the truth."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> "Response":
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls(status, json.dumps(value).encode(), {"content-type": "application/json"} | named)


@dataclass
class Fault:
    """What happens to the next `times` requests of a kind, after `skip` that are spared.

    `what` is one of

    * `hold-before`, `hold-after`, `hold-middle`: parked before it is looked at, before it is
      answered, or with half of the answer sent;
    * `drop-before`, `drop-after`, `reset-middle`: the connection is reset there; `reset-body`: with
      half of the request's body read;
    * `status-before:503`, `status-after:503`: answered so, without or after doing it;
    * `slow:0.2`: done and answered after so many seconds;
    * `twice`: the answer is on the wire two times;
    * anything else is up to the simulator, which sees it while it makes the answer.
    """

    at: str
    what: str
    times: int = 1
    skip: int = 0

    def meets(self, kind: str) -> bool:
        """Whether this request is one of those meant; counts it."""
        if self.times < 1 or not (kind == self.at or kind.startswith(f"{self.at} ")):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True

    @property
    def number(self) -> float:
        """What stands after the colon."""
        return float(self.what.partition(":")[2])


@dataclass
class Hold:
    """A parked request; `go` is decided when it is released."""

    kind: str
    released: asyncio.Event = field(default_factory=asyncio.Event)
    go: bool = False


@dataclass
class SimulatedWorld:
    """Settings, faults and what was asked of one world."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    asked: Counter[str] = field(default_factory=Counter)

    def take(self, kind: str) -> Fault | None:
        """Return the first fault that is meant for this request."""
        self.asked[kind] += 1
        return next((fault for fault in self.faults if fault.meets(kind)), None)

    async def hold(self, kind: str) -> bool:
        """Park; return whether the request goes on after it."""
        hold = Hold(kind)
        self.holds.append(hold)
        self.arrived.set()
        try:
            async with asyncio.timeout(_LONGEST_HOLD):
                await hold.released.wait()
        finally:
            self.holds.remove(hold)
        return hold.go

    def describe(self) -> dict[str, Any]:
        """Return what the harness may ask."""
        return {"asked": dict(self.asked), "held": [hold.kind for hold in self.holds]}


W = TypeVar("W", bound=SimulatedWorld)


class Simulator(Generic[W]):
    """Serves worlds; a subclass says of what kind a request is and how it is answered."""

    def __init__(self) -> None:
        self.worlds: dict[str, W] = {}

    def new_world(self, name: str, settings: dict[str, Any]) -> W:
        """Make a world, or take it up again after a restart."""
        raise NotImplementedError

    def kind(self, world: W, request: Request) -> str:
        """Return what faults call this request."""
        raise NotImplementedError

    def respond(self, world: W, request: Request, fault: Fault | None) -> Response:
        """Do what is asked."""
        raise NotImplementedError

    def refusal(self, status: int) -> Response:
        """Return the answer of a service that fails with a status."""
        return Response.of({"error": {"message": HTTPStatus(status).phrase}}, status)

    async def serve(
        self, *, tls: ssl.SSLContext | None = None, ports: Sequence[int] = (0, 0)
    ) -> None:
        """Serve until SIGTERM or the end of the input; prints the ports as JSON (0: free ones)."""
        plain = await asyncio.start_server(self._connected, "127.0.0.1", ports[0])
        used = {"port": plain.sockets[0].getsockname()[1]}
        servers = [plain]
        if tls is not None:
            secure = await asyncio.start_server(self._connected, "127.0.0.1", ports[1], ssl=tls)
            used["tls_port"] = secure.sockets[0].getsockname()[1]
            servers.append(secure)
        print(json.dumps(used), flush=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        # Whoever started it may be gone: the pipe ends then.
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
        await stop.wait()
        for server in servers:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            while (request := await _read_head(reader, writer)) is not None:
                if request.world == CONTROL:
                    request.body = await _read_body(reader, request)
                    await _send(writer, request, await self._control(request))
                elif not await self._answer(request, reader, writer):
                    break
        with suppress(ConnectionError, ssl.SSLError):
            writer.close()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; return whether the connection is still good."""
        world = self.worlds.get(request.world)
        if world is None:
            await _read_body(reader, request)
            await _send(writer, request, self.refusal(404))
            return True
        kind = self.kind(world, request)
        fault = world.take(kind)
        what = fault.what.partition(":")[0] if fault is not None else ""
        if what == "reset-body":
            await reader.readexactly(int(request.headers.get("content-length", 0)) // 2)
            return _reset(writer)
        request.body = await _read_body(reader, request)
        return await self._obey(world, kind, fault, request, writer)

    async def _obey(
        self,
        world: W,
        kind: str,
        fault: Fault | None,
        request: Request,
        writer: asyncio.StreamWriter,
    ) -> bool:
        what = fault.what.partition(":")[0] if fault is not None else ""
        if what == "hold-before" and not await world.hold(kind):
            return _reset(writer)
        if what == "drop-before":
            return _reset(writer)
        if what == "slow" and fault is not None:
            await asyncio.sleep(fault.number)
        if what == "status-before" and fault is not None:
            await _send(writer, request, self.refusal(int(fault.number)))
            return True
        response = self.respond(world, request, fault)
        if what == "status-after" and fault is not None:
            response = self.refusal(int(fault.number))
        if what == "drop-after" or (what == "hold-after" and not await world.hold(kind)):
            return _reset(writer)
        if what == "hold-middle" and fault is not None and response.status >= 400:
            # Meant is what was asked for, not the refusal of an address that has expired.
            fault.times += 1
            what = ""
        if what in ("hold-middle", "reset-middle"):
            return await self._break_off(world, kind, request, response, writer, what)
        for _ in range(2 if what == "twice" else 1):
            await _send(writer, request, response)
        return what != "twice" and response.length is None

    async def _break_off(
        self,
        world: W,
        kind: str,
        request: Request,
        response: Response,
        writer: asyncio.StreamWriter,
        what: str,
    ) -> bool:
        whole = _wire(request, response)
        middle = len(whole) - max(len(response.body) // 2, 1)
        writer.write(whole[:middle])
        await writer.drain()
        if what == "hold-middle" and await world.hold(kind):
            writer.write(whole[middle:])
            await writer.drain()
            return True
        # Let what was written leave before the reset overtakes it.
        await asyncio.sleep(0.02)
        return _reset(writer)

    async def _control(self, request: Request) -> Response:
        name, _, verb = request.path.strip("/").partition("/")
        if request.method == "POST" and not verb:
            self.worlds[name] = self.new_world(name, request.json())
            return Response.of({})
        world = self.worlds[name]
        if verb == "faults":
            world.faults = [Fault(**fault) for fault in request.json()]
        elif verb == "release":
            for hold in world.holds:
                hold.go = bool(request.json().get("go"))
                hold.released.set()
            world.arrived.clear()
        elif verb == "held":
            with suppress(TimeoutError):
                async with asyncio.timeout(float(request.query.get("wait", "0"))):
                    await world.arrived.wait()
        return Response.of(world.describe())


async def _read_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = head[0].split(" ", 2)
    pairs = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts = urlsplit(target)
    world, _, path = unquote(parts.path).lstrip("/").partition("/")
    query = {name: values[0] for name, values in parse_qs(parts.query, True).items()}
    return Request(method, world, path, query, headers)


async def _read_body(reader: asyncio.StreamReader, request: Request) -> bytes:
    if request.headers.get("transfer-encoding", "").lower() == "chunked":
        return b"".join([piece async for piece in _chunks(reader)])
    length = int(request.headers.get("content-length", 0))
    return await reader.readexactly(min(length, _MAX_BODY))


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


def _wire(request: Request, response: Response) -> bytes:
    length = len(response.body) if response.length is None else response.length
    headers: Mapping[str, str] = {"content-length": str(length), **response.headers}
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if request.method == "HEAD" else head + response.body


async def _send(writer: asyncio.StreamWriter, request: Request, response: Response) -> None:
    writer.write(_wire(request, response))
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Break the connection the hard way: the peer sees a reset, never a clean end."""
    plain = writer.get_extra_info("socket")
    if plain is not None:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
