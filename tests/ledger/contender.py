"""Many processes that want what there is too little of; started by the tests as a script.

contender.py URL spend COUNT   each claims a generation of 0.10 USD in two budgets of 1.00 USD
contender.py URL take COUNT    each takes ten rights at once; prints `before after wait` of each
contender.py URL open COUNT    each works on a job of an account that may have three; prints when
"""

import os
import sys
import time

from genblaze_dagster.errors import AccountBusyError, BudgetExceededError
from genblaze_dagster.ledger.budgets import Budget, BudgetScope
from genblaze_dagster.ledger.ledger import Intent, Ledger
from genblaze_dagster.providers.protocol import RateLimit

LIMIT_USD = 1.0
RATE = RateLimit(requests=50, seconds=1, burst=5)
CONCURRENCY = 3


def intent(number: int) -> Intent:
    return Intent(
        "media/image", f"p{number}", "run", "g" * 64, "vendor", "model",
        account="account", estimated_cost_usd=0.1,
    )  # fmt: skip


def spend(ledger: Ledger, number: int) -> list[str]:
    budgets = [Budget(BudgetScope.PROVIDER, LIMIT_USD), Budget(BudgetScope.RUN, LIMIT_USD)]
    if number % 2:
        budgets.reverse()
    try:
        row = ledger.claim(intent(number), owner=f"o{number}", budgets=budgets).submission
    except BudgetExceededError:
        return ["refused"]
    ledger.mark_sending(row.id, f"o{number}")
    ledger.stored(row.id, f"o{number}", {}, 0.1)
    return ["paid"]


def take(ledger: Ledger, number: int) -> list[str]:
    printed: list[str] = []
    for _ in range(10):
        before = time.time()
        wait = ledger.take("account", RATE)
        printed.append(f"{before} {time.time()} {wait}")
    return printed


def work(ledger: Ledger, number: int) -> list[str]:
    owner = f"o{number}"
    while True:
        try:
            claim = ledger.claim(intent(number), owner=owner, concurrency=CONCURRENCY)
            break
        except AccountBusyError:
            time.sleep(0.01)
    id, began = claim.submission.id, time.time()
    ledger.mark_sending(id, owner)
    ledger.submitted(id, owner, f"job-{number}")
    time.sleep(0.02)
    ended = time.time()
    ledger.stored(id, owner, {}, 0.1)
    return [f"{began} {ended}"]


CONTESTS = {"spend": spend, "take": take, "open": work}


def contend(url: str, contest: str, number: int, waiting: int, starting: int) -> int:
    os.close(starting)
    os.read(waiting, 1)  # Ends when the parent closes the other end: all start together.
    with Ledger(url, busy_timeout=60) as ledger:
        printed = CONTESTS[contest](ledger, number)
    os.write(1, "".join(f"{line}\n" for line in printed).encode())
    os._exit(0)


def main(url: str, contest: str, count: str) -> None:
    with Ledger(url) as ledger:  # Loads the driver once, for all.
        ledger.spend(BudgetScope.RUN, "run")
    waiting, starting = os.pipe()
    numbers = range(int(count))
    children = [os.fork() or contend(url, contest, n, waiting, starting) for n in numbers]
    os.close(starting)
    sys.exit(max(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    main(*sys.argv[1:])
