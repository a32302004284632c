"""What verifying finds: named checks with a status each, and the verdict they add up to.

A check that did not look at something says so: it is never counted as passed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

MAX_FINDINGS: Final = 10_000


class CheckName(StrEnum):
    """Every check this release knows; later releases check signatures and attestations."""

    SCHEMA_KNOWN = "schema_known"
    CANONICAL_HASH = "canonical_hash"
    ASSETS_HAVE_SHA256 = "assets_have_sha256"
    ASSETS_METADATA_IN_SPEC = "assets_metadata_in_spec"
    SIGNATURE_PRESENT = "signature_present"
    MANIFESTS_AGREE = "manifests_agree"
    BYTES_MATCH = "bytes_match"
    FETCHED_BYTES_MATCH = "fetched_bytes_match"
    REFERENCES = "references"


class Status(StrEnum):
    """Outcome of one check: `skip` was not asked for, `unknown` was asked and has no answer."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    SKIP = "skip"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """What the checks of one target add up to; nothing is called verified that is not."""

    VERIFIED_UNSIGNED = "verified-unsigned"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class BytesVerdict(StrEnum):
    """Are the bytes the ones the manifest speaks of?"""

    VERIFIED = "bytes verified"
    DIFFER = "bytes differ"
    UNDECIDED = "cannot be decided"


class Kind(StrEnum):
    """What a report is about."""

    MEDIA = "media"
    MANIFEST = "manifest"
    STORE = "store"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Check:
    """One check and what it found."""

    name: CheckName
    status: Status
    detail: str

    def to_dict(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"name": self.name, "status": self.status, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem below a store or folder, or of one output.

    `subject` is the object key, path or output it is about; `asset_key` and `partition_key` are
    those of the reference that leads there, None without one.
    """

    problem: str
    subject: str
    detail: str = ""
    asset_key: str | None = None
    partition_key: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(slots=True)
class Findings:
    """Problems as they are found: all are counted, of each kind the first 10,000 are kept."""

    kept: list[Finding] = field(default_factory=list[Finding])
    counts: Counter[str] = field(default_factory=Counter[str])

    def add(self, finding: Finding) -> None:
        """Count a problem, and keep it unless there are many of its kind."""
        self.counts[finding.problem] += 1
        if self.counts[finding.problem] <= MAX_FINDINGS:
            self.kept.append(finding)

    def of(self, *problems: str) -> int:
        """Return how many were found of these kinds."""
        return sum(self.counts[problem] for problem in problems)

    @property
    def left_out(self) -> int:
        """How many were counted and not kept."""
        return self.counts.total() - len(self.kept)


@dataclass(frozen=True, slots=True)
class ManifestFacts:
    """The manifest a file was compared with; `source` says where it was found."""

    run_id: str
    schema_version: str
    canonical_hash: str
    steps: int
    source: str


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What was found out about one target.

    Attributes:
        target: as it was given.
        kind: a media file, a manifest file, a store, or a folder of files.
        checks: every check that was made, or that says why it was not.
        manifest: the manifest the bytes were compared with, None for a store or folder.
        sha256: of the bytes in hand, in lower-case hex; None when nobody read them.
        findings: single problems; at most 10,000 of each kind.
        findings_left_out: how many more there were.
        counts: (folder) how many files ended how.
    """

    target: str
    kind: Kind
    checks: tuple[Check, ...]
    manifest: ManifestFacts | None = None
    sha256: str | None = None
    findings: tuple[Finding, ...] = ()
    findings_left_out: int = 0
    counts: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def verdict(self) -> Verdict:
        """FAILED when a check failed, INCONCLUSIVE when one has no answer."""
        statuses = {check.status for check in self.checks}
        if Status.FAIL in statuses:
            return Verdict.FAILED
        if Status.UNKNOWN in statuses or Status.PASS not in statuses:
            return Verdict.INCONCLUSIVE
        return Verdict.VERIFIED_UNSIGNED

    @property
    def bytes(self) -> BytesVerdict:
        """Whether the bytes are the ones the manifest speaks of; `why` says why.

        The bytes of a media file are those in hand, of a manifest those of its outputs.
        """
        check = self.bytes_check
        return BytesVerdict.UNDECIDED if check is None else _BYTES[check.status]

    @property
    def why(self) -> str:
        """The reason for `bytes`."""
        check = self.bytes_check
        return "no bytes were looked at" if check is None else check.detail

    @property
    def bytes_check(self) -> Check | None:
        """The check that decides `bytes`."""
        found = {check.name: check for check in self.checks}
        in_hand = found.get(CheckName.BYTES_MATCH)
        if in_hand is not None and in_hand.status is not Status.SKIP:
            return in_hand
        return found.get(CheckName.FETCHED_BYTES_MATCH, in_hand)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "target": self.target,
            "kind": self.kind,
            "verdict": self.verdict,
            "bytes": self.bytes,
            "why": self.why,
            "sha256": self.sha256,
            "manifest": None if self.manifest is None else asdict(self.manifest),
            "checks": [check.to_dict() for check in self.checks],
            "findings": [finding.to_dict() for finding in self.findings],
            "findings_left_out": self.findings_left_out,
            "counts": dict(self.counts),
        }


_BYTES: Final = {
    Status.PASS: BytesVerdict.VERIFIED,
    Status.FAIL: BytesVerdict.DIFFER,
    Status.SKIP: BytesVerdict.UNDECIDED,
    Status.UNKNOWN: BytesVerdict.UNDECIDED,
}
_GRAVITY: Final = (Status.FAIL, Status.UNKNOWN, Status.PASS, Status.SKIP)


def gravest(statuses: Iterable[Status]) -> Status:
    """Return what several outcomes of one check add up to: what fails outweighs what passes."""
    return min(statuses, key=_GRAVITY.index, default=Status.SKIP)


def brief(text: str) -> str:
    """Return a text from a manifest, of any length, as part of a line."""
    return text if len(text) <= 80 else f"{text[:79]}…"
