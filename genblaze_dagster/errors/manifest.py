"""Errors of manifests and of the files that carry them."""

from collections.abc import Sequence

from genblaze_dagster.errors.base import GenblazeError


class ManifestError(GenblazeError):
    """A manifest cannot be read, hashed or written."""


class SchemaError(ManifestError, ValueError):
    """The structure of a manifest is wrong; the message names the fields, never their values."""


class UnsupportedSchemaVersionError(ManifestError):
    """The manifest's schema version is not one we read."""


class IntegrityError(ManifestError):
    """Content does not hash to what its record says."""

    def __init__(self, message: str, *, expected: str | None = None, actual: str | None = None):
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class UnverifiedAssetError(ManifestError):
    """Output assets carry no valid sha256."""

    def __init__(self, asset_ids: Sequence[str]) -> None:
        super().__init__(
            f"{len(asset_ids)} output asset(s) declare no valid sha256: {', '.join(asset_ids[:5])}"
        )
        self.asset_ids = tuple(asset_ids)


class EmbeddingError(GenblazeError):
    """A file holds no manifest, or its container cannot carry one."""


class PointerSidecarError(EmbeddingError):
    """The file only points to a manifest stored elsewhere."""

    def __init__(self, message: str, *, manifest_uri: str, canonical_hash: str | None) -> None:
        super().__init__(message)
        self.manifest_uri = manifest_uri
        self.canonical_hash = canonical_hash
