"""A process of its own that works on the ledger; started by the tests as a script.

worker.py URL race COUNT      forks COUNT processes that claim at once; each prints what it got
worker.py URL reach STATE     brings its submission to STATE, prints its id, waits to be killed
"""

import os
import sys
import time

from genblaze_dagster.errors import LeaseHeldError
from genblaze_dagster.ledger.ledger import Intent, Ledger

INTENT = Intent("media/image", "fox", "run-1", "g" * 64, "vendor", "model-1")
STATES = ("claimed", "sending", "submitted", "succeeded", "stored")


def race(url: str, count: str) -> None:
    waiting, starting = os.pipe()
    ledger = Ledger(url, busy_timeout=60)  # Opens nothing, but imports what the children need.
    children = [
        os.fork() or claim_when_started(ledger, waiting, starting) for _ in range(int(count))
    ]
    os.close(starting)
    sys.exit(max(os.waitpid(child, 0)[1] for child in children))


def claim_when_started(ledger: Ledger, waiting: int, starting: int) -> int:
    os.close(starting)
    os.read(waiting, 1)  # Ends when the parent closes the other end: all start together.
    try:
        got = ledger.claim(INTENT, owner=f"pid {os.getpid()}").kind.value
    except LeaseHeldError:
        got = "held by another"
    os.write(1, f"{got}\n".encode())
    os._exit(0)


def reach(url: str, state: str) -> None:
    ledger = Ledger(url)
    row = ledger.claim(INTENT, owner="victim").submission
    steps = (
        lambda: ledger.mark_sending(row.id, "victim"),
        lambda: ledger.submitted(row.id, "victim", "job-1"),
        lambda: ledger.succeeded(row.id, "victim", cost_usd=0.3),
        lambda: ledger.stored(row.id, "victim", {"done": True}),
    )
    for step in steps[: STATES.index(state)]:
        step()
    print(row.id, flush=True)
    time.sleep(60)


if __name__ == "__main__":
    {"race": race, "reach": reach}[sys.argv[2]](sys.argv[1], sys.argv[3])
