"""Valid media files of every structure we can think of, the same for the same seed.

Few encodings are made and many files: the structure around the samples is what an embed has to get
right, so most files are an encoding with its chunks, boxes, segments or tags arranged in another
way. Every file decodes with Pillow or PyAV; `decoded` says to what.
"""

import hashlib
import io
import random
from collections.abc import Callable, Iterator, Mapping

import av
from PIL import Image

from tests.media.corpus_movies import m4a, mov, mp4
from tests.media.corpus_pictures import jpeg, png, webp
from tests.media.corpus_sounds import flac, mp3, wav

MAKERS: Mapping[str, Callable[[random.Random], bytes]] = {
    "png": png,
    "jpg": jpeg,
    "webp": webp,
    "mp4": mp4,
    "mov": mov,
    "m4a": m4a,
    "mp3": mp3,
    "wav": wav,
    "flac": flac,
}
CONTAINERS = tuple(MAKERS)
"""The containers, by the extension of their files."""

PICTURES = frozenset({"png", "jpg", "webp"})
SOUNDS = frozenset({"mp3", "wav", "flac"})


def files(container: str, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of `count` different files of one container."""
    rng = random.Random(f"{container} {seed}")  # noqa: S311 - repeatable, not secret
    made: set[bytes] = set()
    for _ in range(20 * count):
        if len(made) == count:
            return
        data = MAKERS[container](rng)
        digest = hashlib.sha256(data).digest()
        if digest not in made:
            made.add(digest)
            yield f"{seed}-{len(made):03}.{container}", data
    raise AssertionError(f"only {len(made)} different {container} files, not {count}")


def decoded(container: str, data: bytes) -> list[str]:
    """Return a digest of every frame of a file: pixels or samples, and when they are shown."""
    return list(_pictures(data) if container in PICTURES else _frames(container, data))


def _pictures(data: bytes) -> Iterator[str]:
    with Image.open(io.BytesIO(data)) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            shown = picture.info.get("duration")
            yield _digest((picture.mode, picture.size, shown, picture.tobytes()))


def _frames(container: str, data: bytes) -> Iterator[str]:
    form = {"m4a": "mp4", "mov": "mp4"}.get(container, container)
    # Tags may be in any encoding, and pictures in them broken: they are not what is compared.
    with av.open(io.BytesIO(data), format=form, metadata_errors="ignore") as media:
        streams = [media.streams.audio[0]] if container in SOUNDS else media.streams
        for frame in media.decode(*streams):
            yield _digest((frame.pts, str(frame.format), frame.to_ndarray().tobytes()))


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()
