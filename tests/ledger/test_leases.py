"""Leases and clocks that are set forward or back."""

import asyncio

import pytest

from genblaze_dagster.errors import LeaseHeldError
from genblaze_dagster.ledger.ledger import ClaimKind, Intent
from genblaze_dagster.pipeline.claims import Claims

INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")
LEASE = 30.0
DAY = 86_400.0


@pytest.mark.parametrize(("forward", "is_kept"), [(29.0, True), (41.0, False)])
def test_a_clock_set_forward_by_less_than_a_lease_steals_none(ledger, clock, forward, is_kept):
    """A worker that renews in time keeps its submission, even just before a renewal."""

    async def main() -> ClaimKind | None:
        worker, other = (Claims(ledger, lease_seconds=LEASE) for _ in range(2))
        try:
            await worker.claim(INTENT, patience_seconds=0)
            clock.advance(worker.renewal_seconds)
            clock.advance(forward)
            return (await other.claim(INTENT, patience_seconds=0)).kind
        except LeaseHeldError:
            return None
        finally:
            worker.close()
            other.close()

    assert asyncio.run(main()) is (None if is_kept else ClaimKind.NEW)


@pytest.mark.parametrize("state", ["intended", "submitted"])
def test_a_lease_from_a_clock_that_was_set_back_does_not_lock_for_ever(ledger, clock, state):
    """A lease that ends tomorrow cannot be right, so it counts as ended."""
    row = ledger.claim(INTENT, owner="a", lease_seconds=LEASE).submission
    if state == "submitted":
        ledger.mark_sending(row.id, "a")
        ledger.submitted(row.id, "a", "job-1")
    clock.advance(-DAY)
    claim = ledger.claim(INTENT, owner="b", lease_seconds=LEASE)
    assert claim.kind is (ClaimKind.NEW if state == "intended" else ClaimKind.RESUME)
    assert claim.submission.owner == "b"


@pytest.mark.parametrize("back", [0.0, 3000.0])
def test_a_lease_that_may_be_right_is_respected(ledger, clock, back):
    """Small corrections of a clock, and workers with longer leases, keep what they have."""
    ledger.claim(INTENT, owner="a", lease_seconds=10 * LEASE)
    clock.advance(-back)
    with pytest.raises(LeaseHeldError) as held:
        ledger.claim(INTENT, owner="b", lease_seconds=LEASE)
    assert held.value.retry_after == pytest.approx(10 * LEASE + back)


def test_a_worker_with_long_leases_respects_those_of_its_kind(ledger, clock):
    """What is absurd is measured by the length of the claimant's own leases."""
    ledger.claim(INTENT, owner="a", lease_seconds=DAY)
    with pytest.raises(LeaseHeldError):
        ledger.claim(INTENT, owner="b", lease_seconds=DAY / 5)
    assert ledger.claim(INTENT, owner="c", lease_seconds=LEASE).kind is ClaimKind.NEW
