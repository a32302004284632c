"""Verify a whole store: every reference in it, its manifest and its bytes."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genblaze_dagster.cli.output import progress
from genblaze_dagster.cli.verification import Check, CheckName, Report, Status
from genblaze_dagster.core.reference import MediaRef

if TYPE_CHECKING:
    from genblaze_dagster.storage.integrity import RefCheck
    from genblaze_dagster.storage.store import MediaStore

_BATCH = 64


@dataclass(slots=True)
class _Tally:
    """What was looked at so far, and every problem found."""

    references: int = 0
    files: int = 0
    size: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def add(self, checks: Iterable["RefCheck"]) -> None:
        for check in checks:
            self.references += 1
            self.files += len(check.ref.media)
            self.size += check.bytes_read
            self.findings += [
                {
                    "asset_key": check.ref.asset_key,
                    "partition_key": check.ref.partition_key,
                    "problem": finding.problem.value,
                    "subject": finding.subject,
                    "detail": finding.detail,
                }
                for finding in check.findings
            ]

    def of(self, *problems: str) -> int:
        """Return how many findings are about one of these problems."""
        return sum(finding["problem"] in problems for finding in self.findings)


async def check_store(store: "MediaStore", *, target: str) -> Report:
    """Verify every reference of a store, reading all media they lead to.

    Raises:
        SchemaError: a stored reference cannot be read.
        StorageError: the store cannot be read.
    """
    from genblaze_dagster.storage.integrity import check_refs
    from genblaze_dagster.storage.refs import list_refs

    tally = _Tally()
    with progress(f"references in {store.url}", total=None) as advance:
        async for batch in _batches(list_refs(store)):
            tally.add(await check_refs(store, batch))
            advance(len(batch))
    return Report(
        target=target, kind="store", checks=_checks(tally), findings=tuple(tally.findings)
    )


async def _batches(refs: AsyncIterator[MediaRef]) -> AsyncIterator[list[MediaRef]]:
    batch: list[MediaRef] = []
    async for ref in refs:
        batch.append(ref)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _checks(tally: _Tally) -> tuple[Check, ...]:
    from genblaze_dagster.storage.integrity import Problem

    if not tally.references:
        detail = "no reference is stored here, so nothing was verified; name one object to check it"
        return (Check(CheckName.REFERENCES, Status.UNKNOWN, detail),)
    return (
        _check(
            CheckName.REFERENCES,
            tally.of(Problem.NOT_IN_MANIFEST, Problem.MANIFEST_CHANGED),
            f"{tally.references:,} reference(s)",
        ),
        _check(
            CheckName.CANONICAL_HASH,
            tally.of(Problem.MANIFEST_MISSING, Problem.MANIFEST_INVALID),
            f"{tally.references:,} manifest(s)",
        ),
        _check(
            CheckName.BYTES_MATCH,
            tally.of(Problem.BYTES_MISSING, Problem.BYTES_DIFFER),
            f"{tally.files:,} file(s), {tally.size:,} bytes read",
        ),
    )


def _check(name: CheckName, problems: int, looked_at: str) -> Check:
    if problems:
        return Check(name, Status.FAIL, f"{problems:,} problem(s) in {looked_at}")
    return Check(name, Status.PASS, looked_at)
