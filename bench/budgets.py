"""What budgets cost: claims with and without them, on ledgers with and without a long history.

    python bench/budgets.py [--rows 100000] [--claims 600] [--url postgresql://...]

Both kinds of claims take turns in one process, so that the machine's moods hit both. Every claim
goes on to `stored`, as work does; only the claims are timed. The history is written by SQL, then
left to the first claim to fold, which is reported by itself.
"""

import argparse
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import create_engine, insert, text

from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import Intent, Ledger
from genblaze_dagster.ledger.schema import intents, spend_entries, submissions

ASSET = "media/image"
PROVIDER = "vendor"
ONE = (Budget(BudgetScope.PROVIDER, 1e6),)
ALL = tuple(Budget(scope, 1e6) for scope in BudgetScope)
CHUNK = 5_000


def history(url: str, rows: int) -> None:
    """Write finished submissions of one asset, provider, day and scope."""
    engine = create_engine(url)
    now = datetime.now(UTC) - timedelta(hours=1)
    day = datetime.now(UTC).date().isoformat()
    with engine.begin() as connection:
        for start in range(0, rows, CHUNK):
            numbers = range(start, min(start + CHUNK, rows))
            connection.execute(insert(submissions), [_finished(n, now) for n in numbers])
            connection.execute(insert(intents), [_intent(n) for n in numbers])
            connection.execute(insert(spend_entries), [_entry(n, day) for n in numbers])
        if engine.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))
    engine.dispose()


def _finished(number: int, now: datetime) -> dict[str, object]:
    return {
        "id": f"00000000-0000-7000-8000-{number:012x}",
        "run_id": f"run-{number}",
        "step_id": f"step-{number}",
        "asset_key": ASSET,
        "partition_key": f"old-{number}",
        "scope": "run",
        "generation_key": f"{number:064x}",
        "provider": PROVIDER,
        "model": "model",
        "state": "stored",
        "attempt": 1,
        "created_at": now,
        "claimed_at": now,
        "finished_at": now,
        "cost_usd": 0.04,
        "reserved_usd": 0.04,
        "estimated_cost_usd": 0.04,
        "deduplicates": False,
        "answer_lost": False,
    }


def _intent(number: int) -> dict[str, object]:
    return {
        "generation_key": f"{number:064x}",
        "asset_key": ASSET,
        "partition_key": f"old-{number}",
        "scope": "run",
        "submission_id": f"00000000-0000-7000-8000-{number:012x}",
    }


def _entry(number: int, day: str) -> dict[str, object]:
    return {
        "submission_id": f"00000000-0000-7000-8000-{number:012x}",
        "attempt": 1,
        "run": "run",
        "asset_key": ASSET,
        "partition_key": f"old-{number}",
        "tenant_id": "tenant",
        "provider": PROVIDER,
        "day": day,
    }


def claim(ledger: Ledger, name: str, budgets: tuple[Budget, ...]) -> float:
    """Claim and finish one generation; return the milliseconds of the claim."""
    intent = Intent(
        ASSET, name, "run", f"{name:0>64}", PROVIDER, "model", tenant_id="tenant",
        estimated_cost_usd=0.04,
    )  # fmt: skip
    started = time.perf_counter()
    id = ledger.claim(intent, owner=name, budgets=budgets).submission.id
    taken = (time.perf_counter() - started) * 1000
    ledger.mark_sending(id, name)
    ledger.stored(id, name, {}, 0.04)
    return taken


def measure(ledger: Ledger, label: str, count: int) -> None:
    """Print the claims of each kind side by side."""
    kinds = {"none": (), "one": ONE, "six": ALL}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(count):
        for kind, budgets in kinds.items():
            taken[kind].append(claim(ledger, f"{label}-{kind}-{number}", budgets))
    means = {kind: statistics.fmean(each) for kind, each in taken.items()}
    medians = {kind: statistics.median(each) for kind, each in taken.items()}
    print(f"{label:>22}", end="")
    for kind in kinds:
        ratio = means[kind] / means["none"]
        print(
            f" | {kind}: mean {means[kind]:.3f} ms, median {medians[kind]:.3f} ({ratio:.2f}x)",
            end="",
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--claims", type=int, default=600)
    parser.add_argument("--url", help="an empty PostgreSQL database; an SQLite file by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{Path(folder) / 'ledger.db'}"
        with Ledger(url) as ledger:
            measure(ledger, "empty ledger", given.claims)
            history(url.replace("postgresql://", "postgresql+psycopg://"), given.rows)
            first = claim(ledger, "first", ONE)
            rest = [claim(ledger, f"next-{n}", ONE) for n in range(given.rows // 5_000)]
            print(
                f"first claim after {given.rows} rows were written: {first:.0f} ms, the next "
                f"{len(rest)}: {sum(rest):.0f} ms together (they fold the history)"
            )
            measure(ledger, f"{given.rows} finished rows", given.claims)


if __name__ == "__main__":
    main()
