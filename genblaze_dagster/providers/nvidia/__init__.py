"""NVIDIA NIM: `NvidiaImageProvider`, `NvidiaVideoProvider`, `NvidiaAudioProvider`; `.chat`."""

from genblaze_dagster.providers.nvidia.audio import NvidiaAudioProvider
from genblaze_dagster.providers.nvidia.images import NvidiaImageProvider
from genblaze_dagster.providers.nvidia.video import NvidiaVideoProvider

__all__ = ["NvidiaAudioProvider", "NvidiaImageProvider", "NvidiaVideoProvider"]
