"""A loopback HTTP server that says exactly what a test wants, down to a body that ends early."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RawRequest:
    """What arrived: request line parts, and headers in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


Handler = Callable[[RawRequest, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawServer:
    """Where it listens, and every request so far."""

    port: int
    scheme: str
    requests: list[RawRequest] = field(default_factory=list)
    connections: int = 0

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        """Return a URL on this server."""
        return f"{self.scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def raw_server(
    handler: Handler, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve on a free port within the running loop; keeps connections open between requests."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        open_writers.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                request = RawRequest(method, path, {k.lower(): v for k, v in headers.items()})
                server.requests.append(request)
                await reader.readexactly(int(request.headers.get("content-length", 0)))
                await handler(request, writer)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        open_writers.discard(writer)

    open_writers: set[asyncio.StreamWriter] = set()
    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = listening.sockets[0].getsockname()[1]
    server = RawServer(port, "https" if tls else "http")
    try:
        yield server
    finally:
        listening.close()
        while open_writers:
            for writer in list(open_writers):
                writer.transport.abort()
            await asyncio.sleep(0)


def answer(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """Return a whole response; `content-length` is added unless a framing header is given."""
    given = {name.lower(): value for name, value in (headers or {}).items()}
    if not {"content-length", "transfer-encoding"} & given.keys():
        given["content-length"] = str(len(body))
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def always(response: bytes) -> Handler:
    """Return a handler that answers every request alike."""

    async def handler(request: RawRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(response)

    return handler


def certificate_for(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server context with a fresh certificate for `name`, and a client that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([_alternative(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain = folder / f"{name}.pem"
    chain.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    client = ssl.create_default_context(cafile=str(chain))
    return server, client


def _alternative(name: str):
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
