"""Verify every file below a directory or prefix: one call, however many there are."""

import asyncio
from collections import Counter, defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from genblaze_dagster.errors import (
    EmbeddingError,
    GenblazeError,
    ManifestError,
    PointerSidecarError,
    UnsupportedSchemaVersionError,
)
from genblaze_dagster.net.redact import redact
from genblaze_dagster.trust.claims import RunSearch
from genblaze_dagster.trust.file import Question, check_file
from genblaze_dagster.trust.files import Entry, Unreadable, local_files, stored_files
from genblaze_dagster.trust.progress import silent
from genblaze_dagster.trust.report import (
    Check,
    CheckName,
    Finding,
    Findings,
    Kind,
    Status,
    Verdict,
    VerificationReport,
    gravest,
)
from genblaze_dagster.trust.roles import Role, holds_manifest, role_of
from genblaze_dagster.trust.subject import opened
from genblaze_dagster.trust.targets import LocalFile, StoredObject, WholeStore

_CONCURRENCY: Final = 8
_LONGEST_DETAIL: Final = 1000


class Outcome(StrEnum):
    """How one file ended; the keys of a folder report's counts."""

    VERIFIED = "verified"
    DIFFER = "differ"
    """Manifest or bytes are not what they were."""
    UNDECIDED = "undecided"
    WITHOUT_MANIFEST = "without_manifest"
    ERROR = "errors"
    """The file cannot be read, or its manifest is damaged."""
    SKIPPED = "skipped"
    """Neither media nor a manifest, and no manifest belongs to it."""


async def check_folder(
    folder: WholeStore, question: Question, *, target: str
) -> VerificationReport:
    """Verify every file below a directory or prefix.

    Sidecars are looked at with their media. What is wrong with one file is a finding and never
    ends the run.

    Raises:
        StorageError: the place cannot be listed, or a store can no longer be reached.
    """
    # Many bars at the same time would show nothing.
    run = _Run(replace(question, progress=silent))
    if folder.path is not None:
        entries = local_files(folder.path)
    else:
        entries = stored_files(folder.store, endpoint_url=question.endpoint_url)
    slots = asyncio.Semaphore(_CONCURRENCY)
    with question.progress(f"files in {target}", total=None) as advance:

        async def one(entry: Entry) -> None:
            try:
                await run.look_at(entry)
            finally:
                slots.release()
                advance(1)

        try:
            async with asyncio.TaskGroup() as tasks, aclosing(entries):
                async for entry in entries:
                    await slots.acquire()
                    tasks.create_task(one(entry))
        except ExceptionGroup as group:
            # The first is why the others were given up.
            raise group.exceptions[0] from None
    return run.report(target)


@dataclass(slots=True)
class _Run:
    question: Question
    counts: Counter[Outcome] = field(default_factory=Counter[Outcome])
    statuses: defaultdict[CheckName, Counter[Status]] = field(
        default_factory=lambda: defaultdict(Counter[Status])
    )
    findings: Findings = field(default_factory=Findings)
    search: RunSearch = field(init=False)

    def __post_init__(self) -> None:
        self.search = RunSearch(self.question.store)

    async def look_at(self, entry: Entry) -> None:
        if isinstance(entry, Unreadable):
            self._fail(Outcome.ERROR, "cannot be read", str(entry.path), entry.reason)
            return
        role = Role.OTHER
        try:
            role = await role_of(entry)
            report = await self._report(entry, role)
        except GenblazeError as exc:
            if exc.transient:
                raise
            if role is Role.OTHER and type(exc) is EmbeddingError:
                self.counts[Outcome.SKIPPED] += 1
            else:
                self._count_error(entry, exc)
            return
        if report is not None:
            self._count(report)

    async def _report(
        self, entry: LocalFile | StoredObject, role: Role
    ) -> VerificationReport | None:
        if role is Role.SIDECAR:
            return None
        if role is Role.OTHER and self.question.store is None:
            self.counts[Outcome.SKIPPED] += 1
            return None
        async with opened(entry) as subject:
            if role in (Role.MANIFEST, Role.DOCUMENT):
                named_so = role is Role.MANIFEST
                async with self.search.parsing:
                    is_one = await asyncio.to_thread(
                        holds_manifest, subject.path, or_damaged=named_so
                    )
                if not is_one:
                    self.counts[Outcome.SKIPPED] += 1
                    return None
            return await check_file(subject, self.question, self.search, target=entry.url)

    def _count(self, report: VerificationReport) -> None:
        for check in report.checks:
            self.statuses[check.name][check.status] += 1
        if report.verdict is Verdict.VERIFIED_UNSIGNED:
            self.counts[Outcome.VERIFIED] += 1
            return
        failed = report.verdict is Verdict.FAILED
        outcome = Outcome.DIFFER if failed else Outcome.UNDECIDED
        self.counts[outcome] += 1
        told = Status.FAIL if failed else Status.UNKNOWN
        details = [f"{c.name.value}: {c.detail}" for c in report.checks if c.status is told]
        self._find("differs" if failed else "undecided", report.target, "; ".join(details))

    def _count_error(self, entry: LocalFile | StoredObject, error: GenblazeError) -> None:
        detail = str(error).removeprefix(f"{entry.url}: ")
        match error:
            case UnsupportedSchemaVersionError():
                self.counts[Outcome.UNDECIDED] += 1
                self.statuses[CheckName.SCHEMA_KNOWN][Status.UNKNOWN] += 1
                self._find("undecided", entry.url, detail)
            case ManifestError():
                self.counts[Outcome.ERROR] += 1
                self.statuses[CheckName.CANONICAL_HASH][Status.FAIL] += 1
                self._find("manifest damaged", entry.url, detail)
            case PointerSidecarError():
                self._fail(Outcome.UNDECIDED, "undecided", entry.url, detail)
            case EmbeddingError():
                self._fail(Outcome.WITHOUT_MANIFEST, "without manifest", entry.url, detail)
            case _:
                self._fail(Outcome.ERROR, "cannot be read", entry.url, detail)

    def _fail(self, outcome: Outcome, problem: str, subject: str, detail: str) -> None:
        """Count a file whose bytes could not be compared with anything."""
        self.counts[outcome] += 1
        self.statuses[CheckName.BYTES_MATCH][Status.UNKNOWN] += 1
        self._find(problem, subject, detail)

    def _find(self, problem: str, subject: str, detail: str) -> None:
        self.findings.add(Finding(problem, subject, redact(detail, max_chars=_LONGEST_DETAIL)))

    def report(self, target: str) -> VerificationReport:
        return VerificationReport(
            target=target,
            kind=Kind.FOLDER,
            checks=self._checks(),
            findings=tuple(sorted(self.findings.kept, key=lambda found: found.subject)),
            findings_left_out=self.findings.left_out,
            counts={outcome.value: self.counts[outcome] for outcome in Outcome},
        )

    def _checks(self) -> tuple[Check, ...]:
        if not self.statuses:
            detail = "neither media nor a manifest is below it, so nothing was verified"
            return (Check(CheckName.BYTES_MATCH, Status.UNKNOWN, detail),)
        return tuple(_sum(name, self.statuses[name]) for name in CheckName if name in self.statuses)


def _sum(name: CheckName, statuses: Counter[Status]) -> Check:
    detail = ", ".join(f"{statuses[s]:,} {s.value}" for s in Status if statuses[s])
    return Check(name, gravest(statuses), detail)
