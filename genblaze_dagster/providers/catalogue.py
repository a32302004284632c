"""Every built-in provider: where its class is, and which vendor's account it uses.

The names are those of the genblaze guides and of their manifests. Nothing is imported here.
"""

from collections.abc import Mapping

_HERE = "genblaze_dagster.providers"

VENDORS: Mapping[str, Mapping[str, str]] = {
    "openai": {
        "openai": f"{_HERE}.openai:DalleProvider",
        "openai-dalle": f"{_HERE}.openai:DalleProvider",
        "openai-sora": f"{_HERE}.openai:SoraProvider",
        "openai-tts": f"{_HERE}.openai:OpenAITTSProvider",
    },
    "google": {
        "google-veo": f"{_HERE}.google:VeoProvider",
        "google-imagen": f"{_HERE}.google:ImagenProvider",
        "google-gemini-image": f"{_HERE}.google:GeminiImageProvider",
    },
    "nvidia": {
        "nvidia-image": f"{_HERE}.nvidia:NvidiaImageProvider",
        "nvidia-video": f"{_HERE}.nvidia:NvidiaVideoProvider",
        "nvidia-audio": f"{_HERE}.nvidia:NvidiaAudioProvider",
    },
    "gmicloud": {
        "gmicloud": f"{_HERE}.gmicloud:GMICloudVideoProvider",
        "gmicloud-image": f"{_HERE}.gmicloud:GMICloudImageProvider",
        "gmicloud-audio": f"{_HERE}.gmicloud:GMICloudAudioProvider",
    },
    "runway": {"runway": f"{_HERE}.runway:RunwayProvider"},
    "luma": {"luma": f"{_HERE}.luma:LumaProvider"},
    "decart": {
        "decart": f"{_HERE}.decart:DecartVideoProvider",
        "decart-image": f"{_HERE}.decart:DecartImageProvider",
    },
    "replicate": {"replicate": f"{_HERE}.replicate:ReplicateProvider"},
    "elevenlabs": {
        "elevenlabs-tts": f"{_HERE}.elevenlabs:ElevenLabsTTSProvider",
        "elevenlabs-sfx": f"{_HERE}.elevenlabs:ElevenLabsSFXProvider",
        "elevenlabs-music": f"{_HERE}.elevenlabs:ElevenLabsMusicProvider",
    },
    "stability": {"stability-audio": f"{_HERE}.stability_audio:StabilityAudioProvider"},
    "lmnt": {"lmnt": f"{_HERE}.lmnt:LMNTProvider"},
    "hume": {"hume-tts": f"{_HERE}.hume:HumeTTSProvider"},
    "assemblyai": {"assemblyai": f"{_HERE}.assemblyai:AssemblyAIProvider"},
    "fal": {"fal": f"{_HERE}.fal:FalProvider"},
}
"""Classes as `module:name`, by provider name, by vendor; the first is the vendor's main one."""

LOCAL: Mapping[str, str] = {
    "ffmpeg-compositor": f"{_HERE}.ffmpeg:FFmpegCompositor",
    "ffmpeg-transform": f"{_HERE}.ffmpeg:FFmpegTransform",
    "local": f"{_HERE}.local:LocalProvider",
}
"""Providers without a vendor."""

BUILT_IN: Mapping[str, str] = {
    **LOCAL,
    **{name: where for providers in VENDORS.values() for name, where in providers.items()},
}


def names_of(provider: str) -> frozenset[str]:
    """Return all names of a built-in provider, its vendor's among them; else the name itself."""
    where = BUILT_IN.get(provider)
    same = (name for name, other in BUILT_IN.items() if where is not None and other == where)
    return frozenset({provider, vendor_of(provider) or provider, *same})


def vendor_of(provider: str) -> str | None:
    """Return the vendor whose account a provider uses; None for those without one."""
    return next((vendor for vendor, names in VENDORS.items() if provider in names), None)
