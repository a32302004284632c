"""Raw AAC (ADTS): what the audio frames say. It cannot carry a manifest."""

from typing import Any

from genblaze_dagster.media.source import Source


def read_facts(source: Source) -> dict[str, Any]:
    """Return duration in seconds (estimated), and sample rate, channels, codec and bit rate."""
    from mutagen.aac import AACInfo

    source.file.seek(0)
    info: Any = AACInfo(source.file)
    return {
        "duration": info.length,
        "audio": {
            "sample_rate": info.sample_rate,
            "channels": info.channels,
            "codec": "aac",
            "bitrate": info.bitrate,
        },
    }
