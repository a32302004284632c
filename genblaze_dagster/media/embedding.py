"""Manifests into media files, so that every byte of the file can be had back.

One rule covers all containers: a few ranges are spliced into the file and nothing else of it is
touched, decoded or moved. Before anything is called embedded, the result is read back: it must give
the manifest, and without it the very bytes that were there before.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.errors import EmbeddingError, ManifestError, PointerSidecarError
from genblaze_dagster.media.append import append_in_place, leftover
from genblaze_dagster.media.containers import (
    Container,
    container_of,
    container_of_type,
    originals,
)
from genblaze_dagster.media.edit import (
    Edit,
    EditedSource,
    Pieces,
    Range,
    composed,
    pieces,
    sha256_edited,
    total,
    undoes,
    write_pieces,
)
from genblaze_dagster.media.extraction import extract_payload
from genblaze_dagster.media.sidecar import remove_sidecar, write_sidecar
from genblaze_dagster.media.sniff import canonical_media_type
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.whole import replacing

IN_PLACE_BYTES: Final = 64 << 20
"""An MP4 file above this size is appended to where it is; see `media.append`."""


class EmbedMethod(StrEnum):
    """Where a manifest went."""

    INLINE = "inline"
    SIDECAR = "sidecar"
    POINTER = "pointer"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What embedding did.

    Attributes:
        path: the media file, with the manifest if `method` is inline.
        sidecar_path: the file beside it that holds manifest or pointer, None when there is none.
        manifest_uri: where the manifest is stored, as it says itself.
        method: where the manifest went.
        embed_error: why it did not go into the file; None also for formats that cannot carry one.
    """

    path: Path
    sidecar_path: Path | None
    manifest_uri: str | None
    method: EmbedMethod
    embed_error: str | None = None


def embed(
    path: Path | str,
    manifest: Manifest,
    output: Path | str | None = None,
    *,
    policy: EmbedPolicy | None = None,
    mime_type: str | None = None,
) -> EmbedResult:
    """Put a manifest into a media file, or beside it where the file cannot carry one.

    The file's content decides how. It is replaced as a whole or not at all, except that an MP4
    file above 64 MB is appended to in place. A manifest that an earlier call put in gives way to
    the new one, unless the new one is about the very file that holds the earlier one: then both
    stay, and the new one is found first.

    Args:
        path: the media file.
        manifest: what to put in; see `Manifest.redacted` for what a policy leaves of it.
        output: where the result goes; `path` itself when left out.
        policy: what may be shown, and whether as a whole, as a pointer, or not at all.
        mime_type: the media type, for files whose content does not tell.

    Raises:
        EmbeddingError: the file cannot be read or the result not be written.
        ManifestError: the manifest cannot be written, is above 16 MiB, or has no `manifest_uri` to
            point to.
    """
    path, policy = Path(path), policy or EmbedPolicy()
    target = path if output is None else Path(output)
    with _explained(path):
        if policy.embed_mode is EmbedMode.NONE:
            _copy(path, target)
            return EmbedResult(target, None, manifest.manifest_uri, EmbedMethod.NONE)
        payload = embed_payload(manifest, policy)
        method, problem = EmbedMethod.POINTER, None
        if policy.embed_mode is EmbedMode.FULL:
            method = EmbedMethod.SIDECAR
            try:
                if _embed_inline(path, target, manifest, payload, mime_type):
                    remove_sidecar(target)
                    return EmbedResult(target, None, manifest.manifest_uri, EmbedMethod.INLINE)
            except EmbeddingError as exc:
                problem = f"{type(exc).__name__}: {exc}"
        _copy(path, target)
        sidecar = write_sidecar(target, payload)
        problem = problem or _hidden_by(target, payload)
        return EmbedResult(target, sidecar, manifest.manifest_uri, method, problem)


def embed_payload(manifest: Manifest, policy: EmbedPolicy | None = None) -> bytes:
    """Return the text that goes into a file, or into its sidecar.

    Raises:
        ManifestError: see `embed`.
    """
    payload = manifest.to_embed_json(policy or EmbedPolicy()).encode()
    if len(payload) > MAX_MANIFEST_BYTES:
        raise ManifestError(
            f"manifest has {len(payload)} bytes and no reader takes more than "
            f"{MAX_MANIFEST_BYTES}; embed a pointer instead"
        )
    return payload


def plan(
    source: Source, manifest: Manifest, payload: bytes, *, mime_type: str | None = None
) -> Edit | None:
    """Return the edit that puts a payload into a file, checked to be reversible.

    Args:
        source: the file; an earlier manifest in it is replaced as `embed` says.
        manifest: the manifest that `payload` is the text of; its outputs are looked at.
        payload: from `embed_payload`.
        mime_type: the media type, for files whose content does not tell.

    Returns:
        The edit, or None when files of this kind cannot carry a manifest.

    Raises:
        EmbeddingError: this file cannot carry it, and why.
    """
    container = container_of(source) or container_of_type(canonical_media_type(mime_type or ""))
    if container is None or not container.embeds:
        return None
    mend = leftover(source)
    whole = EditedSource(source, mend) if mend else source
    removed = _replaced(container, whole, manifest)
    base = EditedSource(whole, removed) if removed else whole
    added = container.format.plan_embed(base, payload)
    _check(container, base, added, EditedSource(base, added), payload)
    return composed(source.size, mend, composed(whole.size, removed, added))


def _replaced(container: Container, source: Source, manifest: Manifest) -> Edit:
    """Return the edit that takes out the manifest that the new one stands in for."""
    try:
        first = next(originals(container, source), None)
    except EmbeddingError:
        # Nobody can read it, so nobody can say what to take out; ours goes in front of it.
        return ()
    if first is None or _is_output(source, manifest):
        return ()
    return first.undo


def _is_output(source: Source, manifest: Manifest) -> bool:
    """Whether a manifest is about a file just as it is, an earlier manifest in it included."""
    outputs = [asset for step in manifest.run.steps for asset in step.assets]
    sha256s = {a.sha256 for a in outputs if a.size_bytes is None or a.size_bytes == source.size}
    return bool(sha256s) and sha256_edited(source, ()) in sha256s


def _check(
    container: Container, base: Source, added: Edit, written: Source, payload: bytes
) -> None:
    """Read back what was written: the manifest, and the way to the bytes before.

    Raises:
        EmbeddingError: it does not hold.
    """
    found = container.format.read_payload(written)
    if found is None or not _same_text(found, payload):
        raise EmbeddingError(
            f"the manifest would not be found again: this {container.name} file holds something "
            "that hides it"
        )
    first = next(container.format.originals(written), None)
    if first is None or not undoes(base, added, first.undo):
        raise EmbeddingError(f"this {container.name} file could not be restored to the byte")


def _same_text(found: bytes, payload: bytes) -> bool:
    if found == payload:
        return True
    try:
        # Old ID3 tags hold the same JSON in other characters.
        return json.loads(found) == json.loads(payload)
    except (ValueError, RecursionError):
        return False


def _embed_inline(
    path: Path, target: Path, manifest: Manifest, payload: bytes, mime_type: str | None
) -> bool:
    """Put a payload into a file; False when files of this kind cannot carry one."""
    with Source.open(path) as source:
        edit = plan(source, manifest, payload, mime_type=mime_type)
        size = source.size
    if edit is None:
        return False
    content = pieces(size, edit)
    if path == target and size > IN_PLACE_BYTES and _is_appended(content):
        append_in_place(path, payload)
        return True
    with replacing(target, like=path) as part:
        write_pieces(path, content, part)
        _check_written(part, total(content), payload)
    return True


def _is_appended(content: Pieces) -> bool:
    """Whether a file only gets another end."""
    match content:
        case (Range(start=0), bytes()):
            return True
        case _:
            return False


def _check_written(part: Path, size: int, payload: bytes) -> None:
    with Source.open(part) as written:
        container = container_of(written)
        found = container and container.format.read_payload(written)
        if written.size != size or not found or not _same_text(found, payload):
            raise EmbeddingError("the file on disk does not hold what was written; try again")


def _copy(path: Path, target: Path) -> None:
    if path != target:
        with replacing(target, like=path) as part:
            write_pieces(path, (Range(0, path.stat().st_size),), part)


def _hidden_by(target: Path, payload: bytes) -> str | None:
    """Say why readers will not see a sidecar: a manifest in the file goes before it."""
    try:
        found = extract_payload(target).manifest.to_canonical_json().encode()
    except PointerSidecarError:
        return None
    except (EmbeddingError, ManifestError) as exc:
        return f"{type(exc).__name__}: {exc}"
    if found == payload:
        return None
    return "the file holds an earlier manifest, which every reader prefers to the sidecar"


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise EmbeddingError(f"{exc.filename or path}: {exc.strerror or exc}") from exc
