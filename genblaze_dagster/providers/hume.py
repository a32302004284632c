"""Hume: Octave speech with acting instructions, and word timings; one synchronous call.

API reference: https://dev.hume.ai/reference/text-to-speech-tts. Requests equal those of the vendor's
Python client 0.14.1. A third party reports that Octave has left the documentation while the API
goes on answering.
Submit: `POST /v0/tts`, JSON with the audio in base64, or `POST /v0/tts/file`, the audio itself.
Cost unit: characters, at a rate of the plan, so none is built in: give your own by `1k_characters`.
Quirks: a voice without a provider means one of your own, so the library's is named by default;
Octave 2 needs a voice; times are milliseconds. Unverified: the limit of 5 takes, the billing codes,
and whether the times of a later snippet start at zero again (then they are moved on).
"""

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import AudioMetadata, WordTiming
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    QuotaError,
)
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    FloatSchema,
    IntSchema,
    StringSchema,
)
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result, Submission
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.api import Vendor
from genblaze_dagster.providers.vendor.errors import (
    ErrorRules,
    Refusal,
    first_problem,
    kind_of_text,
)
from genblaze_dagster.providers.vendor.provider import VendorProvider
from genblaze_dagster.providers.vendor.traits import Traits

_MEDIA_TYPES = {"mp3": "audio/mpeg", "wav": "audio/wav", "pcm": "audio/pcm"}
_VERSIONS = {"octave-1": "1", "octave-2": "2"}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_LIBRARY = "HUME_AI"
_BILLING_CODES = ("E0300", "E0301")
_WORDS = {ContentPolicyError: ("content policy", "moderation"), QuotaError: ("credit", "billing")}
_UTTERANCE = ("description", "speed", "trailing_silence")

_ALIASES = {
    "prompt": "text",
    "voice_id": "voice",
    "instructions": "description",
    "n": "num_generations",
    "output_format": "format",
}

FAMILIES = (
    ModelFamily(
        name="octave",
        pattern=re.compile(r"octave"),
        description="Hume's speech models",
        example_slugs=("octave-1", "octave-2"),
        spec_template=ModelSpec(
            model_id="octave",
            modality=Modality.AUDIO,
            param_aliases=_ALIASES,
            param_schemas={
                "text": StringSchema(min_len=1, max_len=5000),
                "voice": StringSchema(min_len=1),
                "voice_provider": EnumSchema(frozenset({_LIBRARY, "CUSTOM_VOICE"})),
                "speed": FloatSchema(min=0),
                "trailing_silence": FloatSchema(min=0),
                "num_generations": IntSchema(min=1, max=5),
                "format": EnumSchema(frozenset(_MEDIA_TYPES)),
                "as_file": BoolSchema(),
            },
            param_required=frozenset({"text"}),
            param_allowlist=frozenset(
                {"text", "voice", "voice_provider", "num_generations", "format", *_UTTERANCE}
                | {"context", "include_timestamp_types", "split_utterances", "strip_headers"}
                | {"instant_mode", "temperature", "as_file"}
            ),
        ),
    ),
)


def _read_error(status: int, body: Any) -> Refusal:
    if not isinstance(body, dict):
        return Refusal()
    fields = cast(dict[str, Any], body)
    detail = fields.get("detail")
    if (problem := first_problem(detail)) is not None:
        return problem
    code, text = fields.get("code"), fields.get("message") or fields.get("error")
    text = text if isinstance(text, str) else None
    if code in _BILLING_CODES:
        return Refusal(text, code=code, kind=QuotaError)
    is_ours = status in (400, 403)
    return Refusal(text, code=code, kind=kind_of_text(text, _WORDS) if is_ours else None)


class HumeTTSProvider(VendorProvider):
    """Hume's Octave.

    The prompt is the text. Parameters: `voice` (a name or an id), `voice_provider` (HUME_AI, the
    library, by default; CUSTOM_VOICE for your own), `instructions` (how to act; without a voice: the
    voice to invent), `speed`, `trailing_silence` (seconds), `n` takes, `output_format` (mp3, wav,
    pcm), `context`, `include_timestamp_types=["word"]` (Octave 2). With `as_file=True` the answer is the
    audio alone, without its id, duration and timings.
    """

    name = "hume-tts"
    vendor = Vendor(
        name="hume-tts",
        key_variables=("HUME_API_KEY",),
        base_url="https://api.hume.ai",
        key_headers=lambda key: {"x-hume-api-key": key},
        headers={"accept": "*/*"},
        rules=ErrorRules(
            read=_read_error,
            by_status={404: InvalidRequestError},
            remedies={AuthError: "check HUME_API_KEY", QuotaError: "add credit"},
        ),
    )
    traits = Traits(makes=("speech", "word timings"), modalities=(Modality.AUDIO,), jobs=False)
    families = FAMILIES
    others = ModelSpec(
        model_id="*",
        param_aliases=_ALIASES,
        param_schemas={
            "voice": StringSchema(min_len=1),
            "num_generations": IntSchema(min=1),
            "format": StringSchema(min_len=1),
            "as_file": BoolSchema(),
        },
        param_required=frozenset({"text"}),
    )

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs, what Octave 2 needs and Octave 1 lacks, and what would be lost."""
        inputs.check_inputs(self.name, request.inputs, at_most=0)
        if "voice_provider" in payload and "voice" not in payload:
            raise self.refusal("voice_provider", "says whose the voice is; give a voice", request)
        if payload.get("as_file") and payload.get("num_generations", 1) != 1:
            raise self.refusal("n", "as_file gives one take; leave one of them out", request)
        if payload.get("as_file") and "include_timestamp_types" in payload:
            raise self.refusal(
                "include_timestamp_types",
                "as_file gives no timings; leave one of them out",
                request,
            )
        if request.model == "octave-2" and "voice" not in payload:
            raise self.refusal("voice", "octave-2 needs a voice; give one", request)
        if request.model == "octave-1" and "include_timestamp_types" in payload:
            raise self.refusal(
                "include_timestamp_types", "octave-1 has no timings; use octave-2", request
            )

    def outputs_of(self, payload: Mapping[str, Any]) -> int:
        """Return how many takes a payload asks for."""
        return int(payload.get("num_generations", 1))

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the speech.

        Raises:
            ProviderError: see `Provider`.
        """
        native = self.payload(request)
        as_file = native.pop("as_file", False)
        body = body_of(native, _VERSIONS.get(request.model))
        if as_file:
            return Submission(result=await self._file(request, body))
        answer = await self.api.document(
            "POST", "/v0/tts", request_of=request, json=body, seconds=request.timeout
        )
        generations = cast(list[dict[str, Any]], answer.get("generations") or [])
        if not generations:
            raise self.no_output(request, "the answer holds no generation")
        takes = [(g, output) for g in generations if (output := _output(g)) is not None]
        if not takes:
            raise self.no_output(request, "a generation holds no readable audio")
        outputs = tuple(output for _, output in takes)
        payload: dict[str, Any] = {
            "generation_ids": [generation.get("generation_id") for generation, _ in takes]
        }
        if missing := len(generations) - len(takes):
            payload["missing"] = missing
        if answer.get("request_id"):
            payload["request_id"] = answer["request_id"]
        return Submission(
            result=Result(
                outputs=outputs,
                cost_usd=self.cost(request, outputs, payload),
                provider_payload=payload,
            )
        )

    async def _file(self, request: GenerationRequest, body: Mapping[str, Any]) -> Result:
        answer = await self.api.call(
            "POST", "/v0/tts/file", request_of=request, json=dict(body), seconds=request.timeout
        )
        wanted = str((body.get("format") or {"type": "mp3"})["type"])
        data = self.media_of(request, answer)
        outputs = (Output(data=data, media_type=_MEDIA_TYPES.get(wanted)),)
        return Result(outputs=outputs, cost_usd=self.cost(request, outputs, {}))

    async def list_voices(
        self, provider: str = _LIBRARY, *, page_size: int = 100
    ) -> list[Mapping[str, Any]]:
        """Return the voices of the library (`HUME_AI`) or your own (`CUSTOM_VOICE`)."""
        voices: list[Mapping[str, Any]] = []
        page = 0
        while True:
            answer = await self.api.document(
                "GET",
                "/v0/tts/voices",
                params={"provider": provider, "page_number": page, "page_size": page_size},
            )
            found = cast(list[Mapping[str, Any]], answer.get("voices_page") or [])
            voices += found
            page += 1
            if not found or page >= int(answer.get("total_pages") or 0):
                return voices


def body_of(native: Mapping[str, Any], version: str | None) -> dict[str, Any]:
    """Return the body of a request: one utterance, and what holds for all of it."""
    fields = dict(native)
    utterance: dict[str, Any] = {"text": fields.pop("text")}
    utterance |= {name: fields.pop(name) for name in _UTTERANCE if name in fields}
    voice, provider = fields.pop("voice", None), fields.pop("voice_provider", _LIBRARY)
    if voice is not None:
        kind = "id" if _UUID.fullmatch(voice) else "name"
        utterance["voice"] = {kind: voice, "provider": provider}
    if "format" in fields:
        fields["format"] = {"type": fields["format"]}
    if version is not None:
        fields["version"] = version
    return {"utterances": [utterance], **fields}


def _output(generation: Mapping[str, Any]) -> Output | None:
    """Return the audio of a take, None when it cannot be read."""
    try:
        data = b64decode(generation["audio"], validate=True)
    except (KeyError, TypeError, ValueError):
        return None
    if not data:
        return None
    encoding = cast(Mapping[str, Any], generation.get("encoding") or {})
    facts: dict[str, Any] = {}
    if isinstance(generation.get("duration"), int | float):
        facts["duration"] = float(generation["duration"])
    words = words_of(generation.get("snippets"))
    if words:
        rate = encoding.get("sample_rate")
        facts["audio"] = AudioMetadata(word_timings=words, sample_rate=rate)
    return Output(data=data, media_type=_MEDIA_TYPES.get(str(encoding.get("format"))), facts=facts)


def words_of(snippets: object) -> list[WordTiming]:
    """Return the words of all snippets in seconds.

    Snippets are a list of lists. One that begins before the one before it ended starts at zero
    again, and is moved on by that end.
    """
    words: list[WordTiming] = []
    ended = 0.0
    for group in cast(Sequence[Sequence[Mapping[str, Any]]], snippets or ()):
        for snippet in group:
            timed = [
                stamp for stamp in snippet.get("timestamps") or () if stamp.get("type") == "word"
            ]
            if not timed:
                continue
            shift = ended if timed[0]["time"]["begin"] / 1000 < ended else 0.0
            for stamp in timed:
                start = stamp["time"]["begin"] / 1000 + shift
                ended = stamp["time"]["end"] / 1000 + shift
                words.append(
                    WordTiming(word=stamp["text"], start=round(start, 6), end=round(ended, 6))
                )
    return words
