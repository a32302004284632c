"""Embedded renditions of real media in every kind of store."""

import asyncio
import hashlib
import io
import uuid
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from genblaze_dagster.core.enums import Modality, PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.media.extraction import extract
from genblaze_dagster.media.stripping import strip
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.storage.integrity import Problem, check_ref
from genblaze_dagster.storage.keys import Placement
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.options import MIB
from genblaze_dagster.storage.rendition import Renditions, completed
from genblaze_dagster.storage.store import MediaStore
from tests.media.genblaze_cli import Genblaze
from tests.storage.faults import FaultServer
from tests.storage.films import endless_film, film, pieces

Faulty = Callable[..., MediaStore]
FULL = EmbedPolicy()
PROMPT = "a lighthouse nobody has seen"
TYPES = {".png": "image/png", ".wav": "audio/wav", ".mp4": "video/mp4", ".gif": "image/gif"}


def generated(model: str, modality: Modality, **params: object) -> bytes:
    request = GenerationRequest(model=model, prompt=PROMPT, modality=modality, params=params)
    submission = asyncio.run(LocalProvider().submit(request))
    assert submission.result is not None
    data = submission.result.outputs[0].data
    assert data is not None
    return data


@pytest.fixture(scope="module")
def samples() -> dict[str, bytes]:
    """One real file per container."""
    gif = io.BytesIO()
    Image.new("P", (8, 8)).save(gif, "GIF")
    return {
        ".png": generated("local-image", Modality.IMAGE, width=64, height=64),
        ".wav": generated("local-audio", Modality.AUDIO, duration=1),
        ".mp4": generated("local-video", Modality.VIDEO, duration=1),
        ".gif": gif.getvalue(),
    }


@pytest.fixture(scope="module")
def genblaze() -> Iterator[Genblaze]:
    with Genblaze.running() as process:
        yield process


class Kept:
    """One stored output and everything `Renditions` needs besides."""

    def __init__(self, store: MediaStore, media_type: str, extension: str) -> None:
        self.store = store
        self.media_type = media_type
        self.extension = extension

    async def put(
        self,
        source: bytes | Path | AsyncIterator[bytes],
        renditions: Renditions,
        *,
        at_hand: bool = True,
    ) -> tuple[MediaObject, Manifest]:
        asset_id = str(uuid.uuid4())
        stored = await self.store.put_media(
            source,
            media_type=self.media_type,
            extension=self.extension,
            placement=Placement("r", asset_id),
            twin=at_hand,
        )
        if at_hand:
            local = source if isinstance(source, bytes | Path) else None
            renditions.remember(asset_id, stored, local)
        media = MediaObject(
            asset_id,
            stored.sha256,
            stored.size_bytes,
            self.media_type,
            stored.key,
            stored.url,
        )
        asset = Asset(
            asset_id=asset_id,
            url=stored.url,
            media_type=self.media_type,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
        )
        step = Step(provider="acme", model="m", prompt=PROMPT, seed=7, assets=[asset])
        return media, Manifest.from_run(Run(run_id=str(uuid.uuid4()), steps=[step]))

    def ref(self, media: MediaObject, manifest: Manifest, manifest_key: str) -> MediaRef:
        step = manifest.run.steps[0]
        return MediaRef(
            asset_key="a",
            partition_key=None,
            run_id=manifest.run.run_id,
            step_id=step.step_id,
            manifest_key=manifest_key,
            manifest_url=self.store.durable_url(manifest_key),
            canonical_hash=manifest.canonical_hash,
            generation_key="g",
            provider="acme",
            model="m",
            modality="image",
            cost_usd=None,
            created_at=datetime.now(UTC).isoformat(),
            media=(media,),
        )


async def made(
    store: MediaStore,
    source: bytes | Path | AsyncIterator[bytes],
    extension: str,
    policy: EmbedPolicy = FULL,
    *,
    at_hand: bool = True,
) -> tuple[MediaRef, Manifest]:
    """Store an output, then its manifest, then its rendition."""
    kept = Kept(store, TYPES[extension], extension)
    async with Renditions(store, policy) as renditions:
        media, manifest = await kept.put(source, renditions, at_hand=at_hand)
        manifest_key = await write_manifest(store, manifest)
        (media,) = await renditions.made([media], manifest)
    return kept.ref(media, manifest, manifest_key), manifest


@pytest.mark.parametrize("at_hand", [True, False], ids=["at hand", "read back"])
@pytest.mark.parametrize("kind", [".png", ".wav", ".mp4"])
def test_a_rendition_is_the_output_with_its_manifest(
    store: MediaStore,
    samples: dict[str, bytes],
    genblaze: Genblaze,
    tmp_path: Path,
    kind: str,
    at_hand: bool,
) -> None:
    """The manifest is found in it, by genblaze as well; without it, it is the output to the byte."""
    data = samples[kind]
    ref, manifest = asyncio.run(made(store, data, kind, at_hand=at_hand))
    media = Media(ref, store)
    assert media.bytes() == data
    assert media.embedded is not None
    assert media.embedded.sha256 == hashlib.sha256(media.embedded.bytes()).hexdigest()
    assert media.embedded.url == store.durable_url(media.embedded.key)
    path = media.embedded.path()
    assert extract(path).canonical_hash == manifest.canonical_hash
    assert strip(path) == data
    assert genblaze.extract(path) == manifest.to_canonical_json()
    media.close()
    assert not path.exists()
    checked = asyncio.run(check_ref(store, ref))
    assert checked.ok, checked.findings
    assert checked.bytes_read == len(data) + media.embedded.size_bytes


@pytest.mark.parametrize("kind", ["bytes", "path", "stream"])
def test_a_film_that_was_sent_twice_is_what_embedding_into_it_gives(
    store: MediaStore, tmp_path: Path, kind: str
) -> None:
    """The copy made on the way has the bytes that the embedder writes into the stored film."""
    data = film(300_000)
    (tmp_path / "film.mp4").write_bytes(data)
    sources = {"bytes": data, "path": tmp_path / "film.mp4", "stream": pieces(data)}

    async def body() -> None:
        kept = Kept(store, "video/mp4", ".mp4")
        async with Renditions(store, FULL) as renditions:
            media, manifest = await kept.put(sources[kind], renditions)
            await write_manifest(store, manifest)
            (one,) = await renditions.made([media], manifest)
            (other,) = await Renditions(store, FULL).made([media], manifest)
        assert one.embedded is not None
        assert one == other

    asyncio.run(body())


def test_a_film_nothing_may_follow_is_embedded_all_the_same(store: MediaStore) -> None:
    """Its last box has no size: the copy on the way is dropped, and the film read back once."""
    data = endless_film(300_000)
    ref, _ = asyncio.run(made(store, pieces(data), ".mp4"))
    with Media(ref, store) as media:
        assert media.embedded is not None
        assert strip(media.embedded.path()) == data
    assert asyncio.run(check_ref(store, ref)).ok


@pytest.mark.parametrize("at_hand", [True, False], ids=["at hand", "read back"])
def test_a_container_that_carries_nothing_has_a_reason_instead(
    faulty: Faulty, faults: FaultServer, samples: dict[str, bytes], at_hand: bool
) -> None:
    """Nothing else is stored, and no more than the first bytes are read to find that out."""
    ref, _ = asyncio.run(made(faulty(), samples[".gif"], ".gif", at_hand=at_hand))
    (media,) = ref.media
    assert media.embedded is None
    assert media.not_embedded == "image/gif files cannot carry a manifest"
    assert faults.visible_keys() == sorted([media.key, ref.manifest_key])
    read = [r for r in faults.requests if r.method == "GET" and r.key == media.key]
    assert [r.headers["range"] for r in read] == ([] if at_hand else ["bytes=0-63"])


def test_a_file_that_changed_meanwhile_is_not_what_was_stored(
    store: MediaStore, samples: dict[str, bytes], tmp_path: Path
) -> None:
    """The rendition would be of something else, so there is none."""
    path = tmp_path / "output.png"
    path.write_bytes(samples[".png"])

    async def body() -> MediaObject:
        async with Renditions(store, FULL) as renditions:
            media, manifest = await Kept(store, "image/png", ".png").put(path, renditions)
            path.write_bytes(samples[".png"] + b"more")
            return (await renditions.made([media], manifest))[0]

    media = asyncio.run(body())
    assert media.embedded is None
    assert "changed after it was stored" in str(media.not_embedded)


def test_what_the_policy_hides_is_not_in_the_bytes(
    store: MediaStore, samples: dict[str, bytes]
) -> None:
    """Prompt and seed are gone; the manifest inside names the whole one, which is stored."""
    policy = EmbedPolicy(prompt_visibility=PromptVisibility.REDACTED, include_seed=False)
    ref, manifest = asyncio.run(made(store, samples[".png"], ".png", policy))
    with Media(ref, store) as media:
        assert media.embedded is not None
        assert PROMPT.encode() not in media.embedded.bytes()
        inside = extract(media.embedded.path())
        assert inside.verify()
        assert inside.run.steps[0].seed is None
        assert inside.run.metadata["redacted"]["canonical_hash"] == manifest.canonical_hash
        assert media.manifest.run.steps[0].prompt == PROMPT
    assert asyncio.run(check_ref(store, ref)).ok


def test_an_ended_run_does_not_wait_for_renditions(faulty: Faulty, faults: FaultServer) -> None:
    """Once given up, the open copy is dropped and the reason says so."""

    async def body() -> MediaObject:
        store = faulty()
        kept = Kept(store, "video/mp4", ".mp4")
        async with Renditions(store, FULL, given_up=lambda: True) as renditions:
            media, manifest = await kept.put(film(300_000), renditions)
            return (await renditions.made([media], manifest))[0]

    media = asyncio.run(body())
    assert media.not_embedded == "its run was ended before it was made"
    assert faults.visible_keys() == [media.key]
    assert faults.uploads == {}


def test_what_is_left_open_is_dropped(faulty: Faulty, faults: FaultServer) -> None:
    """Leaving the block without a manifest leaves nothing in the store but the output."""

    async def body() -> MediaObject:
        store = faulty()
        async with Renditions(store, FULL) as renditions:
            return (await Kept(store, "video/mp4", ".mp4").put(film(300_000), renditions))[0]

    media = asyncio.run(body())
    assert faults.visible_keys() == [media.key]
    assert faults.uploads == {}


def test_large_media_is_not_read_back_when_that_is_limited(
    store: MediaStore, samples: dict[str, bytes]
) -> None:
    """The reason says how large it is and what helps; a rendition that is there is kept."""
    data = samples[".wav"]

    async def body() -> None:
        media, manifest = await Kept(store, "audio/wav", ".wav").put(data, Renditions(store, None))
        again = Renditions(store, FULL)
        (refused,) = await again.made([media], manifest, largest_read=len(data) - 1)
        assert refused.embedded is None
        assert f"{len(data)} bytes" in str(refused.not_embedded)
        (one,) = await again.made([refused], manifest, largest_read=len(data))
        assert one.embedded is not None
        assert one.not_embedded is None
        assert await again.made([one], manifest, largest_read=0) == (one,)

    asyncio.run(body())


def test_without_a_policy_nothing_is_made(store: MediaStore, samples: dict[str, bytes]) -> None:
    """Outputs come back as they are."""

    async def body() -> None:
        renditions = Renditions(store, None)
        assert not renditions.wanted
        media, manifest = await Kept(store, "image/png", ".png").put(samples[".png"], renditions)
        assert await renditions.made([media], manifest) == (media,)

    asyncio.run(body())


def test_a_damaged_rendition_is_found(store: MediaStore, samples: dict[str, bytes]) -> None:
    """One changed byte, an object that is gone, and one that is of another output."""
    ref, _ = asyncio.run(made(store, samples[".png"], ".png"))
    other, _ = asyncio.run(made(store, samples[".mp4"], ".mp4"))
    media = ref.media[0]
    assert media.embedded is not None
    data = asyncio.run(store.get(media.embedded.key))
    asyncio.run(store.put(media.embedded.key, data[:-1] + b"?", media_type=None))
    (finding,) = asyncio.run(check_ref(store, ref)).findings
    assert (finding.problem, finding.subject) == (Problem.BYTES_DIFFER, media.embedded.key)
    asyncio.run(store.delete(media.embedded.key))
    (finding,) = asyncio.run(check_ref(store, ref)).findings
    assert (finding.problem, finding.subject) == (Problem.BYTES_MISSING, media.embedded.key)
    swapped = replace(ref, media=(replace(media, embedded=other.media[0].embedded),))
    (finding,) = asyncio.run(check_ref(store, swapped)).findings
    assert finding.problem is Problem.BYTES_DIFFER
    assert "not the output" in finding.detail


def wave_file(size: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(bytes(size))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [".mp4", ".wav"])
def test_large_renditions_are_checked_too(kind: str) -> None:
    """A film is read once, whatever else is large a second time; other content is found."""
    store = MediaStore(f"memory://{uuid.uuid4().hex}")
    data = film(17 * MIB) if kind == ".mp4" else wave_file(17 * MIB)
    ref, _ = asyncio.run(made(store, data, kind))
    rendition = ref.media[0].embedded
    assert rendition is not None
    checked = asyncio.run(check_ref(store, ref))
    assert checked.ok, checked.findings
    assert checked.bytes_read == len(data) + rendition.size_bytes
    other = data[:-1] + b"?"
    asyncio.run(store.put(ref.media[0].key, other, media_type=None))
    sha256 = hashlib.sha256(other).hexdigest()
    moved = replace(ref, media=(replace(ref.media[0], sha256=sha256),))
    problems = [f.problem for f in asyncio.run(check_ref(store, moved)).findings]
    assert problems == [Problem.NOT_IN_MANIFEST, Problem.BYTES_DIFFER]


def test_media_of_an_earlier_run_gets_what_it_lacks(
    store: MediaStore, samples: dict[str, bytes]
) -> None:
    """Read back once; the same as if it had been made then, and asking again changes nothing."""
    ref, _ = asyncio.run(made(store, samples[".png"], ".png"))
    bare = replace(ref, media=(replace(ref.media[0], embedded=None),))
    assert asyncio.run(completed(store, bare, None)) == bare
    assert asyncio.run(completed(store, bare, FULL)) == ref
    assert asyncio.run(completed(store, ref, FULL)) is ref


def test_media_whose_manifest_is_gone_gets_a_reason(
    store: MediaStore, samples: dict[str, bytes]
) -> None:
    """There is nothing to embed, and that is no reason to fail."""
    ref, _ = asyncio.run(made(store, samples[".png"], ".png"))
    bare = replace(ref, media=(replace(ref.media[0], embedded=None),))
    asyncio.run(store.delete(ref.manifest_key))
    (media,) = asyncio.run(completed(store, bare, FULL)).media
    assert str(media.not_embedded).startswith("NotFoundError: ")


@pytest.mark.parametrize("mode", [EmbedMode.NONE, EmbedMode.POINTER])
def test_only_whole_manifests_are_embedded(store: MediaStore, mode: EmbedMode) -> None:
    """A pointer belongs beside a file that left the store."""
    assert not Renditions(store, EmbedPolicy(embed_mode=mode)).wanted
