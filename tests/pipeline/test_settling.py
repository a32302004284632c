import asyncio
import json
import stat
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster import MediaStore
from genblaze_dagster.errors import (
    GenblazeError,
    HeldError,
    LedgerError,
    ModelError,
    OutputError,
    StorageError,
    UnsafeUrlError,
)
from genblaze_dagster.ledger.budgets import BudgetScope
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.pipeline.spool import Spool
from genblaze_dagster.providers.protocol import GenerationRequest, Output, Result
from genblaze_dagster.storage.integrity import check_ref
from tests.support.providers import png
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, everything, run, step, target

SOON = datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)
GONE = datetime(2001, 1, 1, tzinfo=UTC)
# Refused by the guard before anything is contacted.
UNREACHABLE = "https://127.0.0.1/output.png?X-Amz-Signature=s3cr3t"
PNG = png("settling")


def only(ledger: Ledger) -> LedgerRow:
    (row,) = ledger.rows()
    return row


@dataclass
class Downloads(ScriptedProvider):
    """Gives other outputs at every fetch; the last ones for good."""

    job: bool = True
    polls: int = 0
    given: list[Output] = field(default_factory=list)
    fetches: int = 0

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        self.fetches += 1
        output = self.given.pop(0) if len(self.given) > 1 else self.given[0]
        return Result((output,), cost_usd=self.cost_usd)


@pytest.mark.parametrize("zone", [UTC, None], ids=["utc", "no-zone"])
def test_how_long_an_output_lasts_is_known_before_it_is_fetched(
    zone: Any, store: MediaStore, ledger: Ledger
) -> None:
    """Cost and expiry of a finished job stand in the ledger although its download failed."""
    late = Output(url=UNREACHABLE, expires_at=SOON + timedelta(days=1))
    soon = Output(url=UNREACHABLE, expires_at=SOON.replace(tzinfo=zone))

    @dataclass
    class Two(Downloads):
        async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
            return Result((late, soon), cost_usd=0.7)

    with pytest.raises(UnsafeUrlError):
        run(store, ledger, step(Two()))
    row = only(ledger)
    assert row.state is SubmissionState.SUCCEEDED
    assert (row.outputs_expire_at, row.cost_usd) == (SOON, 0.7)
    provider = Downloads(given=[Output(data=PNG)])
    assert run(store, ledger, step(provider)).origin is Origin.RESUMED
    assert provider.submits == 0


def test_an_expired_address_is_asked_for_again(store: MediaStore, ledger: Ledger) -> None:
    """A job gives a new address before its output is given up."""
    old = Output(url=UNREACHABLE, expires_at=GONE)
    provider = Downloads(given=[old, Output(data=PNG)])
    outcome = run(store, ledger, step(provider))
    assert provider.fetches == 2
    assert asyncio.run(check_ref(store, outcome.ref)).ok
    assert only(ledger).cost_usd == provider.cost_usd


def test_an_address_is_not_asked_for_for_ever(store: MediaStore, ledger: Ledger) -> None:
    """A vendor that only has expired addresses leaves the job to the next attempt."""
    provider = Downloads(given=[Output(url=UNREACHABLE, expires_at=GONE)])
    with pytest.raises(UnsafeUrlError):
        run(store, ledger, step(provider))
    assert provider.fetches == 5
    assert only(ledger).state is SubmissionState.SUCCEEDED


@pytest.mark.parametrize("job", [False, True], ids=["one-call", "job"])
def test_what_is_paid_and_unusable_is_counted(job: bool, store: MediaStore, ledger: Ledger) -> None:
    """An empty output fails its submission, with what it cost."""
    provider = ScriptedProvider(job=job, outputs=(Output(data=b""),), cost_usd=0.3)
    with pytest.raises(OutputError):
        run(store, ledger, step(provider))
    row = only(ledger)
    assert (row.state, row.cost_usd) == (SubmissionState.FAILED, 0.3)
    assert ledger.spend(BudgetScope.RUN, "run-1").paid_usd == 0.3


@dataclass
class Outage:
    """A store in a folder, which is not there while it is down."""

    folder: Path

    @property
    def store(self) -> MediaStore:
        return MediaStore(self.folder.as_uri())

    def begin(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.folder.write_bytes(b"not a folder")

    def end(self) -> None:
        self.folder.unlink()


@pytest.fixture
def outage(tmp_path: Path) -> Outage:
    down = Outage(tmp_path / "media" / "store")
    down.begin()
    return down


def spooled(ledger: Ledger) -> Path:
    assert ledger.folder is not None
    return ledger.folder / "spool"


def test_a_paid_answer_waits_for_the_store(outage: Outage, ledger: Ledger) -> None:
    """It lies beside the ledger, readable by nobody else, and the next attempt stores it."""
    output = Output(data=PNG, media_type="image/png", facts={"metadata": {"mood": "calm"}})
    provider = ScriptedProvider(outputs=(output, Output(data=png("two"))), cost_usd=0.3)
    with pytest.raises(StorageError):
        run(outage.store, ledger, step(provider))
    row = only(ledger)
    assert row.state is SubmissionState.SUBMITTED
    folder = spooled(ledger) / row.id
    files = list(folder.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, folder.parent)} == {0o700}

    outage.end()
    outcome = run(outage.store, ledger, step(provider), target("run-2"))
    assert outcome.origin is Origin.RESUMED
    assert (provider.submits, only(ledger).cost_usd) == (1, 0.3)
    assert asyncio.run(check_ref(outage.store, outcome.ref)).ok
    made = outcome.manifest.run.steps[-1]
    assert [asset.media_type for asset in made.assets] == ["image/png", "image/png"]
    assert made.assets[0].metadata["mood"] == "calm"
    assert (made.cost_usd, made.model_version) == (0.3, "v1")
    assert "job_id" not in made.provider_payload
    assert list(spooled(ledger).iterdir()) == []
    assert b"spool:" not in asyncio.run(everything(outage.store))


def test_a_long_outage_loses_nothing(outage: Outage, ledger: Ledger) -> None:
    """Attempts during the outage leave the answer where it is."""
    provider = ScriptedProvider()
    for scope in ("run-1", "run-2", "run-3"):
        with pytest.raises(StorageError):
            run(outage.store, ledger, step(provider), target(scope))
    outage.end()
    assert run(outage.store, ledger, step(provider)).origin is Origin.RESUMED
    assert provider.submits == 1


def test_files_of_a_provider_are_copied(outage: Outage, ledger: Ledger, tmp_path: Path) -> None:
    """The provider may remove its own files."""
    file = tmp_path / "made.png"
    file.write_bytes(PNG)
    with pytest.raises(StorageError):
        run(outage.store, ledger, step(ScriptedProvider(outputs=(Output(path=file),))))
    file.unlink()
    outage.end()
    outcome = run(outage.store, ledger, step(ScriptedProvider()))
    assert asyncio.run(outage.store.get(outcome.ref.media[0].key)) == PNG


def test_the_environment_names_the_spool(
    outage: Outage, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GENBLAZE_SPOOL says where; whoever goes on is told by the ledger."""
    monkeypatch.setenv("GENBLAZE_SPOOL", str(tmp_path / "elsewhere"))
    with pytest.raises(StorageError):
        run(outage.store, ledger, step(ScriptedProvider()))
    assert (tmp_path / "elsewhere" / only(ledger).id).is_dir()
    monkeypatch.delenv("GENBLAZE_SPOOL")
    outage.end()
    assert run(outage.store, ledger, step(ScriptedProvider())).origin is Origin.RESUMED


@pytest.mark.parametrize("harm", ["moved", "changed", "cut", "nonsense"])
def test_a_spool_that_is_not_as_it_was_pays_nothing_again(
    harm: str, outage: Outage, ledger: Ledger
) -> None:
    """On another machine, or when its files were touched, the submission stays open and says why."""
    provider = ScriptedProvider()
    with pytest.raises(StorageError):
        run(outage.store, ledger, step(provider))
    outage.end()
    folder = spooled(ledger) / only(ledger).id
    record, aside = folder / "result.json", folder.with_name("aside")
    name = json.loads(record.read_bytes())["outputs"][0]["sha256"]
    whole = (folder / name).read_bytes()
    match harm:
        case "moved":
            folder.rename(aside)
        case "changed":
            (folder / name).write_bytes(whole[::-1])
        case "cut":
            (folder / name).write_bytes(whole[:-1])
        case _:
            record.write_bytes(b"[1]")
    with pytest.raises(LedgerError, match="cancel it in the ledger"):
        run(outage.store, ledger, step(provider))
    assert only(ledger).state is SubmissionState.SUBMITTED
    assert provider.submits == 1
    if harm == "moved":
        aside.rename(folder)
        assert run(outage.store, ledger, step(provider)).origin is Origin.RESUMED


def test_a_kept_answer_that_proves_unusable_is_removed(outage: Outage, ledger: Ledger) -> None:
    """Its submission has failed, with what it cost, and the next attempt pays again."""
    # Its size shows only when it is stored.
    provider = ScriptedProvider(outputs=(Output(data=b""),), cost_usd=0.3)
    with pytest.raises(StorageError):
        run(outage.store, ledger, step(provider))
    outage.end()
    with pytest.raises(OutputError):
        run(outage.store, ledger, step(provider))
    assert (only(ledger).state, only(ledger).cost_usd) == (SubmissionState.FAILED, 0.3)
    assert list(spooled(ledger).iterdir()) == []


def test_a_full_spool_holds(outage: Outage, ledger: Ledger, tmp_path: Path) -> None:
    """What there is no room for is held as before, and no half of it stays on the disk."""
    provider = ScriptedProvider(size=10_000)

    async def body() -> None:
        spool = Spool(tmp_path / "small", most_bytes=5_000)
        async with Runner(outage.store, ledger, retry=QUICK, spool=spool) as runner:
            await runner.run_step(step(provider), target(), variables=ROW)

    with pytest.raises(StorageError):
        asyncio.run(body())
    assert list((tmp_path / "small").iterdir()) == []
    with pytest.raises(HeldError):
        asyncio.run(body())
    assert provider.submits == 1


def test_jobs_are_not_spooled(outage: Outage, ledger: Ledger) -> None:
    """A job can be asked for its outputs again."""
    provider = ScriptedProvider(job=True)
    with pytest.raises(StorageError):
        run(outage.store, ledger, step(provider))
    assert not spooled(ledger).exists()
    outage.end()
    assert run(outage.store, ledger, step(provider)).origin is Origin.RESUMED


@pytest.mark.parametrize("error", [ModelError("bad"), ModelError("bad", sent=False)])
def test_failures_of_the_vendor_are_not_spooled(
    error: Exception, outage: Outage, ledger: Ledger
) -> None:
    """There is nothing to keep of a submit that failed."""
    with pytest.raises(GenblazeError):
        run(outage.store, ledger, step(ScriptedProvider(submit_errors=[error])))
    assert not spooled(ledger).exists()


PHASES = ("submit", "poll", "fetch")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("confirms", [True, False], ids=["stopped", "goes-on"])
def test_a_cancellation_in_any_phase_is_recorded(
    phase: str, confirms: bool, store: MediaStore, ledger: Ledger
) -> None:
    """An accepted job is stopped at the vendor, and resumed later when the vendor cannot."""
    reached = asyncio.Event()

    @dataclass
    class Stopping(ScriptedProvider):
        stuck: bool = True

        async def _maybe(self, here: str) -> None:
            if here == phase and self.stuck:
                reached.set()
                await asyncio.sleep(0.05 if here == "submit" else 60)

        async def submit(self, request: GenerationRequest):
            await self._maybe("submit")
            return await super().submit(request)

        async def poll(self, job_id: str, request: GenerationRequest):
            await self._maybe("poll")
            return await super().poll(job_id, request)

        async def fetch_output(self, job_id: str, request: GenerationRequest):
            await self._maybe("fetch")
            return await super().fetch_output(job_id, request)

        async def cancel(self, job_id: str) -> bool:
            await super().cancel(job_id)
            return confirms

    provider = Stopping(job=True, polls=0)

    async def body() -> None:
        async with Runner(store, ledger, retry=QUICK) as runner:
            task = asyncio.create_task(runner.run_step(step(provider), target(), variables=ROW))
            await asyncio.wait_for(reached.wait(), 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(body())
    assert len(provider.cancelled) == 1
    row = only(ledger)
    if confirms:
        assert (row.state, row.error_code) == (SubmissionState.FAILED, "cancelled")
    else:
        assert (row.state, row.owner) == (SubmissionState.SUBMITTED, None)
    provider.stuck = False
    begun = time.monotonic()
    outcome: StepOutcome = run(store, ledger, step(provider), target("run-2"))
    # A lease that was left behind would last a minute and more.
    assert time.monotonic() - begun < 50
    assert outcome.origin is (Origin.GENERATED if confirms else Origin.RESUMED)
