"""Any exception a provider raises, as a typed error: by status, vendor code and exception class.

The words of a message decide nothing: "author" is no authentication failure, and "took 1400 ms" no
HTTP status.
"""

import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, cast

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    GenblazeError,
    InvalidRequestError,
    ModelError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.net.redact import redact
from genblaze_dagster.net.retry_after import parse_retry_after

_QUOTED_CHARS = 300
_LONGEST_CHAIN = 8

_BY_CODE: Mapping[ProviderErrorCode, type[ProviderError]] = {
    ProviderErrorCode.TIMEOUT: ProviderTimeoutError,
    ProviderErrorCode.RATE_LIMIT: RateLimitError,
    ProviderErrorCode.AUTH_FAILURE: AuthError,
    ProviderErrorCode.INVALID_INPUT: InvalidRequestError,
    ProviderErrorCode.MODEL_ERROR: ModelError,
    ProviderErrorCode.SERVER_ERROR: ProviderUnavailableError,
    ProviderErrorCode.CONTENT_POLICY: ContentPolicyError,
    ProviderErrorCode.UNKNOWN: ProviderError,
}
_BY_STATUS: Mapping[int, type[ProviderError]] = {
    401: AuthError,
    402: QuotaError,
    403: AuthError,
    408: ProviderTimeoutError,
    410: ModelError,
    429: RateLimitError,
    504: ProviderTimeoutError,
}
# What several vendors call the same thing; gRPC's names too.
_BY_VENDOR_CODE: Mapping[str, type[ProviderError]] = {
    "content_filter": ContentPolicyError,
    "content_policy_violation": ContentPolicyError,
    "moderation_blocked": ContentPolicyError,
    "deadline_exceeded": ProviderTimeoutError,
    "insufficient_quota": QuotaError,
    "invalid_api_key": AuthError,
    "invalid_argument": InvalidRequestError,
    "model_not_found": ModelError,
    "permission_denied": AuthError,
    "rate_limit_exceeded": RateLimitError,
    "resource_exhausted": RateLimitError,
    "unauthenticated": AuthError,
    "unavailable": ProviderUnavailableError,
}
# Raised while no connection stands: not a byte of the request has left.
_BEFORE_SEND = frozenset(
    {
        "aiohttp.ClientConnectorError",
        "aiohttp.ConnectionTimeoutError",
        "builtins.ConnectionRefusedError",
        "httpcore.ConnectError",
        "httpcore.ConnectTimeout",
        "httpcore.PoolTimeout",
        "httpx.ConnectError",
        "httpx.ConnectTimeout",
        "httpx.PoolTimeout",
        "requests.ConnectTimeout",
        "socket.gaierror",
        "urllib3.ConnectTimeoutError",
        "urllib3.NewConnectionError",
    }
)
_TIMEOUTS = frozenset(
    {
        "builtins.TimeoutError",
        "aiohttp.ServerTimeoutError",
        "httpcore.TimeoutException",
        "httpx.TimeoutException",
        "requests.Timeout",
        "urllib3.TimeoutError",
    }
)
_BROKEN_CONNECTIONS = frozenset(
    {
        "builtins.ConnectionError",
        "socket.gaierror",
        "aiohttp.ClientConnectionError",
        "httpcore.NetworkError",
        "httpcore.RemoteProtocolError",
        "httpx.NetworkError",
        "httpx.RemoteProtocolError",
        "requests.ConnectionError",
        "urllib3.HTTPError",
    }
)


# Codes that do not say what the vendor objects to: only an answer of its makes them a refusal.
_UNEXPLAINED = frozenset(
    {ProviderErrorCode.SERVER_ERROR, ProviderErrorCode.TIMEOUT, ProviderErrorCode.UNKNOWN}
)


class Phase(StrEnum):
    """What a provider was doing when it raised."""

    PREFLIGHT = "preflight"
    SUBMIT = "submit"
    POLL = "poll"
    FETCH = "fetch"


def typed_error(
    error: BaseException,
    *,
    provider: str,
    step: Step | None = None,
    phase: Phase,
    one_request: bool = True,
) -> GenblazeError:
    """Return a provider's exception as one of ours; what is one already keeps its identity.

    Args:
        error: what a method of the provider raised.
        provider: the provider's name.
        step: what it worked on; its prompts are kept out of the message.
        phase: which method. Only for a submit it matters whether the request was sent: a failure
            to connect says no, a status or what the vendor objects to says yes, anything else,
            such as that it failed or took too long, does not tell.
        one_request: False when a submit goes on after its paid request, so that a failure to
            connect, or a 429, may have come from a later one.
    """
    if isinstance(error, GenblazeError):
        typed = _by_its_code(error, phase)
    else:
        typed = _foreign(error, provider, step, phase)
    if not isinstance(typed, ProviderError):
        return typed
    typed.provider = typed.provider or provider
    if step is not None:
        typed.model = typed.model or step.model
    if phase is Phase.PREFLIGHT:
        typed.sent = False
    elif phase is Phase.SUBMIT:
        _say_whether_sent(typed, error)
        if not one_request and typed.transient:
            typed.sent = None
    return typed


def _say_whether_sent(typed: ProviderError, error: BaseException) -> None:
    """Correct `sent` of a submit that was merely said to have failed.

    "The vendor answered" is what a `ProviderError` says when nobody has thought of it. Where it
    stands for an error of an SDK, that knows better.
    """
    if typed.sent is not True or typed.http_status is not None or typed.code not in _UNEXPLAINED:
        return
    links = list(_chain(error))
    typed.http_status = next((s for link in links if (s := _status(link)) is not None), None)
    if typed.http_status is not None:
        return
    kinds = set().union(*map(_names, links))
    if not kinds.isdisjoint(_BEFORE_SEND):
        typed.sent = False
    elif typed.code is not ProviderErrorCode.UNKNOWN or kinds & (_TIMEOUTS | _BROKEN_CONNECTIONS):
        typed.sent = None


def error_for_code(code: object, message: str, **details: Any) -> ProviderError:
    """Return the typed error of a genblaze error code; an unknown one is UNKNOWN."""
    known = ProviderErrorCode(code) if code in list(ProviderErrorCode) else None
    return _BY_CODE[known or ProviderErrorCode.UNKNOWN](message, **details)


def _by_its_code(error: GenblazeError, phase: Phase) -> GenblazeError:
    """Give a plain `ProviderError` the class, and with it the behaviour, of its code."""
    if type(error) is not ProviderError or error.transient:
        return error
    kind = _BY_CODE[error.code]
    if kind is ProviderError:
        if phase not in (Phase.POLL, Phase.FETCH):
            return error
        # Raised on purpose while asking for a job, and not as something that passes: the job failed.
        kind = ModelError
    typed = kind(
        str(error),
        code=error.code,
        http_status=error.http_status,
        vendor_code=error.vendor_code,
        retry_after=error.retry_after,
        request_id=error.request_id,
        param=error.param,
        provider=error.provider,
        model=error.model,
        sent=error.sent,
    )
    typed.__cause__ = error.__cause__
    return typed


def _foreign(error: BaseException, provider: str, step: Step | None, phase: Phase) -> ProviderError:
    status = _status(error)
    vendor_code = _vendor_code(error)
    kinds = [_names(link) for link in _chain(error)]
    before_send = status is None and any(not _BEFORE_SEND.isdisjoint(names) for names in kinds)
    answered = status is not None or _genblaze_code(error) is not None
    sent = None if phase is Phase.SUBMIT else True
    if before_send or answered:
        sent = answered
    text = f"{provider}: {_said(error, step)}"
    typed = _class_for(error, status, vendor_code, kinds)(
        text,
        http_status=status,
        vendor_code=vendor_code,
        retry_after=_retry_after(error),
        sent=sent,
    )
    typed.__cause__ = error
    return typed


def _class_for(
    error: BaseException, status: int | None, vendor_code: str | None, kinds: list[set[str]]
) -> type[ProviderError]:
    own = _genblaze_code(error)
    if own is not None:
        return _BY_CODE[own]
    by_vendor = _BY_VENDOR_CODE.get((vendor_code or "").lower())
    if by_vendor is not None:
        return by_vendor
    if status is not None:
        if status in _BY_STATUS:
            return _BY_STATUS[status]
        return ProviderUnavailableError if status >= 500 else InvalidRequestError
    if any(not _TIMEOUTS.isdisjoint(names) for names in kinds):
        return ProviderTimeoutError
    if any(not names.isdisjoint(_BROKEN_CONNECTIONS | _BEFORE_SEND) for names in kinds):
        return ProviderUnavailableError
    return ProviderError


def _genblaze_code(error: BaseException) -> ProviderErrorCode | None:
    """Return the code that an error of another package on the same format carries."""
    code = _attribute(error, "error_code")
    return ProviderErrorCode(code) if code in list(ProviderErrorCode) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it says it was caused by, not what merely happened before."""
    link: object = error
    for _ in range(_LONGEST_CHAIN):
        if not isinstance(link, BaseException):
            return
        yield link
        wrapped = link.args[0] if link.args else None
        reason = _attribute(link, "reason")
        link = link.__cause__ or (reason if isinstance(reason, BaseException) else wrapped)


def _names(error: BaseException) -> set[str]:
    """Return the classes of an error as `package.Name`, without importing the package."""
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}


def _status(error: BaseException) -> int | None:
    response = _attribute(error, "response")
    for holder, name in (
        (error, "status_code"),
        (error, "http_status"),
        (error, "status"),
        (error, "code"),
        (response, "status_code"),
        (response, "status"),
    ):
        value = _attribute(holder, name)
        if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
            return int(value)
    return None


def _attribute(holder: object, name: str) -> object:
    try:
        return getattr(holder, name, None)
    except Exception:
        # A property of a stranger's exception; that one raises must not hide the error itself.
        return None


def _vendor_code(error: BaseException) -> str | None:
    for name in ("vendor_code", "error_code", "code"):
        value = _attribute(error, name)
        if isinstance(value, str) and 0 < len(value) <= 80:
            return str(value)
    return None


def _retry_after(error: BaseException) -> float | None:
    own = _attribute(error, "retry_after")
    if isinstance(own, int | float) and not isinstance(own, bool) and math.isfinite(own):
        return max(float(own), 0.0)
    for holder in (_attribute(error, "response"), error):
        headers = _attribute(holder, "headers")
        if hasattr(headers, "items"):
            named = cast(Mapping[object, object], headers)
            return parse_retry_after({str(k).lower(): str(v) for k, v in named.items()})
    return None


def _said(error: BaseException, step: Step | None) -> str:
    text = str(error)
    for prompt in (step.prompt, step.negative_prompt) if step is not None else ():
        if prompt:
            text = text.replace(prompt, "[prompt]")
    text = redact(text, max_chars=_QUOTED_CHARS)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
