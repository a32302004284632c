"""Manifests out of files: embedded, in a sidecar, or a manifest file itself."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.errors import EmbeddingError, ManifestError
from genblaze_dagster.media.containers import SNIFFED_BYTES, container_of
from genblaze_dagster.media.sidecar import read_manifest_file, sidecar_path
from genblaze_dagster.media.source import Source


class ManifestSource(StrEnum):
    """Where a manifest was found."""

    INLINE = "inline"
    SIDECAR = "sidecar"
    STANDALONE = "standalone"


@dataclass(frozen=True, slots=True)
class Extraction:
    """A manifest and where it was found; `container` is `png`, `mp4`, ... or `json`."""

    manifest: Manifest
    source: ManifestSource
    container: str


def extract_manifest(path: Path | str) -> Manifest:
    """Return the manifest of a media file or of a manifest file.

    Raises:
        EmbeddingError: there is none, or the file cannot be read.
        PointerSidecarError: there is only a pointer to one.
        ManifestError: there is one, and it is not one we can read.
    """
    return extract_payload(path).manifest


extract = extract_manifest


def extract_payload(path: Path | str) -> Extraction:
    """Return the manifest of a file and where it was found.

    The content of the file decides, not its name. An embedded manifest goes before a sidecar,
    even a newer one; if it is there but not a valid manifest, no sidecar hides that.

    Raises:
        EmbeddingError: there is none, or the file cannot be read.
        PointerSidecarError: there is only a pointer to one.
        ManifestError: there is one, and it is not one we can read.
    """
    path = Path(path)
    try:
        inline = _extract_inline(path)
        problem = EmbeddingError(f"{path}: holds no manifest and has no sidecar beside it")
    except EmbeddingError as exc:
        inline, problem = None, exc
    if inline is not None:
        return inline
    sidecar = sidecar_path(path)
    if sidecar.is_file():
        return Extraction(read_manifest_file(sidecar), ManifestSource.SIDECAR, "json")
    raise problem


def _extract_inline(path: Path) -> Extraction | None:
    try:
        with Source.open(path) as source:
            head = source.at(0, SNIFFED_BYTES)
            container = container_of(source)
            if container is not None:
                payload = container.format.read_payload(source)
                if payload is None:
                    return None
                return Extraction(parse_manifest(payload), ManifestSource.INLINE, container.name)
    except OSError as exc:
        raise EmbeddingError(f"{path}: cannot be read ({exc.strerror})") from exc
    except EmbeddingError as exc:
        raise EmbeddingError(f"{path}: {exc}") from exc
    if path.suffix.lower() == ".json" or head.lstrip()[:1] == b"{":
        return _extract_standalone(path)
    return None


def _extract_standalone(path: Path) -> Extraction:
    try:
        manifest = read_manifest_file(path)
    except ManifestError:
        # A JSON file may itself be the medium, with its manifest beside it.
        if not sidecar_path(path).is_file():
            raise
        raise EmbeddingError(f"{path}: is not a manifest") from None
    return Extraction(manifest, ManifestSource.STANDALONE, "json")
