"""Manifest files: the sidecar beside a media file, a pointer, or a manifest on its own."""

import json
from pathlib import Path
from typing import Any, cast

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES, parse_manifest
from genblaze_dagster.errors import EmbeddingError, ManifestError, PointerSidecarError
from genblaze_dagster.media.whole import replacing

SUFFIX = ".genblaze.json"
LARGEST_POINTER = 64 << 10


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of a media file is: its whole name and `.genblaze.json`."""
    return path.with_name(path.name + SUFFIX)


def write_sidecar(path: Path, payload: bytes) -> Path:
    """Write the sidecar of a media file, whole or not at all, and return where it is.

    Raises:
        OSError: it cannot be written.
    """
    sidecar = sidecar_path(path)
    with replacing(sidecar) as part:
        part.write_bytes(payload)
    return sidecar


def remove_sidecar(path: Path) -> None:
    """Remove the sidecar of a media file, if there is one and it holds a manifest or a pointer.

    Raises:
        OSError: it cannot be removed.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return
    try:
        read_manifest_file(sidecar)
    except PointerSidecarError:
        pass
    except (ManifestError, EmbeddingError):
        # Not something that we or genblaze wrote.
        return
    sidecar.unlink(missing_ok=True)


def read_manifest_file(path: Path) -> Manifest:
    """Return the manifest of a JSON file.

    Raises:
        PointerSidecarError: the file says where the manifest is and does not hold it.
        ManifestError: the file is not a manifest we can read.
        EmbeddingError: it is above the size limit, or cannot be opened.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as exc:
        raise EmbeddingError(f"{path}: cannot be read ({exc.strerror})") from exc
    if len(data) > MAX_MANIFEST_BYTES:
        raise EmbeddingError(f"{path}: longer than the limit of {MAX_MANIFEST_BYTES} bytes")
    pointer = _pointer(data)
    if pointer is not None:
        raise PointerSidecarError(
            f"{path}: holds only a pointer; the manifest is stored at its manifest_uri",
            manifest_uri=pointer["manifest_uri"],
            canonical_hash=pointer.get("canonical_hash"),
        )
    return parse_manifest(data)


def _pointer(data: bytes) -> dict[str, Any] | None:
    if len(data) > LARGEST_POINTER:
        return None
    try:
        parsed: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(parsed, dict) or "run" in parsed:
        return None
    document = cast(dict[str, Any], parsed)
    return document if isinstance(document.get("manifest_uri"), str) else None
