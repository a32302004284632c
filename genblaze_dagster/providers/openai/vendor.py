"""OpenAI's address, key, errors and kinds of models, which all of its APIs share.

Error body: `{"error": {"message", "type", "param", "code"}}`; the code decides before the status.
"""

import os
import re
from collections.abc import Mapping
from typing import Any, cast

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    ModelError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import ErrorKind, ErrorRules, Refusal

_BY_CODE: Mapping[str, ErrorKind] = {
    "billing_hard_limit_reached": QuotaError,
    "billing_not_active": QuotaError,
    "content_policy_violation": ContentPolicyError,
    "insufficient_quota": QuotaError,
    "invalid_api_key": AuthError,
    "model_not_found": ModelError,
    "moderation_blocked": ContentPolicyError,
    "rate_limit_exceeded": RateLimitError,
}

_KINDS = (
    ("video", re.compile(r"sora-")),
    ("image", re.compile(r"(chat)?gpt-image-|dall-e-")),
    ("speech", re.compile(r"tts-|gpt-.+-tts")),
    (
        "other",
        re.compile(
            r"(chat)?gpt-|o\d|whisper-|text-|omni-moderation|davinci|babbage|codex-|computer-use"
        ),
    ),
)


def kind_of(model: str) -> str | None:
    """Return what a model of OpenAI makes: `video`, `image`, `speech` or `other`.

    None for a name that is not OpenAI's, such as one of a gateway.
    """
    return next((kind for kind, pattern in _KINDS if pattern.match(model)), None)


def read_error(status: int, body: Any) -> Refusal:
    """Read the error object; nothing when a proxy answered with text or something else."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, str):
        return Refusal(error)
    if not isinstance(error, dict):
        return Refusal()
    return refusal_of(cast(dict[str, Any], error))


def refusal_of(fields: Mapping[str, Any]) -> Refusal:
    """Return what an error object says: that of an answer, or that of a failed job."""
    code, kind, text, param = (
        value if isinstance(value := fields.get(name), str) and value else None
        for name in ("code", "type", "message", "param")
    )
    return Refusal(
        text,
        code=code or kind,
        kind=_kind(code, kind, has_details="moderation_details" in fields),
        param=param,
    )


def _kind(code: str | None, kind: str | None, *, has_details: bool) -> ErrorKind | None:
    if kind == "insufficient_quota" or (code or "").endswith("_spend_limit_exceeded"):
        return QuotaError
    if kind == "image_generation_user_error" and has_details:
        return ContentPolicyError
    return _BY_CODE.get(code or "")


def own_headers(organization: str | None = None, project: str | None = None) -> dict[str, str]:
    """Return the headers that name who is billed; OPENAI_ORG_ID and OPENAI_PROJECT_ID by default."""
    named = {
        "openai-organization": organization or os.environ.get("OPENAI_ORG_ID"),
        "openai-project": project or os.environ.get("OPENAI_PROJECT_ID"),
    }
    return {name: value for name, value in named.items() if value}


OPENAI = Vendor(
    name="openai",
    key_variables=("OPENAI_API_KEY",),
    base_url="https://api.openai.com/v1",
    base_url_variable="OPENAI_BASE_URL",
    rules=ErrorRules(
        read=read_error,
        remedies={
            AuthError: "check OPENAI_API_KEY and what its project may use",
            QuotaError: "add credit or raise the spend limit",
            ModelError: "check the model name and that the project may use it",
            ContentPolicyError: "change the prompt or the inputs",
        },
    ),
)
