"""What the Runner tells while it works."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class StepEventType(StrEnum):
    """Moments in the life of a step."""

    STARTED = "step.started"
    PROGRESS = "step.progress"
    RETRIED = "step.retried"
    COMPLETED = "step.completed"
    FAILED = "step.failed"


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One moment. `progress` is 0 to 1, `elapsed_seconds` counts from the step's start.

    `detail` is a short text without prompts, URLs or keys.
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


EventHandler = Callable[[StepEvent], None]
