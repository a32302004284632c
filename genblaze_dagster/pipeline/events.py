"""What the Runner tells while it works."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class StepEventType(StrEnum):
    """Moments in the life of a step."""

    STARTED = "step.started"
    PROGRESS = "step.progress"
    RETRIED = "step.retried"
    COMPLETED = "step.completed"
    FAILED = "step.failed"


class StepPhase(StrEnum):
    """The calls of a vendor's job, each of which is tried again by itself."""

    SUBMIT = "submit"
    POLL = "poll"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One moment of one step, as the Runner tells it to whoever runs it: a pipeline or Dagster.

    `progress` is 0 to 1, `elapsed_seconds` counts from the step's start.

    `detail` is a short text without prompts, URLs or keys. `status` says of progress how far the
    job is: submitted, processing, resumed, retry_resumed, succeeded or failed. `phase` to `error`
    are set when one of the job's calls is tried again; `attempt` is then the number of the next
    try. `message` and `error` are the vendor's words: redacted, but they may repeat a prompt.
    `preview_url` may grant access for a while, and is in no repr for that.
    """

    type: StepEventType
    step: str
    asset_key: str
    partition_key: str | None
    provider: str
    model: str
    elapsed_seconds: float
    progress: float | None = None
    attempt: int = 1
    detail: str | None = None
    status: str | None = None
    message: str | None = None
    preview_url: str | None = field(default=None, repr=False)
    job_id: str | None = None
    is_heartbeat: bool = False
    phase: StepPhase | None = None
    max_attempts: int | None = None
    delay_seconds: float | None = None
    error_code: str | None = None
    error: str | None = None


EventHandler = Callable[[StepEvent], None]
