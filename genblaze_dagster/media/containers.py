"""Which container a file is, and how that container carries a manifest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from genblaze_dagster.errors import EmbeddingError
from genblaze_dagster.media import flac, jpeg, mp3, mp4, png, wav, webp
from genblaze_dagster.media.edit import Edit, EditedSource, undoes
from genblaze_dagster.media.original import Original
from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.media.source import Source

SNIFFED_BYTES = 64


class Format(Protocol):
    """What the module of a container offers."""

    def read_payload(self, source: Source) -> bytes | None:
        """Return the text of the first manifest, None when there is none."""
        ...

    def plan_embed(self, source: Source, payload: bytes) -> Edit:
        """Return the edit that puts a payload in, in front of every manifest there already.

        Raises:
            EmbeddingError: it cannot be done so that it can be undone and read by everyone.
        """
        ...

    def originals(self, source: Source) -> Iterator[Original]:
        """Yield what the file may have been before its first manifest, most likely first."""
        ...


@dataclass(frozen=True, slots=True)
class Container:
    """A container format; `embeds` is False for those that are read and never written."""

    name: str
    format: Format
    embeds: bool = True


_MP4 = Container("mp4", mp4)
# genblaze embeds into every file with boxes; ours leaves pictures with boxes alone.
_BOXED_IMAGE = Container("mp4", mp4, embeds=False)

_BY_TYPE: Mapping[str, Container] = {
    "image/png": Container("png", png),
    "image/jpeg": Container("jpeg", jpeg),
    "image/webp": Container("webp", webp),
    "image/avif": _BOXED_IMAGE,
    "image/heic": _BOXED_IMAGE,
    "video/mp4": _MP4,
    "video/quicktime": _MP4,
    "audio/mp4": _MP4,
    "audio/mpeg": Container("mp3", mp3),
    "audio/wav": Container("wav", wav),
    "audio/flac": Container("flac", flac),
}


def container_of(source: Source) -> Container | None:
    """Return the container that the first bytes of a file prove, if it is one we know."""
    return container_of_type(sniff_media_type(source.at(0, SNIFFED_BYTES)) or "")


def container_of_type(media_type: str) -> Container | None:
    """Return the container of a media type in its usual spelling, if it is one we know."""
    return _BY_TYPE.get(media_type)


def originals(container: Container, source: Source) -> Iterator[Original]:
    """Yield what a file may have been before its first manifest, most likely first.

    An original is certain, too, when embedding the same text into it gives this very file.

    Raises:
        EmbeddingError: the manifest in the file is broken.
    """
    payload = container.format.read_payload(source)
    if payload is None:
        return
    settled = False
    for found in container.format.originals(source):
        assured = not settled and not found.certain
        if assured and _comes_back(container, source, found, payload):
            found = Original(found.undo, certain=True, removed=found.removed)
        settled = settled or found.certain
        yield found


def _comes_back(container: Container, source: Source, found: Original, payload: bytes) -> bool:
    try:
        again = container.format.plan_embed(EditedSource(source, found.undo), payload)
    except (EmbeddingError, ValueError):
        return False
    return undoes(source, found.undo, again)
