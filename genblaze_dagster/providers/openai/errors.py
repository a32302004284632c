"""OpenAI's error answers as our errors. The code decides before the HTTP status does."""

from collections.abc import Mapping
from typing import Any

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
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

_BY_CODE: Mapping[str, type[ProviderError]] = {
    "billing_hard_limit_reached": QuotaError,
    "billing_not_active": QuotaError,
    "content_policy_violation": ContentPolicyError,
    "insufficient_quota": QuotaError,
    "invalid_api_key": AuthError,
    "model_not_found": ModelError,
    "moderation_blocked": ContentPolicyError,
    "rate_limit_exceeded": RateLimitError,
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
_REMEDIES: Mapping[type[ProviderError], str] = {
    AuthError: "check OPENAI_API_KEY and what its project may use",
    QuotaError: "add credit or raise the spend limit",
    ModelError: "check the model name and that the project may use it",
    ContentPolicyError: "change the prompt or the input images",
}
_MAX_VENDOR_TEXT = 300
_MAX_PROMPT_QUOTE = 80


def error_of(
    answer: HttpAnswer, *, model: str, api_key: str, prompt: str | None = None
) -> ProviderError:
    """Return the typed error for an answer that is not a success.

    The vendor's text is kept, shortened and without keys or a prompt longer than 80 characters.
    """
    body = _body(answer)
    code, kind, text = (_text(body.get(name)) for name in ("code", "type", "message"))
    error_type = _classify(answer.status, code, kind, "moderation_details" in body)
    text = (text or answer.text.strip() or "no explanation").replace(api_key, REDACTED)
    if prompt and len(prompt) > _MAX_PROMPT_QUOTE:
        text = text.replace(prompt, "[prompt]")
    request_id = answer.headers.get("x-request-id")
    details = ", ".join(filter(None, (f"HTTP {answer.status}", code or kind, request_id)))
    remedy = _REMEDIES.get(error_type)
    return error_type(
        f"openai {model}: {redact(text, max_chars=_MAX_VENDOR_TEXT)} ({details})"
        + (f"; {remedy}" if remedy else ""),
        # The vendor may forbid a retry of what is transient in general.
        transient=False if answer.headers.get("x-should-retry") == "false" else None,
        provider="openai",
        model=model,
        http_status=answer.status,
        vendor_code=code or kind,
        retry_after=parse_retry_after(answer.headers),
        request_id=request_id,
        param=_text(body.get("param")),
    )


def _classify(
    status: int, code: str | None, kind: str | None, has_moderation_details: bool
) -> type[ProviderError]:
    if kind == "insufficient_quota" or (code or "").endswith("_spend_limit_exceeded"):
        return QuotaError
    if code is not None and code in _BY_CODE:
        return _BY_CODE[code]
    if kind == "image_generation_user_error" and has_moderation_details:
        return ContentPolicyError
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ProviderUnavailableError if status >= 500 else InvalidRequestError


def _body(answer: HttpAnswer) -> Mapping[str, Any]:
    """Return the error object; empty when a proxy answered with text or something else."""
    try:
        parsed = answer.json()
    except ValueError:
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
