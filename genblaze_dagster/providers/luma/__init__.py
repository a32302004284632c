"""Luma: `LumaProvider`."""

from genblaze_dagster.providers.luma.provider import LumaProvider

__all__ = ["LumaProvider"]
