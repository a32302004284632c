"""Embedded renditions as part of a step: recorded, never in the way of what is paid for."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.errors import OutputError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.media.extraction import extract
from genblaze_dagster.media.stripping import strip
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.events import StepEvent, StepEventType
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome, Target
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import Output
from genblaze_dagster.storage.integrity import check_ref
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.options import MIB, StoreOptions
from genblaze_dagster.storage.refs import read_ref
from genblaze_dagster.storage.store import MediaStore
from tests.storage.faults import Answer, FaultServer, Request, fault_server
from tests.storage.films import film
from tests.support.providers import png
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, step, target

PICTURE = Output(data=png("a picture"), media_type="image/png")
FILM = Output(data=film(300_000), media_type="video/mp4")
LARGE_FROM_64K = StoreOptions(
    max_retries=0, backoff=0.01, single_put_bytes=64 * 1024, part_bytes=5 * MIB
)


def run(
    store: MediaStore,
    ledger: Ledger,
    spec: StepSpec,
    where: Target | None = None,
    events: list[StepEvent] | None = None,
) -> StepOutcome:
    async def body() -> StepOutcome:
        on_event = events.append if events is not None else None
        async with Runner(
            store, ledger, retry=QUICK, on_event=on_event, embed=EmbedPolicy()
        ) as runner:
            return await runner.run_step(spec, where or target(), variables=ROW)

    return asyncio.run(body())


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def remote(faults: FaultServer) -> MediaStore:
    """A store in which 64 KiB are large, on a server that misbehaves on request."""
    return MediaStore(
        "s3://bucket",
        endpoint_url=faults.url,
        access_key_id="test",
        secret_access_key="test",
        options=LARGE_FROM_64K,
    )


@contextmanager
def held_back(faults: FaultServer, which: Callable[[Request], bool]) -> Iterator[threading.Event]:
    """Hold matching requests back until the block ends; the event says that one has arrived."""
    arrived, gate = threading.Event(), threading.Event()

    def rule(request: Request) -> Answer | None:
        if which(request):
            arrived.set()
            gate.wait(60)
        return None

    faults.rule = rule
    try:
        yield arrived
    finally:
        gate.set()


def test_every_output_of_a_step_gets_one(store: MediaStore, ledger: Ledger) -> None:
    """Reference and ledger name them; the manifest and what it proves stay as they are."""
    outputs = (PICTURE, Output(data=png("another"), media_type="image/png"))
    outcome = run(store, ledger, step(ScriptedProvider(outputs=outputs)))
    assert asyncio.run(read_ref(store, "image", "fox")) == outcome.ref
    (row,) = ledger.rows()
    assert row.result == outcome.ref.to_dict()
    for index, output in enumerate(outputs):
        with Media(outcome.ref, store, index=index) as media:
            assert media.embedded is not None
            assert media.bytes() == output.data == strip(media.embedded.path())
            assert extract(media.embedded.path()).canonical_hash == outcome.manifest.canonical_hash
    assert asyncio.run(check_ref(store, outcome.ref)).ok


def test_without_the_option_nothing_changes(store: MediaStore, ledger: Ledger) -> None:
    """A reference has the fields it always had."""

    async def body() -> StepOutcome:
        async with Runner(store, ledger) as runner:
            spec = step(ScriptedProvider(outputs=(PICTURE,)))
            return await runner.run_step(spec, target(), variables=ROW)

    (media,) = asyncio.run(body()).ref.to_dict()["media"]
    assert set(media).isdisjoint({"embedded", "not_embedded"})


def test_media_that_is_taken_again_keeps_its_rendition(store: MediaStore, ledger: Ledger) -> None:
    """Finished in this run or reused from another: nothing is asked, nothing is made twice."""
    provider = ScriptedProvider(outputs=(PICTURE,))
    first = run(store, ledger, step(provider))
    finished = run(store, ledger, step(provider))
    reused = run(store, ledger, step(provider), target("run-2", reuse=True))
    assert (finished.origin, reused.origin) == (Origin.FINISHED, Origin.REUSED)
    assert first.ref.media == finished.ref.media == reused.ref.media
    assert first.ref.media[0].embedded is not None


def test_an_output_that_cannot_carry_a_manifest_is_said_to_be_so(
    store: MediaStore, ledger: Ledger
) -> None:
    """The step succeeds; reference and event give the reason."""
    events: list[StepEvent] = []
    outputs = (Output(data=b"OggS" + bytes(60), media_type="audio/ogg"),)
    outcome = run(store, ledger, step(ScriptedProvider(outputs=outputs)), events=events)
    assert outcome.ref.media[0].not_embedded == "audio/ogg files cannot carry a manifest"
    (said,) = [e for e in events if e.type is StepEventType.PROGRESS and e.status is None]
    assert "audio/ogg files cannot carry a manifest" in str(said.detail)


@pytest.mark.parametrize("output", [PICTURE, FILM], ids=["picture", "film"])
def test_a_store_that_refuses_renditions_keeps_what_is_paid_for(
    remote: MediaStore, faults: FaultServer, ledger: Ledger, output: Output
) -> None:
    """Everything but the rendition is stored, the step succeeds, and says what is missing."""
    manifest_written = threading.Event()

    def rule(request: Request) -> Answer | None:
        if request.key.startswith("manifests/") and request.method == "PUT":
            manifest_written.set()
        elif manifest_written.is_set() and "assets/" in request.key:
            return Answer(403, "AccessDenied")
        return None

    faults.rule = rule
    provider = ScriptedProvider(outputs=(output,))
    outcome = run(remote, ledger, step(provider))
    (media,) = outcome.ref.media
    assert media.embedded is None
    assert str(media.not_embedded).startswith("AccessDeniedError: ")
    (row,) = ledger.rows()
    assert row.state is SubmissionState.STORED
    faults.rule = lambda _: None
    assert asyncio.run(check_ref(remote, outcome.ref)).ok
    assert provider.submits == 1


def test_the_next_materialization_makes_what_this_one_could_not(
    remote: MediaStore, faults: FaultServer, ledger: Ledger
) -> None:
    """A failure is not remembered as one: a new run gives both media and rendition."""
    faults.rule = lambda r: (
        Answer(503, "SlowDown") if "/.tmp/rendition." in r.key and r.method == "POST" else None
    )
    provider = ScriptedProvider(outputs=(FILM,))
    first = run(remote, ledger, step(provider))
    assert first.ref.media[0].embedded is None
    faults.rule = lambda _: None
    second = run(remote, ledger, step(provider), target("run-2"))
    assert second.ref.media[0].embedded is not None


def test_a_store_that_recovers_is_tried_again_with_a_copy_of_its_own(
    remote: MediaStore, faults: FaultServer, ledger: Ledger
) -> None:
    """The copies of failed attempts are gone, that of the last one becomes the rendition."""
    refused = iter([Answer(503, "SlowDown")] * 2)
    faults.rule = lambda r: (
        next(refused, None)
        if "x-amz-copy-source" in r.headers and "rendition" not in r.key
        else None
    )
    outcome = run(remote, ledger, step(ScriptedProvider(outputs=(PICTURE, FILM))))
    assert all(media.embedded for media in outcome.ref.media)
    stored = [key for key in faults.visible_keys() if key.startswith("assets/")]
    assert len(stored) == 4
    assert faults.uploads == {}


def test_an_output_that_fails_takes_the_copies_of_the_others_along(
    remote: MediaStore, faults: FaultServer, ledger: Ledger
) -> None:
    """A film is stored, the next output never arrives: nothing staged and no open upload is left."""
    with pytest.raises(OutputError):
        run(remote, ledger, step(ScriptedProvider(outputs=(FILM, Output()))))
    assert faults.uploads == {}
    assert not [key for key in faults.visible_keys() if ".tmp" in key]


def test_a_cancelled_run_records_what_is_paid_for_at_once(
    remote: MediaStore, faults: FaultServer, ledger: Ledger
) -> None:
    """Cancelled while the rendition is made: it is left, reference and ledger are written."""
    provider = ScriptedProvider(outputs=(FILM,))

    def completes_rendition(request: Request) -> bool:
        # The copy that publishes the rendition: the last thing before the reference.
        return "x-amz-copy-source" in request.headers and "rendition" in str(
            request.headers["x-amz-copy-source"]
        )

    async def body(arrived: threading.Event) -> None:
        async with Runner(remote, ledger, retry=QUICK, embed=EmbedPolicy()) as runner:
            work = asyncio.ensure_future(runner.run_step(step(provider), target(), variables=ROW))
            await asyncio.to_thread(arrived.wait, 20)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asyncio.shield(work), 10)

    with held_back(faults, completes_rendition) as arrived:
        asyncio.run(body(arrived))
        (row,) = ledger.rows()
        assert row.state is SubmissionState.STORED
        ref = asyncio.run(read_ref(remote, "image", "fox"))
        assert ref is not None
        assert ref.media[0].not_embedded == "its run was ended before it was made"
    again = run(remote, ledger, step(provider))
    assert again.origin is Origin.FINISHED
    assert provider.submits == 1
