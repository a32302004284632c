"""A vendor as a process of its own, with a billing meter that forgets nothing.

    python -m tests.faults.vendor FILE CERTIFICATE [PORT TLS_PORT]

Every world is an account. FILE is append-only: the vendor can be killed and started again with it.
Media is also served over TLS, with the certificate (PEM, key included), on a second port.

    POST /<account>/jobs                 starts a job; Idempotency-Key
    GET  /<account>/jobs?since=          lists the jobs, where the vendor does that
    GET  /<account>/jobs/<id>            state
    GET  /<account>/jobs/<id>/output     a signed URL of the media, for a short time
    POST /<account>/jobs/<id>/cancel
    POST /<account>/images               everything in one call
    GET  /<account>/media/<id>?expires=&signature=

A submit may name an address in `callback`, which is called about the job it starts.

Kinds of requests: `submit`, `poll`, `output`, `media`, `list`, `cancel`. A submit is billed when it
is accepted; a job that the vendor says has failed, or that is cancelled, is paid back.

Settings: `price` (USD), `polls` a job takes, `deduplicates`, `lists`, `media_bytes`, `url_seconds`.

Faults of its own, besides those of `tests.faults.simulator`:
`error-in-200` (not accepted), `garbage` (accepted, and the answer is a web page), `retried` (a proxy
delivers the same request twice), `said-failed` (the job is said to have failed, and succeeds
later), `flapping` (back from running to queued), `missing` (404 once), `expired` (the signature is
no longer good), `long` and `short` (Content-Length is more or less than what comes), `fails` (the
job fails for good).
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.simulator import Fault, Request, Response, SimulatedWorld, Simulator
from tests.support.providers import png

MEDIA_HOST = "media.vendor.example"
# What a leak is recognised by: no other text holds it.
SIGNATURE_MARK = "5167a7u2e"
_SIGNING_KEY = b"of the vendor alone"
_CALL_AFTER = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass
class Bill:
    """One accepted submit. `key` and `prompt` are what the client sent; `price` is USD.

    `said_failed` and `cancelled` are what the client was told; `by_proxy` marks the second delivery
    of one request, which the client did not send. `refunded` bills cost nothing.
    """

    job_id: str
    price: float
    key: str
    prompt: str
    model: str
    at: float
    one_call: bool = False
    by_proxy: bool = False
    said_failed: bool = False
    cancelled: bool = False
    refunded: bool = False
    delivered: int = 0


@dataclass
class Account(SimulatedWorld):
    """One customer: bills by job id, and how far each job is."""

    bills: dict[str, Bill] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    polls: dict[str, int] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "bills": [asdict(bill) for bill in self.bills.values()]}


class VendorSimulator(Simulator[Account]):
    """Accounts of a vendor; every change is in the file before it is answered."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.media_origin = ""
        if file.exists():
            for line in file.read_text().splitlines():
                self._replay(**json.loads(line))
        self._file = file.open("a")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def new_world(self, name: str, settings: dict[str, Any]) -> Account:
        account = self.worlds.setdefault(name, Account(name))
        account.settings = settings
        self._record(name, "settings", settings)
        return account

    def kind(self, world: Account, request: Request) -> str:
        segments = request.path.split("/")
        if request.method == "POST":
            return "cancel" if segments[-1] == "cancel" else "submit"
        if segments[0] == "media":
            return "media"
        if len(segments) == 1:
            return "list"
        return "output" if segments[-1] == "output" else "poll"

    def respond(self, world: Account, request: Request, fault: Fault | None) -> Response:
        answers: dict[str, Callable[[Account, Request, str], Response]] = {
            "submit": self._submit,
            "poll": self._poll,
            "output": self._output,
            "media": self._media,
            "list": self._list,
            "cancel": self._cancel,
        }
        kind = self.kind(world, request)
        if kind != "media" and not request.headers.get("authorization", "").startswith("Bearer "):
            return self.refusal(401)
        return answers[kind](world, request, fault.what if fault is not None else "")

    def refusal(self, status: int) -> Response:
        response = super().refusal(status)
        if status in (429, 503):
            response.headers["retry-after"] = "0.2" if status == 503 else "1"
        return response

    def _submit(self, world: Account, request: Request, what: str) -> Response:
        if what == "error-in-200":
            return Response.of({"error": {"message": "the model is warming up"}})
        job_id = self._accept(world, request, by_proxy=False)
        if what == "retried":
            job_id = self._accept(world, request, by_proxy=True)
        if (address := request.json().get("callback")) is not None:
            threading.Thread(target=_call_back, args=(address, job_id), daemon=True).start()
        if what == "fails":
            self.change(world.name, job_id, failing=True)
        if what == "garbage":
            return Response(200, b"<html>please wait</html>", {"content-type": "text/html"})
        if request.path == "images":
            data = base64.b64encode(self._bytes(world, job_id)).decode()
            self.change(world.name, job_id, delivered=1)
            return Response.of({"id": job_id, "b64_json": data, "cost_usd": self._price(world)})
        return Response.of({"id": job_id, "status": "queued"}, 201)

    def _accept(self, world: Account, request: Request, *, by_proxy: bool) -> str:
        key = request.headers.get("idempotency-key", "")
        known = world.by_key.get(key)
        if known is not None and world.settings.get("deduplicates"):
            return known
        wanted = request.json()
        number = len(world.bills) + 1
        bill = Bill(
            job_id=f"{world.name}-job-{number}",
            price=self._price(world),
            key=key,
            prompt=wanted.get("prompt", ""),
            model=wanted.get("model", ""),
            at=time.time(),
            one_call=request.path == "images",
            by_proxy=by_proxy,
        )
        self.enter(world.name, bill)
        return bill.job_id

    def enter(self, account: str, bill: Bill) -> None:
        """Write a bill."""
        self._record(account, "bill", asdict(bill))
        self._replay(account, "bill", asdict(bill))

    def _poll(self, world: Account, request: Request, what: str) -> Response:
        job_id = request.path.split("/")[1]
        bill = world.bills.get(job_id)
        if bill is None:
            return self.refusal(404)
        if bill.cancelled:
            return Response.of({"id": job_id, "status": "cancelled"})
        polls = world.polls[job_id] = world.polls.get(job_id, 0) + 1
        if what == "said-failed" or job_id in world.failing:
            self.change(world.name, job_id, said_failed=True, refunded=job_id in world.failing)
            message = "the worker was lost"
            return Response.of({"id": job_id, "status": "failed", "error": {"message": message}})
        if polls <= world.settings.get("polls", 1):
            status = "queued" if what == "flapping" or polls == 1 else "running"
            return Response.of({"id": job_id, "status": status})
        return Response.of({"id": job_id, "status": "succeeded"})

    def _output(self, world: Account, request: Request, what: str) -> Response:
        job_id = request.path.split("/")[1]
        bill = world.bills.get(job_id)
        if bill is None or what == "missing":
            return self.refusal(404)
        expires = int(time.time() + world.settings.get("url_seconds", 60))
        if what == "expired":
            expires = int(time.time()) - 1
        signature = SIGNATURE_MARK + _sign(job_id, expires)
        url = f"/{world.name}/media/{job_id}?expires={expires}&signature={signature}"
        # The origin is the client's business: it knows where it reaches the vendor's media.
        return Response.of({"path": url, "expires": expires, "cost_usd": bill.price})

    def _media(self, world: Account, request: Request, what: str) -> Response:
        job_id = request.path.split("/")[1]
        expires = request.query.get("expires", "0")
        given = request.query.get("signature", "").removeprefix(SIGNATURE_MARK)
        if what == "missing" or job_id not in world.bills:
            return self.refusal(404)
        genuine = hmac.compare_digest(given, _sign(job_id, int(expires)))
        if not genuine or int(expires) < time.time() or what == "expired":
            return self.refusal(403)
        body = self._bytes(world, job_id)
        self.change(world.name, job_id, delivered=world.bills[job_id].delivered + 1)
        length = {"long": len(body) + 100, "short": len(body) // 2}.get(what)
        return Response(200, body, {"content-type": "image/png"}, length)

    def _list(self, world: Account, request: Request, what: str) -> Response:
        if not world.settings.get("lists"):
            return self.refusal(404)
        since = float(request.query.get("since", "0"))
        found = [
            {"id": bill.job_id, "created": bill.at, "prompt": bill.prompt, "model": bill.model}
            for bill in world.bills.values()
            if bill.at >= since
        ]
        return Response.of({"jobs": found})

    def _cancel(self, world: Account, request: Request, what: str) -> Response:
        job_id = request.path.split("/")[1]
        if job_id not in world.bills or not world.settings.get("cancels", True):
            return self.refusal(404)
        if world.polls.get(job_id, 0) > world.settings.get("polls", 1):
            return Response.of({"id": job_id, "status": "succeeded"}, 409)
        self.change(world.name, job_id, cancelled=True, refunded=True)
        return Response.of({"id": job_id, "status": "cancelled"})

    def _price(self, world: Account) -> float:
        return float(world.settings.get("price", 0.04))

    def _bytes(self, world: Account, job_id: str) -> bytes:
        prompt = world.bills[job_id].prompt
        return png(prompt, int(world.settings.get("media_bytes", 0)))

    def change(self, world: str, job_id: str, **changes: object) -> None:
        """Change a bill."""
        self._record(world, "change", {"job_id": job_id, **changes})
        self._replay(world, "change", {"job_id": job_id, **changes})

    def _record(self, world: str, what: str, value: dict[str, Any]) -> None:
        # Flushed is enough: the file outlives a killed process, and nobody cuts the power here.
        self._file.write(json.dumps({"world": world, "what": what, "value": value}) + "\n")
        self._file.flush()

    def _replay(self, world: str, what: str, value: dict[str, Any]) -> None:
        if what == "settings":
            account = self.worlds.setdefault(world, Account(world))
            account.settings = value
            return
        account = self.worlds[world]
        if what == "bill":
            bill = Bill(**value)
            account.bills[bill.job_id] = bill
            account.by_key.setdefault(bill.key, bill.job_id)
            return
        changes = dict(value)
        job_id = changes.pop("job_id")
        if changes.pop("failing", False):
            account.failing.add(job_id)
        for name, new in changes.items():
            setattr(account.bills[job_id], name, new)


def _sign(job_id: str, expires: int) -> str:
    return hmac.new(_SIGNING_KEY, f"{job_id}|{expires}".encode(), hashlib.sha256).hexdigest()


def _call_back(address: str, job_id: str) -> None:
    """Call until it is believed, or for some seconds."""
    call = urllib.request.Request(address, json.dumps({"id": job_id}).encode(), method="POST")
    for pause in _CALL_AFTER:
        time.sleep(pause)
        with contextlib.suppress(OSError), urllib.request.urlopen(call, timeout=5):
            return


def main() -> None:
    file, certificate, *ports = sys.argv[1:]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with contextlib.suppress(KeyboardInterrupt):
        vendor = VendorSimulator(Path(file))
        asyncio.run(vendor.serve(tls=tls, ports=[int(port) for port in ports] or (0, 0)))


if __name__ == "__main__":
    main()
