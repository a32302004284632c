"""Google: Veo videos, Imagen and Gemini images; chats in `providers.google.chat`."""

from genblaze_dagster.providers.google.gemini_image import GeminiImageProvider
from genblaze_dagster.providers.google.imagen import ImagenProvider
from genblaze_dagster.providers.google.veo import VeoProvider

__all__ = ["GeminiImageProvider", "ImagenProvider", "VeoProvider"]
