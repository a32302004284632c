"""What ElevenLabs' speech, sound effects and music have in common: one call that answers with audio.

API reference: https://elevenlabs.io/docs/api-reference. Requests equal those of the vendor's Python
client 2.78.0. `output_format` is a query parameter everywhere, `codec_rate_bitrate`. Errors come as
`{"detail": {code | status, message, ...}}`; the code decides before the status, since a used-up
quota comes with 401.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.net.client import HttpAnswer
from genblaze_dagster.providers.param_schemas import ParamSchema, StringSchema
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import ErrorKind, ErrorRules, Refusal, first_problem
from genblaze_dagster.providers.vendor.provider import DEFAULT_MODEL, VendorProvider

_FORMATS = {
    "mp3": "mp3_44100_128",
    "wav": "wav_44100",
    "pcm": "pcm_44100",
    "opus": "opus_48000_128",
}
_MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "opus": "audio/ogg",
    "ulaw": "audio/basic",
    "alaw": "audio/basic",
}
FORMAT: ParamSchema = StringSchema(
    pattern=r"(auto|(mp3|wav|pcm|opus|ulaw|alaw)(_\d{4,5}(_\d{2,3})?)?)$"
)
_BY_CODE: Mapping[str, ErrorKind] = {
    "quota_exceeded": QuotaError,
    "insufficient_credits": QuotaError,
    "invalid_api_key": AuthError,
    "missing_permissions": AuthError,
    "detected_unusual_activity": AuthError,
    "max_character_limit_exceeded": InvalidRequestError,
    "text_too_long": InvalidRequestError,
    "voice_not_found": InvalidRequestError,
    "model_not_found": ModelError,
    "bad_prompt": ContentPolicyError,
    "bad_composition_plan": ContentPolicyError,
    "rate_limit_exceeded": RateLimitError,
    "concurrent_limit_exceeded": RateLimitError,
    "too_many_concurrent_requests": RateLimitError,
    "system_busy": RateLimitError,
}
_SUGGESTIONS = ("prompt_suggestion", "composition_plan_suggestion")


def native_format(value: Any) -> Any:
    """Return the vendor's name of a format; a full name stays as it is."""
    return _FORMATS.get(value, value) if isinstance(value, str) else value


def _read_error(status: int, body: Any) -> Refusal:
    detail = body.get("detail") if isinstance(body, dict) else None
    if (problem := first_problem(detail)) is not None:
        return problem
    if not isinstance(detail, dict):
        return Refusal(detail if isinstance(detail, str) else None)
    fields = cast(dict[str, Any], detail)
    code = fields.get("code") or fields.get("status")
    code = code if isinstance(code, str) else None
    text = str(fields.get("message") or "")
    told = fields.get("data")
    data = cast(dict[str, Any], told) if isinstance(told, dict) else {}
    for name in _SUGGESTIONS:
        if isinstance(data.get(name), str):
            text += f" The vendor suggests: {data[name]}"
    return Refusal(text or None, code=code, kind=_BY_CODE.get(code or ""))


ELEVENLABS = Vendor(
    name="elevenlabs",
    key_variables=("ELEVENLABS_API_KEY",),
    base_url="https://api.elevenlabs.io",
    base_url_variable="ELEVENLABS_BASE_URL",
    key_headers=lambda key: {"xi-api-key": key},
    headers={"accept": "*/*"},
    rules=ErrorRules(
        read=_read_error,
        remedies={
            AuthError: "check ELEVENLABS_API_KEY and its permissions",
            QuotaError: "add credits or raise the key's limit",
            ContentPolicyError: "change the prompt",
        },
    ),
)


class ElevenLabsAudio(VendorProvider):
    """Base of the three: makes the call and reads the audio."""

    vendor = ELEVENLABS
    default_format: ClassVar[str] = "mp3_44100_128"

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs: all there is to say stands in the prompt."""
        inputs.check_inputs(self.name, request.inputs, at_most=0)

    def body(self, request: GenerationRequest) -> tuple[dict[str, Any], dict[str, str | bool]]:
        """Return the JSON body and the query of a request."""
        body = self.payload(request)
        query = {
            name: body.pop(name) for name in ("output_format", "enable_logging") if name in body
        }
        if request.model != DEFAULT_MODEL:
            body["model_id"] = self.model_of(request)
        return body, query

    async def make(
        self,
        request: GenerationRequest,
        path: str,
        body: Mapping[str, Any],
        query: Mapping[str, str | bool],
    ) -> HttpAnswer:
        """Make the call."""
        return await self.api.call(
            "POST",
            path,
            request_of=request,
            json=dict(body),
            params=query,
            seconds=request.timeout,
        )

    def result(
        self,
        request: GenerationRequest,
        answer: HttpAnswer,
        data: bytes,
        query: Mapping[str, str | bool],
        *,
        facts: Mapping[str, Any] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> Result:
        """Return the result that an answer's audio is.

        Raises:
            OutputError: there is none.
        """
        if not data:
            raise self.no_output(request, "the answer holds no audio")
        codec = str(query.get("output_format", self.default_format)).partition("_")[0]
        outputs = (Output(data=data, media_type=_MEDIA_TYPES.get(codec), facts=dict(facts or {})),)
        told = {
            "request_id": answer.headers.get("request-id"),
            "character_cost": answer.headers.get("character-cost"),
            "song_id": answer.headers.get("song-id"),
            **(payload or {}),
        }
        kept = {name: value for name, value in told.items() if value is not None}
        return Result(
            outputs=outputs,
            cost_usd=self.cost(request, outputs, kept),
            provider_payload=kept,
        )

    async def search_voices(
        self, search: str | None = None, *, page_size: int = 100
    ) -> Sequence[Mapping[str, Any]]:
        """Return voices by name: `voice_id`, `name`, `category`, `labels`; all pages."""
        voices: list[Mapping[str, Any]] = []
        query: dict[str, str | int] = {"page_size": page_size}
        if search is not None:
            query["search"] = search
        while True:
            page = await self.api.document("GET", "/v2/voices", params=query)
            voices += cast(list[Mapping[str, Any]], page.get("voices") or [])
            token = page.get("next_page_token")
            if not page.get("has_more") or not token or token == query.get("next_page_token"):
                return voices
            query["next_page_token"] = token


AUDIO_ONLY = (Modality.AUDIO,)
VOICE_ID = re.compile(r"[A-Za-z0-9]{1,64}$")
