"""Points inside a worker at which it stops and waits to be killed.

The code under test knows nothing of them: the ledger, and the index, are the real ones behind a
class of the harness. A worker that gets to its point says so and sleeps; nothing after it happens.
"""

import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import Claim, Intent, LedgerRow
from genblaze_dagster.ledger.transactions import Outcome
from tests.faults.order import Park

_LOOK_SECONDS = 0.05


class Point(StrEnum):
    """Where a worker of the harness can stop by itself."""

    BEFORE_INTENT = "before-intent"
    AFTER_INTENT = "after-intent"
    BEFORE_SEND = "before-send"
    BEFORE_COMMIT = "before-commit"
    BEFORE_STORED = "before-stored"
    AFTER_STORED = "after-stored"
    BEFORE_INDEX = "before-index"


class Parking:
    """Stops the process at one point, once; `tell` gets the point's name before that."""

    def __init__(self, park: Park | None, tell: Callable[[str], None]) -> None:
        self._park = park
        self._tell = tell

    def at(self, point: Point, partition: str | None) -> None:
        """Stop here if this is the point."""
        park = self._park
        if park is None or park.point != point or park.partition not in (None, partition):
            return
        self._park = None
        self._tell(point.value)
        deadline = time.monotonic() + park.seconds
        while (left := deadline - time.monotonic()) > 0:
            if park.until is not None and Path(park.until).exists():
                return
            time.sleep(min(left, _LOOK_SECONDS))


class ParkingLedger(Ledger):
    """A ledger that stops its worker before or after a step.

    Steps that are asked for at once are committed at once: the worker stops before one inside their
    transaction, and after one when it is committed.
    """

    def __init__(self, url: str, parking: Parking) -> None:
        super().__init__(url)
        self._parking = parking
        self._done = threading.local()

    def together(self, operations: Sequence[Callable[[], Any]]) -> list[Outcome]:
        """Do and commit, and stop after that."""
        self._done.steps = done = list[tuple[Point, str | None]]()
        try:
            outcomes = super().together(operations)
        finally:
            self._done.steps = None
        for point, partition in done:
            self._parking.at(point, partition)
        return outcomes

    def claim(self, intent: Intent, **options: Any) -> Claim:
        """Claim, and stop before or after."""
        self._parking.at(Point.BEFORE_INTENT, intent.partition_key)
        claim = super().claim(intent, **options)
        self._after(Point.AFTER_INTENT, intent.partition_key)
        return claim

    def mark_sending(self, id: str, owner: str) -> LedgerRow:
        """Mark, and stop before the request leaves."""
        row = super().mark_sending(id, owner)
        self._after(Point.BEFORE_SEND, row.partition_key)
        return row

    def submitted(self, id: str, owner: str, job_id: str, **options: Any) -> LedgerRow:
        """Stop with the vendor's answer in hand."""
        self._parking.at(Point.BEFORE_COMMIT, self.get(id).partition_key)
        return super().submitted(id, owner, job_id, **options)

    def stored(self, id: str, owner: str, result: Any, cost_usd: float | None = None) -> LedgerRow:
        """Stop with everything in the store, before or after the ledger says so."""
        self._parking.at(Point.BEFORE_STORED, self.get(id).partition_key)
        row = super().stored(id, owner, result, cost_usd)
        self._after(Point.AFTER_STORED, row.partition_key)
        return row

    def _after(self, point: Point, partition: str | None) -> None:
        steps = getattr(self._done, "steps", None)
        if steps is None:
            self._parking.at(point, partition)
        else:
            steps.append((point, partition))


class ParkingIndex(SegmentWriter):
    """An index that stops its worker when it is told of the first manifest."""

    def __init__(self, store: Any, parking: Parking) -> None:
        super().__init__(store)
        self._parking = parking

    def add(self, manifest: Manifest, **options: Any) -> None:
        """Stop, or collect."""
        self._parking.at(Point.BEFORE_INDEX, options.get("partition_key"))
        super().add(manifest, **options)
