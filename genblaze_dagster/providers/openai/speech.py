"""OpenAI speech: one synchronous call that answers with the audio.

API reference: https://platform.openai.com/docs/api-reference/audio/createSpeech. Requests equal
those of the vendor's Python client 3.52.0.
Submit: `POST /audio/speech` (JSON). No job, no URL, no usage record, no idempotency key.
Cost unit: characters (tts-1, tts-1-hd); tokens, which no answer tells (gpt-4o-mini-tts).
Quirks: `pcm` is 24 kHz, 16 bit, mono, without a header. OpenAI announced the end of these three
models for 6 January 2027. The voices of tts-1 are those its own refusal lists.
"""

import re
from collections.abc import Mapping
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import AudioMetadata
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.openai.provider import OpenAIProvider
from genblaze_dagster.providers.param_schemas import (
    EnumSchema,
    FloatSchema,
    ParamSchema,
    StringSchema,
    refuse,
)
from genblaze_dagster.providers.price_units import PriceUnit
from genblaze_dagster.providers.prices import price, price_table
from genblaze_dagster.providers.pricing import PricingStrategy
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result, Submission
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.traits import Traits

_MEDIA_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_PCM_RATE = 24_000
_PCM_FRAME_BYTES = 2
_ALIASES = {"prompt": "input", "output_format": "response_format", "guidance": "instructions"}
_TTS1_VOICES = frozenset(
    {"alloy", "ash", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer"}
)
_GPT_VOICES = _TTS1_VOICES | {"ballad", "cedar", "marin", "verse"}
_MAX_CHARACTERS = 4096
# From OpenAI's model pages, in November 2026.
_USD_PER_MILLION_CHARACTERS = {"tts-1": 15.0, "tts-1-hd": 30.0}


class _VoiceSchema:
    """One of the built-in voices, or the id of a custom one."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = EnumSchema(names)

    def validate(self, key: str, value: Any) -> None:
        """Refuse everything else."""
        if not isinstance(value, Mapping):
            self._names.validate(key, value)
        elif set(cast(Mapping[Any, Any], value)) != {"id"}:
            refuse(key, 'expected a name, or {"id": "voice_..."}')


def _voice(value: Any) -> Any:
    is_custom = isinstance(value, str) and value.startswith("voice_")
    return {"id": value} if is_custom else value


def _family(
    name: str,
    pattern: str,
    voices: frozenset[str],
    *,
    pricing: PricingStrategy | None = None,
    more: Mapping[str, ParamSchema] | None = None,
) -> ModelFamily:
    schemas: dict[str, ParamSchema] = {
        "input": StringSchema(min_len=1, max_len=_MAX_CHARACTERS),
        "voice": _VoiceSchema(voices),
        "response_format": EnumSchema(frozenset(_MEDIA_TYPES)),
        "speed": FloatSchema(min=0.25, max=4.0),
        # As events the audio would come in pieces; here it comes whole.
        "stream_format": EnumSchema(frozenset({"audio"})),
        **(more or {}),
    }
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description="speech",
        example_slugs=(name,),
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.AUDIO,
            pricing=pricing,
            param_aliases=_ALIASES,
            param_coercers={"voice": _voice},
            param_schemas=schemas,
            param_required=frozenset({"input", "voice"}),
            param_allowlist=frozenset(schemas),
        ),
    )


def _tts1(name: str) -> ModelFamily:
    rate = _USD_PER_MILLION_CHARACTERS[name]
    listed = price_table(price(f"{name}*", PriceUnit.MILLION_CHARACTERS, rate))
    return _family(name, rf"{name}(-\d{{4}})?$", _TTS1_VOICES, pricing=listed)


FAMILIES = (
    _tts1("tts-1-hd"),
    _tts1("tts-1"),
    _family(
        "gpt-4o-mini-tts",
        r"gpt-4o-mini-tts(-\d{4}-\d{2}-\d{2})?$",
        _GPT_VOICES,
        more={"instructions": StringSchema(max_len=_MAX_CHARACTERS)},
    ),
)


class OpenAITTSProvider(OpenAIProvider):
    """OpenAI's speech.

    The prompt is the text. Parameters: `voice` (required; a name, or the id of a custom voice),
    `output_format` (mp3, opus, aac, flac, wav, pcm), `speed` (0.25 to 4) and, but for tts-1, how to
    speak in words: `instructions`, or `guidance`.
    """

    name = "openai-tts"
    kind = "speech"
    traits = Traits(makes=("speech",), modalities=(Modality.AUDIO,), jobs=False)
    families = FAMILIES
    others = ModelSpec(
        model_id="*",
        param_aliases=_ALIASES,
        param_coercers={"voice": _voice},
        param_required=frozenset({"input"}),
    )
    reserved = frozenset({"model", "prompt", "input"})

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs: the text is the prompt."""
        inputs.check_inputs(self.name, request.inputs, at_most=0)

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the speech.

        Raises:
            ProviderError: see `Provider`.
        """
        body = {**self.payload(request), "model": self.model_of(request)}
        answer = await self.api.call(
            "POST",
            "/audio/speech",
            request_of=request,
            json=body,
            headers={"accept": "application/octet-stream"},
            seconds=request.timeout,
        )
        data = self.media_of(request, answer)
        request_id = answer.headers.get("x-request-id")
        payload = {"request_id": request_id} if request_id else {}
        outputs = (_output(data, str(body.get("response_format", "mp3"))),)
        return Submission(
            result=Result(
                outputs=outputs,
                cost_usd=self.cost(request, outputs, payload),
                provider_payload=payload,
            )
        )


def _output(data: bytes, audio_format: str) -> Output:
    facts: dict[str, Any] = {}
    if audio_format == "pcm":
        # Nothing in the bytes tells.
        facts["duration"] = len(data) // _PCM_FRAME_BYTES / _PCM_RATE
        facts["audio"] = AudioMetadata(channels=1, codec="pcm_s16le", sample_rate=_PCM_RATE)
    return Output(data=data, media_type=_MEDIA_TYPES.get(audio_format), facts=facts)
