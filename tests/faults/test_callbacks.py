"""A vendor that neither lists nor deduplicates, but calls back: answers get lost, and no job does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import pytest

from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.pipeline.callbacks import callback_app
from tests.faults import invariants, library
from tests.faults.crashes import VICTIM
from tests.faults.provider import NAME
from tests.faults.scenarios import RECOVERIES, VENDOR_FAULTS, Scenario, scenario
from tests.faults.worker import endpoint_of, provider_of
from tests.faults.world import Harness, World
from tests.support.serving import serving

# The vendor has the job by then, and the ledger does not know which it is.
KILLED = ("after send before answer", "answer half read", "after answer before commit")
LOST = (
    "dropped after accepting",
    "answer breaks off",
    "a web page for an answer",
    "500 after",
    "502 after",
)
STORIES = [
    replace(
        scenario(8000 + n, crash=crash, recovery=recovery),
        vendor="plain",
        vendor_fault="none",
        second=None,
    )
    for n, (crash, recovery) in enumerate(product(KILLED, RECOVERIES))
]


@contextmanager
def called_back(simulators: Harness, name: str, **options: object) -> Iterator[World]:
    """A world whose vendor calls a receiver beside it."""
    world = simulators.world(name, **options)
    with world.ledger() as ledger:
        providers = {NAME: provider_of(world.order)}
        # Its port is known when it is served; the path is what counts here.
        app = callback_app(ledger, endpoint_of("http://127.0.0.1:9"), providers=providers)
        with serving(app, world.folder) as origin:
            world.change(callback_url=origin)
            yield world


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_a_worker_killed_before_it_knew_the_job_costs_no_second_one(
    simulators: Harness, story: Scenario
) -> None:
    """The vendor's call names the job, so nobody has to look it up, and nothing is sent again."""
    # Of a second submit, killed on the wire, the vendor would know nothing to call about.
    only = {**story.world(), "partitions": (VICTIM,)}
    with called_back(simulators, f"call-{story.name}", **only) as world:
        outcome = library.run(story, world)
    assert outcome.reached
    assert not outcome.problems, story.describe()
    assert outcome.verdict.held == 0


@pytest.mark.parametrize("fault", LOST)
def test_a_lost_answer_waits_for_the_vendors_call_only(simulators: Harness, fault: str) -> None:
    """The run that lost it ends held; the next one fetches what was called back about."""
    with called_back(simulators, f"lost-{LOST.index(fault)}") as world:
        world.vendor.faults(*VENDOR_FAULTS[fault])
        for _ in range(3):
            if world.start().wait(60) == 0:
                break
        assert len(world.bills()) == len(world.order.partitions)
        with world.ledger() as ledger:
            assert {row.state for row in ledger.rows()} == {SubmissionState.STORED}
        assert invariants.check(world).violations == ()
