"""A vendor's refusals as our errors: from an answer that is no success, and from a failed job.

A vendor module says in `Refusal`s what its answers mean. The vendor's own code decides before the
HTTP status does. Words of a message decide only where a vendor has nothing else, in its own module.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from genblaze_dagster.errors import (
    AuthError,
    InvalidRequestError,
    ModelError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.net.redact import REDACTED, redact
from genblaze_dagster.net.retry_after import parse_retry_after
from genblaze_dagster.providers.protocol import GenerationRequest

ErrorKind = type[ProviderError]

_BY_STATUS: Mapping[int, ErrorKind] = {
    401: AuthError,
    402: QuotaError,
    403: AuthError,
    408: ProviderTimeoutError,
    410: ModelError,
    429: RateLimitError,
    504: ProviderTimeoutError,
}
_MAX_VENDOR_TEXT = 300
_MAX_PROMPT_QUOTE = 80


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a vendor says when it refuses, or when a job failed.

    `kind` is the error that the vendor's own code calls for, None where the HTTP status has to do.
    `transient` overrides what is usual for the kind. `retry_after` is in seconds.
    """

    text: str | None = None
    code: str | None = None
    kind: ErrorKind | None = None
    param: str | None = None
    retry_after: float | None = None
    transient: bool | None = None


def no_explanation(status: int, body: Any) -> Refusal:
    """Read nothing: what an answer means is its status."""
    return Refusal()


@dataclass(frozen=True, slots=True)
class ErrorRules:
    """How a vendor refuses.

    Args:
        read: gets the HTTP status and the parsed body (None when it is not JSON).
        by_status: what the vendor means by a status, where it differs from what is usual: 401 and
            403 auth, 402 quota, 408 and 504 timeout, 410 model, 429 rate limit, 5xx unavailable,
            all others an invalid request.
        remedies: what to do, by kind; said at the end of the message.
        request_id_headers: headers that hold the vendor's request id; the first that is there.
        by_headers: amends what was read, where a vendor says something in its headers only.
    """

    read: Callable[[int, Any], Refusal] = no_explanation
    by_status: Mapping[int, ErrorKind] = field(default_factory=dict[int, ErrorKind])
    remedies: Mapping[ErrorKind, str] = field(default_factory=dict[ErrorKind, str])
    request_id_headers: tuple[str, ...] = ("x-request-id", "request-id")
    by_headers: Callable[[Refusal, Mapping[str, str]], Refusal] | None = None

    def kind_of_status(self, status: int) -> ErrorKind:
        """Return the error that a status calls for by itself."""
        usual = ProviderUnavailableError if status >= 500 else InvalidRequestError
        return self.by_status.get(status) or _BY_STATUS.get(status) or usual


def answer_error(
    vendor: str,
    rules: ErrorRules,
    answer: HttpAnswer,
    request: GenerationRequest | None,
    *,
    key: str,
) -> ProviderError:
    """Return the typed error for an answer that is no success."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    refusal = rules.read(answer.status, body)
    if refusal.text is None and body is None:
        refusal = replace(refusal, text=answer.text.strip() or None)
    if rules.by_headers is not None:
        refusal = rules.by_headers(refusal, answer.headers)
    kind = refusal.kind or rules.kind_of_status(answer.status)
    request_id = next(
        (found for name in rules.request_id_headers if (found := answer.headers.get(name))), None
    )
    retry_after = refusal.retry_after
    if retry_after is None:
        retry_after = parse_retry_after(answer.headers)
    return _error(
        vendor,
        kind,
        refusal,
        request,
        key=key,
        remedy=rules.remedies.get(kind),
        http_status=answer.status,
        request_id=request_id,
        retry_after=retry_after,
        # The vendor may forbid a retry of what is transient in general.
        transient=(False if answer.headers.get("x-should-retry") == "false" else refusal.transient),
    )


def job_error(
    vendor: str,
    refusal: Refusal,
    request: GenerationRequest,
    *,
    key: str = "",
    otherwise: ErrorKind = ModelError,
) -> ProviderError:
    """Return the typed error for a job that failed; `otherwise` when the refusal has no kind."""
    return _error(
        vendor,
        refusal.kind or otherwise,
        refusal,
        request,
        key=key,
        retry_after=refusal.retry_after,
        transient=refusal.transient,
    )


def _error(
    vendor: str,
    kind: ErrorKind,
    refusal: Refusal,
    request: GenerationRequest | None,
    *,
    key: str,
    remedy: str | None = None,
    http_status: int | None = None,
    **details: Any,
) -> ProviderError:
    model = request.model if request is not None else None
    # As texts, whatever a vendor put there: an odd answer must not hide what it refuses.
    text = quoted(str(refusal.text or "no explanation"), request, key=key)
    code = None if refusal.code is None else str(refusal.code)
    facts = (
        f"HTTP {http_status}" if http_status else None,
        code,
        details.get("request_id"),
    )
    known = ", ".join(fact for fact in facts if fact)
    return kind(
        " ".join(filter(None, (f"{vendor}{f' {model}' if model else ''}:", text)))
        + (f" ({redact(known, max_chars=_MAX_VENDOR_TEXT)})" if known else "")
        + (f"; {remedy}" if remedy else ""),
        provider=vendor,
        model=model,
        http_status=http_status,
        vendor_code=code,
        param=refusal.param,
        **details,
    )


def quoted(text: str, request: GenerationRequest | None, *, key: str = "") -> str:
    """Return a vendor's words for a message: short, without the key and without long prompts."""
    if key:
        text = text.replace(key, REDACTED)
    for prompt in (request.prompt, request.negative_prompt) if request is not None else ():
        if prompt and len(prompt) > _MAX_PROMPT_QUOTE:
            text = text.replace(prompt, "[prompt]")
    return redact(text, max_chars=_MAX_VENDOR_TEXT)


def first_problem(detail: object) -> Refusal | None:
    """Read the list of problems that FastAPI answers a bad request with; None when it is none.

    Each item is `{"loc": [...], "msg": ..., "type": ...}`.
    """
    if not isinstance(detail, list) or not detail or not isinstance(detail[0], dict):
        return None
    first = cast(dict[str, Any], detail[0])
    place = first.get("loc")
    where = ".".join(map(str, cast(list[object], place) if isinstance(place, list) else ()))
    return Refusal(f"{where}: {first.get('msg')}", code=first.get("type"), param=where or None)


@contextmanager
def nothing_submitted() -> Generator[None]:
    """Say of every error of the block that no generation was asked for: uploads, lookups.

    Without it an upload that fails unclearly would count as a submit whose answer was lost.
    """
    try:
        yield
    except ProviderError as exc:
        exc.sent = False
        raise


def kind_of_text(text: str | None, words: Mapping[ErrorKind, tuple[str, ...]]) -> ErrorKind | None:
    """Return the first kind one of whose words stands in the text, in any case.

    Only for vendors that say it in no other way; their documentation quotes the words.
    """
    lowered = (text or "").lower()
    return next((kind for kind, found in words.items() if any(w in lowered for w in found)), None)
