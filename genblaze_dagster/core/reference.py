"""References to stored media: what travels between steps instead of bytes."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from genblaze_dagster.errors import SchemaError

REF_VERSION = 1


@dataclass(frozen=True, slots=True)
class MediaObject:
    """One stored output: its content address and the facts known about it.

    `sha256` is 64 lower-case hex characters, `size_bytes` bytes, `duration` seconds, `key` the
    object key in the store and `url` its durable URL without credentials.
    """

    asset_id: str
    sha256: str
    size_bytes: int
    media_type: str
    key: str
    url: str
    width: int | None = None
    height: int | None = None
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class MediaRef:
    """One finished step of one partition: its outputs and the manifest that proves them.

    `asset_key` is the Dagster asset key joined with `/` (or `<pipeline>/<step>` in process),
    `partition_key` None for an unpartitioned asset, `cost_usd` None when unknown, `created_at`
    an ISO 8601 UTC timestamp.
    """

    asset_key: str
    partition_key: str | None
    run_id: str
    step_id: str
    manifest_key: str
    manifest_url: str
    canonical_hash: str
    generation_key: str
    provider: str | None
    model: str
    modality: str
    cost_usd: float | None
    created_at: str
    media: tuple[MediaObject, ...]

    @property
    def data_version(self) -> str:
        """SHA-256 of the output; of the joined hashes when a step has several outputs."""
        if len(self.media) == 1:
            return self.media[0].sha256
        return hashlib.sha256("".join(m.sha256 for m in self.media).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all outputs together."""
        return sum(m.size_bytes for m in self.media)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form kept under `refs/` in the store and in the ledger."""
        data = asdict(self)
        data["version"] = REF_VERSION
        data["media"] = [asdict(m) for m in self.media]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the JSON form; unknown keys are ignored.

        Raises:
            SchemaError: a field is missing, or the reference is of a newer version.
        """
        version = data.get("version")
        if version != REF_VERSION:
            raise SchemaError(
                f"media reference has version {version!r}; this release reads {REF_VERSION}"
            )
        fields = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        try:
            fields["media"] = tuple(
                MediaObject(**{k: v for k, v in m.items() if k in MediaObject.__dataclass_fields__})
                for m in data["media"]
            )
            return cls(**fields)
        except (KeyError, TypeError) as exc:
            raise SchemaError(f"media reference is incomplete: {exc}") from exc
