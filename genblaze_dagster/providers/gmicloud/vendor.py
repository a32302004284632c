"""GMI Cloud's two addresses, its key and its errors, which the request queue and the chat share.

Error body: `{"error": "<text>"}` of the queue; `{"error": {"message", "code"}}` or `{"message"}` of
the chat, where the code is an HTTP status. GMI passes on what the makers of its models say, so a
text such as `Backend error (400): ...` holds the status that counts. There are no other codes: the
words decide between content policy, balance and the rest. Unverified: the words for a balance that
is used up, `Retry-After`, and the body of a 401.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import ErrorKind, ErrorRules, Refusal

_KEYS = ("GMI_API_KEY", "GMI_CLOUD_APIKEY")
_UPSTREAM = re.compile(r"\bbackend error \((\d{3})\)", re.IGNORECASE)
# Of what a maker answers GMI: its 401 is about GMI's own key, not the caller's, so it says nothing.
_BY_UPSTREAM: Mapping[int, ErrorKind] = {
    400: InvalidRequestError,
    404: ModelError,
    422: InvalidRequestError,
    429: RateLimitError,
}
# "case-sensitive" is said of model names, and `safety_checker` may be a parameter's name.
_CONTENT = re.compile(
    r"content policy|(?<!case[- ])\bsensitive\b|\bmoderation\b|\bsafety\b", re.IGNORECASE
)
_BALANCE = re.compile(r"insufficient (balance|credit)", re.IGNORECASE)
_RATE = re.compile(r"rate limit", re.IGNORECASE)
_INVALID = (400, 422)


def read_error(status: int, body: Any) -> Refusal:
    """Read the error of the queue or of the chat; nothing when a proxy answered."""
    if not isinstance(body, dict):
        return Refusal()
    fields = cast(dict[str, Any], body)
    text, code = text_of(fields), _code(fields)
    told = upstream_status(text) or code or status
    if told in _INVALID and _CONTENT.search(text or ""):
        return Refusal(text, kind=ContentPolicyError)
    if told < 500 and _BALANCE.search(text or ""):
        return Refusal(text, kind=QuotaError)
    return Refusal(text, kind=_kind_of_upstream(told) if told != status else None)


def failure_of(record: Mapping[str, Any]) -> Refusal:
    """Return why a request failed; where the record says it varies."""
    outcome = record.get("outcome")
    within = cast(dict[str, Any], outcome) if isinstance(outcome, dict) else {}
    text = next(filter(None, map(text_of, (record, within))), None)
    upstream = upstream_status(text)
    if upstream in (None, *_INVALID) and _CONTENT.search(text or ""):
        return Refusal(text, kind=ContentPolicyError)
    if _BALANCE.search(text or ""):
        return Refusal(text, kind=QuotaError)
    kind = _kind_of_upstream(upstream)
    if upstream is None and _RATE.search(text or ""):
        kind = RateLimitError
    if kind is not None:
        return Refusal(text, kind=kind)
    # The queue took the request and the model broke down over it: that may pass.
    return Refusal(text, kind=ModelError, transient=True)


def text_of(fields: Mapping[str, Any]) -> str | None:
    """Return the words of an error, wherever they are."""
    error = fields.get("error")
    inner = cast(dict[str, Any], error).get("message") if isinstance(error, dict) else error
    found = (inner, fields.get("error_message"), fields.get("message"))
    return next((text for text in found if isinstance(text, str) and text.strip()), None)


def upstream_status(text: str | None) -> int | None:
    """Return the HTTP status that a model's maker answered with, if the text tells."""
    found = _UPSTREAM.search(text or "")
    return int(found[1]) if found is not None else None


def _code(fields: Mapping[str, Any]) -> int | None:
    error = fields.get("error")
    code = cast(dict[str, Any], error).get("code") if isinstance(error, dict) else None
    is_status = isinstance(code, int) and 400 <= code <= 599
    return code if is_status else None


def _kind_of_upstream(status: int | None) -> ErrorKind | None:
    if status is None:
        return None
    return ProviderUnavailableError if status >= 500 else _BY_UPSTREAM.get(status)


_RULES = ErrorRules(
    read=read_error,
    by_status={404: ModelError},
    remedies={
        AuthError: "check GMI_API_KEY",
        QuotaError: "add credit",
        ModelError: "check the model's name, whose case matters, and that the account may use it",
        ContentPolicyError: "change the prompt or the inputs",
    },
)

QUEUE = Vendor(
    name="gmicloud",
    key_variables=_KEYS,
    base_url="https://console.gmicloud.ai/api/v1/ie/requestqueue/apikey",
    rules=_RULES,
)
CHAT = Vendor(
    name="gmicloud",
    key_variables=_KEYS,
    base_url="https://api.gmi-serving.com/v1",
    rules=_RULES,
)
