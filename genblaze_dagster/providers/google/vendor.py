"""Google's Gemini API: address, key, names of models and errors, which all of its parts share.

API reference: https://ai.google.dev/api. Only the flavour with an API key, not Vertex.
Key: `x-goog-api-key`, never in the query. Version `v1beta` throughout, which alone has Veo, Imagen
and files. Names are written in camelCase; the API takes snake_case as well. There is no idempotency
key and no list of operations. Error body: `{"error": {"code", "message", "status", "details"}}`.
Quirks: a wrong key is a 400; how long to wait stands in the details, not in a header; a used-up
daily quota is a 429 that no waiting helps. Unverified: the names of daily quotas, seen in public
threads only. What is unknown counts as a rate limit.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import ErrorKind, ErrorRules, Refusal

VERSION = "/v1beta"
KEY_HEADER = "x-goog-api-key"

_NAME = re.compile(r"((models|tunedModels)/)?[A-Za-z0-9][A-Za-z0-9._-]*")
_DELAY = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_BY_STATUS: Mapping[str, ErrorKind] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    # Region, billing that is not enabled, a model that is not free: the account has to change.
    "FAILED_PRECONDITION": AuthError,
    "UNAUTHENTICATED": AuthError,
    "PERMISSION_DENIED": AuthError,
    "NOT_FOUND": ModelError,
    "DEADLINE_EXCEEDED": ProviderTimeoutError,
    "INTERNAL": ProviderUnavailableError,
    "UNAVAILABLE": ProviderUnavailableError,
}
# Numbers of google.rpc, which failed operations have in the place of an HTTP status.
_BY_RPC_CODE: Mapping[int, ErrorKind] = {
    3: InvalidRequestError,
    4: ProviderTimeoutError,
    7: AuthError,
    8: RateLimitError,
    13: ProviderUnavailableError,
    14: ProviderUnavailableError,
    16: AuthError,
}


def resource_of(model: str) -> str:
    """Return the resource name of a model: `models/...` or `tunedModels/...`.

    Raises:
        ModelError: it can be no model's name; nothing was sent.
    """
    if _NAME.fullmatch(model) is None:
        raise ModelError(
            "google: the model is no name of letters, digits, dots, dashes and underscores",
            provider="google",
            model=model,
            sent=False,
        )
    return model if "/" in model else f"models/{model}"


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; nothing of anything else."""
    items = cast(list[object], value) if isinstance(value, list) else []
    return [cast(dict[str, Any], item) for item in items if isinstance(item, dict)]


def part_of(value: object, name: str) -> dict[str, Any]:
    """Return an object inside of an object; an empty one when there is none."""
    found = cast(dict[str, Any], value).get(name) if isinstance(value, dict) else None
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}


def read_error(status: int, body: Any) -> Refusal:
    """Read the error object; nothing when a proxy answered with something else."""
    error = part_of(body, "error")
    native, details = error.get("status"), dicts(error.get("details"))
    reason = _detail(details, "ErrorInfo").get("reason")
    retry_after = _seconds(_detail(details, "RetryInfo").get("retryDelay"))
    if reason == "API_KEY_INVALID":
        kind: ErrorKind | None = AuthError
    elif native == "RESOURCE_EXHAUSTED":
        kind = QuotaError if retry_after is None and _is_used_up(details) else RateLimitError
    else:
        kind = _BY_STATUS.get(str(native))
    return Refusal(
        _text(error.get("message")),
        code=_text(reason) or _text(native),
        kind=kind,
        retry_after=retry_after,
    )


def job_refusal(error: Mapping[str, Any]) -> Refusal:
    """Read the error of a failed operation."""
    code = error.get("code")
    return Refusal(
        _text(error.get("message")),
        code=None if code is None else str(code),
        kind=_BY_RPC_CODE.get(code, ModelError) if isinstance(code, int) else ModelError,
        retry_after=_seconds(_detail(dicts(error.get("details")), "RetryInfo").get("retryDelay")),
    )


def _detail(details: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next((d for d in details if str(d.get("@type")).endswith(f".{name}")), {})


def _is_used_up(details: list[dict[str, Any]]) -> bool:
    return any(
        "PerDay" in str(violation.get("quotaId")) or str(violation.get("quotaValue")) == "0"
        for violation in dicts(_detail(details, "QuotaFailure").get("violations"))
    )


def _seconds(delay: object) -> float | None:
    found = _DELAY.fullmatch(delay) if isinstance(delay, str) else None
    return float(found[1]) if found else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


GOOGLE = Vendor(
    name="google",
    key_variables=("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    named_variable="GEMINI_API_KEY",
    base_url="https://generativelanguage.googleapis.com",
    key_headers=lambda key: {KEY_HEADER: key},
    rules=ErrorRules(
        read=read_error,
        by_status={404: ModelError, 499: ProviderTimeoutError},
        remedies={
            AuthError: "check GEMINI_API_KEY, its restrictions, and the account's region and billing",
            QuotaError: "enable billing, or wait for the next day",
            ModelError: "check the model name; Google withdraws models, and lists some that not "
            "everybody may use",
            ContentPolicyError: "change the prompt or the inputs",
        },
    ),
)
"""GOOGLE_API_KEY wins over GEMINI_API_KEY, as in Google's own client."""
