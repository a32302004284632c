"""Media types from the first bytes of a file, and the extensions that go with them."""

from collections.abc import Mapping

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"glTF", "model/gltf-binary"),
    (b"%PDF-", "application/pdf"),
)
_RIFF_FORMS = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"qt  ": "video/quicktime",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
}

_EXTENSIONS: Mapping[str, str] = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/tiff": ".tiff",
    "image/svg+xml": ".svg",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/flac": ".flac",
    "audio/mp4": ".m4a",
    "audio/aac": ".aac",
    "audio/ogg": ".ogg",
    "audio/opus": ".opus",
    "audio/webm": ".weba",
    "audio/aiff": ".aiff",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/vtt": ".vtt",
    "application/x-subrip": ".srt",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "model/gltf-binary": ".glb",
    "model/gltf+json": ".gltf",
    "model/obj": ".obj",
    "model/stl": ".stl",
    "model/vnd.usdz+zip": ".usdz",
}
_OTHER_NAMES = {
    "image/jpg": "image/jpeg",
    "audio/mp3": "audio/mpeg",
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "audio/m4a": "audio/mp4",
    "audio/aacp": "audio/aac",
    "audio/x-aiff": "audio/aiff",
    "video/x-m4v": "video/mp4",
}
_MEDIA_TYPES = {extension: media_type for media_type, extension in _EXTENSIONS.items()} | {
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".wave": "audio/wav",
    ".m4v": "video/mp4",
    ".oga": "audio/ogg",
}


def sniff_media_type(head: bytes) -> str | None:
    """Return the media type that the first bytes of a file prove; 64 bytes are enough.

    None when they prove nothing. `.m4a`, `.mov` and `.avif` files, which share a container with
    MP4, are told apart by their brand.
    """
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    if head[:4] in (b"RIFF", b"RF64", b"BW64"):
        return _RIFF_FORMS.get(head[8:12])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if head[4:8] == b"ftyp":
        return _sniff_brand(head)
    if head[:4] == b"OggS":
        return "video/ogg" if head[28:35] == b"\x80theora" else "audio/ogg"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    return _sniff_mpeg_audio(head)


def _sniff_brand(head: bytes) -> str:
    declared = min(int.from_bytes(head[:4]), 64)
    # The major brand, then the compatible ones; between them stands the minor version.
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, declared, 4))]
    known = (_BRANDS[brand] for brand in brands if brand in _BRANDS)
    return next(known, "video/mp4")


def _sniff_mpeg_audio(head: bytes) -> str | None:
    if len(head) < 3 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "audio/aac"
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    # Layer I (3) is extinct, and its sync word is the byte order mark of UTF-16 text.
    if version == 1 or layer not in (1, 2) or bitrate == 15 or sample_rate == 3:
        return None
    return "audio/mpeg"


def canonical_media_type(media_type: str) -> str:
    """Return a media type without parameters, in lower case and under its usual name."""
    bare = media_type.split(";")[0].strip().lower()
    return _OTHER_NAMES.get(bare, bare)


def extension_for(media_type: str) -> str:
    """Return the extension with its dot, the same on every machine; "" when unknown."""
    return _EXTENSIONS.get(canonical_media_type(media_type), "")


def media_type_for_extension(extension: str) -> str | None:
    """Return the media type of an extension (`.png` or `png`), None when unknown."""
    return _MEDIA_TYPES.get("." + extension.lower().lstrip("."))
