"""Operations that are committed together, and what becomes of each."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import psycopg
import pytest

from genblaze_dagster.errors import LedgerError
from genblaze_dagster.ledger.ledger import ClaimKind, Intent, Ledger, SubmissionState
from genblaze_dagster.ledger.operations import Operations
from genblaze_dagster.pipeline.claims import Claims, submission_ids

INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")


def intent(number: int) -> Intent:
    return replace(INTENT, partition_key=str(number))


def claims_of(ledger: Ledger, count: int) -> list[partial]:
    return [partial(ledger.claim, intent(number), owner="a") for number in range(count)]


def test_nobody_hears_of_a_group_before_it_is_committed(tmp_path):
    """While a group is being done nothing of it can be seen; afterwards everything can."""
    path = tmp_path / "ledger.db"
    other = sqlite3.connect(path)
    count = "SELECT count(*) FROM submissions"
    with Ledger(path) as ledger:
        ledger.claim(INTENT, owner="a")
        looks = [lambda: other.execute(count).fetchone()[0]]
        *claimed, seen = ledger.together([*claims_of(ledger, 5), *looks])
        assert seen.value == 1
        assert [each.value.kind for each in claimed] == [ClaimKind.NEW] * 5
        assert other.execute(count).fetchone()[0] == 6
    other.close()


def test_a_refused_operation_leaves_the_others_of_its_group(ledger):
    """A wrong owner's step is refused; what came before and after it is kept."""
    row = ledger.claim(INTENT, owner="a").submission
    first, refused, last = ledger.together(
        [
            partial(ledger.claim, intent(1), owner="a"),
            partial(ledger.mark_sending, row.id, "wrong"),
            partial(ledger.mark_sending, row.id, "a"),
        ]
    )
    assert first.value.kind is ClaimKind.NEW
    assert "no longer wrong's" in str(refused.error)
    assert last.value == ledger.get(row.id)
    assert last.value.sending_at is not None


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_operation_that_fails_halfway_writes_nothing(ledger, at):
    """A claim whose second row cannot be written leaves no first row; its neighbours are kept."""
    taken = ledger.claim(INTENT, owner="a").submission
    operations = claims_of(ledger, 2)
    broken = partial(ledger.claim, intent(7), owner="a", new_run_id=lambda: taken.run_id)
    operations.insert(at, broken)
    outcomes = ledger.together(operations)
    assert isinstance(outcomes.pop(at).error, LedgerError)
    assert [each.value.kind for each in outcomes] == [ClaimKind.NEW] * 2
    assert [row.partition_key for row in ledger.rows()] == ["fox", "0", "1"]


def test_an_operation_done_again_keeps_the_ids_it_was_given(tmp_path):
    """A wanted run id names one submission, also when its group had to be undone."""
    path = tmp_path / "ledger.db"

    async def main() -> list[object]:
        claims = Claims(ledger, lease_seconds=60)
        ids = submission_ids("wanted-run", "wanted-step")
        all_asked = threading.Event()

        async def let_go() -> None:
            all_asked.set()

        try:
            return await asyncio.gather(
                # The first keeps the thread busy, so that the others wait and are a group.
                claims.call(partial(all_asked.wait, 60)),
                claims.claim(INTENT, patience_seconds=0, new_id=ids.__next__),
                claims.call(ledger.stored, row.id, "a", {"bytes": b"raw"}),
                let_go(),
                return_exceptions=True,
            )
        finally:
            claims.close()

    with Ledger(path) as ledger:
        row = ledger.claim(intent(1), owner="a").submission
        ledger.mark_sending(row.id, "a")
        _, lease, refused, _ = asyncio.run(main())
        assert "cannot keep this value" in str(refused)
        assert (lease.row.run_id, lease.row.step_id) == ("wanted-run", "wanted-step")
        assert len(list(ledger.rows())) == 2


FILL = """
import resource, signal, sys
from dataclasses import replace
from functools import partial
from genblaze_dagster.ledger.ledger import Intent, Ledger

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
intent = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")
with Ledger(sys.argv[1]) as ledger:
    ledger.claim(intent, owner="a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    for start in range(0, 6400, 64):
        outcomes = ledger.together(
            [
                partial(ledger.claim, replace(intent, partition_key=str(start + n)), owner="a")
                for n in range(64)
            ]
        )
        for n, outcome in enumerate(outcomes):
            if outcome.error is None:
                print(start + n)
        if any(outcome.error for outcome in outcomes):
            print(next(outcome.error for outcome in outcomes if outcome.error))
            break
"""


def test_a_group_that_does_not_fit_the_disk_gives_each_operation_its_own_verdict(tmp_path):
    """What was acknowledged is there, what was refused is not: neither too much nor too little."""
    path = tmp_path / "ledger.db"
    ended = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, check=True
    )
    *done, message = ended.stdout.splitlines()
    assert "disk" in message
    with Ledger(path) as ledger:
        stored = [row.partition_key for row in ledger.rows()]
    assert stored == ["fox", *done]


def test_a_database_that_stays_locked_is_asked_once_for_a_whole_group(tmp_path):
    """Each operation hears why; they do not wait for the timeout one after the other."""
    path = tmp_path / "ledger.db"
    with Ledger(path, busy_timeout=0.5) as ledger:
        ledger.claim(INTENT, owner="a")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        outcomes = ledger.together(claims_of(ledger, 600))
        # One timeout each would be five minutes.
        assert time.monotonic() - began < 60
        other.close()
    assert all("locked by another process" in str(each.error) for each in outcomes)
    assert all(each.error.transient for each in outcomes)


def test_operations_of_one_submission_keep_their_order(ledger):
    """Steps that are not awaited one by one are still taken one after the other."""

    async def main() -> None:
        operations = Operations(ledger)
        rows = [ledger.claim(intent(number), owner="a").submission for number in range(20)]
        steps = [
            operations.start(partial(step, row.id, "a", *arguments), key=row.id)
            for step, *arguments in (
                (ledger.mark_sending,),
                (ledger.submitted, "job"),
                (ledger.stored, {"done": True}),
            )
            for row in rows
        ]
        await asyncio.gather(*steps)
        operations.close()

    asyncio.run(main())
    assert {row.state for row in ledger.rows()} == {SubmissionState.STORED}


def test_a_cancelled_caller_does_not_undo_its_operation(ledger):
    """Closing finishes what was asked for, whether or not somebody still waits."""

    async def main() -> None:
        operations = Operations(ledger)
        futures = [operations.start(each) for each in claims_of(ledger, 30)]
        for future in futures:
            future.cancel()
        await asyncio.to_thread(operations.close)

    asyncio.run(main())
    assert len(list(ledger.rows())) == 30


def test_operations_of_several_event_loops_share_the_threads(ledger):
    """Each loop hears of its own, also when another loop is closed by then."""

    async def leave() -> None:
        operations.start(claims_of(ledger, 1)[0])

    async def ask() -> ClaimKind:
        return (await operations.start(partial(ledger.claim, intent(5), owner="a"))).kind

    operations = Operations(ledger)
    asyncio.run(leave())
    assert asyncio.run(ask()) is ClaimKind.NEW
    operations.close()
    assert len(list(ledger.rows())) == 2


def test_on_postgresql_one_locked_row_does_not_hold_up_the_others(postgres_url):
    """Several transactions are under way; a slow one delays only itself."""

    async def main() -> None:
        operations = Operations(ledger)
        row = ledger.claim(INTENT, owner="a").submission
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT 1 FROM submissions FOR UPDATE")
            locked = operations.start(partial(ledger.mark_sending, row.id, "a"), key=row.id)
            claimed = [operations.start(each) for each in claims_of(ledger, 20)]
            await asyncio.wait_for(asyncio.gather(*claimed), 60)
            assert not locked.done()
        assert (await locked).sending_at is not None
        operations.close()

    with Ledger(postgres_url, busy_timeout=120) as ledger:
        asyncio.run(main())
