"""How one run is run: everything about it that is not the pipeline's declaration."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.pipeline.announcing import Listeners
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.moderation import ModerationHook
from genblaze_dagster.pipeline.outcome import StepOutcome
from genblaze_dagster.pipeline.refinement import Refinement

DEFAULT_CONCURRENCY = 16

OnOutcome = Callable[[StepSpec, StepOutcome], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of one run, as `execution.run_options` makes them and says what they mean.

    `run_id` is that of the whole run. `partition_key` tells the runs of a batch apart.

    Raises:
        ConfigError: a number is out of its range.
    """

    run_id: str
    scope: str
    variables: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    reuse: bool = False
    fail_fast: bool = True
    max_concurrency: int = DEFAULT_CONCURRENCY
    timeout: float | None = None
    max_retries: int = 0
    pipeline_timeout: float | None = None
    refines: Refinement | None = None
    parent_run_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    partition_key: str | None = None
    moderation: ModerationHook | None = None
    on_outcome: OnOutcome | None = None
    listeners: Listeners = field(default_factory=Listeners)

    def __post_init__(self) -> None:
        if self.max_concurrency < 1:
            raise ConfigError(f"max_concurrency is {self.max_concurrency}; give at least 1")
        if self.max_retries < 0:
            raise ConfigError(f"max_retries is {self.max_retries}; give 0 or more")
        for name in ("timeout", "pipeline_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ConfigError(f"{name} is {seconds} s; give more than 0, or None for none")

    @property
    def is_refining(self) -> bool:
        """Whether the run has a record of its own, besides those of its steps."""
        return bool(self.refines or self.parent_run_id or self.metadata)
