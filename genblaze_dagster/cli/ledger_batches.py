"""Which Dagster runs finish a number of submissions, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from genblaze_dagster.ledger.submission import LedgerRow
from genblaze_dagster.pipeline.resuming import neighbours

SUCCESS: Final = "SUCCESS"
"""Status of a Dagster run that ended well."""


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Neighbouring partitions of one asset, for one run; `[None]` of an unpartitioned one."""

    asset_key: str
    partitions: Sequence[str | None]

    @property
    def one(self) -> str | None:
        """The partition, when it is the only one and there are partitions."""
        return self.partitions[0] if len(self.partitions) == 1 else None

    def covers(self, row: LedgerRow) -> bool:
        """Whether it runs the asset partition of a submission."""
        return row.asset_key == self.asset_key and row.partition_key in self.partitions


@dataclass(frozen=True, slots=True)
class Started:
    """One run; `status` None when nobody waited for its end."""

    run_id: str
    status: str | None
    url: str | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing is known to have gone wrong."""
        return self.status in (None, SUCCESS)


@dataclass(slots=True)
class Progress:
    """What was done about submissions: runs, and why others were left alone, by submission id.

    `regenerated` are those whose asset partition was run although it would be submitted anew.
    """

    runs: list[Started] = field(default_factory=list[Started])
    problems: dict[str, str] = field(default_factory=dict[str, str])
    regenerated: set[str] = field(default_factory=set[str])
    notes: list[str] = field(default_factory=list[str])

    def leave(self, rows: Sequence[LedgerRow], reason: str) -> None:
        """Note why submissions are left alone."""
        self.problems.update({row.id: reason for row in rows})


def by_asset(rows: Sequence[LedgerRow]) -> Mapping[str, list[LedgerRow]]:
    """Group submissions by asset, the asset of the oldest first: inputs were submitted first."""
    found: dict[str, list[LedgerRow]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        found.setdefault(row.asset_key, []).append(row)
    return found


def batches(
    asset_key: str, rows: Sequence[LedgerRow], order: Sequence[str] | None, *, most: int
) -> list[RunBatch]:
    """Cut the partitions of one asset's submissions into runs, each of neighbours only.

    Args:
        asset_key: of all `rows`.
        rows: their partitions are in `order`.
        order: every partition of the asset, None when it has none.
        most: partitions in one run.
    """
    if order is None:
        return [RunBatch(asset_key, [None])]
    wanted = {row.partition_key for row in rows}
    return [RunBatch(asset_key, keys) for keys in neighbours(order, wanted, most=most)]
