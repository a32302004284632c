"""An S3 service as a process of its own, which misbehaves to order.

    python -m tests.faults.store_server

Every world is a bucket. What a bucket does is the small S3 of `tests.storage.faults`, which compares
signed hashes with bodies; the faults around it are those of `tests.faults.simulator`, with these
kinds of requests: `put media|manifest|ref|index|probe|other`, `start upload`, `part`, `complete`,
`copy`, `get ...`, `head ...`, `delete ...`, `list`.

Settings: `create_only` is `enforced`, `ignored` (the header is not looked at) or `refused` (501);
`hides_missing` answers 403 for what is not there.

Faults of its own: `conflict` (409 and done by nobody), `taken` (412 although the key is free),
`lost` (200 and nothing is kept), `damaged` (200 and other bytes are kept, or given), `truncated`
(half of the bytes under the Content-Length of all).
"""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import Any

from tests.faults.simulator import Fault, Request, Response, SimulatedWorld, Simulator
from tests.storage import faults as s3

_CODES = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    501: "NotImplemented",
    503: "SlowDown",
}
_FOLDERS = {"assets": "media", "manifests": "manifest", "refs": "ref", "index": "index"}


@dataclass
class Bucket(SimulatedWorld):
    """One bucket and its objects."""

    service: s3.FaultServer = field(default_factory=s3.FaultServer)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "keys": self.service.visible_keys()}


class StoreSimulator(Simulator[Bucket]):
    """Buckets behind one endpoint."""

    def new_world(self, name: str, settings: dict[str, Any]) -> Bucket:
        bucket = self.worlds.get(name) or Bucket(name)
        bucket.settings = settings
        bucket.service.supports_create_only = settings.get("create_only", "enforced") == "enforced"
        return bucket

    def refusal(self, status: int) -> Response:
        body = f"<Error><Code>{_CODES.get(status, 'InternalError')}</Code></Error>"
        return Response(status, body.encode(), {"content-type": "application/xml"})

    def kind(self, world: Bucket, request: Request) -> str:
        if "list-type" in request.query:
            return "list"
        if request.method == "POST":
            return "start upload" if "uploads" in request.query else "complete"
        if "partNumber" in request.query:
            return "part"
        if "x-amz-copy-source" in request.headers:
            return "copy"
        return f"{request.method.lower()} {_what(request.path)}"

    def respond(self, world: Bucket, request: Request, fault: Fault | None) -> Response:
        what = fault.what if fault is not None else ""
        conditional = request.headers.get("if-none-match") == "*"
        if conditional and world.settings.get("create_only") == "refused":
            return self.refusal(501)
        if conditional and what in ("conflict", "taken"):
            return self.refusal(409 if what == "conflict" else 412)
        if what == "lost" and request.method == "PUT":
            return Response(200, headers={"etag": '"x"'})
        if what == "damaged" and request.method == "PUT":
            damaged = _damaged(request.body)
            self._ask(world, replace(request, body=damaged, headers=_unsigned(request)))
            return Response(200, headers={"etag": '"x"'})
        response = self._ask(world, request)
        if response.status == 404 and world.settings.get("hides_missing"):
            return self.refusal(403)
        if response.status < 300 and what == "damaged":
            response.body = _damaged(response.body)
        if response.status < 300 and what == "truncated":
            response.length = len(response.body)
            response.body = response.body[: len(response.body) // 2]
        return response

    def _ask(self, world: Bucket, request: Request) -> Response:
        asked = s3.Request(
            request.method, request.path, request.query, request.headers, request.body
        )
        try:
            answer = world.service.answer(asked)
        except KeyError:
            # An upload or a copy source that is not there.
            return self.refusal(404)
        finally:
            # Bodies of thousands of requests; what was asked is counted already.
            world.service.requests.clear()
        if answer.code:
            body = f"<Error><Code>{answer.code}</Code></Error>".encode()
            return Response(answer.status, body)
        return Response(answer.status, answer.body, answer.headers)


def _what(key: str) -> str:
    """Return what a key holds, wherever the prefix of the store ends."""
    segments = key.split("/")
    if ".probe" in segments:
        return "probe"
    return next((_FOLDERS[name] for name in segments if name in _FOLDERS), "other")


def _damaged(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:] if body else body


def _unsigned(request: Request) -> dict[str, str]:
    return {**request.headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(StoreSimulator().serve())
