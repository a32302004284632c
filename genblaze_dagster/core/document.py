"""The two texts of a manifest: what is hashed, and what is stored.

Both are canonical JSON of the models' fields, less the ones that the schema version leaves out.
They are written by orjson when that provably gives the canonical text, and otherwise by
`canonical.text`, which is the definition and explains what it refuses.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from genblaze_dagster.core.canonical import text, utf8
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.form import HASHED, NOTHING, REPRODUCIBLE, LeftOut
from genblaze_dagster.core.models import Asset, Run, Step, is_valid_sha256
from genblaze_dagster.core.plain import NotPlainError, hashed, stored
from genblaze_dagster.core.urls import strip_credentials
from genblaze_dagster.errors import ManifestError

_MARKS_UNVERIFIED = "1.6"
"""The version that identifies an asset without a hash by its URL."""


def hashed_bytes(run: Run, schema_version: str) -> bytes:
    """Return the text whose SHA-256 is the canonical hash of a manifest of that version.

    Raises:
        ManifestError: the content cannot be hashed; see `canonical_hash`.
    """
    left_out = HASHED[schema_version]
    marks = schema_version == _MARKS_UNVERIFIED
    if not marks:
        try:
            return hashed(run, schema_version, left_out)
        except NotPlainError:
            pass
    tree = _run_tree(run, left_out, marks_unverified=marks)
    return utf8(text({"run": tree, "schema_version": schema_version}, 0))


def stored_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Return a manifest, given as its fields, as it is stored: all of them, in canonical form.

    Raises:
        ManifestError: the content cannot be written; see `canonical_hash`. Or a prompt is
            encrypted and the manifest has no `encryption_scheme`.
    """
    try:
        return stored(manifest)
    except NotPlainError:
        pass
    run: Run = manifest["run"]
    tree = _run_tree(run, NOTHING)
    if has_encrypted_prompt(run) and not manifest["encryption_scheme"]:
        raise ManifestError(
            "a step has an encrypted prompt and the manifest no encryption_scheme, so no reader "
            "would accept it; set encryption_scheme"
        )
    return utf8(text({**manifest, "run": tree}, 0))


def has_encrypted_prompt(run: Run) -> bool:
    """Whether any step says that its prompt is encrypted."""
    return any(step.prompt_visibility == PromptVisibility.ENCRYPTED for step in run.steps)


def hashed_asset_text(asset: Asset) -> str:
    """Return the canonical JSON of those fields of an asset that schema 1.5 hashes.

    Raises:
        ManifestError: as `hashed_bytes`.
    """
    return text(_fields(asset, Asset, REPRODUCIBLE.asset), 0)


def _run_tree(run: Run, left_out: LeftOut, *, marks_unverified: bool = False) -> dict[str, Any]:
    def asset_tree(asset: Asset) -> dict[str, Any]:
        fields = _fields(asset, Asset, left_out.asset)
        if marks_unverified and not is_valid_sha256(asset.sha256):
            fields["asset_integrity"] = "url_only_unverified"
            fields["unverified_asset_url"] = strip_credentials(asset.url)
        return fields

    def step_tree(step: Step) -> dict[str, Any]:
        fields = _fields(step, Step, left_out.step)
        fields["assets"] = [asset_tree(asset) for asset in step.assets]
        fields["inputs"] = [asset_tree(asset) for asset in step.inputs]
        return fields

    fields = _fields(run, Run, left_out.run)
    fields["steps"] = [step_tree(step) for step in run.steps]
    return fields


def _fields(value: BaseModel, model: type[BaseModel], left_out: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, model):
        raise ManifestError(
            f"manifest cannot be written: {type(value).__name__} found in place of {model.__name__}"
        )
    # Fields that a subclass adds are unknown to every reader.
    return {name: value.__dict__[name] for name in model.model_fields if name not in left_out}
