"""A loopback receiver of webhooks that answers as a test wants."""

import base64
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from genblaze_dagster.net.ssrf import UrlPolicy
from genblaze_dagster.net.webhooks import WebhookConfig

LOOPBACK = UrlPolicy(allow_loopback=True)
KEY = os.urandom(32)
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass
class Posted:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A loopback receiver; `answers` are taken one by one, then everything is 204.

    An answer is a status, or (status, headers), or "reset", or seconds to be silent as a float.
    """

    url: str = ""
    answers: list[object] = field(default_factory=list)
    posted: list[Posted] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def config(self, **fields: object) -> WebhookConfig:
        given = {"url": self.url, "policy": LOOPBACK, "secret": SECRET, "timeout": 60} | fields
        return WebhookConfig(**given)

    @property
    def events(self) -> list[str]:
        return [one.event["event"] for one in self.posted]


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with receiver.lock:
                receiver.posted.append(Posted(self.path, headers, body))
                answer = receiver.answers.pop(0) if receiver.answers else 204
            if answer == "reset":
                # Zero linger makes close send a reset.
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.close_connection = True
                os.close(self.connection.detach())
                return
            if isinstance(answer, float):
                receiver.released.wait(answer)
                answer = 204
            status, extra = answer if isinstance(answer, tuple) else (answer, {})
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def finish(self) -> None:
            if self.connection.fileno() >= 0:
                super().finish()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    # Closing waits for the handlers.
    daemon_threads = False

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serve on a free port until the block is left, waiting for every handler."""
    receiver = Receiver()
    server = Server(("127.0.0.1", 0), _handler(receiver))
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hooks/T0/hidden-path"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.released.set()
    server.shutdown()
    server.server_close()
    thread.join()
