"""What an in-process run gives back."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from genblaze_dagster.core.enums import StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.pipeline.outcome import StepOutcome
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.store import MediaStore


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """A finished run; unpacks as `run, manifest = pipeline.run()`.

    `outcomes` holds the steps that succeeded and `errors` those that did not, both by step name.
    """

    run: Run
    manifest: Manifest
    store: MediaStore = field(repr=False)
    outcomes: Mapping[str, StepOutcome] = field(default_factory=dict[str, StepOutcome], repr=False)
    errors: Mapping[str, GenblazeError] = field(default_factory=dict[str, GenblazeError])

    def __iter__(self) -> Iterator[Run | Manifest]:
        return iter((self.run, self.manifest))

    def media(self, step: str) -> Media:
        """Return the stored output of a step by its name.

        Raises:
            KeyError: no step of that name succeeded.
        """
        return Media(self.outcomes[step].ref, self.store)

    def failed_steps(self) -> list[Step]:
        """Return the steps that failed."""
        return [step for step in self.run.steps if step.status is StepStatus.FAILED]

    def succeeded_steps(self) -> list[Step]:
        """Return the steps that succeeded."""
        return [step for step in self.run.steps if step.status is StepStatus.SUCCEEDED]

    def error_summary(self) -> str:
        """Return one line per failed step; empty when all succeeded."""
        return "\n".join(f"{name}: {error}" for name, error in self.errors.items())
