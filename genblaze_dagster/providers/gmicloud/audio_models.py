"""What the speech and music models at GMI take, by family. The text of speech goes into `text`.

From GMI's own pages. Unverified: music, whose parameters go as they are.
"""

import re
from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.gmicloud.parameters import single
from genblaze_dagster.providers.gmicloud.slots import ANY_REFERENCE, Slot
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    FloatSchema,
    IntSchema,
    ParamSchema,
    StringSchema,
)

_SPEECH = {"prompt": "text", "voice": "voice_id"}
_UNIT = FloatSchema(min=0, max=1)


def _plain_mp3(value: Any) -> Any:
    return "mp3_44100_128" if value == "mp3" else value


def _speech(
    name: str,
    pattern: str,
    description: str,
    example: str,
    params: frozenset[str],
    *slots: Slot,
    aliases: Mapping[str, str] | None = None,
    schemas: Mapping[str, ParamSchema] | None = None,
    **more: Any,
) -> ModelFamily:
    media = {slot.field for slot in slots}
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern, re.IGNORECASE),
        description=description,
        example_slugs=(example,),
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.AUDIO,
            param_aliases={**_SPEECH, **(aliases or {})},
            param_transformer=single,
            param_schemas={"text": StringSchema(min_len=1), **(schemas or {})},
            param_required=frozenset({"text"}),
            param_allowlist=frozenset({"text", "voice_id"} | params | media),
            extras={"slots": slots},
            **more,
        ),
    )


AUDIO_FAMILIES = (
    _speech(
        "elevenlabs-tts",
        r"elevenlabs-tts",
        "ElevenLabs' speech",
        "elevenlabs-tts-v3",
        frozenset(
            {"stability", "similarity_boost", "style", "speed", "use_speaker_boost"}
            | {"output_format", "seed", "apply_text_normalization"}
        ),
        schemas={
            "stability": _UNIT,
            "similarity_boost": _UNIT,
            "style": _UNIT,
            "speed": FloatSchema(),
            "use_speaker_boost": BoolSchema(),
            "seed": IntSchema(),
            "apply_text_normalization": EnumSchema(frozenset({"auto", "on", "off"})),
        },
        param_coercers={"output_format": _plain_mp3},
    ),
    # GMI's table calls these numbers, its example writes them as texts: both go as they are.
    _speech(
        "minimax-tts",
        r"minimax-tts",
        "MiniMax' speech",
        "minimax-tts-speech-2.6-hd",
        frozenset(
            {"speed", "vol", "pitch", "emotion", "language_boost", "format"}
            | {"audio_sample_rate", "bitrate", "channel"}
        ),
        aliases={
            "language": "language_boost",
            "output_format": "format",
            "sample_rate": "audio_sample_rate",
            "volume": "vol",
        },
    ),
    _speech(
        "minimax-voice-clone",
        r"minimax-(audio-)?voice-clone",
        "speech in the voice of a recording",
        "minimax-audio-voice-clone-speech-2.6-hd",
        # Sic: volumn.
        frozenset({"prompt_text", "need_noise_reduction", "need_volumn_normalization"}),
        Slot("source_audio", "audio", ANY_REFERENCE, by_url=True, is_required=True),
        Slot("prompt_audio", "audio", ("prompt",), by_url=True),
        schemas={
            "need_noise_reduction": BoolSchema(),
            "need_volumn_normalization": BoolSchema(),
        },
    ),
    _speech(
        "inworld-tts",
        r"inworld-tts",
        "Inworld's speech",
        "inworld-tts-1",
        frozenset({"audio_encoding", "sample_rate_hertz", "speaking_rate", "temperature"}),
        aliases={"speed": "speaking_rate", "sample_rate": "sample_rate_hertz"},
        schemas={
            "sample_rate_hertz": IntSchema(min=1),
            "speaking_rate": FloatSchema(),
            "temperature": FloatSchema(),
        },
    ),
    ModelFamily(
        name="minimax-music",
        pattern=re.compile(r"minimax-music", re.IGNORECASE),
        description="MiniMax' music: the prompt is its style, `lyrics` its words",
        example_slugs=("minimax-music-2.5",),
        spec_template=ModelSpec(
            model_id="minimax-music-2.5",
            modality=Modality.AUDIO,
            param_aliases={"output_format": "format"},
            extras={"slots": ()},
        ),
    ),
)
