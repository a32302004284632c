import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from genblaze_dagster import Media, MediaStore, Pipeline
from genblaze_dagster.core.models import Asset, VideoMetadata
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import (
    ConfigError,
    GenblazeError,
    IntegrityError,
    PipelineError,
    StorageError,
    UnsafeUrlError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.inputs import Consumed, Inputs
from genblaze_dagster.pipeline.lineage import Upstream
from genblaze_dagster.pipeline.plan import stored_steps
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.storage.fetch import Fetch
from genblaze_dagster.storage.keys import KeyStrategy, Placement
from tests.support.s3 import S3Server
from tests.support.scripted import ScriptedProvider
from tests.support.steps import everything

DATA = b"\x89PNG\r\n\x1a\n" + b"external picture" * 20
SHA256 = hashlib.sha256(DATA).hexdigest()
URL = "https://cdn.example.com/shots/one.png"


@dataclass(frozen=True)
class Remote:
    """An open download of `DATA`, or of other bytes."""

    data: bytes = DATA
    content_type: str | None = "image/png; charset=binary"
    content_length: int | None = None

    async def aiter(self) -> AsyncIterator[bytes]:
        yield self.data[:5]
        yield self.data[5:]


def web(fetched: list[str], data: bytes = DATA) -> Fetch:
    @asynccontextmanager
    async def fetch(url: str) -> AsyncGenerator[Remote]:
        fetched.append(url)
        yield Remote(data)

    return fetch


def record(url: str = URL, **facts: object) -> Asset:
    given = {"sha256": SHA256, "size_bytes": len(DATA), "media_type": "image/png", **facts}
    return Asset(url=url, **given)  # type: ignore[arg-type]


def put(store: MediaStore, data: bytes = DATA) -> str:
    """Store bytes as a sink would, and return their durable URL."""
    placement = Placement(run_id=None, asset_id="7" * 8)
    stored = run_sync(
        store.put_media(data, media_type="image/png", extension=".png", placement=placement)
    )
    return stored.url


def made_from(
    store: MediaStore, ledger: Ledger, *given: object, provider: ScriptedProvider | None = None
) -> PipelineResult:
    pipeline = Pipeline("p").step(
        provider or ScriptedProvider(),
        model="m",
        modality="video",
        external_inputs=list(given),  # type: ignore[arg-type]
    )
    return pipeline.run(store=store, ledger=ledger)


def consumed(inputs: Inputs, *given: object, download: bool = True) -> Consumed:
    spec = (
        Pipeline("p").step(ScriptedProvider(), model="m", external_inputs=list(given)).steps[0]  # type: ignore[arg-type]
    )
    return run_sync(inputs.consumed(spec, (), download=download))


def test_bytes_that_are_stored_are_not_fetched(store: MediaStore, ledger: Ledger) -> None:
    """The record's address may be long gone: the content address leads to the bytes."""
    put(store)
    provider = ScriptedProvider()
    asset = record(width=640, height=480, metadata={"license": "CC0"}, duration=None)
    result = made_from(store, ledger, asset, provider=provider)
    assert run_sync(provider.seen[0].inputs[0].read()) == DATA
    (used,) = result.run.steps[0].inputs
    assert used == asset
    assert result.manifest.verify()


def test_a_full_record_is_kept(store: MediaStore, ledger: Ledger) -> None:
    """Ids, facts and metadata of an input stand in the manifest as they were declared."""
    put(store)
    asset = record(
        asset_id="shot-1",
        media_type="video/mp4",
        duration=2.5,
        video=VideoMetadata(codec="h264", frame_rate=24.0),
        metadata={"camera": {"lens": 35}},
    )
    result = made_from(store, ledger, asset)
    assert result.run.steps[0].inputs[0].model_dump() == asset.model_dump()


def test_equal_bytes_are_one_generation(store: MediaStore, ledger: Ledger) -> None:
    """The key of a generation counts external inputs by their hash, wherever they lie."""
    url = put(store)
    one = made_from(store, ledger, record()).outcomes["video"].ref
    other = made_from(store, ledger, record(url, asset_id="other")).outcomes["video"].ref
    without = made_from(store, ledger).outcomes["video"].ref
    assert one.generation_key == other.generation_key != without.generation_key


def test_a_file_is_read_below_the_allowed_folders_only(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """The temporary folder may be read; anything else must be named, and credentials never are."""
    path = tmp_path / "one.png"
    path.write_bytes(DATA)
    result = made_from(store, ledger, path.as_uri())
    (used,) = result.run.steps[0].inputs
    assert (used.sha256, used.size_bytes, used.media_type) == (SHA256, len(DATA), "image/png")
    # Neither the checkout nor the tests have to lie outside of the temporary folder.
    library = Path(os.__file__)
    elsewhere = library.as_uri()
    with pytest.raises(PipelineError) as refused:
        made_from(store, ledger, elsewhere)
    assert "outside the folders" in str(refused.value)
    roots = Inputs(store, Upstream(store), roots=[library.parent])
    assert len(consumed(roots, elsewhere).media) == 1
    secret = tmp_path / ".aws" / "credentials"
    with pytest.raises(UnsafeUrlError, match="credentials are kept"):
        consumed(roots, secret.as_uri())


def test_the_variable_names_further_folders(
    store: MediaStore, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GENBLAZE_INPUT_ROOTS allows folders for runs nobody passes arguments to."""
    monkeypatch.setenv("GENBLAZE_INPUT_ROOTS", f"/nowhere:{Path(__file__).parent}")
    assert made_from(store, ledger, Path(__file__).as_uri()).run.steps[0].inputs[0].sha256


@pytest.mark.parametrize("strategy", list(KeyStrategy), ids=str)
def test_a_download_is_kept_and_asked_for_once(strategy: KeyStrategy) -> None:
    """Fetched bytes go into the store; a second step and a second Runner find them there."""
    store = MediaStore(f"memory://downloads-{strategy}", key_strategy=strategy)
    fetched: list[str] = []
    inputs = Inputs(store, Upstream(store), fetch=web(fetched))
    for _ in range(2):
        (media,) = consumed(inputs, record()).media
        assert run_sync(media.read()) == DATA
        assert media.asset.url == URL
    later = Inputs(store, Upstream(store), fetch=web(fetched))
    assert consumed(later, record(), download=False).media
    assert fetched == [URL]


def test_steps_that_want_the_same_at_once_download_it_once(store: MediaStore) -> None:
    """A thousand partitions with one reference picture make one request."""
    fetched: list[str] = []
    inputs = Inputs(store, Upstream(store), fetch=web(fetched))
    spec = Pipeline("p").step(ScriptedProvider(), model="m", external_inputs=URL).steps[0]

    async def many() -> list[Consumed]:
        return await asyncio.gather(*(inputs.consumed(spec, ()) for _ in range(50)))

    assert {one.media[0].asset.sha256 for one in run_sync(many())} == {SHA256}
    assert fetched == [URL]


def test_other_bytes_than_declared_never_reach_a_provider(store: MediaStore) -> None:
    """A download must hash to what its record says; nothing of it is left in the store."""
    inputs = Inputs(store, Upstream(store), fetch=web([], b"something else"))
    with pytest.raises(IntegrityError, match="no longer what was declared") as caught:
        consumed(inputs, record())
    assert caught.value.expected == SHA256
    assert b"something else" not in run_sync(everything(store))


def test_a_damaged_object_is_fetched_again_or_refused(store: MediaStore) -> None:
    """Stored bytes are hashed before they are used."""
    key = store.key_from_url(put(store))
    assert key is not None
    run_sync(store.put(key, b"rotten", media_type="image/png"))
    inputs = Inputs(store, Upstream(store), fetch=web([]))
    with pytest.raises(GenblazeError):
        consumed(inputs, record())
    with pytest.raises(StorageError, match="not stored"):
        consumed(inputs, record(), download=False)


def test_signatures_of_an_address_are_recorded_nowhere(store: MediaStore, tmp_path: Path) -> None:
    """A presigned URL is asked as it is, and recorded without what grants access."""
    signed = f"{URL}?X-Amz-Signature={'feedface' * 4}&X-Amz-Expires=60&version=3"
    token = f"{URL}?token={'c0ffee' * 6}"
    fetched: list[str] = []
    inputs = Inputs(store, Upstream(store), fetch=web(fetched))
    for url in (signed, token):
        for given in (url, record(url, sha256=None, size_bytes=None)):
            (media,) = consumed(inputs, given).media
            assert "feedface" not in media.asset.url
            assert "c0ffee" not in media.asset.url
            assert (media.asset.sha256, media.asset.size_bytes) == (SHA256, len(DATA))
    assert {*fetched} == {signed, token}
    failing = Inputs(store, Upstream(store), fetch=web([], b"other"))
    missing = record(signed, sha256="0" * 64)
    with pytest.raises(IntegrityError) as caught:
        consumed(failing, missing)
    assert "feedface" not in str(caught.value)


def test_stored_media_brings_its_steps_along(store: MediaStore, ledger: Ledger) -> None:
    """Media of an earlier run is an input with its whole history, by reference or as Media."""
    still = Pipeline("stills").step(ScriptedProvider(), model="m", prompt="a fox", name="still")
    first = still.run(store=store, ledger=ledger)
    for given in (first.media("still"), first.outcomes["still"].ref):
        result = made_from(store, ledger, given)
        assert [step.prompt for step in result.run.steps] == ["a fox", None]
        assert result.run.steps[1].inputs == first.run.steps[0].assets


def test_media_of_another_store_is_read_there(store: MediaStore, ledger: Ledger) -> None:
    """A Media knows where it lies; only its bytes travel to the provider."""
    other = MediaStore("memory://another-store")
    first = Pipeline("stills").step(ScriptedProvider(), model="m", name="still")
    media = first.run(store=other, ledger=ledger).media("still")
    provider = ScriptedProvider()
    result = made_from(store, ledger, media, provider=provider)
    assert run_sync(provider.seen[0].inputs[0].read()) == media.bytes()
    assert len(result.run.steps) == 2
    with pytest.raises(PipelineError):
        # A bare reference is looked up in the store of the run, which has not got it.
        made_from(store, ledger, media.ref)


def test_an_input_on_s3_is_read_from_its_bucket(
    s3_server: S3Server, s3_bucket: str, ledger: Ledger
) -> None:
    """A durable URL of our own bucket is no download: the store reads it with its own keys."""
    store = MediaStore(
        f"s3://{s3_bucket}/media",
        endpoint_url=s3_server.url,
        access_key_id=s3_server.access_key,
        secret_access_key=s3_server.secret_key,
        key_strategy=KeyStrategy.HIERARCHICAL,
    )
    url = put(store)
    provider = ScriptedProvider()
    result = made_from(store, ledger, record(url), provider=provider)
    assert run_sync(provider.seen[0].inputs[0].read()) == DATA
    public = provider.seen[0].inputs[0].public_url()
    assert public is not None
    assert public.startswith(url)
    assert result.run.steps[0].inputs[0].url == url


def test_a_record_cannot_lead_a_key_out_of_its_folder(tmp_path: Path, ledger: Ledger) -> None:
    """Ids and addresses of a record come from strangers and never become part of a path."""
    folder = tmp_path / "store"
    folder.mkdir()
    store = MediaStore(folder.as_uri(), key_strategy=KeyStrategy.HIERARCHICAL)
    asset = record("https://cdn.example.com/../../x.png", asset_id="../../../escaped")
    inputs = Inputs(store, Upstream(store), fetch=web([]))
    assert consumed(inputs, asset).media[0].asset.asset_id == "../../../escaped"
    assert not list(tmp_path.rglob("*escaped*"))
    assert {path.parts[len(tmp_path.parts)] for path in tmp_path.rglob("*")} == {"store"}


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "https://a:99999/x",
        "https://\ud800/x",
        "http://127.0.0.1/x",
        "data:image/png;base64,aaaa",
        "s3://another-bucket/x",
        "memory://another/../x",
        "file:///%00",
        "file://host/x",
        "file:///tmp/../etc/passwd",
        "",
        "://",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("sha256", [SHA256, None, "zz"], ids=["hash", "none", "no hash"])
def test_a_hostile_address_is_a_typed_error(store: MediaStore, url: str, sha256: str) -> None:
    """Addresses come from manifests of strangers; none of these is ever contacted or read."""
    with pytest.raises(GenblazeError):
        consumed(Inputs(store, Upstream(store)), record(url, sha256=sha256))


def test_the_plan_looks_at_stores_only(store: MediaStore, ledger: Ledger) -> None:
    """What is stored is known without a download; a step whose input is not there is not stored."""
    put(store)

    def pipeline(given: object) -> Pipeline:
        return Pipeline("p").step(
            ScriptedProvider(),
            model="m",
            name="a",
            external_inputs=given,  # type: ignore[arg-type]
        )

    def stored(given: object) -> list[str]:
        found = stored_steps(
            pipeline(given), store, partition_key=None, variables={}, key_prefix=["p"]
        )
        return sorted(run_sync(found))

    pipeline(record()).run(store=store, ledger=ledger)
    assert stored(record()) == ["a"]
    assert stored(URL) == []


def test_one_output_of_a_step_can_be_an_input(store: MediaStore, ledger: Ledger) -> None:
    """A reference cut to the wanted output is read alone; a missing output is a typed error."""
    from dataclasses import replace

    from genblaze_dagster.pipeline.external import StepOutput
    from genblaze_dagster.providers.protocol import Output

    two = tuple(Output(data=bytes([n]) * 9, media_type="image/png") for n in (1, 2))
    maker, user = ScriptedProvider(outputs=two), ScriptedProvider()
    pipeline = Pipeline("p").step(maker, model="m", name="two").step(user, model="m", name="one")
    spec = replace(pipeline.steps[1], name="second", sources=(StepOutput("two", 1),))
    pipeline.add(spec)
    result = pipeline.run(store=store, ledger=ledger)
    (used,) = result.outcomes["second"].manifest.run.steps[-1].inputs
    assert used.sha256 == hashlib.sha256(b"\2" * 9).hexdigest()
    pipeline.add(replace(spec, name="third", sources=(StepOutput("two", 2),)))
    with pytest.raises(PipelineError) as caught:
        pipeline.run(store=store, ledger=ledger)
    error = caught.value.result.errors["third"]  # type: ignore[attr-defined]
    assert isinstance(error, ConfigError)
    assert "wants output 2 of step 'two'" in str(error)


def test_media_is_a_media_and_a_reference_is_a_reference() -> None:
    """The kinds that can be given are told apart by type, never by shape."""
    media = MediaObject("id", SHA256, len(DATA), "image/png", "key", URL)
    ref = MediaRef("a", None, "r", "s", "k", "u", "h", "g", "p", "m", "image", None, "t", (media,))
    store = MediaStore("memory://kinds")
    pipeline = Pipeline("p").step(
        ScriptedProvider(), model="m", external_inputs=[ref, Media(ref, store), record(), URL]
    )
    kinds = [
        (source.ref is not None, source.asset is not None, source.url is not None)
        for source in pipeline.steps[0].external_inputs
    ]
    assert kinds == [
        (True, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
