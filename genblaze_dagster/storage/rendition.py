"""Embedded renditions: stored outputs once more, with their manifest inside.

The stored output itself is never edited; its hash stays what manifest, checks and downstream steps
rely on. A rendition is an object of its own under its own hash, whatever the store's key strategy.
Taking the manifest out of it gives the output back to the byte.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.core.reference import MediaObject, MediaRef, Rendition
from genblaze_dagster.errors import EmbeddingError, GenblazeError
from genblaze_dagster.media.append import tail
from genblaze_dagster.media.containers import SNIFFED_BYTES, container_of_type
from genblaze_dagster.media.edit import Pieces, chunks, pieces, sha256_edited
from genblaze_dagster.media.embedding import embed_payload, plan
from genblaze_dagster.media.sniff import canonical_media_type, sniff_media_type
from genblaze_dagster.media.source import Source
from genblaze_dagster.storage.media import Media, StoredFile
from genblaze_dagster.storage.staging import PIECE_BYTES, outlast
from genblaze_dagster.storage.store import MediaStore, StoredMedia
from genblaze_dagster.storage.twin import Twin

logger = logging.getLogger(__name__)

# Media of an earlier run above this size gets no rendition: it would be read back for that alone.
_READ_BACK_BYTES = 64 * 1024 * 1024
_GLANCE_SECONDS = 0.2
_ENDED = "its run was ended before it was made"


@dataclass(frozen=True, slots=True)
class _AtHand:
    """What is left of an output after it was stored: its bytes, its file, or an open copy."""

    source: bytes | Path | None
    twin: Twin | None


class Renditions:
    """Makes the embedded renditions of one run's outputs.

    Use as an async context manager: leaving it drops what is still open.

    Args:
        store: where outputs are and renditions go.
        policy: what the embedded manifest may show. None makes no renditions, and neither does a
            mode other than full: a pointer would only lead to where the file lies already.
        given_up: looked at while a rendition is made; once true, it is left unmade.
    """

    def __init__(
        self,
        store: MediaStore,
        policy: EmbedPolicy | None,
        *,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        wanted = policy is not None and policy.embed_mode is EmbedMode.FULL
        self._policy = policy if wanted else None
        self._given_up = given_up
        self._at_hand: dict[str, _AtHand] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drop()

    @property
    def wanted(self) -> bool:
        """Whether any are made."""
        return self._policy is not None

    def remember(self, asset_id: str, stored: StoredMedia, source: bytes | Path | None) -> None:
        """Keep at hand what the rendition of an output just stored is made from.

        Args:
            asset_id: of the output.
            stored: how it was stored; its twin is this object's to complete or drop from now on.
            source: the output itself, None when it was a download.
        """
        if self.wanted:
            self._at_hand[asset_id] = _AtHand(source or stored.data, stored.twin)

    async def drop(self) -> None:
        """Let go of everything at hand."""
        twins = [output.twin for output in self._at_hand.values() if output.twin is not None]
        self._at_hand.clear()
        if twins:
            await outlast(asyncio.gather(*(twin.drop() for twin in twins)))

    async def made(
        self, media: Sequence[MediaObject], manifest: Manifest, *, largest_read: int | None = None
    ) -> tuple[MediaObject, ...]:
        """Return stored outputs with their renditions; where one is missing, with the reason.

        Args:
            media: the outputs; those that have a rendition keep it.
            manifest: the stored manifest that proves them.
            largest_read: outputs above this size, in bytes, are not read back from the store.
        """
        if self._policy is None:
            return tuple(media)
        return tuple([await self._one(m, manifest, self._policy, largest_read) for m in media])

    async def _one(
        self, media: MediaObject, manifest: Manifest, policy: EmbedPolicy, largest: int | None
    ) -> MediaObject:
        if media.embedded is not None:
            return media
        output = self._at_hand.pop(media.asset_id, _AtHand(None, None))
        making = asyncio.ensure_future(self._make(media, manifest, policy, output, largest))
        try:
            # Who ends a run waits for what is paid for, and not for this.
            while not making.done() and not self._given_up():
                await asyncio.wait({making}, timeout=_GLANCE_SECONDS)
        finally:
            making.cancel()
            await outlast(asyncio.ensure_future(_let_go(making, output.twin)))
        if making.cancelled():
            return replace(media, not_embedded=_ENDED)
        error = making.exception()
        if error is None:
            return replace(media, embedded=making.result(), not_embedded=None)
        if not isinstance(error, GenblazeError | OSError):
            # A bug of ours. The output is paid for and stored: it must not be lost over this.
            logger.error("rendition of %s failed", media.key, exc_info=error)
        return replace(media, not_embedded=_reason(error))

    async def _make(
        self,
        media: MediaObject,
        manifest: Manifest,
        policy: EmbedPolicy,
        output: _AtHand,
        largest: int | None,
    ) -> Rendition:
        payload = embed_payload(manifest, policy)
        if output.twin is not None:
            return await output.twin.complete(tail(payload))
        async with self._opened(media, output.source, largest) as source:
            with Source.open(source) as opened:
                content = await asyncio.to_thread(_content, opened, media, manifest, payload)
                return await self._put(media, opened, content)

    async def _put(self, media: MediaObject, source: Source, content: Pieces) -> Rendition:
        stored = await self._store.put_media(
            _read(chunks(source, content)),
            media_type=media.media_type,
            extension=Path(media.key).suffix,
            placement=None,
        )
        return Rendition(stored.sha256, stored.size_bytes, stored.key, stored.url)

    async def _check_carries(self, media: MediaObject) -> None:
        """Find out from its first bytes whether an output can carry a manifest."""
        head = await self._store.client.get_range(media.key, 0, SNIFFED_BYTES)
        media_type = sniff_media_type(head) or canonical_media_type(media.media_type)
        container = container_of_type(media_type)
        if container is None or not container.embeds:
            raise _cannot_carry(media)

    @asynccontextmanager
    async def _opened(
        self, media: MediaObject, source: bytes | Path | None, largest: int | None
    ) -> AsyncGenerator[bytes | Path]:
        """Yield the output: what is at hand, else read back once and checked."""
        if source is not None:
            if isinstance(source, Path) and await asyncio.to_thread(_hash, source) != media.sha256:
                raise EmbeddingError("its file changed after it was stored; generate it again")
            yield source
            return
        if largest is not None and media.size_bytes > largest:
            raise EmbeddingError(
                f"it has {media.size_bytes} bytes, and stored media above {largest} is not read "
                "back for this; generate it again"
            )
        await self._check_carries(media)
        stored = StoredFile(self._store, media, media.media_type)
        if media.size_bytes <= self._store.options.single_put_bytes:
            yield await stored.aread()
            return
        with tempfile.TemporaryDirectory(prefix="genblaze-") as folder:
            path = Path(folder) / "output"
            await stored.adownload(path)
            yield path


async def completed(store: MediaStore, ref: MediaRef, policy: EmbedPolicy | None) -> MediaRef:
    """Return a reference to media of an earlier run with the renditions it lacks.

    Those that are there stay, whatever their policy was. Media above 64 MiB is left as it is.
    """
    renditions = Renditions(store, policy)
    if not renditions.wanted or all(media.embedded for media in ref.media):
        return ref
    try:
        manifest = await Media(ref, store).amanifest()
    except GenblazeError as exc:
        missing = _reason(exc)
        media = tuple(m if m.embedded else replace(m, not_embedded=missing) for m in ref.media)
    else:
        media = await renditions.made(ref.media, manifest, largest_read=_READ_BACK_BYTES)
    return replace(ref, media=media)


async def _let_go(making: asyncio.Future[Rendition], twin: Twin | None) -> None:
    await asyncio.wait({making})
    if twin is not None:
        await twin.drop()


def _hash(path: Path) -> str:
    with Source.open(path) as source:
        return sha256_edited(source, ())


def _content(source: Source, media: MediaObject, manifest: Manifest, payload: bytes) -> Pieces:
    """Return what the rendition consists of."""
    edit = plan(source, manifest, payload, mime_type=media.media_type)
    if edit is None:
        raise _cannot_carry(media)
    return pieces(source.size, edit)


def _cannot_carry(media: MediaObject) -> EmbeddingError:
    return EmbeddingError(f"{media.media_type} files cannot carry a manifest")


async def _read(content: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the content in larger pieces, read off the event loop."""
    while piece := await asyncio.to_thread(_next, content):
        yield piece


def _next(content: Iterator[bytes]) -> bytes:
    taken: list[bytes] = []
    size = 0
    for chunk in content:
        taken.append(chunk)
        size += len(chunk)
        if size >= PIECE_BYTES:
            break
    return b"".join(taken)


def _reason(error: BaseException) -> str:
    if isinstance(error, EmbeddingError):
        return str(error)
    if isinstance(error, GenblazeError | OSError):
        return f"{type(error).__name__}: {error}"
    return f"unexpected {type(error).__name__}; this is a bug, see the log"
