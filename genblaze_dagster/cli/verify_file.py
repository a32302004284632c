"""Verify one file or object: its manifest, and the bytes in hand or those the manifest names."""

import asyncio
from enum import StrEnum, auto
from typing import TYPE_CHECKING

from genblaze_dagster.cli.hashing import hash_object
from genblaze_dagster.cli.output import Advance, progress
from genblaze_dagster.cli.subject import Found, Subject, find_manifest
from genblaze_dagster.cli.verification import Check, CheckName, Report, Status, manifest_checks
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, is_valid_sha256
from genblaze_dagster.errors import NotFoundError
from genblaze_dagster.media.extract import ManifestSource

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore

_CONCURRENCY = 8


async def check_file(
    subject: Subject, *, target: str, store: "MediaStore | None", hash_only: bool
) -> Report:
    """Verify a media file or a manifest file.

    Args:
        subject: the bytes in hand.
        target: what the report calls them.
        store: where to look up who made them; for a manifest file, where its media is.
        hash_only: look at the manifest's hash and at no bytes.

    Raises:
        EmbeddingError: there is no manifest.
        ManifestError: the manifest cannot be read or hashed.
        StorageError: the store cannot be read.
    """
    found = await find_manifest(subject, store=store)
    checks = manifest_checks(found.manifest, hash_only=hash_only)
    is_manifest = found.source == ManifestSource.STANDALONE
    if hash_only:
        checks.append(Check(CheckName.BYTES_MATCH, Status.SKIP, "not looked at (--hash-only)"))
    elif is_manifest:
        checks.append(await _check_stored_outputs(found.manifest, subject, store))
    else:
        checks.append(_check_in_hand(found, subject.sha256))
    return Report(
        target=target,
        kind="manifest" if is_manifest else "media",
        checks=tuple(checks),
        manifest=found.manifest,
        source=found.where,
        sha256=subject.sha256,
    )


def _check_in_hand(found: Found, sha256: str) -> Check:
    for step in found.manifest.run.steps:
        if any(asset.sha256 == sha256 for asset in step.assets):
            detail = f"the file is an output of step {step.step_id} ({step.model})"
            return Check(CheckName.BYTES_MATCH, Status.PASS, detail)
    if found.source == ManifestSource.INLINE:
        return Check(
            CheckName.BYTES_MATCH,
            Status.UNKNOWN,
            "an embedded manifest changes the bytes it is embedded in, and this release cannot "
            "take it out again to compare; verify the original, or ask the store that made it",
        )
    return Check(
        CheckName.BYTES_MATCH, Status.FAIL, f"the file hashes to {sha256}, which is no output of it"
    )


class _Outcome(StrEnum):
    MATCHES = auto()
    DIFFERS = auto()
    MISSING = auto()
    ELSEWHERE = auto()


async def _check_stored_outputs(
    manifest: Manifest, subject: Subject, store: "MediaStore | None"
) -> Check:
    """Hash the outputs a manifest names, as far as they lie in `store` or around the manifest."""
    outputs = {
        (asset.sha256, asset.url): asset
        for step in manifest.run.steps
        for asset in step.assets
        if is_valid_sha256(asset.sha256)
    }
    place = store or subject.home()
    if place is None or not outputs:
        detail = "nothing to compare" if not outputs else "not looked at; name their --store"
        return Check(CheckName.BYTES_MATCH, Status.SKIP, detail)
    slots = asyncio.Semaphore(_CONCURRENCY)
    total = sum(asset.size_bytes or 0 for asset in outputs.values())
    with progress("outputs", total=total or None, in_bytes=True) as advance:

        async def one(asset: Asset) -> _Outcome:
            async with slots:
                return await _check_output(place, asset, advance)

        outcomes = await asyncio.gather(*(one(asset) for asset in outputs.values()))
    return _summary(outcomes, place.url, asked=store is not None)


async def _check_output(store: "MediaStore", asset: Asset, advance: Advance) -> _Outcome:
    from genblaze_dagster.storage.keys import Placement, url_extension

    key = store.key_from_url(asset.url)
    missing = _Outcome.MISSING
    if key is None:
        # A copied or renamed store: the content address still leads to the bytes.
        missing = _Outcome.ELSEWHERE
        key = store.layout.asset_key(
            Placement(run_id=None, asset_id=asset.asset_id),
            sha256=asset.sha256 or "",
            extension=url_extension(asset.url, asset.media_type),
        )
    try:
        actual = await hash_object(store, key, advance=advance)
    except NotFoundError:
        return missing
    return _Outcome.MATCHES if actual == asset.sha256 else _Outcome.DIFFERS


def _summary(outcomes: list[_Outcome], place: str, *, asked: bool) -> Check:
    counts = {outcome: outcomes.count(outcome) for outcome in _Outcome}
    broken = counts[_Outcome.DIFFERS] + counts[_Outcome.MISSING]
    looked_at = len(outcomes) - counts[_Outcome.ELSEWHERE]
    if broken:
        status = Status.FAIL
        detail = f"{counts[_Outcome.DIFFERS]} differ and {counts[_Outcome.MISSING]} are missing"
    elif looked_at == len(outcomes):
        status = Status.PASS
        detail = "every output hashes to its sha256"
    else:
        status = Status.UNKNOWN if asked or looked_at else Status.SKIP
        detail = f"{counts[_Outcome.ELSEWHERE]} are kept elsewhere and were not looked at"
    return Check(
        CheckName.BYTES_MATCH, status, f"{detail} ({len(outcomes)} output(s), store {place})"
    )
