"""NVIDIA's addresses, key and errors, which all of its APIs share.

Error bodies: `{"title", "status", "detail"}`, with `detail` a text or FastAPI's list; vLLM's
`{"message", "code"}`; `{"error": ...}`; plain text; nothing at all. A refusal by a guardrail comes
as HTTP 400, and only its words tell. The header `NVCF-STATUS` says `errored` or `rejected` when it
is the job that failed, not the gateway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from genblaze_dagster.errors import AuthError, ContentPolicyError, ModelError, QuotaError
from genblaze_dagster.net.client import HttpClient
from genblaze_dagster.providers.vendor.api import Api, Vendor
from genblaze_dagster.providers.vendor.errors import ErrorKind, ErrorRules, Refusal, kind_of_text

NVCF = "https://api.nvcf.nvidia.com"
"""The gateway behind all hosted models: states of jobs, and assets."""

STATUS_URL = f"{NVCF}/v2/nvcf/pexec/status/"
REQUEST_ID = "nvcf-reqid"
STATUS = "nvcf-status"
OVER = ("errored", "rejected")

_GUARDRAIL: Mapping[ErrorKind, tuple[str, ...]] = {
    ContentPolicyError: ("nemoguard", "guardrail", "content policy", "safety")
}
_BY_STATUS: Mapping[int, ErrorKind] = {404: ModelError}
_USUAL = ErrorRules(by_status=_BY_STATUS)


def read_error(status: int, body: Any) -> Refusal:
    """Read an error body of any form; also the error object inside a stream."""
    if not isinstance(body, dict):
        return Refusal()
    fields = cast(dict[str, Any], body)
    kind: ErrorKind | None = None
    error = fields.get("error")
    if isinstance(error, dict):
        fields = cast(dict[str, Any], error)
        code = fields.get("code")
        if isinstance(code, int) and 400 <= code < 600:
            status, kind = code, _USUAL.kind_of_status(code)
    text, param = _explanation(fields)
    if status in (400, 422):
        kind = kind_of_text(text, _GUARDRAIL) or kind
    return Refusal(text, kind=kind, param=param)


def _with_status(refusal: Refusal, headers: Mapping[str, str]) -> Refusal:
    """Add how the job ended, as the headers say; NVIDIA has no other code."""
    return replace(refusal, code=refusal.code or headers.get(STATUS))


def _explanation(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return what an error says, and the field it complains about."""
    detail = fields.get("detail")
    if isinstance(detail, list) and detail:
        faults = [_fault(entry) for entry in cast(list[object], detail)]
        return "; ".join(text for text, _ in faults), faults[0][1]
    found = (fields.get(name) for name in ("detail", "message", "error", "title"))
    return next((text for text in found if isinstance(text, str) and text), None), None


def _fault(entry: object) -> tuple[str, str | None]:
    if not isinstance(entry, dict):
        return str(entry), None
    fields = cast(dict[str, Any], entry)
    where = fields.get("loc")
    place = [str(part) for part in cast(Sequence[object], where)] if isinstance(where, list) else []
    param = place[-1] if place else None
    text = str(fields.get("msg") or "not valid")
    return (f"{param}: {text}" if param else text), param


NVIDIA = Vendor(
    name="nvidia",
    key_variables=("NVIDIA_API_KEY", "NVIDIA_NIM_API_KEY"),
    base_url="https://ai.api.nvidia.com/v1",
    key_origins=frozenset({NVCF}),
    rules=ErrorRules(
        read=read_error,
        by_status=_BY_STATUS,
        remedies={
            AuthError: "check NVIDIA_API_KEY",
            QuotaError: "renew the account's credits",
            ModelError: "check the model's name, and accept its licence on build.nvidia.com",
            ContentPolicyError: "change the prompt or the input",
        },
        request_id_headers=(REQUEST_ID,),
        by_headers=_with_status,
    ),
)


def function_url(function_id: str) -> str:
    """Return the address of a hosted function that has HTTP routes of its own."""
    return f"https://{function_id}.invocation.api.nvcf.nvidia.com"


def container_api(url: str, client: HttpClient | None) -> Api:
    """Return the API of a NIM container of one's own, which knows no key and gets none."""
    container = replace(NVIDIA, key_headers=lambda key: {}, key_origins=frozenset[str]())
    return Api(container, api_key="none", base_url=url, client=client)
