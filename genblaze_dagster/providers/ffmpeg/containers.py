"""What ffmpeg reads and writes here, by media type."""

from dataclasses import dataclass
from enum import StrEnum

from genblaze_dagster.media.sniff import canonical_media_type

DEMUXERS = {
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/webm": "matroska",
    "video/x-matroska": "matroska",
    "video/x-msvideo": "avi",
    "video/ogg": "ogg",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/flac": "flac",
    "audio/aac": "aac",
    "audio/aiff": "aiff",
    "audio/mp4": "mov",
    "audio/ogg": "ogg",
    "audio/opus": "ogg",
    "image/png": "png_pipe",
    "image/jpeg": "jpeg_pipe",
    "image/webp": "webp_pipe",
    "image/tiff": "tiff_pipe",
    "image/gif": "gif",
}
"""ffmpeg's reader of each media type that bytes can prove."""


class Kind(StrEnum):
    """What a file mainly is."""

    VIDEO = "video"
    AUDIO = "audio"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Container:
    """A file format that can be written.

    `video` and `audio` are the encoder's arguments; an empty tuple means that there is none.
    """

    media_type: str
    extension: str
    muxer: str
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What a file of this format mainly is; an animated GIF is an image."""
        return Kind(self.media_type.partition("/")[0])


# x264 and libvpx give other bytes with another number of threads, so the number is fixed.
_THREADS = ("-threads", "4")
_H264 = ("-c:v", "libx264", "-crf", "18", "-preset", "medium", "-pix_fmt", "yuv420p", *_THREADS)
_VP9 = ("-c:v", "libvpx-vp9", "-crf", "31", "-b:v", "0", "-cpu-used", "4", *_THREADS)
_AAC = ("-c:a", "aac", "-b:a", "192k")
_OPUS = ("-c:a", "libopus", "-b:a", "160k", "-ar", "48000")
_FAST_START = ("-movflags", "+faststart")
_ONE_PICTURE = ("-frames:v", "1", "-update", "1")

CONTAINERS = {
    "mp4": Container("video/mp4", ".mp4", "mp4", _H264, _AAC, _FAST_START),
    "mov": Container("video/quicktime", ".mov", "mov", _H264, _AAC, _FAST_START),
    "mkv": Container("video/x-matroska", ".mkv", "matroska", _H264, _AAC),
    "webm": Container("video/webm", ".webm", "webm", _VP9, _OPUS),
    "mp3": Container("audio/mpeg", ".mp3", "mp3", audio=("-c:a", "libmp3lame", "-q:a", "2")),
    "wav": Container("audio/wav", ".wav", "wav", audio=("-c:a", "pcm_s16le")),
    "flac": Container("audio/flac", ".flac", "flac", audio=("-c:a", "flac")),
    "m4a": Container("audio/mp4", ".m4a", "ipod", audio=_AAC, extra=_FAST_START),
    "ogg": Container("audio/ogg", ".ogg", "ogg", audio=_OPUS),
    "png": Container("image/png", ".png", "image2", ("-c:v", "png"), extra=_ONE_PICTURE),
    "jpg": Container(
        "image/jpeg", ".jpg", "image2", ("-c:v", "mjpeg", "-q:v", "2"), extra=_ONE_PICTURE
    ),
    "webp": Container(
        "image/webp", ".webp", "image2", ("-c:v", "libwebp", "-quality", "90"), extra=_ONE_PICTURE
    ),
    "gif": Container("image/gif", ".gif", "gif", ("-c:v", "gif")),
}
"""The formats that can be asked for, by name."""

_OTHER_NAMES = {"jpeg": "jpg", "matroska": "mkv", "quicktime": "mov"}
_DEFAULTS = {Kind.VIDEO: "mp4", Kind.AUDIO: "m4a", Kind.IMAGE: "png"}
_WRITTEN_AS_READ = {container.media_type: name for name, container in CONTAINERS.items()}


def kind_of(media_type: str) -> Kind | None:
    """Return what a media type is, None when it is nothing for ffmpeg. A GIF is taken as video."""
    kind = canonical_media_type(media_type)
    if kind == "image/gif":
        return Kind.VIDEO
    return next((one for one in Kind if kind.startswith(f"{one}/")), None)


def default_container(kind: Kind) -> Container:
    """Return the format of a conversion that names none."""
    return CONTAINERS[_DEFAULTS[kind]]


def same_container(media_type: str, kind: Kind) -> Container:
    """Return the format a file has already, or the default when that cannot be written."""
    name = _WRITTEN_AS_READ.get(canonical_media_type(media_type))
    return CONTAINERS[name] if name is not None else default_container(kind)


def container_named(name: str, kind: Kind) -> Container | None:
    """Return a format by its name, as far as it can hold what is there; else None.

    Sound alone in `mp4` is `m4a`: the same container, and a media type that says what is in it.
    """
    bare = name.lower().lstrip(".")
    bare = _OTHER_NAMES.get(bare, bare)
    if kind is Kind.AUDIO and bare == "mp4":
        bare = "m4a"
    container = CONTAINERS.get(bare)
    if container is None or not _holds(container, kind):
        return None
    return container


def names_for(kind: Kind) -> list[str]:
    """Return the names of the formats that can hold what is there."""
    return sorted(name for name, container in CONTAINERS.items() if _holds(container, kind))


def _holds(container: Container, kind: Kind) -> bool:
    match kind:
        case Kind.VIDEO:
            return container.kind is not Kind.IMAGE or container.media_type == "image/gif"
        case Kind.AUDIO:
            return container.kind is Kind.AUDIO
        case Kind.IMAGE:
            return container.kind is Kind.IMAGE and container.media_type != "image/gif"
