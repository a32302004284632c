"""fal's endpoints that speak, make music, and write down what is said."""

from decimal import Decimal
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.constraints import required_one_of
from genblaze_dagster.providers.fal.endpoints import endpoint, one_of, whole
from genblaze_dagster.providers.fal.pricing import SPEECH
from genblaze_dagster.providers.param_schemas import BoolSchema, FloatSchema, IntSchema, refuse

_MUSIC_FORMATS = {"mp3": "mp3_44100_128", "pcm": "pcm_44100", "opus": "opus_48000_128"}
_VOICE_SETTINGS = {"voice": "voice_id", "voice_id": "voice_id", "speed": "speed"}
_SECONDS = FloatSchema(min=0.001)


def _with_voice(params: dict[str, Any]) -> dict[str, Any]:
    """Put the voice and its speed where MiniMax looks for them."""
    native = dict(params)
    settings = {
        setting: native.pop(name) for name, setting in _VOICE_SETTINGS.items() if name in native
    }
    if settings:
        # A native setting wins, as native names do.
        native["voice_setting"] = {**settings, **native.get("voice_setting", {})}
    return native


def _in_milliseconds(params: dict[str, Any]) -> dict[str, Any]:
    """Write a duration in seconds as the milliseconds the model wants."""
    native = dict(params)
    if "duration" not in native:
        return native
    seconds = native.pop("duration")
    _SECONDS.validate("duration", seconds)
    if "music_length_ms" in native:
        refuse("duration", "cannot stand beside music_length_ms; give one of the two")
    # As written, not in binary: 16.1 s are 16100 ms.
    milliseconds = Decimal(str(seconds)) * 1000
    if milliseconds % 1:
        refuse("duration", "expected whole milliseconds")
    return {**native, "music_length_ms": int(milliseconds)}


def _music_format(value: Any) -> Any:
    return _MUSIC_FORMATS.get(value, value) if isinstance(value, str) else value


_TEXT = {"prompt": "text"}
_SPOKEN = {"audio": "audio_url", "video": "audio_url"}
_SECONDS_TOTAL = {"duration": "seconds_total"}

FAMILIES = (
    endpoint(
        "kokoro",
        "fal-ai/kokoro/[^/]+",
        Modality.AUDIO,
        "prompt voice speed",
        examples=("fal-ai/kokoro/american-english",),
        about="speech, one endpoint per language",
        required=("prompt",),
        aliases={"text": "prompt", "voice_id": "voice"},
        schemas={"speed": FloatSchema(min=0)},
    ),
    endpoint(
        "chatterbox",
        "fal-ai/chatterbox/text-to-speech",
        Modality.AUDIO,
        "text audio_url seed exaggeration temperature cfg",
        examples=("fal-ai/chatterbox/text-to-speech",),
        about="speech in the voice of a recording",
        required=("text",),
        aliases={**_TEXT, "voice_url": "audio_url"},
        media={"audio": "audio_url"},
    ),
    endpoint(
        "f5-tts",
        "fal-ai/f5-tts",
        Modality.AUDIO,
        "gen_text ref_audio_url ref_text model_type remove_silence",
        examples=("fal-ai/f5-tts",),
        about="speech in the voice of a recording",
        required=("gen_text",),
        aliases={"prompt": "gen_text", "text": "gen_text", "voice_url": "ref_audio_url"},
        schemas={"model_type": one_of("F5-TTS", "E2-TTS")},
        defaults={"model_type": "F5-TTS"},
        media={"audio": "ref_audio_url"},
        needs=("ref_audio_url",),
        pricing=SPEECH,
    ),
    endpoint(
        "eleven-speech",
        "fal-ai/elevenlabs/tts/[^/]+",
        Modality.AUDIO,
        "text voice language_code speed stability similarity_boost style timestamps "
        "previous_text next_text apply_text_normalization",
        examples=("fal-ai/elevenlabs/tts/multilingual-v2",),
        about="speech",
        required=("text",),
        aliases={**_TEXT, "voice_id": "voice", "language": "language_code"},
        schemas={"timestamps": BoolSchema()},
    ),
    endpoint(
        "minimax-speech",
        "fal-ai/minimax/speech-02-[^/]+",
        Modality.AUDIO,
        "text voice_setting audio_setting language_boost pronunciation_dict output_format",
        examples=("fal-ai/minimax/speech-02-hd", "fal-ai/minimax/speech-02-turbo"),
        about="speech",
        required=("text",),
        aliases=_TEXT,
        transform=_with_voice,
        # How the sound is handed over, not its format; by default as hex digits in the answer.
        schemas={"output_format": one_of("url")},
        defaults={"output_format": "url"},
        pricing=SPEECH,
    ),
    endpoint(
        "stable-audio",
        "fal-ai/stable-audio",
        Modality.AUDIO,
        "prompt seconds_start seconds_total steps",
        examples=("fal-ai/stable-audio",),
        about="music and sounds",
        required=("prompt",),
        aliases=_SECONDS_TOTAL,
        coercers={"seconds_total": whole},
        schemas={"seconds_total": IntSchema(min=0)},
    ),
    endpoint(
        "stable-audio-25",
        "fal-ai/stable-audio-25/text-to-audio",
        Modality.AUDIO,
        "prompt seed seconds_total num_inference_steps guidance_scale sync_mode",
        examples=("fal-ai/stable-audio-25/text-to-audio",),
        about="music and sounds",
        required=("prompt",),
        aliases=_SECONDS_TOTAL,
        coercers={"seconds_total": whole},
        schemas={"seconds_total": IntSchema(min=1), "seed": IntSchema()},
    ),
    endpoint(
        "eleven-music",
        "fal-ai/elevenlabs/music",
        Modality.AUDIO,
        "prompt composition_plan music_length_ms force_instrumental output_format "
        "respect_sections_durations",
        examples=("fal-ai/elevenlabs/music",),
        about="music",
        transform=_in_milliseconds,
        coercers={"output_format": _music_format},
        schemas={"music_length_ms": IntSchema(min=1)},
        constraints=(required_one_of("prompt", "composition_plan"),),
    ),
    endpoint(
        "whisper",
        "fal-ai/whisper",
        Modality.TEXT,
        "audio_url language task diarize num_speakers chunk_level prompt batch_size",
        examples=("fal-ai/whisper",),
        about="transcription with word timings and speakers",
        aliases={"speakers": "num_speakers"},
        schemas={
            "chunk_level": one_of("none", "segment", "word"),
            "diarize": BoolSchema(),
            "task": one_of("transcribe", "translate"),
        },
        media=_SPOKEN,
        needs=("audio_url",),
    ),
    endpoint(
        "wizper",
        "fal-ai/wizper",
        Modality.TEXT,
        "audio_url language task chunk_level max_segment_len merge_chunks version",
        examples=("fal-ai/wizper",),
        about="transcription",
        schemas={"task": one_of("transcribe", "translate")},
        media=_SPOKEN,
        needs=("audio_url",),
    ),
    endpoint(
        "scribe",
        "fal-ai/elevenlabs/speech-to-text",
        Modality.TEXT,
        "audio_url language_code diarize tag_audio_events",
        examples=("fal-ai/elevenlabs/speech-to-text",),
        about="transcription with word timings and speakers",
        aliases={"language": "language_code"},
        schemas={"diarize": BoolSchema(), "tag_audio_events": BoolSchema()},
        media=_SPOKEN,
        needs=("audio_url",),
    ),
)
