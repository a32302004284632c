"""Media put together and changed on this machine by ffmpeg (extra `ffmpeg`, or a system ffmpeg)."""

from genblaze_dagster.providers.ffmpeg.compositor import FFmpegCompositor
from genblaze_dagster.providers.ffmpeg.transform import FFmpegTransform

__all__ = ["FFmpegCompositor", "FFmpegTransform"]
