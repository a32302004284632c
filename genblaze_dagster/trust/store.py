"""Verify a whole store: every reference in it, its manifest and its bytes."""

import re
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.media.sidecar import SUFFIX
from genblaze_dagster.net.redact import redact
from genblaze_dagster.trust.batches import batches
from genblaze_dagster.trust.progress import Progress
from genblaze_dagster.trust.report import (
    Check,
    CheckName,
    Finding,
    Findings,
    Kind,
    Status,
    VerificationReport,
)

if TYPE_CHECKING:
    from genblaze_dagster.storage.integrity import RefCheck
    from genblaze_dagster.storage.store import MediaStore

_BATCH: Final = 64
_DAMAGED: Final = "reference damaged"
# The keys references have (storage/refs.py).
_REFERENCE: Final = re.compile(r"refs/(?:[^/]+/)+[^/]+\.json")


async def is_store(store: "MediaStore") -> bool:
    """Whether a place is a store of ours, and not just a folder of files: it holds references.

    Raises:
        StorageError: it cannot be listed.
    """
    async with aclosing(store.list("refs")) as objects:
        async for info in objects:
            if _REFERENCE.fullmatch(info.key) and not info.key.endswith(SUFFIX):
                return True
    return False


@dataclass(slots=True)
class _Tally:
    """What was looked at so far, and every problem found."""

    references: int = 0
    files: int = 0
    size: int = 0
    findings: Findings = field(default_factory=Findings)

    def add(self, checks: Iterable["RefCheck"]) -> None:
        for check in checks:
            self.references += 1
            self.files += sum(1 + (m.embedded is not None) for m in check.ref.media)
            self.size += check.bytes_read
            for found in check.findings:
                self.findings.add(
                    Finding(
                        found.problem.value,
                        found.subject,
                        found.detail,
                        check.ref.asset_key,
                        check.ref.partition_key,
                    )
                )

    def add_damaged(self, key: str, error: GenblazeError) -> None:
        self.references += 1
        self.findings.add(Finding(_DAMAGED, key, redact(str(error))))


async def check_store(
    store: "MediaStore", *, target: str, progress: Progress
) -> VerificationReport:
    """Verify every reference of a store, reading all media they lead to.

    A damaged reference, manifest or object is a finding; the others are still looked at.

    Raises:
        StorageError: the store cannot be listed or reached.
    """
    from genblaze_dagster.storage.integrity import check_refs
    from genblaze_dagster.storage.refs import list_refs

    tally = _Tally()
    with progress(f"references in {store.url}", total=None) as advance:
        async for batch in batches(list_refs(store, damaged=tally.add_damaged), _BATCH):
            tally.add(await check_refs(store, batch))
            advance(len(batch))
    return VerificationReport(
        target=target,
        kind=Kind.STORE,
        checks=_checks(tally),
        findings=tuple(tally.findings.kept),
        findings_left_out=tally.findings.left_out,
    )


def _checks(tally: _Tally) -> tuple[Check, ...]:
    from genblaze_dagster.storage.integrity import Problem

    unreadable = tally.findings.of(Problem.UNREADABLE)
    return (
        _check(
            CheckName.REFERENCES,
            tally.findings.of(_DAMAGED, Problem.NOT_IN_MANIFEST, Problem.MANIFEST_CHANGED),
            f"{tally.references:,} reference(s)",
        ),
        _check(
            CheckName.CANONICAL_HASH,
            tally.findings.of(Problem.MANIFEST_MISSING, Problem.MANIFEST_INVALID),
            f"{tally.references:,} manifest(s)",
        ),
        _check(
            CheckName.BYTES_MATCH,
            tally.findings.of(Problem.BYTES_MISSING, Problem.BYTES_DIFFER),
            f"{tally.files:,} file(s), {tally.size:,} bytes read",
            unread=unreadable,
            nothing=not tally.files,
        ),
    )


def _check(
    name: CheckName, problems: int, looked_at: str, *, unread: int = 0, nothing: bool = False
) -> Check:
    if problems:
        return Check(name, Status.FAIL, f"{problems:,} problem(s) in {looked_at}")
    if unread or nothing:
        return Check(name, Status.UNKNOWN, f"{unread:,} object(s) could not be read; {looked_at}")
    return Check(name, Status.PASS, looked_at)
