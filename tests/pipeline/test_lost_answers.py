import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.errors import (
    HeldError,
    PipelineError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from genblaze_dagster.ledger.budgets import BudgetScope
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import Intent, LedgerRow, SubmissionState
from genblaze_dagster.pipeline.events import StepEvent
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import FoundJobs, GenerationRequest, Submission
from genblaze_dagster.providers.retry import RetryPolicy
from tests.pipeline.conftest import SteadyClock
from tests.support.leases import end_leases
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, step, target

LOST = ProviderUnavailableError("connection reset", sent=None)


@dataclass
class Listing(ScriptedProvider):
    """A vendor that lists its jobs, and loses answers on the way.

    `arrives` says of each lost submit whether the vendor had got it; `shows_after` how many looks
    its list lags behind; `is_complete` whether it is certain of its list.
    """

    job: bool = True
    polls: int = 0
    lost: list[bool] = field(default_factory=list)
    shows_after: int = 0
    is_complete: bool = True
    foreign: list[str] = field(default_factory=list)
    looks: list[tuple[str, datetime]] = field(default_factory=list)
    look_errors: list[Exception] = field(default_factory=list)
    delay_looks: float = 0.0
    jobs: dict[str, GenerationRequest] = field(default_factory=dict)

    async def submit(self, request: GenerationRequest) -> Submission:
        if not self.lost:
            return await self._accept(request)
        if self.lost.pop(0):
            await self._accept(request)
        else:
            self.submits += 1
        raise LOST

    async def _accept(self, request: GenerationRequest) -> Submission:
        accepted = await super().submit(request)
        assert accepted.job_id is not None
        # Not to be told from others by its name.
        job_id = f"vendor-{len(self.jobs)}"
        self.jobs[job_id] = request
        return replace(accepted, job_id=job_id)

    async def find_jobs(self, request: GenerationRequest, *, since: datetime) -> FoundJobs:
        self.looks.append((request.idempotency_key, since))
        await asyncio.sleep(self.delay_looks)
        if self.look_errors:
            raise self.look_errors.pop(0)
        if len(self.looks) <= self.shows_after:
            return FoundJobs((), False)
        return FoundJobs((*self.jobs, *self.foreign), self.is_complete)


def run(
    store: MediaStore,
    ledger: Ledger,
    provider: ScriptedProvider,
    where: Any = None,
    *,
    events: list[StepEvent] | None = None,
    on_ambiguous: str = "hold",
    **options: Any,
) -> StepOutcome:
    async def body() -> StepOutcome:
        async with Runner(
            store,
            ledger,
            retry=QUICK,
            on_event=None if events is None else events.append,
            on_ambiguous=on_ambiguous,
            look_after=(0.01, 0.02, 0.02),
        ) as runner:
            return await runner.run_step(
                step(provider, **options), where or target(), variables=ROW
            )

    return asyncio.run(body())


def only(ledger: Ledger) -> LedgerRow:
    (row,) = ledger.rows()
    return row


def test_a_job_whose_answer_was_lost_is_found_and_resumed(
    store: MediaStore, ledger: Ledger
) -> None:
    """The vendor has exactly one job that nobody knows: it is ours, and nothing is sent again."""
    provider = Listing(lost=[True])
    events: list[StepEvent] = []
    begun = datetime.now(UTC)
    outcome = run(store, ledger, provider, events=events)
    assert outcome.origin is Origin.RESUMED
    assert (len(provider.billed), provider.submits) == (1, 1)
    row = only(ledger)
    assert (row.state, row.job_id, row.attempt) == (SubmissionState.STORED, "vendor-0", 1)
    key, since = provider.looks[0]
    assert key == row.run_id
    assert begun - timedelta(minutes=2) < since < datetime.now(UTC)
    said = [event.detail for event in events if event.detail and "lost answer" in event.detail]
    assert said == [
        "lost answer: looking for the job at the vendor",
        "lost answer: the job was found at the vendor",
    ]


def test_a_list_that_lags_is_looked_at_again(store: MediaStore, ledger: Ledger) -> None:
    """An empty first answer proves nothing."""
    provider = Listing(lost=[True], shows_after=1)
    assert run(store, ledger, provider).origin is Origin.RESUMED
    assert len(provider.billed) == 1
    assert len(provider.looks) == 3


def test_jobs_of_other_submissions_are_left_out(store: MediaStore, ledger: Ledger) -> None:
    """What the ledger knows belongs to somebody else, also when it asks the very same."""
    provider = Listing()
    run(store, ledger, provider, target(partition="first"))
    provider.lost = [True]
    run(store, ledger, provider, target(partition="second"))
    jobs = [row.job_id for row in ledger.rows()]
    assert jobs == ["vendor-0", "vendor-1"]


def test_a_submit_that_never_arrived_is_sent_again(store: MediaStore, ledger: Ledger) -> None:
    """The vendor is certain that there is no job: nothing was sent, and that attempt is recorded."""
    provider = Listing(lost=[False])
    events: list[StepEvent] = []
    outcome = run(store, ledger, provider, events=events)
    assert outcome.origin is Origin.GENERATED
    assert (len(provider.billed), provider.submits) == (1, 2)
    row = only(ledger)
    assert (row.state, row.attempt) == (SubmissionState.STORED, 2)
    assert len(ledger.past_attempts(row.id)) == 1
    assert any("no such job" in (event.detail or "") for event in events)
    assert ledger.spend(BudgetScope.RUN, "run-1").total_usd == provider.cost_usd


def test_a_submit_that_never_arrived_is_not_retried_against_the_policy(
    store: MediaStore, ledger: Ledger
) -> None:
    """Without retries the step fails as what it is, and the next attempt may submit."""
    provider = Listing(lost=[False])
    with pytest.raises(ProviderUnavailableError):
        run(store, ledger, provider, retry=RetryPolicy.disabled())
    assert only(ledger).state is SubmissionState.FAILED
    assert run(store, ledger, provider).origin is Origin.GENERATED
    assert len(provider.billed) == 1


def test_submits_that_never_arrive_end_with_the_policy(store: MediaStore, ledger: Ledger) -> None:
    """A vendor that loses every submit is not asked for ever."""
    provider = Listing(lost=[False] * 20)
    with pytest.raises((ProviderUnavailableError, HeldError)):
        run(store, ledger, provider)
    assert provider.submits <= QUICK.max_attempts + 1


@pytest.mark.parametrize(
    "doubt",
    [
        {"is_complete": False, "lost": [False]},
        {"lost": [True], "foreign": ["somebody-elses"]},
        {"lost": [True], "look_errors": [LOST] * 9},
        {"lost": [True], "look_errors": [KeyError("jobs")] * 9},
        {"lost": [True], "foreign": [str(index) for index in range(2000)]},
    ],
    ids=["uncertain", "two-candidates", "unreachable", "adapter-bug", "endless-list"],
)
def test_in_doubt_it_is_held(doubt: dict[str, Any], store: MediaStore, ledger: Ledger) -> None:
    """Only a certain answer leads on; everything else is a person's to decide."""
    provider = Listing(**doubt)
    with pytest.raises(HeldError):
        run(store, ledger, provider)
    assert only(ledger).state is SubmissionState.HELD
    assert provider.submits == 1


def test_a_vendor_that_cannot_look_is_not_asked(store: MediaStore, ledger: Ledger) -> None:
    """Without `find_jobs` a lost answer is held at once."""
    with pytest.raises(HeldError):
        run(store, ledger, ScriptedProvider(submit_errors=[LOST]))
    assert only(ledger).state is SubmissionState.HELD


def left_behind(ledger: Ledger, store: MediaStore, provider: Listing) -> None:
    """A process sends a request and dies before it hears the answer."""

    @dataclass
    class Dies(Listing):
        async def submit(self, request: GenerationRequest) -> Submission:
            provider.jobs["vendor-0"] = request
            provider.billed.append(request.prompt)
            raise SystemExit

    try:
        run(store, ledger, Dies())
    except SystemExit:
        assert ledger.folder is not None
        end_leases(ledger.folder / "ledger.db")
        return
    raise AssertionError("it should have died")


def test_what_a_dead_process_had_sent_is_looked_up(store: MediaStore, ledger: Ledger) -> None:
    """The row of a dead process is not held when the vendor can say what became of it."""
    provider = Listing()
    left_behind(ledger, store, provider)
    row = only(ledger)
    assert row.state is SubmissionState.INTENDED
    assert row.sending_at is not None
    outcome = run(store, ledger, provider, target("run-2"))
    assert outcome.origin is Origin.RESUMED
    assert (provider.submits, len(provider.billed)) == (0, 1)
    assert provider.looks[0][0] == row.run_id


def test_what_is_held_since_long_is_looked_up_by_the_next_attempt(
    store: MediaStore, ledger: Ledger
) -> None:
    """A vendor that is reachable again settles what was held."""
    provider = Listing(lost=[True], look_errors=[LOST] * 3)
    with pytest.raises(HeldError):
        run(store, ledger, provider)
    assert run(store, ledger, provider).origin is Origin.RESUMED
    assert len(provider.billed) == 1


def test_two_that_look_at_once_resume_once(store: MediaStore, ledger: Ledger) -> None:
    """Whoever comes second goes by what the first has decided."""
    provider = Listing(lost=[True], look_errors=[LOST] * 3)
    with pytest.raises(HeldError):
        run(store, ledger, provider)

    async def body() -> list[StepOutcome]:
        async with (
            Runner(store, ledger, retry=QUICK, look_after=(0.01, 0.01)) as one,
            Runner(store, ledger, retry=QUICK, look_after=(0.01, 0.01)) as two,
        ):
            return await asyncio.gather(
                *(r.run_step(step(provider), target(), variables=ROW) for r in (one, two))
            )

    outcomes = asyncio.run(body())
    assert len({outcome.ref.run_id for outcome in outcomes}) == 1
    assert len(provider.billed) == 1


def dead_after_storing(ledger: Ledger, outcome: StepOutcome, lease_seconds: float) -> None:
    """The ledger of a process that died between the reference and the last ledger write."""
    ids = iter([outcome.ref.run_id, outcome.ref.step_id])
    intent = Intent("image", "fox", "run-1", outcome.ref.generation_key, "scripted", "m")
    claim = ledger.claim(
        intent, owner="dead", lease_seconds=lease_seconds, new_run_id=lambda: next(ids)
    )
    ledger.mark_sending(claim.submission.id, "dead")


def test_what_is_stored_already_is_not_held(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """A process that died before it could say so had stored everything: that is taken, and paid."""
    provider = ScriptedProvider(cost_usd=0.5)
    outcome = run(store, ledger, provider)
    with Ledger(tmp_path / "other.db") as other:
        dead_after_storing(other, outcome, 0.001)
        taken = run(store, other, provider)
        assert (taken.origin, taken.ref) == (Origin.FINISHED, outcome.ref)
        row = only(other)
        assert (row.state, row.cost_usd) == (SubmissionState.STORED, 0.5)
    assert provider.submits == 1


def test_a_result_that_is_not_whole_is_held(
    store: MediaStore, ledger: Ledger, tmp_path: Path
) -> None:
    """A reference to media that is gone proves nothing."""
    provider = ScriptedProvider()
    outcome = run(store, ledger, provider)
    asyncio.run(store.delete(outcome.ref.media[0].key))
    with Ledger(tmp_path / "other.db") as other:
        dead_after_storing(other, outcome, 0.001)
        with pytest.raises(HeldError):
            run(store, other, provider)
    assert provider.submits == 1


def test_a_timeout_looks_up_what_it_left_and_ends(
    store: MediaStore, ledger: Ledger, steady_clock: SteadyClock
) -> None:
    """The step's time is over, so it fails; the next attempt resumes what was found."""

    @dataclass
    class Hangs(Listing):
        async def submit(self, request: GenerationRequest) -> Submission:
            accepted = await super().submit(request)
            if len(self.jobs) == 1:
                # Its answer is not heard any more.
                steady_clock.skip(400)
                await asyncio.sleep(0.05)
                raise asyncio.CancelledError
            return accepted

    provider = Hangs()
    with pytest.raises(ProviderTimeoutError):
        run(store, ledger, provider, timeout=300)
    assert (only(ledger).state, only(ledger).job_id) == (SubmissionState.SUBMITTED, "vendor-0")
    assert run(store, ledger, provider).origin is Origin.RESUMED
    assert len(provider.billed) == 1


def test_a_cancellation_while_looking_holds(store: MediaStore, ledger: Ledger) -> None:
    """Nothing is decided half-way, and the next attempt looks again."""
    provider = Listing(lost=[True], delay_looks=15)

    async def body() -> None:
        async with Runner(store, ledger, retry=QUICK, look_after=(0.01,)) as runner:
            task = asyncio.create_task(runner.run_step(step(provider), target(), variables=ROW))
            while not provider.looks:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(body())
    assert only(ledger).state is SubmissionState.HELD
    provider.delay_looks = 0.0
    assert run(store, ledger, provider).origin is Origin.RESUMED


def test_on_demand_a_lost_submit_is_sent_again(store: MediaStore, ledger: Ledger) -> None:
    """It may be paid twice: both attempts stand in the ledger, and an event has warned of it."""
    provider = ScriptedProvider(submit_errors=[LOST], accept_before_error=True, cost_usd=0.5)
    events: list[StepEvent] = []
    outcome = run(store, ledger, provider, events=events, on_ambiguous="resubmit")
    assert outcome.origin is Origin.GENERATED
    assert len(provider.billed) == 2
    row = only(ledger)
    assert row.attempt == 2
    assert len(ledger.past_attempts(row.id)) == 1
    details = [event.detail or "" for event in events]
    assert sum("may be paid twice" in detail for detail in details) == 1
    assert sum("submitted again on demand" in detail for detail in details) == 1
    spend = ledger.spend(BudgetScope.RUN, "run-1")
    assert (spend.paid_usd, spend.reserved_usd) == (0.5, 0.5)


def test_on_demand_what_was_held_is_sent_again(store: MediaStore, ledger: Ledger) -> None:
    """A row that an earlier run left held does not stop a run that would rather pay twice."""
    provider = ScriptedProvider(submit_errors=[LOST], accept_before_error=True)
    with pytest.raises(HeldError):
        run(store, ledger, provider)
    assert run(store, ledger, provider, on_ambiguous="resubmit").origin is Origin.GENERATED


def test_on_demand_a_job_that_can_be_found_is_not_paid_again(
    store: MediaStore, ledger: Ledger
) -> None:
    """Looking comes first."""
    provider = Listing(lost=[True])
    assert run(store, ledger, provider, on_ambiguous="resubmit").origin is Origin.RESUMED
    assert len(provider.billed) == 1


RUNS: dict[str, Callable[[Pipeline, dict[str, Any]], object]] = {
    "run": lambda pipeline, options: pipeline.run(**options),
    "stream": lambda pipeline, options: list(pipeline.stream(**options)),
    "batch_run": lambda pipeline, options: pipeline.batch_run(["x", "y"], **options),
}


@pytest.mark.parametrize("how", RUNS)
def test_a_run_is_warned_of_it_once(how: str, store: MediaStore, ledger: Ledger) -> None:
    """Every way to run takes `on_ambiguous`; each run hears of the risk once."""
    events: list[StepEvent] = []
    provider = ScriptedProvider(submit_errors=[LOST])
    pipeline = (
        Pipeline("p").step(provider, model="m", prompt="a").step(provider, model="n", prompt="b")
    )
    options = {"store": store, "ledger": ledger, "retry": QUICK, "on_event": events.append}
    RUNS[how](pipeline, {**options, "on_ambiguous": "resubmit"})
    warned = [event for event in events if "may be paid twice" in (event.message or "")]
    assert len(warned) == (2 if how == "batch_run" else 1)


def test_without_the_wish_a_run_holds(store: MediaStore, ledger: Ledger) -> None:
    """`hold` is the default of every run."""
    pipeline = Pipeline("p").step(ScriptedProvider(submit_errors=[LOST]), model="m")
    with pytest.raises(PipelineError):
        pipeline.run(store=store, ledger=ledger)
    assert only(ledger).state is SubmissionState.HELD
