"""The inputs of a step as its provider reads them: outputs of other steps, and external media."""

import asyncio
import hashlib
import os
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, is_valid_sha256
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, IntegrityError, NotFoundError, UnsafeUrlError
from genblaze_dagster.media.sniff import extension_for
from genblaze_dagster.net.redact import strip_url
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.external import ExternalInput, StepOutput, recorded_url
from genblaze_dagster.pipeline.lineage import Upstream, input_media, stored_input
from genblaze_dagster.pipeline.media_facts import sniffed
from genblaze_dagster.providers.protocol import InputMedia
from genblaze_dagster.storage.fetch import AssetFetcher, Fetch, OpenAsset
from genblaze_dagster.storage.keys import KeyStrategy, Placement, url_extension
from genblaze_dagster.storage.store import MediaStore
from genblaze_dagster.storage.transfer import MediaSource

ROOTS_VARIABLE = "GENBLAZE_INPUT_ROOTS"
_ANY_KEY = "refs"


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a step works on, in the order of its declaration, and the manifests behind it."""

    media: tuple[InputMedia, ...]
    manifests: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True)
class _Held:
    """Media our store holds: where, and what its bytes are."""

    key: str
    sha256: str
    size_bytes: int
    media_type: str


class Inputs:
    """Finds the inputs of steps; external media is looked up or fetched once per Runner.

    Bytes come from the store when it has them. Else they are downloaded through the SSRF guard, or
    read from a file below an allowed root, and kept in the store under their content address; they
    must hash to what their record declares.

    Args:
        store: the Runner's.
        upstream: the manifests of stored inputs.
        roots: folders whose files may be inputs, besides the temporary one; those that
            GENBLAZE_INPUT_ROOTS lists as PATH does when left out.
        fetch: opens a URL; the guarded downloader unless a test injects another.
    """

    def __init__(
        self,
        store: MediaStore,
        upstream: Upstream,
        *,
        roots: Sequence[Path] | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._fetcher = AssetFetcher(named_roots() if roots is None else roots, fetch)
        self._elsewhere: dict[str, tuple[MediaStore, Upstream]] = {}
        self._held: dict[str, _Held] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def consumed(
        self, spec: StepSpec, refs: Sequence[MediaRef], *, download: bool = True
    ) -> Consumed:
        """Return what a step works on.

        Args:
            spec: the declared step.
            refs: what its input steps gave, in the order they are declared.
            download: False looks at stores only.

        Raises:
            NotFoundError: not `download`, and the store has not got external media.
            IntegrityError: external media is not what its record declares.
            UnsafeUrlError: the guard refuses an address.
            ProviderError: a download failed.
            StorageError: a store cannot be read or written.
            ConfigError: a step did not give the output that is wanted of it.
        """
        if all(isinstance(source, str) for source in spec.sources):
            manifests = await self._upstream.manifests(refs)
            return Consumed(tuple(input_media(self._store, refs, manifests)), tuple(manifests))
        found = [await self._one(source, download) for source in _with_references(spec, refs)]
        return Consumed(
            tuple(media for one in found for media in one.media),
            tuple(manifest for one in found for manifest in one.manifests),
        )

    async def _one(self, source: ExternalInput, download: bool) -> Consumed:
        if source.ref is not None:
            store, upstream = self._place_of(source)
            manifest = await upstream.manifest(source.ref)
            return Consumed(tuple(input_media(store, [source.ref], [manifest])), (manifest,))
        held = await self._kept(source, download)
        return Consumed((stored_input(self._store, held.key, self._record(source, held)),), ())

    def _place_of(self, source: ExternalInput) -> tuple[MediaStore, Upstream]:
        """Return the store a reference belongs to, and what is known of its manifests."""
        # Two services may have a bucket of the same name; the durable URL tells them apart.
        here = self._store.durable_url(_ANY_KEY)
        there = here if source.store is None else source.store.durable_url(_ANY_KEY)
        if source.store is None or there == here:
            return self._store, self._upstream
        return self._elsewhere.setdefault(there, (source.store, Upstream(source.store)))

    def _record(self, source: ExternalInput, held: _Held) -> Asset:
        if source.asset is None:
            return Asset(
                asset_id=_content_id(held.sha256),
                url=recorded_url(source.address),
                media_type=held.media_type,
                sha256=held.sha256,
                size_bytes=held.size_bytes,
            )
        facts: dict[str, object] = {"url": recorded_url(source.address), "sha256": held.sha256}
        if source.asset.size_bytes is None and source.asset.sha256 is None:
            facts["size_bytes"] = held.size_bytes
        return source.asset.model_copy(update=facts)

    async def _kept(self, source: ExternalInput, download: bool) -> _Held:
        _check_url(source.address)
        declared = source.asset.sha256 if source.asset is not None else None
        identity = declared or source.address
        async with self._turns[identity]:
            if identity not in self._held:
                held = await self._stored(source)
                if held is None:
                    held = await self._fetched(source, download)
                self._held[identity] = held
            return self._held[identity]

    async def _stored(self, source: ExternalInput) -> _Held | None:
        """Return what our store has of declared bytes; they are read once to be sure."""
        asset = source.asset
        if asset is None or asset.sha256 is None or not is_valid_sha256(asset.sha256):
            return None
        for key in self._possible_keys(asset, asset.sha256):
            if await self._store.head(key) is None:
                continue
            digest, size = hashlib.sha256(), 0
            async for chunk in self._store.stream(key):
                await asyncio.to_thread(digest.update, chunk)
                size += len(chunk)
            if digest.hexdigest() == asset.sha256:
                return _Held(key, asset.sha256, size, asset.media_type)
        return None

    def _possible_keys(self, asset: Asset, sha256: str) -> list[str]:
        extension = url_extension(asset.url, asset.media_type)
        by_url = self._store.key_from_url(asset.url)
        keys = [self._content_key(sha256, extension)]
        if self._store.key_strategy is KeyStrategy.CONTENT_ADDRESSABLE:
            keys.append(self._content_key(sha256, extension_for(asset.media_type)))
        return list(dict.fromkeys([by_url, *keys] if by_url else keys))

    def _content_key(self, sha256: str, extension: str) -> str:
        return self._store.layout.asset_key(_placement(sha256), sha256=sha256, extension=extension)

    async def _fetched(self, source: ExternalInput, download: bool) -> _Held:
        shown = strip_url(source.address)
        if not download:
            raise NotFoundError(f"{self._store.url}: external input {shown} is not stored")
        asset = source.asset
        files = await asyncio.to_thread(self._fetcher.local_files, [source.address])
        async with self._fetcher.open(source.address, files) as opened:
            if asset is None or asset.sha256 is None:
                return await self._keep_unknown(opened, asset, source.address)
            try:
                return await self._keep(
                    opened.source,
                    asset.media_type,
                    url_extension(source.address, asset.media_type),
                    sha256=asset.sha256,
                )
            except IntegrityError as exc:
                raise IntegrityError(
                    f"external input {shown} is no longer what was declared; give a record with "
                    "the sha256 of the bytes that are meant, or restore them",
                    expected=exc.expected,
                    actual=exc.actual,
                ) from exc

    async def _keep_unknown(self, opened: OpenAsset, asset: Asset | None, url: str) -> _Held:
        """Keep bytes nobody declared a hash for: what arrives is what is recorded."""
        proven, source = await sniffed(opened.source, said=opened.content_type)
        media_type = asset.media_type if asset is not None else proven
        return await self._keep(source, media_type, url_extension(url, media_type))

    async def _keep(
        self, source: MediaSource, media_type: str, extension: str, *, sha256: str | None = None
    ) -> _Held:
        stored = await self._store.put_media(
            source,
            media_type=media_type,
            extension=extension or None,
            placement=_placement(sha256),
            sha256=sha256,
        )
        return _Held(stored.key, stored.sha256, stored.size_bytes, media_type)


def _with_references(spec: StepSpec, refs: Sequence[MediaRef]) -> list[ExternalInput]:
    """Return the sources of a step, with what its input steps gave in their place."""
    if len(refs) != len(spec.inputs):
        raise ConfigError(
            f"step {spec.name!r} takes external media or single outputs, so each of its input steps "
            f"must give one reference: {len(spec.inputs)} step(s) gave {len(refs)}"
        )
    given = iter(refs)
    sources: list[ExternalInput] = []
    for source in spec.sources:
        if isinstance(source, ExternalInput):
            sources.append(source)
            continue
        ref = next(given)
        if isinstance(source, StepOutput):
            if source.index >= len(ref.media):
                raise ConfigError(
                    f"step {spec.name!r} wants output {source.index} of step {source.step!r}, which "
                    f"gave {len(ref.media)}; change its parameters, or declare the inputs again"
                )
            ref = replace(ref, media=(ref.media[source.index],))
        sources.append(ExternalInput(ref=ref))
    return sources


def named_roots() -> tuple[Path, ...]:
    """Return the folders that GENBLAZE_INPUT_ROOTS lists as PATH does."""
    named = os.environ.get(ROOTS_VARIABLE, "")
    return tuple(Path(root) for root in named.split(os.pathsep) if root)


def _check_url(url: str) -> None:
    try:
        urlsplit(url)
    except ValueError:
        raise UnsafeUrlError("external input has a malformed address; correct its URL") from None


def _content_id(sha256: str) -> str:
    """Return the id of media that is known by its bytes only: the same whenever they come."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, sha256))


def _placement(sha256: str | None) -> Placement:
    # A record's own id comes from a stranger and may be no part of a key.
    return Placement(run_id=None, asset_id=_content_id(sha256) if sha256 else str(uuid.uuid4()))
