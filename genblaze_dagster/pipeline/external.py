"""What a declared step takes as inputs besides all outputs of another step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from genblaze_dagster.core.models import Asset, is_valid_sha256
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.core.urls import strip_credentials
from genblaze_dagster.errors import ConfigError, ManifestError
from genblaze_dagster.net.redact import find_secret, strip_url
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.store import MediaStore


@dataclass(frozen=True, slots=True)
class ExternalInput:
    """Stored media (`ref`, in `store` or else in the Runner's), an asset record, or an address.

    Exactly one of `ref`, `asset` and `url` is set. `url` may be presigned: it is asked for the
    bytes and never recorded as it is.
    """

    ref: MediaRef | None = None
    asset: Asset | None = None
    url: str | None = field(default=None, repr=False)
    store: MediaStore | None = field(default=None, repr=False)

    @property
    def declared(self) -> Any:
        """The JSON form in a declaration's hash: the bytes where they are known, else the address."""
        if self.ref is not None:
            return {"sha256": [media.sha256 for media in self.ref.media]}
        if self.asset is not None and is_valid_sha256(self.asset.sha256):
            return {"sha256": [self.asset.sha256]}
        return {"url": recorded_url(self.address)}

    @property
    def address(self) -> str:
        """Where the bytes can be fetched when no store has them; may hold credentials."""
        return (self.asset.url if self.asset is not None else self.url) or ""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One output of an earlier step; `index` counts from 0."""

    step: str
    index: int

    @property
    def declared(self) -> Any:
        """The JSON form in a declaration's hash."""
        return {"step": self.step, "output": self.index}


Source = str | StepOutput | ExternalInput
"""An input: the name of an earlier step for all its outputs, one of them, or external media."""

External = Asset | MediaRef | Media | str
"""What `external_inputs` takes: a record, stored media, or an https:// or file:// URL."""


def declared_inputs(given: External | Sequence[External], step: str) -> tuple[ExternalInput, ...]:
    """Return the external inputs of a step, in their order.

    Raises:
        ConfigError: an entry is none of the kinds that are taken.
    """
    kinds = (Asset, MediaRef, Media, str)
    items = [given] if isinstance(given, kinds) else list(given)
    return tuple(_declared(item, step) for item in items)


def _declared(item: object, step: str) -> ExternalInput:
    match item:
        case Media():
            return ExternalInput(ref=item.ref, store=item.store)
        case MediaRef():
            return ExternalInput(ref=item)
        case Asset():
            return ExternalInput(asset=item)
        case str() if "://" in item:
            return ExternalInput(url=item)
        case _:
            raise ConfigError(
                f"external_inputs of step {step!r} hold a {type(item).__name__} that is neither an "
                "Asset, MediaRef or Media nor a URL; write a path as Path(...).absolute().as_uri()"
            )


def recorded_url(url: str) -> str:
    """Return a URL as manifests may show it: without user info, credentials and fragment."""
    if not any(mark in url for mark in "?@#"):
        return url
    try:
        stripped = strip_credentials(url)
    except ManifestError:
        return strip_url(url)
    return strip_url(url) if find_secret(stripped) else stripped
