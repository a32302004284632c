"""fal's addresses, its key, and what its refusals mean.

Errors come as the model's `{"detail": [{loc, msg, type, ...}]}` or the platform's
`{"detail": "text", "error_type"}`. The type decides before the status, and the header
`X-Fal-Retryable` before both. That a locked account says so in words only is unverified.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
)
from genblaze_dagster.providers.vendor.api import Api, Vendor
from genblaze_dagster.providers.vendor.errors import ErrorKind, ErrorRules, Refusal, kind_of_text

QUEUE_URL = "https://queue.fal.run"
BACKUP_URL = "https://queue.falrun.com"
SYNC_URL = "https://fal.run"
STORAGE_URL = "https://rest.fal.ai/storage"
PLATFORM_URL = "https://api.fal.ai/v1"

CANCELLED = "client_cancelled"

_KEY = "FAL_KEY"
_KEY_HALVES = ("FAL_KEY_ID", "FAL_KEY_SECRET")
_POLICY = "content_policy_violation"
_KINDS: Mapping[str, ErrorKind] = {
    _POLICY: ContentPolicyError,
    "no_media_generated": ModelError,
    "generation_timeout": ProviderTimeoutError,
    "request_timeout": ProviderTimeoutError,
    "startup_timeout": ProviderTimeoutError,
    "downstream_service_error": ProviderUnavailableError,
    "downstream_service_unavailable": ProviderUnavailableError,
    "face_detection_error": InvalidRequestError,
    "missing": InvalidRequestError,
    "one_of": InvalidRequestError,
}
_KINDS_BY_START: Mapping[str, ErrorKind] = {
    "runner_": ProviderUnavailableError,
    "internal_": ProviderUnavailableError,
    "image_": InvalidRequestError,
    "file_": InvalidRequestError,
    "audio_": InvalidRequestError,
    "video_": InvalidRequestError,
    "unsupported_": InvalidRequestError,
    "less_than": InvalidRequestError,
    "value_error": InvalidRequestError,
}
_LOCKED: Mapping[ErrorKind, tuple[str, ...]] = {QuotaError: ("balance", "locked")}


def _kind_of_type(error_type: str | None) -> ErrorKind | None:
    found = error_type or ""
    by_start = (kind for start, kind in _KINDS_BY_START.items() if found.startswith(start))
    return _KINDS.get(found) or next(by_start, None)


def read_error(status: int, body: Any) -> Refusal:
    """Read either of the two bodies; `loc` names the member at fault."""
    fields = cast(dict[str, Any], body) if isinstance(body, dict) else {}
    detail = fields.get("detail")
    if isinstance(detail, list):
        return _of_items(cast(Sequence[Any], detail))
    text = detail if isinstance(detail, str) else None
    code = fields.get("error_type") or fields.get("status")
    code = code if isinstance(code, str) else None
    kind = _kind_of_type(code)
    if kind is None and status == 403:
        kind = kind_of_text(text, _LOCKED)
    return Refusal(text or code, code=code, kind=kind)


def _of_items(detail: Sequence[Any]) -> Refusal:
    items = [cast(Mapping[str, Any], item) for item in detail if isinstance(item, dict)]
    if not items:
        return Refusal()
    item = next((item for item in items if item.get("type") == _POLICY), items[0])
    place = item.get("loc")
    names = [str(part) for part in cast(Sequence[Any], place)] if isinstance(place, list) else []
    where = ".".join(names[1:] if names[:1] == ["body"] else names)
    code = item.get("type") if isinstance(item.get("type"), str) else None
    said = str(item.get("msg") or code or "refused")
    return Refusal(
        f"{where}: {said}" if where else said,
        code=code,
        kind=_kind_of_type(code),
        param=where or None,
    )


def _by_headers(refusal: Refusal, headers: Mapping[str, str]) -> Refusal:
    """Add the type and the word about another try that stand in the headers only."""
    if refusal.code is None:
        code = headers.get("x-fal-error-type")
        refusal = replace(refusal, code=code, kind=refusal.kind or _kind_of_type(code))
    if "x-fal-request-timeout-type" in headers:
        # The caller's own limit: the next attempt would meet it again.
        return replace(refusal, transient=False)
    told = {"true": True, "false": False}.get(headers.get("x-fal-retryable", "").lower())
    return refusal if told is None else replace(refusal, transient=told)


_RULES = ErrorRules(
    read=read_error,
    by_headers=_by_headers,
    by_status={404: ModelError},
    remedies={
        AuthError: f"check {_KEY} and what it may do",
        QuotaError: "top up the balance",
        ContentPolicyError: "change the prompt or the input",
    },
    request_id_headers=("x-fal-request-id",),
)
FAL = Vendor(
    name="fal",
    key_variables=(_KEY,),
    base_url=QUEUE_URL,
    key_headers=lambda key: {"authorization": f"Key {key}"},
    key_origins=frozenset({SYNC_URL, BACKUP_URL, "https://rest.fal.ai", "https://api.fal.ai"}),
    rules=_RULES,
)
JOBS = replace(FAL, rules=replace(_RULES, by_status={404: InvalidRequestError}))
"""For a job that was submitted: there, 404 is about the job and not about the model."""


class FalApi(Api):
    """Calls to fal, whose key may also stand in two variables."""

    @property
    def key(self) -> str:
        """The key; FAL_KEY, or FAL_KEY_ID and FAL_KEY_SECRET joined, unless one was given.

        Raises:
            AuthError: there is none, or it cannot be one; names the variable.
        """
        halves = [os.environ.get(name, "").strip() for name in _KEY_HALVES]
        if self._given_key or os.environ.get(_KEY) or not all(halves):
            return super().key
        return Api(self.vendor, api_key=":".join(halves)).key
