"""Files without their manifest, byte for byte as they were before it went in."""

from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.errors import EmbeddingError, ManifestError
from genblaze_dagster.media.append import leftover
from genblaze_dagster.media.containers import Container, container_of, originals
from genblaze_dagster.media.edit import (
    Edit,
    EditedSource,
    chunks,
    composed,
    pieces,
    sha256_edited,
    write_pieces,
)
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.whole import replacing


@dataclass(frozen=True, slots=True)
class Found:
    """What is known about a file without its first manifest.

    Attributes:
        original: how it comes out, None when nobody can say.
        sha256: of the original, in lower-case hex.
        matches: the original is one that was looked for.
    """

    original: Original | None
    sha256: str | None
    matches: bool


def strip(path: Path | str) -> bytes:
    """Return the bytes of a file as they were before its manifest went in.

    The first manifest is taken out; one that was there before it belongs to the original. A file
    without a manifest is its own original. For large files see `strip_to`.

    Raises:
        EmbeddingError: the file cannot be read, or whoever embedded the manifest changed the file
            in ways that cannot be undone, as genblaze does with JPEG and lossy WebP.
    """
    path = Path(path)
    with _opened(path) as source:
        return b"".join(chunks(source, pieces(source.size, _undo(source))))


def strip_to(path: Path | str, output: Path | str) -> None:
    """Write what `strip` returns to a file, which is there whole or not at all.

    Raises:
        EmbeddingError: see `strip`, or `output` cannot be written.
    """
    path, output = Path(path), Path(output)
    with _opened(path) as source:
        content = pieces(source.size, _undo(source))
        with replacing(output, like=path) as part:
            write_pieces(path, content, part)


def find_original(source: Source, sha256s: Collection[str]) -> Found:
    """Look for an original of a file among those that are expected.

    Returns the first that hashes to one of `sha256s`; else the one that is certain, else the most
    likely one, with its hash. What a killed embed left is not taken out: a stranger may have put
    anything there.

    Raises:
        EmbeddingError: the manifest in the file is broken.
    """
    container = container_of(source)
    best = Found(None, None, matches=False)
    if container is None:
        return best
    for original in originals(container, source):
        sha256 = sha256_edited(source, original.undo)
        if sha256 in sha256s:
            return Found(original, sha256, matches=True)
        if best.original is None or (original.certain and not best.original.certain):
            best = Found(original, sha256, matches=False)
    return best


@contextmanager
def _opened(path: Path) -> Generator[Source]:
    try:
        with Source.open(path) as source:
            yield source
    except OSError as exc:
        raise EmbeddingError(f"{exc.filename or path}: {exc.strerror or exc}") from exc
    except EmbeddingError as exc:
        raise EmbeddingError(f"{path}: {exc}") from exc


def _undo(source: Source) -> Edit:
    container = container_of(source)
    if container is None:
        return ()
    mend = leftover(source)
    whole = EditedSource(source, mend) if mend else source
    return composed(source.size, mend, _undo_embed(container, whole))


def _undo_embed(container: Container, source: Source) -> Edit:
    payload = container.format.read_payload(source)
    if payload is None:
        return ()
    first = next(originals(container, source), None)
    if first is not None and first.certain:
        return first.undo
    found = find_original(source, _outputs(payload))
    if found.original is not None and (found.matches or found.original.certain):
        return found.original.undo
    raise EmbeddingError(
        f"its original cannot be restored: the manifest was put in by a writer that changes "
        f"{container.name} files as a whole; take the original from the store"
    )


def _outputs(payload: bytes) -> set[str]:
    with suppress(ManifestError):
        steps = parse_manifest(payload).run.steps
        return {asset.sha256 for step in steps for asset in step.assets if asset.sha256}
    return set()
