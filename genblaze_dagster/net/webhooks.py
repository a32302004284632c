"""Signed JSON posts to a URL the user names.

Deliveries are signed as in the Standard Webhooks specification: HMAC-SHA256 over
`{webhook-id}.{webhook-timestamp}.{body}`. Only public https addresses are contacted, and no
redirect is followed: it would hand signed bodies to somebody else. The path of a webhook URL is
often its password, so messages and logs name the host only.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import random
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import httpx

from genblaze_dagster.errors import ConfigError, UnsafeUrlError, WebhookError
from genblaze_dagster.net.client import user_agent
from genblaze_dagster.net.guarded import GuardedTransport
from genblaze_dagster.net.retry_after import parse_retry_after
from genblaze_dagster.net.ssrf import PUBLIC_HTTPS, Resolver, UrlPolicy, check_text

MAX_WAIT_SECONDS: Final = 30.0

_LEAST_SECRET_BYTES = 16
_SECRET_PREFIX = "whsec_"  # noqa: S105 - the mark of a secret, not one
_RETRIED = frozenset({408, 429})
# Answers are not looked at; a short one is read so that its connection can be used again.
_DRAINED_BYTES = 64 * 1024
_DRAIN_SECONDS = 1.0
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\xa0-\xff]*")
_OURS = frozenset({"connection", "content-length", "host", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """Where events go, and how hard to try.

    Args:
        url: https URL of the receiver, without user name or password.
        headers: sent with every delivery, for example an access token.
        timeout: seconds one attempt may take, from the connection to the status of the answer.
        max_retries: further attempts after transport errors, 408, 429 and 5xx.
        include_events: names of the events to send; all when None.
        secret: signs every delivery; `whsec_` and base64, or any text of 16 bytes or more. Without
            one, deliveries are not signed.
        policy: ports besides 443, and loopback for development.

    Raises:
        WebhookError: the URL is not https to a public host.
        ConfigError: another field cannot be used.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    timeout: float = 10.0
    max_retries: int = 2
    include_events: AbstractSet[str] | None = None
    secret: str | None = field(default=None, repr=False, kw_only=True)
    policy: UrlPolicy = field(default=PUBLIC_HTTPS, kw_only=True)

    def __post_init__(self) -> None:
        _check_address(self.url, self.policy)
        if not 0 < self.timeout <= 300:
            raise ConfigError("WebhookConfig.timeout: give more than 0 and at most 300 seconds")
        if not 0 <= self.max_retries <= 20:
            raise ConfigError("WebhookConfig.max_retries: give 0 to 20")
        if self.secret is not None:
            signing_key(self.secret)
        for name, value in (self.headers or {}).items():
            _check_header(name, value)

    @property
    def host(self) -> str:
        """The receiver's host, which is all that messages show."""
        return urlsplit(self.url).hostname or ""


class WebhookPoster:
    """Delivers bodies to one receiver; belongs to the event loop it is used in.

    `resolve`, `uniform`, `sleep` and `clock` (seconds since 1970) are for tests.
    """

    def __init__(
        self,
        config: WebhookConfig,
        *,
        resolve: Resolver | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._uniform = uniform
        self._sleep = sleep
        self._clock = clock
        self._key = None if config.secret is None else signing_key(config.secret)
        self._transport = GuardedTransport(
            config.policy,
            ssl_context=httpx.create_ssl_context(),
            resolve=resolve or _resolve_in_thread,
            max_connections=16,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def post(self, body: bytes, *, delivery_id: str) -> None:
        """Deliver one JSON body; every attempt carries the same id, and a timestamp of its own.

        The wait before retry n is drawn from [0, min(2 ** (n - 1), 30)] seconds, or is what the
        receiver asks for, at most 30 s.

        Raises:
            WebhookError: the receiver refuses it, or all attempts failed.
        """
        for attempt in range(self._config.max_retries + 1):
            try:
                return await self._attempt(body, delivery_id)
            except WebhookError as exc:
                if not exc.transient or attempt == self._config.max_retries:
                    raise
                wait = exc.retry_after
            if wait is None:
                wait = self._uniform(0.0, min(2.0**attempt, MAX_WAIT_SECONDS))
            await self._sleep(min(wait, MAX_WAIT_SECONDS))
        raise AssertionError("unreachable")

    async def _attempt(self, body: bytes, delivery_id: str) -> None:
        subject = f"webhook to {self._config.host}"
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await self._transport.handle_async_request(
                    self._request(body, delivery_id)
                )
        except TimeoutError as exc:
            raise WebhookError(
                f"{subject}: no answer within {self._config.timeout:g} s",
                transient=True,
                delivery_id=delivery_id,
            ) from exc
        except UnsafeUrlError as exc:
            raise WebhookError(
                f"{subject}: the address is refused; {exc}", delivery_id=delivery_id
            ) from exc
        except httpx.TransportError as exc:
            raise WebhookError(
                f"{subject}: {type(exc).__name__}",
                # A certificate that does not verify will not verify in a second either.
                transient="CERTIFICATE_VERIFY_FAILED" not in str(exc),
                delivery_id=delivery_id,
            ) from exc
        await _drain(response)
        _check_answer(response, subject, delivery_id)

    def _request(self, body: bytes, delivery_id: str) -> httpx.Request:
        timestamp = str(int(self._clock()))
        headers = {
            "content-type": "application/json",
            "user-agent": user_agent(),
            **{name.lower(): value for name, value in (self._config.headers or {}).items()},
            "webhook-id": delivery_id,
            "webhook-timestamp": timestamp,
        }
        if self._key is not None:
            headers["webhook-signature"] = sign(
                self._key, delivery_id=delivery_id, timestamp=timestamp, body=body
            )
        return httpx.Request(
            "POST",
            self._config.url,
            headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
            content=body,
            extensions={"timeout": httpx.Timeout(self._config.timeout).as_dict()},
        )


def signing_key(secret: str, *, named: str = "WebhookConfig.secret") -> bytes:
    """Return the bytes a secret stands for: base64 behind `whsec_`, else its UTF-8.

    Args:
        secret: never shown.
        named: the setting it comes from, for messages.

    Raises:
        ConfigError: it is too short, or not base64.
    """
    encoded = secret.removeprefix(_SECRET_PREFIX)
    try:
        # A text that is no UTF-8, like a bad base64, is a ValueError.
        key = secret.encode() if encoded == secret else base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(f"{named}: not base64 behind {_SECRET_PREFIX}; copy it again") from None
    if len(key) < _LEAST_SECRET_BYTES:
        raise ConfigError(f"{named}: shorter than {_LEAST_SECRET_BYTES} bytes; make a longer one")
    return key


def sign(key: bytes, *, delivery_id: str, timestamp: str, body: bytes) -> str:
    """Return the `webhook-signature` of a delivery; `timestamp` is seconds since 1970."""
    signed = b".".join((delivery_id.encode(), timestamp.encode(), body))
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def _check_address(url: str, policy: UrlPolicy) -> None:
    try:
        parts = urlsplit(url)
        # Without the path, so that no message can show it.
        origin = f"{parts.scheme}://{parts.netloc}/"
        check_text(origin, policy)
        httpx.URL(url)
    except UnsafeUrlError as exc:
        raise WebhookError(f"WebhookConfig.url: {exc}") from None
    except (httpx.InvalidURL, ValueError):
        raise WebhookError("WebhookConfig.url: not a valid URL") from None


def _check_header(name: str, value: str) -> None:
    if _HEADER_NAME.fullmatch(name) is None or _HEADER_VALUE.fullmatch(value) is None:
        raise ConfigError("WebhookConfig.headers: a name or value no header can have; check it")
    if name.lower() in _OURS or name.lower().startswith("webhook-"):
        raise ConfigError(f"WebhookConfig.headers: {name} is set by the delivery; leave it out")


def _check_answer(response: httpx.Response, subject: str, delivery_id: str) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    hint = "; redirects are not followed, give the final URL" if 300 <= status < 400 else ""
    raise WebhookError(
        f"{subject}: answers {status}{hint}",
        transient=status >= 500 or status in _RETRIED,
        http_status=status,
        delivery_id=delivery_id,
        retry_after=parse_retry_after(response.headers),
    )


async def _drain(response: httpx.Response) -> None:
    """Read a short answer and close; the status is known, so nothing here can fail a delivery."""
    received = 0
    try:
        with suppress(TimeoutError, httpx.TransportError):
            chunks = cast("AsyncGenerator[bytes]", response.aiter_raw())
            async with asyncio.timeout(_DRAIN_SECONDS), aclosing(chunks):
                async for chunk in chunks:
                    received += len(chunk)
                    if received > _DRAINED_BYTES:
                        break
    finally:
        await response.aclose()


async def _resolve_in_thread(host: str, port: int) -> Sequence[str]:
    """Resolve a host on a thread of its own.

    The loop's `getaddrinfo` needs the thread pool, which refuses work once the interpreter is
    ending: just when the last events are on their way.
    """
    answer: Future[Sequence[str]] = Future()
    answer.set_running_or_notify_cancel()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as exc:
            answer.set_exception(exc)

    threading.Thread(target=look_up, name="genblaze-webhook-dns", daemon=True).start()
    return await asyncio.wrap_future(answer)
