"""The receiver of vendors' calls: what is believed of them, and the web application they arrive at.

A vendor that lost the answer to a submit, or whose answer was lost on the way, knows the address
that went along with it. Its call tells the job. What it tells is verified (the token of the address,
the vendor's own signature), recorded in the ledger once, and answered; which submission gets the job
is decided there, see `ledger.callbacks`. Nothing is fetched here: runs and the rescue sensor do that,
and ask the vendor for the truth.

Receivers share nothing but the ledger: run as many as you like. A vendor that gets no 2xx calls
again, so a call is answered after it is durable, and not at all for good while the ledger is away.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genblaze_dagster.errors import GenblazeError, UnknownProviderError, WebhookError
from genblaze_dagster.ledger.callbacks import CalledBack
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.operations import Operations
from genblaze_dagster.net.callbacks import SUBMISSION, TOKEN, CallbackEndpoint
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.catalogue import VENDORS
from genblaze_dagster.providers.vendor.callbacks import MAX_BODY_BYTES, Callback, ReadsCallbacks

BODY_SECONDS: Final = 10.0
"""How long a call may take to arrive; vendors send a few kilobytes."""
LEDGER_SECONDS: Final = 5.0
"""How long a receiver's ledger should wait for other transactions: vendors wait about 10 s."""

_RETRY_AFTER = {"retry-after": "10"}
_MOST_PARAMETERS = 8
_LONGEST_ID = 512
_QUERY = "genblaze.query"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Received:
    """What a call told, and what the ledger made of it."""

    callback: Callback
    outcome: CalledBack


class Receiver:
    """Verifies calls and records them; belongs to the event loop it is used in.

    Args:
        ledger: where the submissions are. Of short patience (`LEDGER_SECONDS`), since a vendor is
            waiting.
        endpoint: what the addresses were made with.
        providers: who understands which vendor's calls; the built-in ones when left out.
    """

    def __init__(
        self,
        ledger: Ledger,
        endpoint: CallbackEndpoint,
        *,
        providers: Mapping[str, ReadsCallbacks] | None = None,
    ) -> None:
        self.providers = callback_providers() if providers is None else dict(providers)
        self._ledger = ledger
        self._endpoint = endpoint
        self._operations = Operations(ledger)

    async def receive(
        self,
        vendor: str,
        *,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        now: datetime,
    ) -> Received:
        """Verify one call and record it; when this returns it is durable.

        A token in the address has to be valid, and so does the signature of a vendor that signs.
        Only a valid token lets the call speak for the submission that the address names.

        Args:
            vendor: the last part of the address' path.
            query: of the address, as it came.
            headers: of the call.
            body: of the call, as it came.
            now: the time, with a zone.

        Raises:
            UnknownProviderError: no calls of that vendor are understood here.
            WebhookError: the call is not believed; `transient` when it could not be checked now.
            LedgerError: it was not recorded; the vendor has to call again.
        """
        provider = self.providers.get(vendor)
        if provider is None:
            raise UnknownProviderError(
                "callback: no calls of such a vendor are received here; known: "
                f"{', '.join(sorted(self.providers))}"
            )
        parameters = _parameters(vendor, query)
        key = self._submission_key(vendor, parameters)
        if key is None and not provider.proves_callbacks:
            raise WebhookError(
                f"callback from {vendor}: it signs nothing, and the address has no token; it was "
                "not given out here"
            )
        read = await provider.read_callback(headers, body, now=now, query=parameters)
        callback = _checked(read, vendor)
        told = callback.submission_key
        if key is not None and told is not None and key != told:
            raise WebhookError(
                f"callback from {vendor}: its address and the call name different submissions"
            )
        outcome = await self._operations.start(
            partial(
                self._ledger.called_back,
                vendor,
                callback.delivery_id,
                callback.job_id,
                state=callback.state,
                submission_key=key if key is not None else told,
            )
        )
        return Received(callback, outcome)

    def close(self) -> None:
        """Finish what is being recorded and end the threads; the next call starts others.

        The ledger stays open.
        """
        ended, self._operations = self._operations, Operations(self._ledger)
        ended.close()

    def _submission_key(self, vendor: str, parameters: Mapping[str, str]) -> str | None:
        """Return the key that the address proves; None for an address without one."""
        key, token = parameters.get(SUBMISSION), parameters.get(TOKEN)
        if key is None and token is None:
            return None
        if key is None or token is None:
            raise WebhookError(f"callback from {vendor}: half of its address is missing")
        self._endpoint.verify(vendor, key, token)
        return key


def _parameters(vendor: str, query: str) -> dict[str, str]:
    try:
        given = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        given = []
    parameters = dict(given)
    if len(parameters) != len(given) or (query and not given):
        # Who reads the first of two and who reads the last must not come to different ends.
        raise WebhookError(f"callback from {vendor}: its address is none that is made here")
    return parameters


def _checked(callback: Callback, vendor: str) -> Callback:
    """Refuse ids that no database and no log should hold, whoever's provider has read them."""
    for id in (callback.delivery_id, callback.job_id):
        if not id.isprintable() or not 0 < len(id) <= _LONGEST_ID:
            raise WebhookError(
                f"callback from {vendor}: it names a job or delivery by no usable id"
            )
    return callback


def callback_providers() -> dict[str, ReadsCallbacks]:
    """Return a built-in provider for each vendor that calls back; secrets come from the environment."""
    found: dict[str, ReadsCallbacks] = {}
    for vendor, classes in VENDORS.items():
        for where in classes.values():
            module, _, attribute = where.partition(":")
            kind = getattr(import_module(module), attribute)
            if vendor not in found and hasattr(kind, "read_callback"):
                found[vendor] = kind()
    return found


def callback_app(
    ledger: Ledger,
    endpoint: CallbackEndpoint,
    *,
    providers: Mapping[str, ReadsCallbacks] | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    body_seconds: float = BODY_SECONDS,
) -> Starlette:
    """Return the ASGI application that vendors call: POST to the endpoint's path and the vendor.

    It answers 200 once a call is recorded, also when the ledger knows nothing of it; 401 when it is
    not believed, 404 for other vendors, 408 and 413 for bodies too slow or large, 503 when the
    ledger, or a vendor's public key, is away. No answer tells more than that. Serve it behind TLS,
    by a proxy that does not log queries: addresses are secrets.

    Args:
        ledger: see `Receiver`.
        endpoint: what the addresses were made with; the path of its URL is that of the application.
        providers: see `Receiver`.
        clock: the time, with a zone.
        body_seconds: how long a call may take to arrive.
    """
    receiver = Receiver(ledger, endpoint, providers=providers)

    async def called(request: Request) -> Response:
        vendor = request.path_params["vendor"]
        if vendor not in receiver.providers:
            return Response(status_code=404)
        try:
            body = await _body(request, body_seconds)
            if isinstance(body, Response):
                return body
            received = await receiver.receive(
                vendor,
                query=request.scope[_QUERY],
                headers=request.headers,
                body=body,
                now=clock(),
            )
        except Exception as exc:
            return _refused(vendor, exc)
        _tell(received)
        return Response(status_code=200)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        yield
        await asyncio.to_thread(receiver.close)

    path = urlsplit(endpoint.url).path.rstrip("/")
    app = Starlette(
        routes=[Route(f"{path}/{{vendor}}", called, methods=["POST"])],
        middleware=[Middleware(_HidesQueries), Middleware(_HangsUp)],
        lifespan=lifespan,
    )
    # A redirect would write the address, with its token, into an answer.
    app.router.redirect_slashes = False
    return app


class _HidesQueries:
    """Takes the query, which holds the token, out of what the server writes its access log from."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_QUERY] = scope.pop("query_string", b"").decode("latin-1")
        scope["query_string"] = b""
        await self._app(scope, receive, send)


class _HangsUp:
    """Ends the connection with an answer that is given before the whole call has come.

    Servers go on reading the rest to serve the next call, and it may drip for ever.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Later versions know no such header, and end a call without its connection.
        is_over = not scope.get("http_version", "2").startswith("1")

        async def received() -> Message:
            nonlocal is_over
            message = await receive()
            is_over = is_over or not message.get("more_body", False)
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_over:
                closes = (b"connection", b"close")
                message = {**message, "headers": [*message.get("headers", ()), closes]}
            await send(message)

        await self._app(scope, received, sent)


async def _body(request: Request, seconds: float) -> bytes | Response:
    """Return the body, or the answer to one that is too large or too slow."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    return Response(status_code=413)
                chunks.append(chunk)
    except TimeoutError:
        return Response(status_code=408)
    return b"".join(chunks)


def _refused(vendor: str, error: Exception) -> Response:
    """Return the answer to a call that was not recorded, and say so without a word of the call."""
    match error:
        case ClientDisconnect():
            return Response(status_code=400)
        case WebhookError(transient=False):
            status = 401
        case GenblazeError():
            # The ledger, the vendor's keys or our settings: that can be mended.
            status = 503
        case _:
            # Whatever it is, it may quote the call; and the vendor shall try again.
            _log.error("callback of %s: unexpected %s", vendor, type(error).__name__)
            return Response(status_code=500)
    _log.warning("callback of %s answered with %d: %s", vendor, status, redact(str(error)))
    return Response(status_code=status, headers=_RETRY_AFTER if status == 503 else None)


def _tell(received: Received) -> None:
    callback, outcome = received.callback, received.outcome
    row = outcome.submission
    _log.info(
        "callback of %s about job %s (%s): %s%s",
        callback.vendor,
        callback.job_id,
        callback.state or "in a state we do not know",
        "no submission of this ledger" if row is None else f"submission {row.id}, {row.state}",
        ", which had lost its answer" if outcome.is_found else "" if outcome.is_new else ", again",
    )
