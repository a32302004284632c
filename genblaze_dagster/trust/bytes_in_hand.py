"""Are the bytes of a media file an output of its manifest?"""

from dataclasses import dataclass

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Step
from genblaze_dagster.trust.claims import FoundManifest
from genblaze_dagster.trust.outputs import outputs_by_sha256
from genblaze_dagster.trust.report import Check, CheckName, Status, brief
from genblaze_dagster.trust.restored import Restored, restored_from
from genblaze_dagster.trust.subject import Subject


@dataclass(frozen=True, slots=True)
class InHand:
    """What the bytes of a file are; `holds_another` when a second manifest is embedded."""

    check: Check
    holds_another: bool = False


async def check_in_hand(found: FoundManifest, subject: Subject) -> InHand:
    """Compare a media file with the outputs of its manifest.

    First the file as it is; then, when a manifest is embedded in it, what it was before that.

    Raises:
        EmbeddingError: the embedded manifest is broken.
        StorageError: the file cannot be read.
    """
    outputs = outputs_by_sha256(found.manifest)
    whole = await subject.sha256()
    if whole in outputs:
        return InHand(_check(Status.PASS, f"the file is an output of {_named(outputs[whole])}"))
    if found.claims.embedded is None:
        return InHand(_no_output(found.manifest, f"the file hashes to {whole}"))
    restored = found.restored
    if restored is None:
        restored = await restored_from(subject.path, outputs)
    if restored.sha256 is not None and restored.sha256 in outputs:
        step = _named(outputs[restored.sha256])
        check = _check(Status.PASS, f"without the manifest in it the file is an output of {step}")
    else:
        check = _without_match(found, restored)
    return InHand(check, restored.holds_another)


def _without_match(found: FoundManifest, restored: Restored) -> Check:
    if restored.sha256 is not None and restored.is_certain:
        return _no_output(
            found.manifest, f"without the manifest in it the file hashes to {restored.sha256}"
        )
    return _check(
        Status.UNKNOWN,
        f"what this {found.claims.container} file was before the manifest went in cannot be told "
        "with certainty: genblaze, for one, encodes JPEG and WebP pictures again and rewrites the "
        "tags of sound; verify the original, or ask the store that made it",
    )


def _no_output(manifest: Manifest, fact: str) -> Check:
    if manifest.output_asset_ids_missing_sha256():
        return _check(
            Status.UNKNOWN, f"{fact}, and the manifest does not say what all its outputs hash to"
        )
    return _check(Status.FAIL, f"{fact}, which is no output of the manifest")


def _check(status: Status, detail: str) -> Check:
    return Check(CheckName.BYTES_MATCH, status, detail)


def _named(step: Step) -> str:
    return f"step {brief(step.step_id)} ({brief(step.model)})"
