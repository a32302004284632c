"""Real PNG, WAV, FLAC, MP3 and MP4 without a key or a network (extra `local`)."""

from genblaze_dagster.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]
