"""ElevenLabs: speech, sound effects and music."""

from genblaze_dagster.providers.elevenlabs.music import ElevenLabsMusicProvider
from genblaze_dagster.providers.elevenlabs.sound import ElevenLabsSFXProvider
from genblaze_dagster.providers.elevenlabs.speech import ElevenLabsTTSProvider

__all__ = ["ElevenLabsMusicProvider", "ElevenLabsSFXProvider", "ElevenLabsTTSProvider"]
