"""OpenAI: images through `DalleProvider`."""

from genblaze_dagster.providers.openai.images import DalleProvider

__all__ = ["DalleProvider"]
