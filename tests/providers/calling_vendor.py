"""A vendor on loopback that repeats, in whatever it says, the address it was told to call."""

import asyncio
import json
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from genblaze_dagster import Pipeline
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow
from genblaze_dagster.net.callbacks import CallbackEndpoint
from genblaze_dagster.providers.fal import FalProvider
from genblaze_dagster.providers.luma import LumaProvider
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.providers.replicate import ReplicateProvider
from genblaze_dagster.providers.retry import RetryPolicy

API_KEY = "sk-wire-0123456789abcdef0123456789"
ENDPOINT = CallbackEndpoint("https://media.example.com/genblaze", "a secret of some length")
PNG = b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
        "0000000a49444154789c6360000000020001e5270efc0000000049454e44ae426082"
    )
).decode()


@dataclass
class Vendor:
    """What it does and has been told.

    `ends` is `succeeded`, `failed` (the job), `refused` or `lost` (the answer to the submit).
    """

    ends: str
    port: int = 0
    addresses: list[str] = field(default_factory=list)
    submits: int = 0

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, object] | None:
        """Return status and body of an answer, None for one that gets lost."""
        if method == "POST":
            self.submits += 1
            told = parse_qs(urlsplit(path).query).get("fal_webhook", [])
            told += [body[name] for name in ("webhook", "callback_url") if name in body]
            self.addresses += told
            if self.ends == "lost":
                return None
            if self.ends == "refused":
                said = f"cannot call {self.said} as {path} says"
                return 422, {"detail": said, "title": said, "request": body}
            return 201, self.job("starting")
        if urlsplit(path).path.endswith("/status"):
            return 200, {"status": "COMPLETED", "request_id": "job1", "webhook": self.said}
        if "/requests/" in path and self.ends == "failed":
            return 422, {"detail": f"{self.said} is no place to call"}
        return 200, self.job(self.ends)

    @property
    def said(self) -> str:
        """The address of the last submit."""
        return self.addresses[-1] if self.addresses else "nobody"

    def job(self, status: str) -> dict[str, Any]:
        """Return what a job looks like at any of the vendors."""
        over = {"succeeded": "completed", "starting": "queued"}
        return {
            "id": "job1",
            "request_id": "job1",
            "status": status,
            "state": over.get(status, status),
            "webhook": self.said,
            "request": {"callback_url": self.said},
            "output": [f"data:image/png;base64,{PNG}"],
            "images": [{"url": f"data:image/png;base64,{PNG}", "content_type": "image/png"}],
            "error": f"the webhook {self.said} is invalid",
            "failure_reason": f"400: the callback {self.said} is invalid",
            "logs": [{"message": f"will call {self.said}"}],
        }


@contextmanager
def running(ends: str) -> Iterator[Vendor]:
    """Serve such a vendor on a free port."""
    vendor = Vendor(ends)

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length) or b"{}")
            answer = vendor.answer(self.command, self.path, body)
            if answer is None:
                self.connection.close()
                return
            content = json.dumps(answer[1]).encode()
            self.send_response(answer[0])
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = serve

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    vendor.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


MAKERS: dict[str, tuple[str, Callable[..., Provider]]] = {
    "fal": ("fal-ai/flux/schnell", FalProvider),
    "replicate": ("acme/paint", ReplicateProvider),
    "luma": ("photon-1", LumaProvider),
}


def ran(vendor: str, wire: Vendor, folder: Path, callbacks: CallbackEndpoint | None) -> str:
    """Run a pipeline of one step; return all that it said, in whichever way."""
    model, make = MAKERS[vendor]
    said: list[str] = []

    async def main() -> None:
        provider = make(API_KEY, base_url=wire.url, callbacks=callbacks)
        pipeline = Pipeline("draw", preflight=False).step(
            provider,
            model=model,
            name="picture",
            modality="image",
            prompt="a fox",
            retry=RetryPolicy(max_attempts=1),
        )
        said.append(repr(provider))
        options = {
            "store": (folder / "store").as_uri(),
            "ledger": f"sqlite:///{folder / 'ledger.db'}",
        }
        try:
            async for event in pipeline.astream(**options):
                said.append(repr(event))
        except GenblazeError as exc:
            said.extend(traceback.format_exception(exc))
            said.append(repr(exc))

    asyncio.run(main())
    return "\n".join(said)


def rows(folder: Path) -> list[LedgerRow]:
    """Return what the ledger of such a run holds."""
    with Ledger(f"sqlite:///{folder / 'ledger.db'}") as ledger:
        return list(ledger.find())
