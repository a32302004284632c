"""fal: `FalProvider`."""

from genblaze_dagster.providers.fal.provider import FalProvider

__all__ = ["FalProvider"]
