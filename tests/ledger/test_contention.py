"""Many processes at once on one budget, one rate and one account."""

import subprocess
import sys
from bisect import bisect_left
from collections import Counter
from pathlib import Path

from genblaze_dagster.ledger.budgets import BudgetScope, Spend
from tests.ledger.contender import CONCURRENCY, RATE

CONTENDER = Path(__file__).parent / "contender.py"
PROCESSES = 16


def contend(url: str, contest: str, processes: int) -> list[str]:
    command = [sys.executable, str(CONTENDER), url, contest, str(processes)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return ended.stdout.splitlines()


def test_sixty_four_processes_never_spend_more_than_a_budget(ledger_url, open_ledger):
    """Of 64 requests of 0.10 USD exactly ten fit 1.00 USD, in whatever order budgets are given."""
    assert Counter(contend(ledger_url, "spend", 64)) == {"paid": 10, "refused": 54}
    ledger = open_ledger()
    assert len(list(ledger.rows())) == 10
    assert ledger.spend(BudgetScope.PROVIDER, "vendor") == Spend(1.0, 0.0, 0)


def test_sixteen_processes_never_exceed_a_rate(ledger_url):
    """In any time span there are at most `burst` rights plus those its rate adds, and none is lost."""
    lines = [
        [float(word) for word in line.split()] for line in contend(ledger_url, "take", PROCESSES)
    ]
    # Each right lies between these two: the time was read somewhere in the call.
    rights = [(before + wait, after + wait) for before, after, wait in lines]
    assert len(rights) == PROCESSES * 10
    per_second = RATE.requests / RATE.seconds
    earliest = sorted(first for first, _ in rights)
    for start in earliest:
        inside = sorted(last for first, last in rights if first >= start)
        for end in inside:
            count = bisect_left(inside, end) + 1
            assert count <= RATE.burst + (end - start) * per_second + 1e-3
    # As if all had asked at once; for every right that is lost somebody waits longer.
    assert max(wait for _, _, wait in lines) <= (len(rights) - RATE.burst) / per_second + 1e-3


def test_sixteen_processes_never_open_more_jobs_than_an_account_may_have(ledger_url):
    """The others wait, and everybody has a turn."""
    lines = contend(ledger_url, "open", PROCESSES)
    spans = [tuple(float(word) for word in line.split()) for line in lines]
    assert len(spans) == PROCESSES
    at_once = [sum(began <= start < ended for began, ended in spans) for start, _ in spans]
    assert max(at_once) <= CONCURRENCY
