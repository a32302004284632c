"""ElevenLabs' speech: `POST /v1/text-to-speech/{voice_id}`, with `/with-timestamps` for timings.

Cost unit: credits, one a character and half of one for flash and turbo, but for voices that cost
more (https://help.elevenlabs.io/hc/en-us/articles/21811236079505); the header `character-cost` tells
how many were charged. What one costs depends on the plan, and public pages differ on the API's list
price, so none is built in: give your own by the unit `credit` or `1k_characters`.
Quirks: timings are per character; words are cut at any white space.
Unverified: the range of `speed`, which is left to the vendor.
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import AudioMetadata, WordTiming
from genblaze_dagster.providers.elevenlabs.audio import (
    AUDIO_ONLY,
    FORMAT,
    VOICE_ID,
    ElevenLabsAudio,
    native_format,
)
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    FloatSchema,
    IntSchema,
    StringSchema,
)
from genblaze_dagster.providers.price_units import CREDITS
from genblaze_dagster.providers.pricing import PricingContext
from genblaze_dagster.providers.protocol import GenerationRequest, Submission
from genblaze_dagster.providers.validation import DiscoverySupport
from genblaze_dagster.providers.vendor.api import json_object
from genblaze_dagster.providers.vendor.traits import Traits

_SETTINGS = ("stability", "similarity_boost", "style", "use_speaker_boost", "speed")


def _with_settings(params: dict[str, Any]) -> dict[str, Any]:
    """Gather the voice's settings where the API looks for them."""
    native = dict(params)
    settings = {name: native.pop(name) for name in _SETTINGS if name in native}
    if settings:
        # A native setting wins, as native names do.
        native["voice_settings"] = {**settings, **native.get("voice_settings", {})}
    return native


def _credits_of(context: PricingContext) -> float | None:
    text = context.step.params.get("text")
    if not isinstance(text, str):
        return None
    is_half = context.step.model.startswith(("eleven_flash", "eleven_turbo"))
    return len(text) / 2 if is_half else len(text)


_ALIASES = {"prompt": "text", "voice_id": "voice", "language": "language_code"}
# It becomes part of an address.
_VOICE = StringSchema(pattern=VOICE_ID.pattern)

FAMILIES = (
    ModelFamily(
        name="eleven-speech",
        pattern=re.compile(r"eleven_(multilingual|flash|turbo|v\d|monolingual)"),
        description="speech",
        example_slugs=("eleven_multilingual_v2", "eleven_flash_v2_5", "eleven_v3"),
        spec_template=ModelSpec(
            model_id="eleven_multilingual_v2",
            modality=Modality.AUDIO,
            extras={CREDITS: _credits_of},
            param_aliases=_ALIASES,
            param_transformer=_with_settings,
            param_coercers={"output_format": native_format},
            param_schemas={
                "text": StringSchema(min_len=1),
                "voice": _VOICE,
                "output_format": FORMAT,
                "seed": IntSchema(min=0, max=4_294_967_295),
                "apply_text_normalization": EnumSchema(frozenset({"auto", "on", "off"})),
                "with_timestamps": BoolSchema(),
                "enable_logging": BoolSchema(),
            },
            param_required=frozenset({"text", "voice"}),
            param_allowlist=frozenset(
                {"text", "voice", "output_format", "seed", "language_code", "voice_settings"}
                | {"previous_text", "next_text", "previous_request_ids", "next_request_ids"}
                | {"apply_text_normalization", "pronunciation_dictionary_locators"}
                | {"with_timestamps", "enable_logging"}
            ),
        ),
    ),
)
_UNIT = FloatSchema(min=0, max=1)


class ElevenLabsTTSProvider(ElevenLabsAudio):
    """ElevenLabs' speech.

    The prompt is the text. Parameters: `voice` (an id; `search_voices` finds it by name),
    `language`, `speed` and the other voice settings, `seed`, `output_format` (mp3, wav, pcm, opus,
    or a full name such as mp3_44100_192), and what else the API takes. With `with_timestamps=True`
    the words and their times (seconds) stand in the output's audio metadata.
    """

    name = "elevenlabs-tts"
    traits = Traits(makes=("speech", "word timings"), modalities=AUDIO_ONLY, jobs=False)
    families = FAMILIES
    others = ModelSpec(
        model_id="*",
        param_aliases=_ALIASES,
        param_transformer=_with_settings,
        param_coercers={"output_format": native_format},
        param_schemas={"voice": _VOICE, "output_format": FORMAT, "with_timestamps": BoolSchema()},
        param_required=frozenset({"text", "voice"}),
    )
    discovery_support = DiscoverySupport.PARTIAL

    def check(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs, and settings out of range."""
        super().check(request, payload)
        settings = cast(Mapping[str, Any], payload.get("voice_settings") or {})
        for name in ("stability", "similarity_boost", "style"):
            if settings.get(name) is not None:
                _UNIT.validate(name, settings[name])

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the speech.

        Raises:
            ProviderError: see `Provider`.
        """
        body, query = self.body(request)
        voice = body.pop("voice")
        path = f"/v1/text-to-speech/{voice}"
        if not body.pop("with_timestamps", False):
            answer = await self.make(request, path, body, query)
            data = self.media_of(request, answer)
            return Submission(result=self.result(request, answer, data, query))
        answer = await self.make(request, f"{path}/with-timestamps", body, query)
        detailed = json_object(answer, self.name, request)
        try:
            data = b64decode(detailed["audio_base64"], validate=True)
        except (KeyError, TypeError, ValueError) as exc:
            raise self.no_output(request, "the answer holds no readable audio") from exc
        words = words_of(detailed.get("alignment"))
        facts = {"audio": AudioMetadata(word_timings=words)} if words else {}
        return Submission(result=self.result(request, answer, data, query, facts=facts))

    async def list_models(self) -> Sequence[str]:
        """Return the models that make speech; those of sounds and music are not listed."""
        answer = await self.api.call("GET", "/v1/models")
        models = cast(list[Mapping[str, Any]], answer.json())
        return [
            str(model["model_id"]) for model in models if model.get("can_do_text_to_speech", True)
        ]


def words_of(alignment: object) -> list[WordTiming]:
    """Return the words of an alignment of characters, cut at any white space.

    None of one that cannot be read: the audio is worth more than its timings.
    """
    if not isinstance(alignment, dict):
        return []
    fields = cast(Mapping[str, Sequence[Any]], alignment)
    timed = zip(
        fields.get("characters") or (),
        fields.get("character_start_times_seconds") or (),
        fields.get("character_end_times_seconds") or (),
        strict=False,
    )
    try:
        return _words(timed)
    except (TypeError, ValueError):
        return []


def _words(timed: Iterable[tuple[Any, Any, Any]]) -> list[WordTiming]:
    words: list[WordTiming] = []
    text, start, end = "", 0.0, 0.0
    for character, begins, ends in (*timed, (" ", 0.0, 0.0)):
        if not str(character).isspace():
            start = start if text else float(begins)
            text += character
            end = float(ends)
        elif text:
            words.append(WordTiming(word=text, start=start, end=end))
            text = ""
    return words
