"""Verify one file or object: its manifest, and the bytes in hand or those the manifest names."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genblaze_dagster.media.extraction import ManifestSource
from genblaze_dagster.trust.agreement import check_agreement
from genblaze_dagster.trust.bytes_in_hand import check_in_hand
from genblaze_dagster.trust.claims import FoundManifest, RunSearch, find_manifest, home_store
from genblaze_dagster.trust.fetched_outputs import check_fetched
from genblaze_dagster.trust.manifest_checks import manifest_checks
from genblaze_dagster.trust.progress import Progress, silent
from genblaze_dagster.trust.report import (
    Check,
    CheckName,
    Finding,
    Kind,
    ManifestFacts,
    Status,
    VerificationReport,
    brief,
)
from genblaze_dagster.trust.stored_outputs import check_stored_outputs
from genblaze_dagster.trust.subject import Subject

if TYPE_CHECKING:
    from genblaze_dagster.storage.fetch import AssetFetcher
    from genblaze_dagster.storage.store import MediaStore


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about a target.

    Attributes:
        hash_only: look at the manifest's hash and at no bytes.
        fetcher: gets the outputs from their URLs; None when nobody asks for that.
        store: where to look up who made a file, or where the media of a manifest is.
        endpoint_url: S3 endpoint of s3:// and b2:// URLs.
        progress: shows work that takes long.
    """

    hash_only: bool = False
    fetcher: "AssetFetcher | None" = None
    store: "MediaStore | None" = None
    endpoint_url: str | None = None
    progress: Progress = silent


async def check_file(
    subject: Subject, question: Question, search: RunSearch, *, target: str
) -> VerificationReport:
    """Verify a media file or a manifest file.

    Raises:
        EmbeddingError: there is no manifest.
        ManifestError: the manifest cannot be read or hashed.
        StorageError: the file or a store cannot be read.
        IndexQueryError: the index of a store cannot be read.
    """
    found = await find_manifest(subject, search)
    checks = manifest_checks(found.manifest, hash_only=question.hash_only)
    checks += await _check_bytes(found, subject, question)
    findings: tuple[Finding, ...] = ()
    if question.fetcher is not None:
        fetched = await check_fetched(found.manifest, question.fetcher, progress=question.progress)
        checks.append(fetched.check)
        findings = fetched.findings
    manifest = found.manifest
    return VerificationReport(
        target=target,
        kind=_kind(found),
        checks=tuple(checks),
        manifest=ManifestFacts(
            run_id=brief(manifest.run.run_id),
            schema_version=manifest.schema_version,
            canonical_hash=brief(manifest.canonical_hash),
            steps=len(manifest.run.steps),
            source=found.where,
        ),
        sha256=subject.known_sha256,
        findings=findings,
    )


def _kind(found: FoundManifest) -> Kind:
    return Kind.MANIFEST if found.source == ManifestSource.STANDALONE else Kind.MEDIA


async def _check_bytes(found: FoundManifest, subject: Subject, question: Question) -> list[Check]:
    if question.hash_only:
        skipped = Check(CheckName.BYTES_MATCH, Status.SKIP, "not looked at, only the hash was")
        return [*check_agreement(found, bytes_verified=False, another=False), skipped]
    if _kind(found) is Kind.MANIFEST:
        place = question.store or home_store(subject)
        asked = question.store is not None
        progress = question.progress
        return [await check_stored_outputs(found.manifest, place, asked=asked, progress=progress)]
    in_hand = await check_in_hand(found, subject)
    verified = in_hand.check.status is Status.PASS
    return [
        *check_agreement(found, bytes_verified=verified, another=in_hand.holds_another),
        in_hand.check,
    ]
