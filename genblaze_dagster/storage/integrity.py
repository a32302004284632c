"""Does what is stored still say and hold what its manifest says? Reads every byte."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.reference import MediaObject, MediaRef, Rendition
from genblaze_dagster.errors import IntegrityError, ManifestError, NotFoundError, StorageError
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.rendition_check import RenditionCheck
from genblaze_dagster.storage.store import MediaStore

DEFAULT_CONCURRENCY = 8


class Problem(StrEnum):
    """What can be wrong with stored media."""

    MANIFEST_MISSING = "manifest missing"
    MANIFEST_INVALID = "manifest invalid"
    MANIFEST_CHANGED = "manifest is not the one the reference was made with"
    NOT_IN_MANIFEST = "output is not in the manifest"
    BYTES_MISSING = "bytes missing"
    BYTES_DIFFER = "bytes differ"
    UNREADABLE = "cannot be read"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem; `subject` is the key of the object it is about."""

    problem: Problem
    subject: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RefCheck:
    """The result of checking one reference; `bytes_read` counts media only."""

    ref: MediaRef
    findings: tuple[Finding, ...]
    bytes_read: int

    @property
    def ok(self) -> bool:
        """Whether manifest and bytes are what they claim to be."""
        return not self.findings


async def check_ref(
    store: MediaStore, ref: MediaRef, *, known: Mapping[str, str] | None = None
) -> RefCheck:
    """Verify the manifest of a reference and hash every stored output, renditions included.

    An embedded rendition must hold what was stored, and without its manifest be the output.

    Args:
        store: where the reference came from.
        ref: what to check.
        known: object key to SHA-256 of outputs that were read back a moment ago.

    Raises:
        StorageUnavailableError: the store cannot be reached. An object that is missing or that the
            store does not give out is a finding instead.
    """
    findings: list[Finding] = []
    manifest = await _manifest(store, ref, findings)
    declared = _declared(manifest) if manifest is not None else None
    total = 0
    for media in ref.media:
        if declared is not None and media.sha256 not in declared:
            findings.append(Finding(Problem.NOT_IN_MANIFEST, media.key))
        read_already = (known or {}).get(media.key)
        if read_already is None:
            total += await _check_bytes(store, media, findings)
        elif read_already != media.sha256:
            findings.append(Finding(Problem.BYTES_DIFFER, media.key))
        if media.embedded is not None:
            total += await _check_embedded(store, media, media.embedded, findings)
    return RefCheck(ref, tuple(findings), total)


async def check_refs(
    store: MediaStore, refs: Sequence[MediaRef], *, concurrency: int = DEFAULT_CONCURRENCY
) -> list[RefCheck]:
    """Check several references at the same time; results in the order of `refs`."""
    slots = asyncio.Semaphore(concurrency)

    async def one(ref: MediaRef) -> RefCheck:
        async with slots:
            return await check_ref(store, ref)

    return list(await asyncio.gather(*(one(ref) for ref in refs)))


async def _manifest(store: MediaStore, ref: MediaRef, findings: list[Finding]) -> Manifest | None:
    try:
        manifest = await read_manifest(store, ref.manifest_key)
        report = manifest.verification_report()
    except NotFoundError:
        findings.append(Finding(Problem.MANIFEST_MISSING, ref.manifest_key))
        return None
    except StorageError as exc:
        findings.append(_unreadable(exc, ref.manifest_key))
        return None
    except ManifestError as exc:
        findings.append(Finding(Problem.MANIFEST_INVALID, ref.manifest_key, str(exc)))
        return None
    if not report.ok:
        findings.append(Finding(Problem.MANIFEST_INVALID, ref.manifest_key, str(report)))
    if manifest.canonical_hash != ref.canonical_hash:
        findings.append(Finding(Problem.MANIFEST_CHANGED, ref.manifest_key))
    return manifest


def _declared(manifest: Manifest) -> set[str | None]:
    return {asset.sha256 for step in manifest.run.steps for asset in step.assets}


async def _check_embedded(
    store: MediaStore, media: MediaObject, rendition: Rendition, findings: list[Finding]
) -> int:
    before = len(findings)
    check = RenditionCheck(store, media, rendition)
    size = await _check_bytes(store, rendition, findings, also=check.feed)
    if len(findings) > before:
        return size
    try:
        problem = await check.problem()
    except OSError as exc:
        findings.append(Finding(Problem.UNREADABLE, rendition.key, str(exc)))
    except StorageError as exc:
        findings.append(_unreadable(exc, rendition.key))
    except IntegrityError as exc:
        findings.append(Finding(Problem.BYTES_DIFFER, rendition.key, str(exc)))
    else:
        if problem is not None:
            findings.append(Finding(Problem.BYTES_DIFFER, rendition.key, problem))
    return size


async def _check_bytes(
    store: MediaStore,
    media: MediaObject | Rendition,
    findings: list[Finding],
    *,
    also: Callable[[bytes], None] | None = None,
) -> int:
    digest = hashlib.sha256()
    size = 0
    try:
        async for chunk in store.stream(media.key):
            digest.update(chunk)
            size += len(chunk)
            if also is not None:
                also(chunk)
    except NotFoundError:
        findings.append(Finding(Problem.BYTES_MISSING, media.key))
        return size
    except StorageError as exc:
        findings.append(_unreadable(exc, media.key))
        return size
    if digest.hexdigest() != media.sha256:
        detail = f"{size} bytes hash to {digest.hexdigest()}"
        findings.append(Finding(Problem.BYTES_DIFFER, media.key, detail))
    return size


def _unreadable(error: StorageError, key: str) -> Finding:
    if error.transient:
        raise error
    return Finding(Problem.UNREADABLE, key, str(error))
