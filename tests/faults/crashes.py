"""Where a worker is killed, how it is brought there, and what proves that it got there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.ledger.submission import LedgerRow, SubmissionState
from tests.faults.order import Park
from tests.faults.parking import Point
from tests.faults.simulator import Fault
from tests.faults.world import Worker, World

VICTIM = "p0"
_REACH_SECONDS = 60.0
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Look:
    """The world right after the kill. `held` are the requests that were parked, `asked` counts."""

    rows: Sequence[LedgerRow]
    bills: Sequence[Mapping[str, Any]]
    keys: Sequence[str]
    held: Sequence[str]

    def row(self, state: SubmissionState, *, sent: bool, billed: bool) -> bool:
        """Whether a submission is exactly this far."""
        keys = {bill["key"] for bill in self.bills}
        return any(
            row.state is state
            and (row.sending_at is not None) is sent
            and any(key.startswith(row.run_id) for key in keys) is billed
            for row in self.rows
        )

    def stored(self, folder: str) -> int:
        """How many objects there are below a folder of the store."""
        return sum(f"/{folder}/" in f"/{key}" and "/.tmp/" not in key for key in self.keys)


Proof = Callable[[Look], bool]


@dataclass(frozen=True, slots=True)
class Crash:
    """One point.

    Exactly one of `park` (inside the process), `vendor` and `store` (a held request) is set.
    `needs_job`: a vendor that answers in one call never gets there. `is_large`: media goes in parts.
    """

    proof: Proof
    park: Point | None = None
    vendor: Fault | None = None
    store: Fault | None = None
    needs_job: bool = False
    is_large: bool = False


def _unsent(look: Look) -> bool:
    return look.row(SubmissionState.INTENDED, sent=False, billed=False)


def _sent(look: Look) -> bool:
    return look.row(SubmissionState.INTENDED, sent=True, billed=False)


def _accepted(look: Look) -> bool:
    return look.row(SubmissionState.INTENDED, sent=True, billed=True)


def _known(look: Look) -> bool:
    return any(
        look.row(state, sent=True, billed=True)
        for state in (SubmissionState.SUBMITTED, SubmissionState.SUCCEEDED)
    )


def _unstored(look: Look) -> bool:
    return any(row.state is not SubmissionState.STORED for row in look.rows)


CRASHES: Mapping[str, Crash] = {
    "before intent": Crash(
        lambda look: VICTIM not in {row.partition_key for row in look.rows},
        park=Point.BEFORE_INTENT,
    ),
    "after intent": Crash(_unsent, park=Point.AFTER_INTENT),
    "after intent before send": Crash(_sent, park=Point.BEFORE_SEND),
    "on the wire": Crash(_sent, vendor=Fault("submit", "hold-before")),
    "after send before answer": Crash(_accepted, vendor=Fault("submit", "hold-after")),
    "answer half read": Crash(_accepted, vendor=Fault("submit", "hold-middle")),
    "after answer before commit": Crash(_accepted, park=Point.BEFORE_COMMIT, needs_job=True),
    "polling": Crash(_known, vendor=Fault("poll", "hold-before"), needs_job=True),
    "before fetch": Crash(_known, vendor=Fault("output", "hold-before"), needs_job=True),
    "mid-download": Crash(
        lambda look: _known(look) and any(bill["delivered"] for bill in look.bills),
        vendor=Fault("media", "hold-middle"),
        needs_job=True,
    ),
    "after hash before PUT": Crash(
        lambda look: _unstored(look) and "put media" in look.held,
        store=Fault("put media", "hold-before"),
    ),
    "mid-multipart": Crash(
        lambda look: _unstored(look) and "part" in look.held,
        store=Fault("part", "hold-before", skip=1),
        is_large=True,
    ),
    "before the last part counts": Crash(
        lambda look: _unstored(look) and "complete" in look.held,
        store=Fault("complete", "hold-before"),
        is_large=True,
    ),
    "staged": Crash(
        lambda look: _unstored(look) and "copy" in look.held,
        store=Fault("copy", "hold-before"),
        is_large=True,
    ),
    "after bytes before manifest": Crash(
        lambda look: _unstored(look) and "put manifest" in look.held,
        store=Fault("put manifest", "hold-before"),
    ),
    "after manifest before reference": Crash(
        lambda look: _unstored(look) and look.stored("manifests") > look.stored("refs"),
        store=Fault("put manifest", "hold-after"),
    ),
    "after reference before ledger": Crash(
        lambda look: _unstored(look) and look.stored("refs") > 0, park=Point.BEFORE_STORED
    ),
    "after manifest before index": Crash(
        lambda look: look.stored("manifests") > 0 and look.stored("index") == 0,
        park=Point.BEFORE_INDEX,
    ),
    "mid-index": Crash(
        lambda look: "put index" in look.held, store=Fault("put index", "hold-before")
    ),
}


def park_of(crash: Crash) -> Park | None:
    """Return where the order has to park its worker."""
    return Park(crash.park.value, VICTIM) if crash.park is not None else None


def reached(world: World, crash: Crash, worker: Worker) -> bool:
    """Wait until the worker is at the point; False when it ended before it got there."""
    if crash.park is not None:
        return worker.until_parked_or_ended(_REACH_SECONDS)
    simulator = world.vendor if crash.vendor is not None else world.store_control
    for _ in range(int(_REACH_SECONDS / _LOOK_SECONDS)):
        if simulator.held(wait=_LOOK_SECONDS):
            return True
        if worker.status is not None:
            return False
    return False


def look(world: World) -> Look:
    """Look at the world as it is."""
    vendor, store = world.vendor.describe(), world.store_control.describe()
    with world.ledger() as ledger:
        rows = list(ledger.rows())
    return Look(rows, vendor["bills"], store["keys"], [*vendor["held"], *store["held"]])
