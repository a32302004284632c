"""Do all the manifests that come with one file say the same?"""

from itertools import product
from typing import Final, cast

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.redaction import RECORD
from genblaze_dagster.errors import ManifestError, PointerSidecarError
from genblaze_dagster.media.extraction import ManifestSource
from genblaze_dagster.trust.claims import IN_STORE, FoundManifest
from genblaze_dagster.trust.report import Check, CheckName, Status, gravest

_POLICIES: Final = tuple(
    EmbedPolicy(prompt_visibility=visibility, include_params=params, include_seed=seed)
    for visibility, params, seed in product(PromptVisibility, (True, False), (True, False))
)

_Opinion = tuple[Status, str]


def check_agreement(found: FoundManifest, *, bytes_verified: bool, another: bool) -> list[Check]:
    """Compare the manifest a file was checked against with the others in and beside the file.

    Two manifests that contradict each other are one too many, whichever is right: that is
    `unknown`, and so the verdict. Two are not in question: an older one that belongs to the bytes
    that were verified; and a sidecar where the user named a store, which decides.

    Args:
        found: the manifest, and what else there is.
        bytes_verified: the bytes are those the manifest speaks of.
        another: there is another manifest embedded behind the first.

    Returns:
        One check, none when there is one manifest only.
    """
    opinions = [
        *_of_sidecar(found),
        *_of_embedded(found, bytes_verified=bytes_verified),
        *_of_another(bytes_verified=bytes_verified, another=another),
    ]
    if not opinions:
        return []
    status = gravest(status for status, _ in opinions)
    return [Check(CheckName.MANIFESTS_AGREE, status, "; ".join(text for _, text in opinions))]


def _of_sidecar(found: FoundManifest) -> list[_Opinion]:
    sidecar = found.claims.sidecar
    if sidecar is None or found.source == ManifestSource.SIDECAR:
        return []
    if _agree(sidecar, found.manifest):
        return [(Status.PASS, "the sidecar says the same")]
    says = "another manifest" if isinstance(sidecar, Manifest) else "none that can be read"
    if found.source == IN_STORE:
        return [(Status.SKIP, f"the sidecar holds {says}; the store decides")]
    return [
        (
            Status.UNKNOWN,
            f"the sidecar holds {says}, so one of the two does not belong to this file; "
            "remove or replace it",
        )
    ]


def _of_embedded(found: FoundManifest, *, bytes_verified: bool) -> list[_Opinion]:
    embedded = found.claims.embedded
    if embedded is None or found.source == ManifestSource.INLINE:
        return []
    if found.source == ManifestSource.SIDECAR or (bytes_verified and found.restored is None):
        # Both speak of the file with everything in it.
        return [(Status.PASS, "the embedded manifest is an older one, part of the verified bytes")]
    if _agree(embedded, found.manifest):
        return [(Status.PASS, "the embedded manifest says the same")]
    return [
        (
            Status.UNKNOWN,
            "the file holds another manifest than the run that made it; readers of the file are "
            "told something else",
        )
    ]


def _of_another(*, bytes_verified: bool, another: bool) -> list[_Opinion]:
    if not another:
        return []
    if bytes_verified:
        return [(Status.PASS, "an older embedded manifest is part of the verified bytes")]
    return [(Status.UNKNOWN, "the file holds more than one manifest; the first was looked at")]


def _agree(claim: Manifest | Exception, manifest: Manifest) -> bool:
    """Whether two manifests are the same, or one is the other with things left out."""
    if isinstance(claim, PointerSidecarError):
        return bool(claim.canonical_hash) and claim.canonical_hash == manifest.canonical_hash
    if not isinstance(claim, Manifest):
        return False
    try:
        if claim.canonical_hash == manifest.canonical_hash:
            return claim.verify_hash()
        return _is_redaction(claim, manifest) or _is_redaction(manifest, claim)
    except ManifestError:
        return False


def _is_redaction(shown: Manifest, whole: Manifest) -> bool:
    record = shown.run.metadata.get(RECORD)
    if not isinstance(record, dict):
        return False
    if cast(dict[str, object], record).get("canonical_hash") != whole.canonical_hash:
        return False
    # Anybody can write such a record, so the redaction is made again.
    return (
        whole.verify_hash()
        and shown.verify_hash()
        and any(whole.redacted(p).canonical_hash == shown.canonical_hash for p in _POLICIES)
    )
