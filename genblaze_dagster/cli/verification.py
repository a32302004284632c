"""What `verify` reports: named checks with a status each, and the verdict they add up to.

A check that did not look at something says so: it is never counted as passed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from genblaze_dagster.cli.exit_codes import ExitCode
from genblaze_dagster.core.manifest import Manifest


class CheckName(StrEnum):
    """Every check this release knows; later releases add signatures and attestations."""

    SCHEMA_KNOWN = "schema_known"
    CANONICAL_HASH = "canonical_hash"
    ASSETS_HAVE_SHA256 = "assets_have_sha256"
    ASSETS_METADATA_IN_SPEC = "assets_metadata_in_spec"
    BYTES_MATCH = "bytes_match"
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

    @property
    def exit_code(self) -> ExitCode:
        """The exit status of this verdict."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Verdict.VERIFIED_UNSIGNED: ExitCode.OK,
    Verdict.FAILED: ExitCode.FAILED,
    Verdict.INCONCLUSIVE: ExitCode.UNDECIDED,
}


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
class Report:
    """What was found out about one target.

    `kind` is media, manifest or store; `sha256` the hash of the bytes in hand, None when there
    are none; `source` says where the manifest came from.
    """

    target: str
    kind: str
    checks: tuple[Check, ...]
    manifest: Manifest | None = None
    source: str | None = None
    sha256: str | None = None
    findings: tuple[dict[str, Any], ...] = ()

    @property
    def verdict(self) -> Verdict:
        """FAILED when a check failed, INCONCLUSIVE when one has no answer."""
        statuses = {check.status for check in self.checks}
        if Status.FAIL in statuses:
            return Verdict.FAILED
        if Status.UNKNOWN in statuses or Status.PASS not in statuses:
            return Verdict.INCONCLUSIVE
        return Verdict.VERIFIED_UNSIGNED

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        manifest = self.manifest
        return {
            "target": self.target,
            "kind": self.kind,
            "verdict": self.verdict,
            "sha256": self.sha256,
            "manifest": manifest
            and {
                "run_id": manifest.run.run_id,
                "schema_version": manifest.schema_version,
                "canonical_hash": manifest.canonical_hash,
                "source": self.source,
            },
            "checks": [check.to_dict() for check in self.checks],
            "findings": list(self.findings),
        }


def manifest_checks(manifest: Manifest, *, hash_only: bool = False) -> list[Check]:
    """Check a manifest against itself: its hash, and unless `hash_only` what it says of outputs.

    Raises:
        ManifestError: its content cannot be hashed at all.
    """
    schema = Check(CheckName.SCHEMA_KNOWN, Status.PASS, manifest.schema_version)
    if hash_only:
        return [schema, _hash(manifest, manifest.verify_hash())]
    report = manifest.verification_report()
    return [
        schema,
        _hash(manifest, report.hash_ok),
        _outputs(
            CheckName.ASSETS_HAVE_SHA256,
            manifest,
            report.unverified_sha256_ids,
            fine="declare a sha256",
            wrong="declare no valid sha256",
        ),
        _outputs(
            CheckName.ASSETS_METADATA_IN_SPEC,
            manifest,
            report.invalid_metadata_ids,
            fine="carry metadata within the format's rules",
            wrong="carry metadata outside the format's rules",
        ),
    ]


def _hash(manifest: Manifest, matches: bool) -> Check:
    stored = manifest.canonical_hash
    if matches:
        return Check(CheckName.CANONICAL_HASH, Status.PASS, stored)
    detail = f"the content does not hash to {stored}; it was changed" if stored else "none stored"
    return Check(CheckName.CANONICAL_HASH, Status.FAIL, detail)


def _outputs(
    name: CheckName, manifest: Manifest, bad: Sequence[str], *, fine: str, wrong: str
) -> Check:
    if bad:
        shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        return Check(name, Status.FAIL, f"{len(bad)} output(s) {wrong}: {shown}")
    count = sum(len(step.assets) for step in manifest.run.steps)
    return Check(name, Status.PASS, f"{count} output(s) {fine}")
