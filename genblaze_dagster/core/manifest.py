"""The manifest: a run, the hash that vouches for it, and what verification finds."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from genblaze_dagster.core.canonical import MAX_DEPTH, canonical_json, text, utf8
from genblaze_dagster.core.document import hashed_bytes, stored_bytes
from genblaze_dagster.core.models import Asset, Run, is_valid_media, is_valid_sha256
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.core.redaction import redacted_run
from genblaze_dagster.errors import ManifestError

SchemaVersion = Literal["1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6"]
CURRENT_VERSION: Final = "1.5"
READ_ONLY_VERSION: Final = "1.6"

_STEP_VALUE_LEVEL: Final = 4
"""Where a step's `params` and `metadata` stand below the root of a manifest."""


@dataclass(frozen=True, slots=True)
class ManifestVerification:
    """What verification found; the ids are asset ids of outputs, inputs are not looked at."""

    hash_ok: bool
    unverified_sha256_ids: tuple[str, ...]
    invalid_metadata_ids: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the hash holds and every output has a sha256 and media facts within the rules."""
        return self.hash_ok and not self.unverified_sha256_ids and not self.invalid_metadata_ids


def _no_failures() -> list[str]:
    return []


class Manifest(BaseModel):
    """A run and its canonical hash.

    The hash covers what was asked for and what came out. It does not cover ids, states, times,
    costs, errors, URLs, provider payloads, lineage and the other fields of the manifest itself.

    `manifest_uri` is where it is stored, without credentials. `transfer_failures` are the asset
    ids that could not be stored. Schema 1.6 can be read and verified, not written.
    """

    model_config = ConfigDict(validate_assignment=True, hide_input_in_errors=True)

    canonical_hash: str = ""
    encryption_scheme: str | None = None
    manifest_uri: str | None = None
    run: Run = Field(repr=False)
    schema_version: SchemaVersion = CURRENT_VERSION
    signature: str | None = None
    transfer_failures: list[str] = Field(default_factory=_no_failures, fail_fast=True)

    @classmethod
    def from_run(cls, run: Run) -> Self:
        """Return a manifest of `run` with its hash computed.

        Raises:
            ManifestError: the content cannot be hashed; see `canonical_hash`.
        """
        return cls(run=run, canonical_hash=_hash(run, CURRENT_VERSION))

    def compute_hash(self) -> str:
        """Compute, keep and return the canonical hash.

        Raises:
            ManifestError: the content cannot be hashed; see `canonical_hash`.
        """
        computed = _hash(self.run, self.schema_version)
        self.canonical_hash = computed
        return computed

    def to_canonical_json(self) -> str:
        """Return the manifest as it is stored; computes the hash only when there is none.

        Raises:
            ManifestError: schema 1.6, an encrypted prompt without a scheme, or content that
                cannot be written; see `canonical_hash`.
        """
        if self.schema_version == READ_ONLY_VERSION:
            raise _read_only()
        if not self.canonical_hash:
            self.compute_hash()
        fields = self.__dict__
        if type(self) is not Manifest:
            # Fields that a subclass adds are unknown to every reader.
            fields = {name: fields[name] for name in Manifest.model_fields}
        return stored_bytes(fields).decode()

    def to_embed_json(self, policy: EmbedPolicy) -> str:
        """Return the text that goes into a media file: the manifest, or a pointer to it.

        The mode "none" gives the manifest like "full": not to embed is up to the caller.

        Raises:
            ManifestError: as `to_canonical_json`, or a pointer without `manifest_uri`.
        """
        if policy.embed_mode != EmbedMode.POINTER:
            return self.redacted(policy).to_canonical_json()
        if self.schema_version == READ_ONLY_VERSION:
            raise _read_only()
        if self.manifest_uri is None:
            raise ManifestError("a pointer needs manifest_uri; store the manifest first")
        return canonical_json(
            {
                "canonical_hash": self.canonical_hash or self.compute_hash(),
                "manifest_uri": self.manifest_uri,
                "schema_version": self.schema_version,
            }
        )

    def redacted(self, policy: EmbedPolicy) -> "Manifest":
        """Return the manifest that may be shown under a policy; itself when it hides nothing.

        What is hidden is gone, and the hash is that of the rest: it verifies by itself and still
        names the sha256 of every output. `run.metadata["redacted"]` holds the `canonical_hash` of
        the whole manifest and the kinds of `fields` that are missing. A signature is dropped.

        Raises:
            ManifestError: the content cannot be hashed; see `canonical_hash`. Or schema 1.6.
        """
        run = redacted_run(
            self.run, policy, canonical_hash=self.canonical_hash or self.compute_hash()
        )
        if run is None:
            return self
        if self.schema_version == READ_ONLY_VERSION:
            raise _read_only()
        shown = Manifest(
            run=run,
            schema_version=self.schema_version,
            encryption_scheme=self.encryption_scheme,
            manifest_uri=self.manifest_uri,
            transfer_failures=self.transfer_failures,
        )
        shown.compute_hash()
        return shown

    def verify(self) -> bool:
        """Whether `verification_report` finds nothing. No bytes are read.

        Raises:
            ManifestError: the content cannot be hashed; see `canonical_hash`.
        """
        return self.verification_report().ok

    def verify_hash(self) -> bool:
        """Whether `canonical_hash` is the hash of the content.

        Raises:
            ManifestError: the content cannot be hashed; see `canonical_hash`.
        """
        return self.canonical_hash == _hash(self.run, self.schema_version)

    def verification_report(self) -> ManifestVerification:
        """Return what verification finds. No bytes are read.

        Raises:
            ManifestError: the content cannot be hashed; see `canonical_hash`.
        """
        return ManifestVerification(
            hash_ok=self.verify_hash(),
            unverified_sha256_ids=self.output_asset_ids_missing_sha256(),
            invalid_metadata_ids=self.output_asset_ids_with_invalid_metadata(),
        )

    def output_asset_ids_missing_sha256(self) -> tuple[str, ...]:
        """Return the ids of outputs without a valid sha256."""
        return tuple(a.asset_id for a in self._outputs() if not is_valid_sha256(a.sha256))

    def output_asset_ids_with_invalid_metadata(self) -> tuple[str, ...]:
        """Return the ids of outputs with media facts that construction would refuse."""
        return tuple(a.asset_id for a in self._outputs() if not is_valid_media(a))

    def _outputs(self) -> Iterator[Asset]:
        return (asset for step in self.run.steps for asset in step.assets)


def _read_only() -> ManifestError:
    return ManifestError(
        "manifests of schema 1.6 can be read, not written; set schema_version to 1.5 and compute "
        "the hash again"
    )


def _hash(run: Run, schema_version: str) -> str:
    return hashlib.sha256(hashed_bytes(run, schema_version)).hexdigest()


def check_json(value: object, *, where: str, level: int = _STEP_VALUE_LEVEL) -> None:
    """Refuse what a manifest cannot hold, before anything is paid for making it.

    `where` names the value in messages. `level` is the level at which it will stand; the default
    is that of a step's params and metadata.

    Raises:
        ManifestError: names the path of a level that is too deep, a key that is not text, a
            number that is not finite, half a surrogate pair, or a value without a JSON form.
    """
    if level > MAX_DEPTH:
        raise ManifestError(f"{where}: nested too deep for a manifest; flatten it")
    if isinstance(value, dict):
        for key, item in cast(dict[object, object], value).items():
            if not isinstance(key, str):
                raise ManifestError(
                    f"{where}: a key is of type {type(key).__name__}; use string keys"
                )
            _check_leaf(key, f"a key of {where}")
            check_json(item, where=f"{where}.{_shown(key)}", level=level + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(cast(list[object] | tuple[object, ...], value)):
            check_json(item, where=f"{where}[{index}]", level=level + 1)
    else:
        _check_leaf(value, where)


def _check_leaf(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"{where}: NaN and infinities become null in a manifest; leave it out")
    try:
        utf8(text(value, 0))
    except ManifestError as exc:
        raise ManifestError(f"{where}: {exc}") from None


def _shown(key: str) -> str:
    return key[:40].encode("ascii", "backslashreplace").decode()
