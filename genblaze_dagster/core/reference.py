"""References to stored media: what travels between steps instead of bytes."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from genblaze_dagster.errors import SchemaError

REF_VERSION = 1

# Absent from the JSON when None: a reference without them is what it was before they existed.
_OPTIONAL = ("embedded", "not_embedded")


@dataclass(frozen=True, slots=True)
class Rendition:
    """A file derived from a stored output, stored beside it under its own hash.

    Fields as in `MediaObject`.
    """

    sha256: str
    size_bytes: int
    key: str
    url: str


@dataclass(frozen=True, slots=True)
class MediaObject:
    """One stored output: its content address and the facts known about it.

    `sha256` is 64 lower-case hex characters, `size_bytes` bytes, `duration` seconds, `key` the
    object key in the store and `url` its durable URL without credentials. `embedded` is the same
    media with the manifest inside; where one was asked for and is not there, `not_embedded` says
    why.
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
    embedded: Rendition | None = None
    not_embedded: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        data = _fields(self)
        if self.embedded is not None:
            data["embedded"] = _fields(self.embedded)
        return {k: v for k, v in data.items() if v is not None or k not in _OPTIONAL}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the JSON form; unknown keys are ignored.

        Raises:
            TypeError: a field is missing.
            AttributeError: it is no JSON object.
        """
        fields = _known(cls.__dataclass_fields__, data)
        if (embedded := fields.get("embedded")) is not None:
            fields["embedded"] = Rendition(**_known(Rendition.__dataclass_fields__, embedded))
        return cls(**fields)


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
        data = {**_fields(self), "version": REF_VERSION}
        data["media"] = [m.to_dict() for m in self.media]
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
        fields = _known(cls.__dataclass_fields__, data)
        try:
            fields["media"] = tuple(MediaObject.from_dict(m) for m in data["media"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as exc:
            raise SchemaError(f"media reference is incomplete: {exc}") from exc


def _fields(value: Rendition | MediaObject | MediaRef) -> dict[str, Any]:
    # What dataclasses.asdict gives, without copying every text: it is made for every step.
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _known(names: Collection[str], data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k in names}
