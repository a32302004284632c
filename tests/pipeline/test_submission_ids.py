"""Outcomes and errors lead to their submission in the ledger."""

from typing import Any

import pytest

from genblaze_dagster.errors import (
    GenblazeError,
    HeldError,
    ProviderTimeoutError,
    ProviderUnavailableError,
)
from genblaze_dagster.ledger.ledger import Ledger, SubmissionState
from genblaze_dagster.pipeline.outcome import Origin
from genblaze_dagster.providers.protocol import GenerationRequest, JobStatus
from genblaze_dagster.storage.store import MediaStore
from tests.pipeline.conftest import SteadyClock
from tests.support.scripted import ScriptedProvider
from tests.support.steps import run, step


def test_an_outcome_names_its_submission_and_its_estimate(
    store: MediaStore, ledger: Ledger
) -> None:
    """What is taken again has the same submission, and nothing was expected of it anew."""
    provider = ScriptedProvider(cost_usd=0.04)
    made, again = (run(store, ledger, step(provider)) for _ in range(2))
    (row,) = ledger.find()
    assert (made.submission_id, again.submission_id) == (row.id, row.id)
    assert (made.estimated_cost_usd, made.reserved_usd) == (0.04, None)
    assert again.origin is Origin.FINISHED
    assert (again.estimated_cost_usd, again.reserved_usd) == (None, None)


def test_an_unknown_cost_shows_what_is_reserved_for_it(store: MediaStore, ledger: Ledger) -> None:
    """That is what budgets count."""

    class Silent(ScriptedProvider):
        def estimate_cost(self, request: Any) -> float:
            return 0.07

    outcome = run(store, ledger, step(Silent(cost_usd=None)))
    assert outcome.paid_usd is None
    assert (outcome.estimated_cost_usd, outcome.reserved_usd) == (0.07, 0.07)


class Late(ScriptedProvider):
    """Every poll takes minutes."""

    clock: SteadyClock

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        self.clock.skip(200)
        return await super().poll(job_id, request)


@pytest.mark.parametrize(
    ("provider", "error", "state"),
    [
        (
            ScriptedProvider(submit_errors=[ProviderUnavailableError("reset", sent=None)]),
            HeldError,
            SubmissionState.HELD,
        ),
        (Late(job=True, polls=10_000), ProviderTimeoutError, SubmissionState.SUBMITTED),
        (
            ScriptedProvider(job=True, poll_errors=[ProviderUnavailableError("500")] * 9),
            ProviderUnavailableError,
            SubmissionState.SUBMITTED,
        ),
    ],
    ids=["held", "late", "unreachable"],
)
def test_an_error_that_leaves_a_submission_open_names_it(
    store: MediaStore,
    ledger: Ledger,
    provider: ScriptedProvider,
    error: type[GenblazeError],
    state: SubmissionState,
    steady_clock: SteadyClock,
) -> None:
    """Whoever reports it can say what to look up."""
    if isinstance(provider, Late):
        provider.clock = steady_clock
    with pytest.raises(error) as caught:
        run(store, ledger, step(provider, timeout=300))
    (row,) = ledger.find()
    assert row.state is state
    assert getattr(caught.value, "submission_id", None) == row.id
