"""Runway: `RunwayProvider`."""

from genblaze_dagster.providers.runway.provider import RunwayProvider

__all__ = ["RunwayProvider"]
