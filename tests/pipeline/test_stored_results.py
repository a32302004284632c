"""A process that died between its manifest and its reference leaves everything that is needed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from genblaze_dagster import MediaStore
from genblaze_dagster.core.enums import RunStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run
from genblaze_dagster.errors import HeldError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import Intent, LedgerRow, SubmissionState
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome
from genblaze_dagster.pipeline.stored_results import stored_result
from genblaze_dagster.storage.keys import KeyStrategy
from genblaze_dagster.storage.refs import read_ref, ref_key
from tests.support.scripted import ScriptedProvider
from tests.support.steps import run, step, target


@pytest.fixture(params=list(KeyStrategy))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MediaStore:
    return MediaStore(f"file://{tmp_path / 'store'}", key_strategy=request.param)


def forget_reference(store: MediaStore, outcome: StepOutcome) -> None:
    asyncio.run(store.delete(ref_key(outcome.ref.asset_key, outcome.ref.partition_key)))


def died(
    ledger: Ledger, outcome: StepOutcome, *, owned: bool = True, tenant: str | None = None
) -> LedgerRow:
    """The ledger of a process that died while it stored the answer of its one call."""
    ids = iter([outcome.ref.run_id, outcome.ref.step_id])
    intent = Intent(
        "image", "fox", "run-1", outcome.ref.generation_key, "scripted", "m", tenant_id=tenant
    )
    claim = ledger.claim(
        intent, owner="dead", lease_seconds=0.001, new_run_id=lambda: next(ids)
    ).submission
    sent = ledger.mark_sending(claim.id, "dead")
    return sent if owned else ledger.release(claim.id, "dead")


def only(ledger: Ledger) -> LedgerRow:
    (row,) = ledger.rows()
    return row


@pytest.mark.parametrize("scope", ["run-1", "run-2"])
@pytest.mark.parametrize("owned", [True, False], ids=["killed", "gave-up"])
@pytest.mark.parametrize("tenant", [None, "acme"])
def test_a_manifest_without_a_reference_is_taken(
    tenant: str | None,
    owned: bool,
    scope: str,
    store: MediaStore,
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    """The reference is written as it would have been, the cost is booked, and nothing is sent."""
    provider = ScriptedProvider(cost_usd=0.5)
    outcome = run(store, ledger, step(provider), target(tenant_id=tenant))
    forget_reference(store, outcome)
    with Ledger(tmp_path / "other.db") as other:
        died(other, outcome, owned=owned, tenant=tenant)
        taken = run(store, other, step(provider), target(scope, tenant_id=tenant))
        assert (taken.origin, taken.ref) == (Origin.FINISHED, outcome.ref)
        row = only(other)
        assert (row.state, row.cost_usd) == (SubmissionState.STORED, 0.5)
    assert asyncio.run(read_ref(store, "image", "fox")) == outcome.ref
    assert provider.submits == 1


def test_a_manifest_beside_a_failed_one_is_taken(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """The run's own id was taken by the record of its failure: what was made lies beside it."""
    taken = "01936d2e-0000-7000-8000-000000000000"
    failed = Manifest.from_run(Run(run_id=taken, status=RunStatus.FAILED))
    key = store.layout.manifest_key(taken, created_at=datetime.now(UTC))
    asyncio.run(store.put(key, failed.to_canonical_json().encode(), media_type=None))
    provider = ScriptedProvider()
    outcome = run(store, ledger, step(provider), target(run_id=taken))
    assert outcome.ref.run_id != taken
    forget_reference(store, outcome)
    with Ledger(tmp_path / "other.db") as other:
        died(other, replace(outcome, ref=replace(outcome.ref, run_id=taken)))
        found = run(store, other, step(provider), target(run_id=taken))
        assert (found.origin, found.ref) == (Origin.FINISHED, outcome.ref)
    assert provider.submits == 1


def test_a_row_that_is_held_since_long_is_taken_by_another_run(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Also when another run was told before that the row is held: it is not paid again."""
    provider = ScriptedProvider()
    outcome = run(store, ledger, step(provider))
    forget_reference(store, outcome)
    with Ledger(tmp_path / "other.db") as other:
        row = died(other, outcome)
        other.failed(row.id, "dead", code=None, message="lost", sent=None)
        taken = run(store, other, step(provider), target("run-2"))
        assert taken.ref == outcome.ref
        assert only(other).state is SubmissionState.STORED
    assert provider.submits == 1


def delete_bytes(store: MediaStore, outcome: StepOutcome) -> None:
    asyncio.run(store.delete(outcome.ref.media[0].key))


def cut_bytes(store: MediaStore, outcome: StepOutcome) -> None:
    asyncio.run(store.put(outcome.ref.media[0].key, b"cut", media_type="image/png"))


def delete_manifest(store: MediaStore, outcome: StepOutcome) -> None:
    asyncio.run(store.delete(outcome.ref.manifest_key))


def change_manifest(store: MediaStore, outcome: StepOutcome) -> None:
    key = outcome.ref.manifest_key
    told = asyncio.run(store.get(key))
    asyncio.run(store.put(key, told.replace(b"a fox", b"a dog"), media_type="application/json"))


DAMAGE: dict[str, Callable[[MediaStore, StepOutcome], None]] = {
    "bytes-gone": delete_bytes,
    "bytes-cut": cut_bytes,
    "manifest-gone": delete_manifest,
    "manifest-changed": change_manifest,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_held(
    damage: str, store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """A manifest proves nothing without its bytes, and neither does one that was changed."""
    provider = ScriptedProvider()
    outcome = run(store, ledger, step(provider))
    forget_reference(store, outcome)
    DAMAGE[damage](store, outcome)
    with Ledger(tmp_path / "other.db") as other:
        died(other, outcome)
        with pytest.raises(HeldError):
            run(store, other, step(provider))
        assert only(other).state is SubmissionState.HELD
    assert provider.submits == 1


def test_media_of_an_attempt_before_is_not_taken_for_this_one(
    store: MediaStore, ledger: Ledger
) -> None:
    """An attempt that was given up may have written a manifest: that says nothing of the next."""
    outcome = run(store, ledger, step(ScriptedProvider()))
    forget_reference(store, outcome)
    row = only(ledger)
    later = replace(row, attempt=2, sending_at=datetime.now(UTC) + timedelta(seconds=1))
    assert asyncio.run(stored_result(store, later)) is None
    before = replace(row, attempt=2)
    assert asyncio.run(stored_result(store, before)) == outcome.ref


def test_a_manifest_of_another_step_is_not_taken(store: MediaStore, ledger: Ledger) -> None:
    """The manifest of a run is that of a submission only if its last step is."""
    outcome = run(store, ledger, step(ScriptedProvider()))
    forget_reference(store, outcome)
    row = only(ledger)
    for other in (replace(row, step_id="another"), replace(row, model="another")):
        assert asyncio.run(stored_result(store, other)) is None


def test_a_reference_to_other_media_is_replaced(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """Asset and partition had media before: the run that is carried on has newer."""
    before = run(store, ledger, step(ScriptedProvider(), prompt="before"), target("run-0"))
    provider = ScriptedProvider()
    outcome = run(store, ledger, step(provider))
    assert outcome.manifest.run.parent_run_id == before.ref.run_id
    with Ledger(tmp_path / "other.db") as other:
        died(other, outcome)
        run(store, ledger, step(ScriptedProvider(), prompt="before"), target("run-0"))
        assert asyncio.run(read_ref(store, "image", "fox")) == before.ref
        assert run(store, other, step(provider)).ref == outcome.ref
    assert asyncio.run(read_ref(store, "image", "fox")) == outcome.ref
