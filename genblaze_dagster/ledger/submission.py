"""What the ledger knows: intents, submissions, and the answer to a claim."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from genblaze_dagster.errors import ConfigError


class SubmissionState(StrEnum):
    """How far one submission is.

    intended → submitted → succeeded → stored, or failed; held when the answer to the submit was
    lost. A vendor that answers with the output itself goes from intended straight to stored.
    """

    INTENDED = "intended"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    STORED = "stored"
    FAILED = "failed"
    HELD = "held"


OPEN_STATES = (
    SubmissionState.INTENDED,
    SubmissionState.SUBMITTED,
    SubmissionState.SUCCEEDED,
)
"""States in which somebody still works on the submission, or has to take it over."""

UNSETTLED_STATES = (*OPEN_STATES, SubmissionState.HELD)
"""States of which an asset, partition and generation key has at most one submission."""


class ClaimKind(StrEnum):
    """What the holder of a claim has to do."""

    NEW = "new"
    """Submit it: nothing was sent, or the vendor deduplicates what was."""
    RESUME = "resume"
    """Poll and fetch the known job; never submit."""
    FINISHED = "finished"
    """Nothing: this very intent is stored."""
    REUSED = "reused"
    """Nothing is paid: an equal generation is stored already."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One wish for one generation.

    `scope` is the root run or backfill: every retry inside it meets the same submission, another
    scope is another wish. `generation_key` identifies what is asked of which model.
    `deduplicates` says that the vendor bills a repeated submit with the same idempotency key once.
    `reuse` accepts any stored generation with an equal key, of any asset, partition or scope.
    `tenant_id` and `account` (fingerprint of the vendor's credentials) say on whose behalf and
    with whose limits it is sent; `estimated_cost_usd` what the provider expects, None when its
    price is unknown. `for_asset` is the asset whose budgets it counts against, when `asset_key`
    only names a part of the work on that: what an agent tries.

    Raises:
        ConfigError: the estimate is no amount of money.
    """

    asset_key: str
    partition_key: str | None
    scope: str
    generation_key: str
    provider: str
    model: str
    reuse: bool = False
    deduplicates: bool = False
    tenant_id: str | None = None
    account: str | None = None
    estimated_cost_usd: float | None = None
    for_asset: str | None = None

    def __post_init__(self) -> None:
        estimate = self.estimated_cost_usd
        if estimate is not None and not 0 <= estimate < math.inf:
            raise ConfigError(
                f"estimated_cost_usd of {self.provider} {self.model} is {estimate}; give a number of "
                "USD from 0 on, or None when the price is unknown"
            )


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One submission as it is stored. Times are UTC; `cost_usd` is None when unknown.

    `scope` is that of the intent which created the row; intents of other scopes may have taken it
    over. `answer_lost` means that an earlier submit of a deduplicating vendor got no answer, so
    that a job may exist under this row's idempotency key; of a failed submission, that it may be
    paid although nobody goes on waiting for it. `attempt` counts from 1.

    `estimated_cost_usd` is what the provider expected before the claim; `reserved_usd` is what the
    current attempt, claimed at `claimed_at`, counts as while its cost is unknown.
    """

    id: str
    run_id: str
    step_id: str
    asset_key: str
    partition_key: str | None
    scope: str
    generation_key: str
    provider: str
    model: str
    state: SubmissionState
    job_id: str | None
    attempt: int
    owner: str | None
    lease_expires_at: datetime | None
    created_at: datetime
    sending_at: datetime | None
    submitted_at: datetime | None
    finished_at: datetime | None
    cost_usd: float | None
    error_code: str | None
    error_message: str | None
    result: Mapping[str, Any] | None = field(repr=False)
    deduplicates: bool
    answer_lost: bool
    estimated_seconds: float | None
    outputs_expire_at: datetime | None
    tenant_id: str | None
    account: str | None
    estimated_cost_usd: float | None
    reserved_usd: float | None
    claimed_at: datetime

    @property
    def is_unanswered(self) -> bool:
        """Whether it is unsettled and may be paid without a job by which to fetch it."""
        if self.job_id is not None:
            return False
        if self.state is SubmissionState.INTENDED:
            return self.sending_at is not None or self.answer_lost
        return self.state in (SubmissionState.SUCCEEDED, SubmissionState.HELD)

    def is_leased(self, now: datetime) -> bool:
        """Whether a worker keeps others away from it."""
        return self.lease_expires_at is not None and self.lease_expires_at > now

    def is_undecided(self, now: datetime) -> bool:
        """Whether a person may say what became of it: nobody waits for the answer any more."""
        return self.is_unanswered and not self.is_leased(now)


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """A failed attempt that was followed by another; its cost counts.

    Without a cost, `reserved_usd` counts if the vendor had a job for it or its answer was lost.
    """

    submission_id: str
    attempt: int
    job_id: str | None
    sending_at: datetime | None
    submitted_at: datetime | None
    finished_at: datetime | None
    cost_usd: float | None
    error_code: str | None
    error_message: str | None
    estimated_cost_usd: float | None
    reserved_usd: float | None
    claimed_at: datetime
    answer_lost: bool


def submit_key(run_id: str, failures: int) -> str:
    """Return the idempotency key of a submit: the same after a lost answer, new after a failure.

    A vendor that replays what it answered to a key would replay the failure for ever.

    Args:
        run_id: of the submission.
        failures: how many of its attempts failed before.
    """
    return f"{run_id}-{failures}" if failures else run_id


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: what to do, and the submission to do it with."""

    kind: ClaimKind
    submission: LedgerRow
