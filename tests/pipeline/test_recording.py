import asyncio
import hashlib
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from genblaze_dagster.core.enums import Modality, PromptVisibility, RunStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import (
    ConflictError,
    IntegrityError,
    ManifestError,
    NotFoundError,
    OutputError,
    ProviderTimeoutError,
    SchemaError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline import recording
from genblaze_dagster.pipeline.outcome import Origin, Target
from genblaze_dagster.pipeline.recording import Previous, record_ids
from genblaze_dagster.providers.protocol import Output
from genblaze_dagster.storage.integrity import check_ref
from genblaze_dagster.storage.manifests import manifest_keys, read_manifest
from genblaze_dagster.storage.refs import ref_key, write_ref
from genblaze_dagster.storage.store import MediaStore
from tests.support.scripted import ScriptedProvider
from tests.support.steps import everything, run, step

TAKEN = "01936d2e-0000-7000-8000-000000000000"


class DyingLedger(Ledger):
    """Fails in the place where a killed process would have stopped."""

    dying = True

    def stored(self, *args: object, **kwargs: object) -> None:
        if self.dying:
            raise ProviderTimeoutError("stand-in for a dead process")
        super().stored(*args, **kwargs)  # type: ignore[arg-type]


def test_private_prompts_are_nowhere_in_the_store_or_ledger(
    store: MediaStore, ledger: Ledger
) -> None:
    """Only the SHA-256 of a prompt that is not public is recorded."""
    provider = ScriptedProvider()
    spec = step(provider, prompt="the secret {subject}", prompt_visibility=PromptVisibility.PRIVATE)
    outcome = run(store, ledger, spec)
    assert b"the secret" not in asyncio.run(everything(store))
    assert "the secret" not in repr(list(ledger.rows()))
    recorded = outcome.manifest.run.steps[-1]
    assert recorded.prompt is None
    assert recorded.metadata["prompt_sha256"] == hashlib.sha256(b"the secret fox").hexdigest()
    assert outcome.manifest.verify()


def test_a_manifest_carries_the_steps_that_led_to_it(store: MediaStore, ledger: Ledger) -> None:
    """Upstream steps come first and once each; inputs are linked by sha256."""
    provider = ScriptedProvider()
    image = run(store, ledger, step(provider))
    edited = run(
        store,
        ledger,
        step(provider, name="edit", prompt="edit"),
        Target("edit", "fox", "run-1"),
        inputs=(image.ref,),
    )
    video = run(
        store,
        ledger,
        step(provider, name="video", prompt="video", modality=Modality.VIDEO),
        Target("video", "fox", "run-1"),
        inputs=(image.ref, edited.ref),
    )
    steps = video.manifest.run.steps
    assert [s.step_id for s in steps] == [image.ref.step_id, edited.ref.step_id, video.ref.step_id]
    assert [s.step_index for s in steps] == [0, 1, 2]
    assert [a.sha256 for a in steps[2].inputs] == [
        image.ref.media[0].sha256,
        edited.ref.media[0].sha256,
    ]
    assert [s.step_id for s in steps if s.run_id == video.ref.run_id] == [video.ref.step_id]
    assert video.manifest.verify()


def test_a_tampered_input_manifest_stops_the_step(store: MediaStore, ledger: Ledger) -> None:
    """Provenance is only passed on when it verifies."""
    provider = ScriptedProvider()
    image = run(store, ledger, step(provider))
    text = asyncio.run(store.get(image.ref.manifest_key)).replace(b"a fox", b"a cat")
    asyncio.run(store.put(image.ref.manifest_key, text, media_type="application/json"))
    with pytest.raises(ManifestError):
        run(store, ledger, step(provider, name="v"), Target("v", "fox", "r"), inputs=(image.ref,))
    asyncio.run(store.delete(image.ref.manifest_key))
    with pytest.raises(NotFoundError):
        run(store, ledger, step(provider, name="v"), Target("v", "fox", "r"), inputs=(image.ref,))
    assert provider.submits == 1


def test_a_reference_to_another_manifest_is_an_integrity_error(
    store: MediaStore, ledger: Ledger
) -> None:
    """A reference whose hash is not that of its manifest is refused."""
    from dataclasses import replace

    provider = ScriptedProvider()
    image = run(store, ledger, step(provider))
    wrong = replace(image.ref, canonical_hash="0" * 64)
    with pytest.raises(IntegrityError, match="materialise"):
        run(store, ledger, step(provider, name="v"), Target("v", "fox", "r"), inputs=(wrong,))


def test_a_run_that_died_before_its_ledger_entry_writes_the_same_manifest(
    store: MediaStore, tmp_path: Path
) -> None:
    """After manifest and reference are written but the ledger is not, a repeat adds nothing."""

    book = DyingLedger(f"sqlite:///{tmp_path / 'dying.db'}")
    provider = ScriptedProvider(job=True)
    with pytest.raises(ProviderTimeoutError):
        run(store, book, step(provider))
    before = asyncio.run(everything(store))
    book.dying = False
    outcome = run(store, book, step(provider))
    assert outcome.origin is Origin.RESUMED
    assert provider.submits == 1
    after = asyncio.run(everything(store))
    assert sorted(k for k in before.split(b"\n")) != []
    assert before.count(b"manifests/") == after.count(b"manifests/")
    assert asyncio.run(check_ref(store, outcome.ref)).ok
    book.close()


def test_other_media_under_the_same_run_id_is_kept_beside_it(
    store: MediaStore, tmp_path: Path
) -> None:
    """A repeat that gives other bytes gets a run id of its own; the first manifest stays."""

    book = DyingLedger(f"sqlite:///{tmp_path / 'dying.db'}")
    provider = ScriptedProvider(job=True)
    with pytest.raises(ProviderTimeoutError):
        run(store, book, step(provider))
    book.dying = False
    provider.outputs = (Output(data=b"other bytes", media_type="image/png"),)
    outcome = run(store, book, step(provider))
    parent = outcome.manifest.run.parent_run_id
    assert parent is not None
    assert asyncio.run(read_manifest(store, parent)).verify()
    assert asyncio.run(check_ref(store, outcome.ref)).ok
    book.close()


def parents(store: MediaStore, run_id: str) -> list[str]:
    """Return the run ids that a run's record leads to."""

    async def body() -> list[str]:
        found: list[str] = []
        parent: str | None = run_id
        while parent is not None:
            parent = (await read_manifest(store, parent)).run.parent_run_id
            found += [] if parent is None else [parent]
        return found

    return asyncio.run(body())


def test_other_media_beside_a_dead_attempt_keeps_the_way_to_earlier_media(
    store: MediaStore, tmp_path: Path
) -> None:
    """The record that the dead attempt left is between the media of now and that of before."""
    book = DyingLedger(f"sqlite:///{tmp_path / 'dying.db'}")
    book.dying = False
    provider = ScriptedProvider(job=True)
    first = run(store, book, step(provider)).ref
    target = Target(first.asset_key, first.partition_key, "run-2")
    book.dying = True
    with pytest.raises(ProviderTimeoutError):
        run(store, book, step(provider), target)
    # It died before the reference was written.
    asyncio.run(write_ref(store, first))
    book.dying = False
    provider.outputs = (Output(data=b"other bytes", media_type="image/png"),)
    outcome = run(store, book, step(provider), target)
    found = parents(store, outcome.ref.run_id)
    assert len(found) == 2
    assert found[1] == first.run_id
    book.close()


@pytest.mark.parametrize("recorded", [b"", b"{}"], ids=["as failed", "as nothing one can read"])
def test_a_run_id_that_is_taken_keeps_the_way_to_earlier_media(
    recorded: bytes, store: MediaStore, ledger: Ledger
) -> None:
    """The record of a failed run leads nowhere: what it hides is the parent, and it stays."""
    provider = ScriptedProvider()
    first = run(store, ledger, step(provider)).ref
    key = store.layout.manifest_key(TAKEN, created_at=datetime.now(UTC), tenant_id=None)
    failed = Run(run_id=TAKEN, status=RunStatus.FAILED)
    taken = recorded or Manifest.from_run(failed).to_canonical_json().encode()
    asyncio.run(store.put(key, taken, media_type=None))
    target = Target(first.asset_key, first.partition_key, "run-2", run_id=TAKEN)
    outcome = run(store, ledger, step(provider), target)
    assert outcome.ref.run_id != TAKEN
    assert outcome.manifest.run.steps[-1].run_id == outcome.ref.run_id
    assert parents(store, outcome.ref.run_id) == [first.run_id]
    assert asyncio.run(store.get(key)) == taken


def test_a_first_run_that_had_failed_is_the_parent_of_the_one_that_did_not(
    store: MediaStore, ledger: Ledger
) -> None:
    """There is no earlier media: the record of the failure is all that came before."""
    key = store.layout.manifest_key(TAKEN, created_at=datetime.now(UTC), tenant_id=None)
    failed = Manifest.from_run(Run(run_id=TAKEN, status=RunStatus.FAILED))
    asyncio.run(store.put(key, failed.to_canonical_json().encode(), media_type=None))
    target = Target("image", "fox", "run-1", run_id=TAKEN)
    outcome = run(store, ledger, step(ScriptedProvider()), target)
    assert parents(store, outcome.ref.run_id) == [TAKEN]


def test_a_record_beside_another_is_not_written_twice(store: MediaStore, tmp_path: Path) -> None:
    """Whoever repeats it after a crash finds it: no record is left that no reference leads to."""
    key = store.layout.manifest_key(TAKEN, created_at=datetime.now(UTC), tenant_id=None)
    failed = Manifest.from_run(Run(run_id=TAKEN, status=RunStatus.FAILED))
    asyncio.run(store.put(key, failed.to_canonical_json().encode(), media_type=None))
    target = Target("image", "fox", "run-1", run_id=TAKEN)
    book = DyingLedger(f"sqlite:///{tmp_path / 'dying.db'}")
    provider = ScriptedProvider(job=True)
    with pytest.raises(ProviderTimeoutError):
        run(store, book, step(provider), target)
    asyncio.run(store.delete(ref_key("image", "fox")))
    book.dying = False
    outcome = run(store, book, step(provider), target)
    assert outcome.ref.run_id == record_ids(TAKEN)[1]
    assert parents(store, outcome.ref.run_id) == [TAKEN]

    async def records() -> int:
        return len([found async for found in manifest_keys(store)])

    assert asyncio.run(records()) == 2
    book.close()


@pytest.mark.parametrize("run_id", [TAKEN, str(uuid.UUID(int=2**128 - 1)), "mine"])
def test_the_id_of_a_record_beside_another_follows_from_that_one(run_id: str) -> None:
    """It is a UUID whatever the first was, never the same, and sorts behind one with a time."""
    ids = record_ids(run_id)
    assert ids == record_ids(run_id)
    assert ids[0] == run_id
    assert len(set(ids)) == len(ids) > 5
    assert [str(uuid.UUID(beside)) for beside in ids[1:]] == ids[1:]
    assert {uuid.UUID(beside).variant for beside in ids[1:]} == {uuid.RFC_4122}
    timed = record_ids(TAKEN)
    assert timed == sorted(timed)
    assert {uuid.UUID(each).version for each in timed} == {7}


def test_a_store_that_has_something_under_every_key_is_given_up(
    store: MediaStore, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids beside a taken one come to an end, and the error is that of the last."""
    asked: list[str] = []

    async def taken(_: MediaStore, manifest: Manifest) -> str:
        asked.append(manifest.run.run_id)
        raise ConflictError("taken")

    monkeypatch.setattr(recording, "write_manifest", taken)
    with pytest.raises(ConflictError):
        run(store, ledger, step(ScriptedProvider()), Target("image", "fox", "r", run_id=TAKEN))
    ids = record_ids(TAKEN)
    assert asked[: len(ids)] == ids
    assert set(asked) == set(ids)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.9, "before"), (1.1, "meanwhile")], ids=["short", "long"]
)
def test_what_a_step_replaces_is_what_is_there_in_the_end(
    seconds: float,
    expected: str,
    store: MediaStore,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read while the bytes go up, and once more when that took long."""
    ref = run(store, ledger, step(ScriptedProvider())).ref
    target = Target(ref.asset_key, ref.partition_key, "run-2")
    now = 100.0
    monkeypatch.setattr(recording, "time", SimpleNamespace(monotonic=lambda: now))

    async def body() -> str:
        nonlocal now
        await write_ref(store, replace(ref, run_id="before"))
        async with Previous(store, target) as previous:
            # The read is over before anything else is written.
            assert await previous.ref() is not None
            await write_ref(store, replace(ref, run_id="meanwhile"))
            now += seconds
            found = await previous.ref()
        assert found is not None
        return found.run_id

    assert asyncio.run(body()) == expected


def test_a_store_that_is_back_after_the_upload_is_asked_again(
    store: MediaStore, ledger: Ledger
) -> None:
    """A reference that could not be read when the upload began fails nothing by that."""
    ref = run(store, ledger, step(ScriptedProvider())).ref
    key = ref_key(ref.asset_key, ref.partition_key)
    target = Target(ref.asset_key, ref.partition_key, "run-2")

    async def body() -> MediaRef | None:
        await store.put(key, b"{", media_type=None)
        async with Previous(store, target) as previous:
            with pytest.raises(SchemaError):
                await previous.ref()
            await write_ref(store, ref)
            return await previous.ref()

    assert asyncio.run(body()) == ref


def test_an_upload_that_fails_leaves_no_reading_behind(store: MediaStore) -> None:
    """The read is given up with the block, whatever becomes of it."""

    async def body() -> int:
        with pytest.raises(OutputError):
            async with Previous(store, Target("a", None, "s")):
                raise OutputError("nothing came")
        return len(asyncio.all_tasks())

    assert asyncio.run(body()) == 1
