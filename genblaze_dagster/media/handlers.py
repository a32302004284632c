"""One handler per container, for people who know what their files are; names as in genblaze."""

from pathlib import Path
from typing import ClassVar

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media.embedding import EmbedMethod, EmbedResult, embed, embed_payload
from genblaze_dagster.media.extraction import ManifestSource, extract_payload
from genblaze_dagster.media.sidecar import read_manifest_file, sidecar_path, write_sidecar
from genblaze_dagster.media.sniff import canonical_media_type, sniff_media_type
from genblaze_dagster.media.stripping import strip


class MediaHandler:
    """Manifests into, out of and away from files of some media types, and no others."""

    media_types: ClassVar[tuple[str, ...]] = ()

    def embed(
        self,
        path: Path | str,
        manifest: Manifest,
        output: Path | str | None = None,
        policy: EmbedPolicy | None = None,
    ) -> EmbedResult:
        """Put a manifest into a file; see `genblaze_dagster.media.embed`.

        Raises:
            EmbeddingError: the file is of another type, or cannot be read or written.
            ManifestError: the manifest cannot be written.
        """
        self._check_type(path)
        return embed(path, manifest, output, policy=policy)

    def extract(self, path: Path | str) -> Manifest:
        """Return the manifest inside a file; sidecars are not looked at.

        Raises:
            EmbeddingError: there is none, or the file is of another type or cannot be read.
            ManifestError: there is one, and it is not one we can read.
        """
        self._check_type(path)
        found = extract_payload(path)
        if found.source is not ManifestSource.INLINE:
            raise EmbeddingError(f"{path}: holds no manifest inside; there is one beside it")
        return found.manifest

    def strip(self, path: Path | str) -> bytes:
        """Return the bytes from before the manifest; see `genblaze_dagster.media.strip`.

        Raises:
            EmbeddingError: the file is of another type or cannot be read, or nobody can say what
                it was.
        """
        self._check_type(path)
        return strip(path)

    def _check_type(self, path: Path | str) -> None:
        try:
            with Path(path).open("rb") as file:
                media_type = sniff_media_type(file.read(64))
        except OSError as exc:
            raise EmbeddingError(f"{path}: cannot be read ({exc.strerror})") from exc
        if media_type not in self.media_types:
            raise EmbeddingError(
                f"{path}: is {media_type or 'of no known type'}, which {type(self).__name__} does "
                "not handle; genblaze_dagster.media.embed chooses by content"
            )


class PngHandler(MediaHandler):
    """PNG: an `iTXt` chunk."""

    media_types = ("image/png",)


class JpegHandler(MediaHandler):
    """JPEG: an XMP packet in an APP1 segment."""

    media_types = ("image/jpeg",)


class WebpHandler(MediaHandler):
    """WebP: an XMP packet in an `XMP ` chunk."""

    media_types = ("image/webp",)


class Mp4Handler(MediaHandler):
    """MP4, MOV and M4A: a `uuid` box."""

    media_types = ("video/mp4", "video/quicktime", "audio/mp4")


class Mp3Handler(MediaHandler):
    """MP3: an ID3v2 user text frame."""

    media_types = ("audio/mpeg",)


class WavHandler(MediaHandler):
    """WAV: an entry in a `LIST`/`INFO` chunk."""

    media_types = ("audio/wav",)


class FlacHandler(MediaHandler):
    """FLAC: a Vorbis comment."""

    media_types = ("audio/flac",)


class SidecarHandler:
    """Any file: a manifest beside it, in `<name>.genblaze.json`."""

    def embed(
        self,
        path: Path | str,
        manifest: Manifest,
        output: Path | str | None = None,
        policy: EmbedPolicy | None = None,
    ) -> EmbedResult:
        """Write the sidecar of a file, or of `output`; the file itself is not touched or copied.

        Raises:
            EmbeddingError: the sidecar cannot be written.
            ManifestError: the manifest cannot be written.
        """
        target = Path(path if output is None else output)
        try:
            sidecar = write_sidecar(target, embed_payload(manifest, policy))
        except OSError as exc:
            raise EmbeddingError(f"{sidecar_path(target)}: {exc.strerror}") from exc
        return EmbedResult(target, sidecar, manifest.manifest_uri, EmbedMethod.SIDECAR)

    def extract(self, path: Path | str) -> Manifest:
        """Return the manifest beside a file.

        Raises:
            EmbeddingError: there is none, or it cannot be read.
            PointerSidecarError: there is only a pointer.
            ManifestError: there is one, and it is not one we can read.
        """
        return read_manifest_file(sidecar_path(Path(path)))

    def strip(self, path: Path | str) -> bytes:
        """Return the bytes of the file, which a sidecar does not change.

        Raises:
            EmbeddingError: it cannot be read.
        """
        try:
            return Path(path).read_bytes()
        except OSError as exc:
            raise EmbeddingError(f"{path}: cannot be read ({exc.strerror})") from exc


class SmartEmbedder:
    """Chooses by content and falls back to a sidecar: `genblaze_dagster.media.embed` as a class."""

    def embed(
        self,
        source: Path | str,
        manifest: Manifest,
        output: Path | str | None = None,
        *,
        policy: EmbedPolicy | None = None,
        mime_type: str | None = None,
    ) -> EmbedResult:
        """Put a manifest into or beside a file; see `genblaze_dagster.media.embed`.

        Raises:
            EmbeddingError: the file cannot be read or the result not be written.
            ManifestError: the manifest cannot be written.
        """
        return embed(source, manifest, output, policy=policy, mime_type=mime_type)


_HANDLERS: tuple[type[MediaHandler], ...] = (
    PngHandler,
    JpegHandler,
    WebpHandler,
    Mp4Handler,
    Mp3Handler,
    WavHandler,
    FlacHandler,
)


def get_handler(mime_type: str) -> MediaHandler | None:
    """Return the handler of a media type in any usual spelling; None when it needs a sidecar."""
    wanted = canonical_media_type(mime_type)
    return next((kind() for kind in _HANDLERS if wanted in kind.media_types), None)
