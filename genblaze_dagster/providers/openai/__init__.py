"""OpenAI: images, video and speech."""

from genblaze_dagster.providers.openai.images import DalleProvider
from genblaze_dagster.providers.openai.speech import OpenAITTSProvider
from genblaze_dagster.providers.openai.video import SoraProvider

__all__ = ["DalleProvider", "OpenAITTSProvider", "SoraProvider"]
