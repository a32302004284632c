"""Replicate: `ReplicateProvider`."""

from genblaze_dagster.providers.replicate.provider import ReplicateProvider

__all__ = ["ReplicateProvider"]
