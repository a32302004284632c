"""httpx's errors as ours, with what they say about whether the request arrived."""

from collections.abc import Generator
from contextlib import contextmanager

import httpx

from genblaze_dagster.errors import (
    InvalidRequestError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from genblaze_dagster.net.redact import redact, strip_url

# Raised before the first byte of the request leaves: the connection does not stand yet.
_BEFORE_SEND = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


@contextmanager
def provider_errors(provider: str, method: str, url: str) -> Generator[None]:
    """Raise httpx's errors of the block as `ProviderError`, `sent` set."""
    try:
        yield
    except httpx.RequestError as exc:
        # h11 quotes the header it refuses, and with it a key.
        cause = None if isinstance(exc, httpx.LocalProtocolError) else exc
        raise transport_error(exc, f"{provider}: {method} {strip_url(url)}", provider) from cause


@contextmanager
def encoding_errors(provider: str) -> Generator[None]:
    """Raise what goes wrong while a request is built as `InvalidRequestError`."""
    try:
        yield
    except (httpx.InvalidURL, TypeError, ValueError):
        # The cause may quote a header, and with it a key, or the body, and with it a prompt.
        raise InvalidRequestError(
            f"{provider}: the URL, a header or the body cannot be encoded; check the base URL, "
            "the key and the parameters",
            provider=provider,
            sent=False,
        ) from None


def transport_error(exc: httpx.RequestError, subject: str, provider: str) -> ProviderError:
    """Return the `ProviderError` for an httpx error; `subject` begins its message."""
    sent = False if isinstance(exc, _BEFORE_SEND) else None
    if isinstance(exc, httpx.UnsupportedProtocol):
        return InvalidRequestError(
            f"{subject}: not an http or https URL", provider=provider, sent=False
        )
    if isinstance(exc, httpx.LocalProtocolError) and str(exc).startswith("Illegal header"):
        return InvalidRequestError(
            f"{subject}: a header holds a line break or the like; check the key",
            provider=provider,
            sent=False,
        )
    if isinstance(exc, httpx.TimeoutException):
        return ProviderTimeoutError(
            f"{subject}: {_PHASES.get(type(exc), 'timed out')}", provider=provider, sent=sent
        )
    reason = redact(str(exc), max_chars=200)
    return ProviderUnavailableError(
        f"{subject}: {type(exc).__name__}{reason and ': '}{reason}",
        provider=provider,
        # A certificate that does not verify will not verify in a second either.
        transient="CERTIFICATE_VERIFY_FAILED" not in reason,
        sent=sent,
    )


_PHASES: dict[type[httpx.RequestError], str] = {
    httpx.ConnectTimeout: "no connection in time",
    httpx.PoolTimeout: "no free connection in time; lower the concurrency",
    httpx.ReadTimeout: "connected, but no answer in time",
    httpx.WriteTimeout: "the request could not be sent in time",
}
