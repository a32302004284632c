"""Which manifest belongs to a file: the embedded one, its sidecar's, or that of a stored run."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import EmbeddingError, ManifestError
from genblaze_dagster.media.extraction import ManifestSource, extract_payload
from genblaze_dagster.media.sidecar import read_manifest_file, sidecar_path
from genblaze_dagster.trust.outputs import outputs_by_sha256
from genblaze_dagster.trust.restored import Restored, restored_from
from genblaze_dagster.trust.stored_runs import StoredRuns
from genblaze_dagster.trust.subject import Subject
from genblaze_dagster.trust.targets import LocalFile, open_store, store_root

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

IN_STORE: Final = "store"

# A hostile manifest of 16 MiB takes hundreds of megabytes while it is parsed.
_PARSED_AT_ONCE: Final = 2


@dataclass(frozen=True, slots=True)
class Claims:
    """Everything in and beside a file that says what it is.

    Attributes:
        standalone: the manifest that the file itself is.
        embedded: the first manifest inside the file.
        container: what it is embedded in: `png`, `mp4`, ...
        sidecar: the manifest beside the file, or why none can be had from it.
        problem: why readers get no manifest, None when they get one.
    """

    standalone: Manifest | None = None
    embedded: Manifest | None = None
    container: str = ""
    sidecar: Manifest | EmbeddingError | ManifestError | None = None
    problem: EmbeddingError | ManifestError | None = None

    @property
    def is_silent(self) -> bool:
        """Whether there is no manifest in or beside the file, not even a broken one."""
        return type(self.problem) is EmbeddingError


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """The manifest a file is compared with.

    Attributes:
        manifest: the manifest.
        source: inline, sidecar, standalone or store.
        where: the same for people, with names.
        claims: it and the others that were found in and beside the file.
        restored: the file without the embedded manifest, if that was looked for already.
    """

    manifest: Manifest
    source: str
    where: str
    claims: Claims
    restored: Restored | None = None


class RunSearch:
    """The stores in which runs are looked up; each is read once.

    `named` is the store the user names, which goes before anything in or beside a file. `parsing`
    is held while the JSON of one file is in memory.
    """

    def __init__(self, named: "MediaStore | None" = None) -> None:
        self.named = named
        self.parsing = asyncio.Semaphore(_PARSED_AT_ONCE)
        self._runs: dict[str, StoredRuns] = {}

    def runs(self, store: "MediaStore") -> StoredRuns:
        """Return the runs of a store."""
        return self._runs.setdefault(store.url, StoredRuns(store))

    async def claims(self, subject: Subject) -> Claims:
        """Return what is in and beside a file; never many files at the same time."""
        async with self.parsing:
            return await asyncio.to_thread(_read_claims, subject)


def home_store(subject: Subject) -> "MediaStore | None":
    """Return the store a file lies in, None when its place does not tell."""
    origin = subject.origin
    if not isinstance(origin, LocalFile):
        return origin.store if origin.in_store else None
    place = store_root(origin.path.absolute().as_posix())
    return open_store(Path(place[0])) if place is not None else None


async def find_manifest(subject: Subject, search: RunSearch) -> FoundManifest:
    """Return the manifest of a file.

    A manifest file is its own. Else, in this order: that of the run in the store the user names
    that made these bytes, or made what they were before a manifest was embedded; that of the
    sidecar when it speaks of the file with all that is embedded in it; the embedded one; the
    sidecar's; that of a run in the store the file lies in.

    Raises:
        EmbeddingError: there is none anywhere.
        ManifestError: there is one, and it cannot be read.
        StorageError: a store cannot be read.
        IndexQueryError: the index of a store cannot be read.
    """
    claims = await search.claims(subject)
    if claims.standalone is not None:
        source = ManifestSource.STANDALONE
        return FoundManifest(claims.standalone, source, subject.name, claims)
    restored = None
    if search.named is not None:
        found = await _in_store(subject, claims, search.named, search)
        if found is not None:
            return found
        if claims.embedded is not None:
            restored = await restored_from(subject.path, outputs_by_sha256(claims.embedded))
            found = await _original_in_store(claims, restored, search.named, search)
            if found is not None:
                return found
    found = await _in_or_beside(subject, claims, restored)
    if found is not None:
        return found
    home = home_store(subject) if claims.is_silent else None
    if home is not None:
        found = await _in_store(subject, claims, home, search)
        if found is not None:
            return found
    raise _problem(claims, search.named, home)


async def _in_or_beside(
    subject: Subject, claims: Claims, restored: Restored | None
) -> FoundManifest | None:
    beside, sidecar = sidecar_path(Path(subject.name)).name, claims.sidecar
    if isinstance(sidecar, Manifest) and (
        (claims.embedded is None and claims.problem is None)
        or await subject.sha256() in outputs_by_sha256(sidecar)
    ):
        return FoundManifest(sidecar, ManifestSource.SIDECAR, beside, claims)
    if claims.embedded is not None:
        where = f"embedded ({claims.container})"
        return FoundManifest(claims.embedded, ManifestSource.INLINE, where, claims, restored)
    return None


async def _in_store(
    subject: Subject, claims: Claims, store: "MediaStore", search: RunSearch
) -> FoundManifest | None:
    run = await search.runs(store).find(await subject.sha256(), key=_key_in(store, subject))
    if run is None:
        return None
    return FoundManifest(run.manifest, IN_STORE, f"{store.url}, {run.manifest_key}", claims)


async def _original_in_store(
    claims: Claims, restored: Restored, store: "MediaStore", search: RunSearch
) -> FoundManifest | None:
    run = None
    if restored.sha256 is not None:
        run = await search.runs(store).find(restored.sha256)
    if run is None:
        return None
    where = f"{store.url}, {run.manifest_key}"
    return FoundManifest(run.manifest, IN_STORE, where, claims, restored)


def _key_in(store: "MediaStore", subject: Subject) -> str | None:
    origin = subject.origin
    if isinstance(origin, LocalFile):
        return store.key_from_url(origin.path.absolute().as_uri())
    return origin.key if origin.store is store else None


def _problem(claims: Claims, *searched: "MediaStore | None") -> EmbeddingError | ManifestError:
    problem = claims.problem or EmbeddingError("no manifest")
    urls = dict.fromkeys(store.url for store in searched if store is not None)
    if not urls or not claims.is_silent:
        return problem
    return EmbeddingError(f"{problem}, and no run in {' or '.join(urls)} made these bytes")


def _read_claims(subject: Subject) -> Claims:
    path = subject.path
    try:
        first = extract_payload(path)
    except (EmbeddingError, ManifestError) as exc:
        # Nobody knows the temporary file that an object was read into.
        exc.args = (subject.named(str(exc)),)
        # What is broken may be the embedded one, with a good sidecar beside it.
        sidecar = _read_sidecar(path) if isinstance(exc, ManifestError) else None
        return Claims(sidecar=sidecar, problem=exc)
    if first.source is ManifestSource.STANDALONE:
        return Claims(standalone=first.manifest)
    if first.source is ManifestSource.SIDECAR:
        return Claims(sidecar=first.manifest)
    return Claims(embedded=first.manifest, container=first.container, sidecar=_read_sidecar(path))


def _read_sidecar(path: Path) -> Manifest | EmbeddingError | ManifestError | None:
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return None
    try:
        return read_manifest_file(sidecar)
    except (EmbeddingError, ManifestError) as exc:
        return exc
