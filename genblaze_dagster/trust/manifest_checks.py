"""What a manifest proves by itself, without any bytes."""

from collections.abc import Sequence

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.trust.report import Check, CheckName, Status, brief


def manifest_checks(manifest: Manifest, *, hash_only: bool = False) -> list[Check]:
    """Check a manifest against itself: its hash, and unless `hash_only` what it says of outputs.

    Raises:
        ManifestError: its content cannot be hashed at all.
    """
    schema = Check(CheckName.SCHEMA_KNOWN, Status.PASS, manifest.schema_version)
    if hash_only:
        return [schema, _hash(manifest, manifest.verify_hash()), *_signature(manifest)]
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
        *_signature(manifest),
    ]


def _hash(manifest: Manifest, matches: bool) -> Check:
    stored = brief(manifest.canonical_hash)
    if matches:
        return Check(CheckName.CANONICAL_HASH, Status.PASS, stored)
    detail = f"the content does not hash to {stored}; it was changed" if stored else "none stored"
    return Check(CheckName.CANONICAL_HASH, Status.FAIL, detail)


def _outputs(
    name: CheckName, manifest: Manifest, bad: Sequence[str], *, fine: str, wrong: str
) -> Check:
    if bad:
        shown = ", ".join(map(brief, bad[:5])) + (", ..." if len(bad) > 5 else "")
        return Check(name, Status.FAIL, f"{len(bad)} output(s) {wrong}: {shown}")
    count = sum(len(step.assets) for step in manifest.run.steps)
    return Check(name, Status.PASS, f"{count} output(s) {fine}")


def _signature(manifest: Manifest) -> list[Check]:
    if not manifest.signature:
        return []
    # Not "pass": anybody can write something into that field.
    detail = "there is one, which this release cannot check; it proves nothing here"
    return [Check(CheckName.SIGNATURE_PRESENT, Status.SKIP, detail)]
