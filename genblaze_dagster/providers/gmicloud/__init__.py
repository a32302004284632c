"""GMI Cloud: `GMICloudVideoProvider`, `GMICloudImageProvider`, `GMICloudAudioProvider`."""

from genblaze_dagster.providers.gmicloud.provider import (
    GMICloudAudioProvider,
    GMICloudImageProvider,
    GMICloudVideoProvider,
)

__all__ = ["GMICloudAudioProvider", "GMICloudImageProvider", "GMICloudVideoProvider"]
