"""LMNT: speech, with word timings on demand; one synchronous call.

API reference: https://docs.lmnt.com/api-reference. Requests equal those of the vendor's Python
client 2.13.0.
Submit: `POST /v1/ai/speech/bytes` (the audio itself), or `POST /v1/ai/speech` (JSON, for timings).
Cost unit: characters, at a rate of the plan, so none is built in: give your own by `1k_characters`.
Quirks: 401 means that the key's allowance is used up, 403 that the key is wrong, unless the error's
type says otherwise. The type of the audio is that of the requested format, whatever the header says.
"""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import AudioMetadata, WordTiming
from genblaze_dagster.errors import (
    AuthError,
    InvalidRequestError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    FloatSchema,
    StringSchema,
)
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result, Submission
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import ErrorKind, ErrorRules, Refusal, kind_of_text
from genblaze_dagster.providers.vendor.provider import VendorProvider
from genblaze_dagster.providers.vendor.traits import Traits

API_VERSION = "1.2"

_MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "aac": "audio/aac",
    "webm": "audio/webm",
    # It has a WAV header.
    "ulaw": "audio/wav",
    "pcm_s16le": "audio/pcm",
    "pcm_f32le": "audio/pcm",
}
_BY_TYPE: Mapping[str, ErrorKind] = {
    "invalid_request_error": InvalidRequestError,
    "not_found_error": InvalidRequestError,
    "authentication_error": AuthError,
    "permission_error": AuthError,
    "payment_required_error": QuotaError,
    "rate_limit_error": RateLimitError,
    "internal_server_error": ProviderUnavailableError,
}
# The plan's allowance used up comes with 429 too, and only the text tells it from too many at once.
_ALLOWANCE = {QuotaError: ("plan", "billing", "allowance", "character")}
# A 401 without a type: LMNT documents it as the key's limit.
_KEY = {QuotaError: ("limit", "usage"), AuthError: ("key", "authent")}

_ALIASES = {"prompt": "text", "output_format": "format", "voice_id": "voice"}

FAMILIES = (
    ModelFamily(
        name="blizzard",
        pattern=re.compile(r"blizzard"),
        description="LMNT's speech model",
        example_slugs=("blizzard",),
        spec_template=ModelSpec(
            model_id="blizzard",
            modality=Modality.AUDIO,
            param_aliases=_ALIASES,
            param_schemas={
                "text": StringSchema(min_len=1, max_len=5000),
                "voice": StringSchema(min_len=1),
                "format": EnumSchema(frozenset(_MEDIA_TYPES)),
                "sample_rate": EnumSchema(frozenset({8000, 16000, 24000})),
                "temperature": FloatSchema(min=0),
                "top_p": FloatSchema(min=0, max=1),
                "return_timestamps": BoolSchema(),
            },
            param_required=frozenset({"text", "voice"}),
            param_allowlist=frozenset(
                {"text", "voice", "format", "language", "sample_rate", "temperature", "top_p"}
                | {"return_timestamps"}
            ),
        ),
    ),
)


def _read_error(status: int, body: Any) -> Refusal:
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        fields = cast(dict[str, Any], error)
        kind = str(fields.get("type"))
        return Refusal(fields.get("message"), code=kind, kind=_BY_TYPE.get(kind))
    text = error if isinstance(error, str) else None
    words = {401: _KEY, 429: _ALLOWANCE}.get(status)
    return Refusal(text, kind=kind_of_text(text, words) if words else None)


class LMNTProvider(VendorProvider):
    """LMNT's speech.

    The prompt is the text. Parameters: `voice` (required), `output_format`, `language`,
    `sample_rate`, `temperature`, `top_p`; with `return_timestamps=True` the words and their times
    (seconds) stand in the output's audio metadata.
    """

    name = "lmnt"
    vendor = Vendor(
        name="lmnt",
        key_variables=("LMNT_API_KEY",),
        base_url="https://api.lmnt.com",
        key_headers=lambda key: {"x-api-key": key},
        headers={"lmnt-version": API_VERSION},
        rules=ErrorRules(
            read=_read_error,
            by_status={401: QuotaError},
            remedies={
                AuthError: "check LMNT_API_KEY",
                QuotaError: "raise the key's limit or the plan",
            },
        ),
    )
    traits = Traits(makes=("speech", "word timings"), modalities=(Modality.AUDIO,), jobs=False)
    families = FAMILIES
    others = ModelSpec(
        model_id="*", param_aliases=_ALIASES, param_required=frozenset({"text", "voice"})
    )

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs: the text is the prompt."""
        inputs.check_inputs(self.name, request.inputs, at_most=0)

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the speech.

        Raises:
            ProviderError: see `Provider`.
        """
        body = {"model": self.model_of(request), **self.payload(request)}
        media_type = _MEDIA_TYPES.get(str(body.get("format", "mp3")))
        if "return_timestamps" in body:
            if not body["return_timestamps"]:
                del body["return_timestamps"]
            data, words = await self._detailed(request, body)
        else:
            answer = await self.api.call(
                "POST",
                "/v1/ai/speech/bytes",
                request_of=request,
                json=body,
                headers={"accept": "application/octet-stream"},
                seconds=request.timeout,
            )
            data, words = self.media_of(request, answer), []
        if not data:
            raise self.no_output(request, "the answer holds no audio")
        facts: dict[str, Any] = {"audio": AudioMetadata(word_timings=words)} if words else {}
        outputs = (Output(data=data, media_type=media_type, facts=facts),)
        return Submission(result=Result(outputs=outputs, cost_usd=self.cost(request, outputs, {})))

    async def _detailed(
        self, request: GenerationRequest, body: Mapping[str, Any]
    ) -> tuple[bytes, list[WordTiming]]:
        answer = await self.api.document(
            "POST", "/v1/ai/speech", request_of=request, json=dict(body), seconds=request.timeout
        )
        try:
            data = b64decode(answer["audio"], validate=True)
        except (KeyError, TypeError, ValueError) as exc:
            raise self.no_output(request, "the answer holds no readable audio") from exc
        try:
            return data, words_of(answer.get("timestamps"))
        except (KeyError, TypeError, ValueError):
            # The audio is worth more than its timings.
            return data, []

    async def list_voices(self, owner: str = "system") -> list[Mapping[str, Any]]:
        """Return the voices of `system`, `me` or `all`: id, name, owner, state, ..."""
        answer = await self.api.call("GET", "/v1/ai/voice/list", params={"owner": owner})
        return cast(list[Mapping[str, Any]], answer.json())

    async def retrieve_account(self) -> Mapping[str, Any]:
        """Return plan and usage; costs nothing, so it also checks the key."""
        return await self.api.document("GET", "/v1/account")


def words_of(timestamps: object) -> list[WordTiming]:
    """Join the elements between blanks to words; LMNT has one for every sign, blanks too."""
    words: list[WordTiming] = []
    text, start, end = "", 0.0, 0.0
    elements = cast(Sequence[Mapping[str, Any]], timestamps or ())
    for element in (*elements, {"text": " ", "start": 0.0, "duration": 0.0}):
        piece = str(element["text"])
        if piece.strip():
            start = start if text else float(element["start"])
            text += piece
            end = float(element["start"]) + float(element["duration"])
        elif text:
            words.append(WordTiming(word=text, start=round(start, 6), end=round(end, 6)))
            text = ""
    return words
