"""What a step is run for, and what comes of it."""

from dataclasses import dataclass
from enum import StrEnum

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.reference import MediaRef


class Origin(StrEnum):
    """How a step's media came to be in this run."""

    GENERATED = "generated"
    """Asked of the provider now."""
    RESUMED = "resumed"
    """A job that was submitted earlier, finished now."""
    FINISHED = "finished"
    """Already stored for this very run or backfill; nothing was asked or paid."""
    REUSED = "reused"
    """Equal media of another run was taken; nothing was asked or paid."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A finished step. When it exists, bytes, manifest, reference and ledger row are durable.

    `submission_id` is the ledger's row that paid for it; None for what no provider was asked for.
    `estimated_cost_usd` is what the provider expected before this run asked it, `reserved_usd` what
    the step counts as in budgets as long as its cost is unknown.
    """

    ref: MediaRef
    manifest: Manifest
    origin: Origin
    elapsed_seconds: float
    attempts: int
    submission_id: str | None = None
    estimated_cost_usd: float | None = None
    reserved_usd: float | None = None

    @property
    def paid_usd(self) -> float | None:
        """What this run paid: 0.0 when nothing was asked of the provider, None when unknown."""
        reused = self.origin in (Origin.FINISHED, Origin.REUSED)
        return 0.0 if reused else self.ref.cost_usd


@dataclass(frozen=True, slots=True)
class Target:
    """What a step is run for.

    `asset_key` and `partition_key` name the materialisation; `scope` is the run or backfill in
    which every retry meets the same ledger row. `run_id` and `step_id` are the ids of a new
    submission, if it comes to one; they are made up when left out. `for_asset` is the asset whose
    budgets it counts against, when that is another than `asset_key`.
    """

    asset_key: str
    partition_key: str | None
    scope: str
    reuse: bool = False
    tenant_id: str | None = None
    project_id: str | None = None
    pipeline: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    for_asset: str | None = None
