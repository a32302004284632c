import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from genblaze_dagster.errors import GenblazeError, OutputError, ProviderUnavailableError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState
from genblaze_dagster.pipeline.claims import Claims
from genblaze_dagster.pipeline.generation import render
from genblaze_dagster.pipeline.intents import intent_of
from genblaze_dagster.pipeline.job import Job
from genblaze_dagster.pipeline.settling import Settlement
from genblaze_dagster.pipeline.spool import Spool, is_spooled
from genblaze_dagster.providers.protocol import Output, Result
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, step, target

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER, BEFORE = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
LINK = "https://media.example/a.png"

End = Callable[[Settlement], Awaitable[object]]


def settled(
    ledger: Ledger, end: End, *, job_id: str | None = None, spool: Spool | None = None
) -> tuple[LedgerRow, object]:
    """Claim, send, perhaps be given a job, and end; return the row and what was said."""

    async def body() -> object:
        claims = Claims(ledger, lease_seconds=60)
        try:
            provider = ScriptedProvider()
            generation = render(step(provider), provider, variables={"subject": "fox"}, inputs=())
            lease = await claims.claim(intent_of(generation, target()), patience_seconds=1)
            async with lease:
                await lease.sending()
                if job_id is not None:
                    await lease.submitted(job_id, None)
                job = Job(
                    generation=generation,
                    policy=QUICK,
                    record=lease,
                    notify=lambda *_, **__: None,
                    job_id=job_id,
                )
                return await end(Settlement(ledger, target(), job, lease, spool, lambda: NOW))
        finally:
            claims.close()

    said = asyncio.run(body())
    (row,) = ledger.rows()
    return row, said


@pytest.mark.parametrize(
    ("status", "expires_at", "is_over"),
    [
        (404, None, False),
        (403, LATER, False),
        (403, BEFORE, True),
        (404, BEFORE.replace(tzinfo=None), True),
        (410, None, True),
        (None, None, True),
    ],
    ids=["404", "403-lasts", "403-expired", "404-expired-no-zone", "410", "unusable"],
)
def test_a_jobs_output_is_given_up_when_it_is_certainly_gone(
    status: int | None, expires_at: datetime | None, is_over: bool, ledger: Ledger
) -> None:
    """A 404 may be a CDN that lags: the job stays open, so that nobody pays for it again."""
    result = Result((Output(url=LINK, expires_at=expires_at),), cost_usd=0.3)
    error = OutputError("cannot be had", http_status=status)
    row, may_come = settled(
        ledger, lambda settlement: settlement.unstored(error, result), job_id="job-1"
    )
    assert may_come is not is_over
    if is_over:
        assert (row.state, row.cost_usd) == (SubmissionState.FAILED, 0.3)
    else:
        assert (row.state, row.owner) == (SubmissionState.SUBMITTED, None)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (OutputError("404", http_status=404), SubmissionState.FAILED),
        (ProviderUnavailableError("broke off", sent=None), SubmissionState.INTENDED),
        (ProviderUnavailableError("503"), SubmissionState.INTENDED),
    ],
    ids=["gone", "broke-off", "503"],
)
def test_a_one_call_answer_that_cannot_be_downloaded(
    error: GenblazeError, state: SubmissionState, ledger: Ledger
) -> None:
    """It is paid: what may be there later is never sent again by itself."""
    result = Result((Output(url=LINK),), cost_usd=0.3)
    row, _ = settled(ledger, lambda settlement: settlement.unstored(error, result))
    assert row.state is state
    assert row.sending_at is not None
    assert row.cost_usd == (0.3 if state is SubmissionState.FAILED else None)


def test_what_is_broken_off_while_it_is_stored_is_kept(ledger: Ledger, tmp_path: Path) -> None:
    """A run that is killed off by its caller leaves a one-call answer in the spool."""
    result = Result((Output(data=b"paid"),), cost_usd=0.3)
    spool = Spool(tmp_path / "spool")
    row, _ = settled(ledger, lambda settlement: settlement.broken_off(result), spool=spool)
    assert is_spooled(row.job_id)
    assert row.owner is None
    kept = spool.find(row.id)
    assert kept is not None
    assert kept.outputs[0].path is not None
    assert kept.outputs[0].path.read_bytes() == b"paid"


def test_what_is_broken_off_when_it_was_stored_already_stays_stored(
    ledger: Ledger, tmp_path: Path
) -> None:
    """The ledger does not take it back, and nothing is raised in place of the cancellation."""

    async def end(settlement: Settlement) -> None:
        await settlement.lease.apply(ledger.stored, result={"a": 1}, cost_usd=0.3)
        await settlement.broken_off(Result((Output(data=b"paid"),)))

    row, _ = settled(ledger, end, spool=Spool(tmp_path / "spool"))
    assert row.state is SubmissionState.STORED
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_lost_lease_hides_no_error(ledger: Ledger) -> None:
    """When another worker has taken over, there is nothing to give back."""

    async def end(settlement: Settlement) -> bool:
        ledger.cancelled(settlement.lease.row.id, "by a person")
        return await settlement.unstored(
            ProviderUnavailableError("503"), Result((Output(url=LINK),))
        )

    row, _ = settled(ledger, end)
    assert row.state is SubmissionState.FAILED
