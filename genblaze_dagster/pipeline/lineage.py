"""Upstream of a step: its inputs' manifests, and their steps before the executed one."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import IntegrityError, StorageError
from genblaze_dagster.providers.protocol import InputMedia
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.store import MediaStore

_KEPT_MANIFESTS = 512


class Upstream:
    """Manifests of inputs, read once each and verified; bounded."""

    def __init__(self, store: MediaStore) -> None:
        self._store = store
        self._known: OrderedDict[str, Manifest] = OrderedDict()

    def remember(self, ref: MediaRef, manifest: Manifest) -> None:
        """Keep a manifest this process has just written."""
        self._known[ref.manifest_key] = manifest
        if len(self._known) > _KEPT_MANIFESTS:
            self._known.popitem(last=False)

    async def manifest(self, ref: MediaRef) -> Manifest:
        """Return the manifest of a reference.

        Raises:
            IntegrityError: it is not the manifest the reference was made with.
            StorageError: it cannot be read.
        """
        known = self._known.get(ref.manifest_key)
        if known is None:
            known = await read_manifest(self._store, ref.manifest_key)
            self.remember(ref, known)
        if known.canonical_hash != ref.canonical_hash:
            raise IntegrityError(
                f"manifest {ref.manifest_key} is not the one its reference was made with; "
                f"materialise {ref.asset_key} again",
                expected=ref.canonical_hash,
                actual=known.canonical_hash,
            )
        return known

    async def manifests(self, refs: Sequence[MediaRef]) -> list[Manifest]:
        """Return the manifests of several references, read at the same time."""
        return list(await asyncio.gather(*(self.manifest(ref) for ref in refs)))


def steps_before(manifests: Iterable[Manifest]) -> list[Step]:
    """Return the steps of the inputs' manifests, each once, every step after those it uses."""
    steps: dict[str, Step] = {}
    for manifest in manifests:
        for step in manifest.run.steps:
            steps.setdefault(step.step_id, step)
    return list(steps.values())


def input_media(
    store: MediaStore, refs: Sequence[MediaRef], manifests: Sequence[Manifest]
) -> list[InputMedia]:
    """Return what a provider gets to read: one entry per stored output of every input."""
    found: list[InputMedia] = []
    for ref, manifest in zip(refs, manifests, strict=True):
        records = {a.asset_id: a for step in manifest.run.steps for a in step.assets}
        for media in ref.media:
            asset = records.get(media.asset_id) or asset_record(media)
            found.append(stored_input(store, media.key, asset))
    return found


def asset_record(media: MediaObject) -> Asset:
    """Return the asset record a stored object gives by itself."""
    return Asset(
        asset_id=media.asset_id,
        url=media.url,
        media_type=media.media_type,
        sha256=media.sha256,
        size_bytes=media.size_bytes,
        width=media.width,
        height=media.height,
        duration=media.duration,
    )


def stored_input(store: MediaStore, key: str, asset: Asset) -> InputMedia:
    """Return an object of the store as a provider reads it; `asset` is its record."""

    async def read() -> bytes:
        return await store.get(key)

    def stream() -> AsyncIterator[bytes]:
        return store.stream(key)

    return InputMedia(asset=asset, read=read, stream=stream, public_url=_signer(store, key))


def _signer(store: MediaStore, key: str) -> Callable[[], str | None]:
    def sign() -> str | None:
        try:
            return store.presigned_get(key).url
        except StorageError:
            # A file or memory store has no URL a vendor could fetch; providers upload then.
            return None

    return sign
