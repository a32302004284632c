"""Several processes on one ledger, and processes that die."""

import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from genblaze_dagster.errors import HeldError, LeaseHeldError
from genblaze_dagster.ledger.ledger import ClaimKind, Intent

WORKER = Path(__file__).parent / "worker.py"
INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")


def command(url: str, *arguments: str) -> list[str]:
    return [sys.executable, str(WORKER), url, *arguments]


def test_sixteen_processes_make_one_submission(ledger_url, open_ledger):
    """A new database and one partition: exactly one process may submit, and all meet one row."""
    ended = subprocess.run(
        command(ledger_url, "race", "16"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    assert Counter(ended.stdout.splitlines()) == {"new": 1, "held by another": 15}
    assert len(list(open_ledger().rows())) == 1


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("claimed", ClaimKind.NEW),
        ("sending", None),
        ("submitted", ClaimKind.RESUME),
        ("succeeded", ClaimKind.RESUME),
        ("stored", ClaimKind.FINISHED),
    ],
)
def test_a_killed_process_is_taken_over_when_its_lease_ends(
    ledger_url, open_ledger, state, expected
):
    """SIGKILL after each step: others wait for the lease, then go on without paying again."""
    started = subprocess.Popen(
        command(ledger_url, "reach", state), stdout=subprocess.PIPE, text=True
    )
    with started as worker:
        id = worker.stdout.readline().strip()
        worker.kill()
    if expected is not ClaimKind.FINISHED:
        with pytest.raises(LeaseHeldError):
            open_ledger().claim(INTENT, owner="b")
    later = open_ledger(clock=lambda: datetime.now(UTC) + timedelta(seconds=61))
    if expected is None:
        with pytest.raises(HeldError):
            later.claim(INTENT, owner="b")
        return
    claim = later.claim(INTENT, owner="b")
    assert (claim.kind, claim.submission.id) == (expected, id)
    assert claim.submission.job_id == ("job-1" if expected is not ClaimKind.NEW else None)
