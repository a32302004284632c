import asyncio
import gc
import hashlib
import os
import pickle
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.reference import MediaObject, MediaRef, Rendition
from genblaze_dagster.errors import IntegrityError, NotFoundError
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.store import MediaStore

FIRST, SECOND = os.urandom(300_000), b"second output"


@pytest.fixture
def ref(store: MediaStore) -> MediaRef:
    """A finished step with two outputs in the store."""

    async def build() -> MediaRef:
        objects, assets = [], []
        for number, data in enumerate((FIRST, SECOND)):
            stored = await store.put_media(
                data,
                media_type="video/mp4",
                extension=".mp4",
                placement=Placement("r1", f"a{number}"),
            )
            objects.append(
                MediaObject(
                    f"a{number}",
                    stored.sha256,
                    stored.size_bytes,
                    "video/mp4",
                    stored.key,
                    stored.url,
                )
            )
            assets.append(
                Asset(
                    asset_id=f"a{number}",
                    url=stored.url,
                    media_type="video/mp4",
                    sha256=stored.sha256,
                    size_bytes=stored.size_bytes,
                )
            )
        step = Step(provider="acme", model="m", assets=assets)
        manifest = Manifest.from_run(Run(run_id="r1", steps=[step]))
        key = await write_manifest(store, manifest)
        return MediaRef(
            asset_key="cats/video",
            partition_key="p",
            run_id="r1",
            step_id=step.step_id,
            manifest_key=key,
            manifest_url=store.durable_url(key),
            canonical_hash=manifest.canonical_hash,
            generation_key="g",
            provider="acme",
            model="m",
            modality="video",
            cost_usd=None,
            created_at=datetime.now(UTC).isoformat(),
            media=tuple(objects),
        )

    return asyncio.run(build())


def test_media_reads_in_every_form(store: MediaStore, ref: MediaRef) -> None:
    """bytes, open file, path and stream give the stored content; facts need no reading."""
    media = Media(ref, store)
    assert media.sha256 == hashlib.sha256(FIRST).hexdigest()
    assert (media.media_type, media.size_bytes) == ("video/mp4", len(FIRST))
    assert media.bytes() == FIRST
    with media.open() as file:
        assert file.read(5) == FIRST[:5]
        assert file.seek(-3, os.SEEK_END) == len(FIRST) - 3
        assert file.read() == FIRST[-3:]
        file.seek(100_000)
        assert file.read(1000) == FIRST[100_000:101_000]
        assert file.tell() == 101_000
    with Media(ref, store) as temporary:
        path = temporary.path()
        assert path.read_bytes() == FIRST
        assert path.suffix == ".mp4"
        assert temporary.path() == path
    assert not path.exists()

    async def stream() -> bytes:
        return b"".join([chunk async for chunk in media.astream()])

    assert asyncio.run(stream()) == FIRST


def test_several_outputs_have_an_index(store: MediaStore, ref: MediaRef) -> None:
    """`media[n]` is the n-th output; iteration ends."""
    media = Media(ref, store)
    assert len(media) == 2
    assert media[1].bytes() == SECOND
    assert [one.bytes() for one in media] == [FIRST, SECOND]
    with pytest.raises(IndexError, match="2 output"):
        media[2]


def test_the_manifest_is_read_once_and_checked(store: MediaStore, ref: MediaRef) -> None:
    """The manifest of the reference comes back; another one under its key is refused."""
    media = Media(ref, store)
    assert media.manifest.canonical_hash == ref.canonical_hash
    assert media.manifest is media.manifest
    other = Media(replace(ref, canonical_hash="0" * 64), store)
    with pytest.raises(IntegrityError, match="materialise cats/video again"):
        _ = other.manifest


def test_damaged_bytes_are_never_handed_out(store: MediaStore, ref: MediaRef) -> None:
    """One changed byte is found by every whole read; no temporary file is left with it."""
    damaged = bytes([FIRST[0] ^ 1]) + FIRST[1:]
    asyncio.run(store.put(ref.media[0].key, damaged, media_type=None))
    media = Media(ref, store)
    for read in (media.bytes, media.path):
        with pytest.raises(IntegrityError, match="generate it again"):
            read()

    async def stream() -> None:
        async for _ in media.astream():
            pass

    with pytest.raises(IntegrityError):
        asyncio.run(stream())


def test_missing_bytes_are_not_found(store: MediaStore, ref: MediaRef) -> None:
    """A deleted object is NotFoundError in every form."""
    asyncio.run(store.delete(ref.media[0].key))
    media = Media(ref, store)
    for read in (media.bytes, media.path, media.open):
        with pytest.raises(NotFoundError):
            read()


def test_media_works_inside_a_running_loop(store: MediaStore, ref: MediaRef) -> None:
    """The blocking forms work in async code too, as in a notebook."""

    async def body() -> None:
        media = Media(ref, store)
        assert media.bytes() == await media.aread() == FIRST
        assert media.manifest.run.run_id == "r1"

    asyncio.run(body())


def test_pickling_carries_the_reference_only(store: MediaStore, ref: MediaRef) -> None:
    """Small, and readable on the other side."""
    media = Media(ref, store)[1]
    pickled = pickle.dumps(media)
    assert len(pickled) < 4000
    assert pickle.loads(pickled).bytes() == SECOND  # noqa: S301 - our own bytes


def test_temporary_files_go_with_their_owner(store: MediaStore, ref: MediaRef) -> None:
    """Without a context manager the file is deleted when nothing refers to the media."""
    media = Media(ref, store)
    path = media.path()
    assert path.exists()
    del media
    gc.collect()
    assert not path.exists()


def test_an_embedded_rendition_reads_like_the_output(store: MediaStore, ref: MediaRef) -> None:
    """A handle of its own: bytes, path, URL; hashed, pickled, and gone with its media."""
    assert Media(ref, store).embedded is None
    data = FIRST + b"manifest"
    rendition = Rendition(
        hashlib.sha256(data).hexdigest(),
        len(data),
        "assets/r.mp4",
        store.durable_url("assets/r.mp4"),
    )
    asyncio.run(store.put(rendition.key, data, media_type="video/mp4"))
    with Media(
        replace(ref, media=(replace(ref.media[0], embedded=rendition), ref.media[1])), store
    ) as media:
        assert media[1].embedded is None
        assert media.embedded is not None
        assert media.embedded.bytes() == data
        assert media.embedded.url == rendition.url
        assert (media.embedded.media_type, media.embedded.size_bytes) == ("video/mp4", len(data))
        assert pickle.loads(pickle.dumps(media.embedded)).bytes() == data  # noqa: S301 - our own
        path = media.embedded.path()
        assert path.read_bytes() == data
        asyncio.run(store.put(rendition.key, data[:-1], media_type="video/mp4"))
        with pytest.raises(IntegrityError):
            media.embedded.bytes()
    assert not path.exists()
