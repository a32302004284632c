"""The file or object a command looks at, here on disk, and the manifest that belongs to it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from genblaze_dagster.cli.hashing import hash_file, hash_object
from genblaze_dagster.cli.output import progress
from genblaze_dagster.cli.stored_runs import find_stored_run
from genblaze_dagster.cli.targets import LocalFile, StoredObject, surrounding_store
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import MAX_MANIFEST_BYTES
from genblaze_dagster.errors import (
    AccessDeniedError,
    EmbeddingError,
    ManifestError,
    NotFoundError,
)
from genblaze_dagster.media.extract import Extraction, ManifestSource, extract_payload
from genblaze_dagster.media.sidecar import sidecar_path

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

IN_STORE = "store"


@dataclass(frozen=True, slots=True)
class Subject:
    """One file's bytes: where they are, their hash, and the object they are a copy of, if any."""

    path: Path
    sha256: str
    stored: StoredObject | None = None

    @property
    def name(self) -> str:
        """The name of the file or object, without folders."""
        return self.path.name if self.stored is None else self.stored.name

    def home(self) -> "MediaStore | None":
        """Return the store the bytes lie in, None when their place does not tell."""
        return self.stored.store if self.stored is not None else surrounding_store(self.path)


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest, and where it was found: inline, sidecar, standalone or store."""

    manifest: Manifest
    source: str
    where: str


@asynccontextmanager
async def opened(target: LocalFile | StoredObject) -> AsyncIterator[Subject]:
    """Give access to the bytes of a target; those of a stored object are on disk meanwhile.

    Raises:
        StorageError: the file or object cannot be read.
    """
    if isinstance(target, LocalFile):
        yield Subject(target.path, hash_file(target.path))
        return
    with tempfile.TemporaryDirectory(prefix="genblaze-") as folder:
        # Only the extension of a key matters; the rest may be no name for a file here.
        path = Path(folder) / f"object{PurePosixPath(target.name).suffix[:16]}"
        sha256 = await _fetch(target, path)
        await _fetch_sidecar(target, sidecar_path(path))
        yield Subject(path, sha256, target)


async def find_manifest(subject: Subject, *, store: "MediaStore | None" = None) -> Found:
    """Return the manifest of a subject.

    A manifest file is its own. Else the run in `store` that made these very bytes goes first, then
    a manifest in or beside the file, then the run in the store the file lies in.

    Raises:
        EmbeddingError: there is none anywhere.
        ManifestError: there is one, and it cannot be read.
        StorageError: a store cannot be read.
    """
    extracted = _extract(subject)
    if isinstance(extracted, Extraction) and extracted.source is ManifestSource.STANDALONE:
        return Found(extracted.manifest, extracted.source, subject.name)
    searched = [store] if store is not None else []
    if type(extracted) is EmbeddingError and (home := subject.home()) is not None:
        searched.append(home)
    for place in searched:
        run = await find_stored_run(place, subject.sha256, key=_key_in(place, subject))
        if run is not None:
            return Found(run.manifest, IN_STORE, f"{place.url}, {run.manifest_key}")
    if isinstance(extracted, Extraction):
        return Found(extracted.manifest, extracted.source, _where(extracted, subject))
    if searched and type(extracted) is EmbeddingError:
        places = " or ".join(place.url for place in searched)
        raise EmbeddingError(f"{extracted}, and no run in {places} made these bytes")
    raise extracted


def _extract(subject: Subject) -> Extraction | EmbeddingError | ManifestError:
    try:
        return extract_payload(subject.path)
    except (EmbeddingError, ManifestError) as exc:
        if subject.stored is not None:
            # Nobody knows the temporary file the object was read into.
            exc.args = (str(exc).replace(str(subject.path), subject.stored.url),)
        return exc


def _where(extraction: Extraction, subject: Subject) -> str:
    if extraction.source is ManifestSource.SIDECAR:
        return sidecar_path(Path(subject.name)).name
    return f"embedded ({extraction.container})"


def _key_in(store: "MediaStore", subject: Subject) -> str | None:
    if subject.stored is not None:
        return subject.stored.key if subject.stored.store is store else None
    return store.key_from_url(subject.path.absolute().as_uri())


async def _fetch(target: StoredObject, path: Path) -> str:
    with (
        path.open("wb") as file,
        progress(target.name, total=target.size_bytes, in_bytes=True) as advance,
    ):
        return await hash_object(target.store, target.key, advance=advance, into=file)


async def _fetch_sidecar(target: StoredObject, path: Path) -> None:
    key = target.key.removesuffix(target.name) + sidecar_path(Path(target.name)).name
    # A key that may not list is told "denied" about what is not there.
    with suppress(NotFoundError, AccessDeniedError):
        data = await target.store.get(key, max_bytes=MAX_MANIFEST_BYTES)
        await asyncio.to_thread(path.write_bytes, data)
