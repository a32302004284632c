"""What an in-process run gives back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from genblaze_dagster.core.enums import StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.errors import ConfigError, GenblazeError, PipelineError
from genblaze_dagster.media.embedding import EmbedResult
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.outcome import StepOutcome
from genblaze_dagster.pipeline.saving import Saving
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

    def save(
        self,
        path: Path | str,
        *,
        embed: bool = True,
        policy: EmbedPolicy | None = None,
        step: str | None = None,
        overwrite: bool = False,
    ) -> EmbedResult:
        """Write the final output to a file and put its manifest in.

        The content decides how, not the file's extension; where it cannot carry a manifest, that
        goes beside it. A file that is an output of this run already, with or without a manifest, is
        not written again: it gets the manifest of the step that made it.

        Args:
            path: the file; its folders are created.
            embed: False leaves the media as it is and writes the manifest beside it.
            policy: what the manifest shows, and whether it is a pointer, or not there at all.
            step: name of the step whose output is meant; the last one when left out.
            overwrite: replace a file of other content.

        Raises:
            ConfigError: it is not clear which output is meant, there are several, or `path` is a
                directory or holds something else.
            EmbeddingError: the file cannot be written.
            ManifestError: the manifest cannot be written.
            IntegrityError: the store holds other bytes than were stored.
            StorageError: the output cannot be read.
        """
        return run_sync(
            self.asave(path, embed=embed, policy=policy, step=step, overwrite=overwrite)
        )

    async def asave(
        self,
        path: Path | str,
        *,
        embed: bool = True,
        policy: EmbedPolicy | None = None,
        step: str | None = None,
        overwrite: bool = False,
    ) -> EmbedResult:
        """Write the final output in async code; see `save`."""
        name = self._step_to_save(step)
        media = self.media(name)
        if len(media) > 1:
            raise ConfigError(
                f"step {name!r} has {len(media)} outputs and save() writes one file; "
                "use save_all(directory)"
            )
        if str(path).endswith("/"):
            raise ConfigError(f"{path} names a directory; use save_all({str(path)!r})")
        return await self._saving(embed, policy, overwrite).save(media, Path(path))

    def save_all(
        self,
        directory: Path | str,
        *,
        embed: bool = True,
        policy: EmbedPolicy | None = None,
        step: str | None = None,
        overwrite: bool = False,
    ) -> list[EmbedResult]:
        """Write every output of one step to a directory: `0.png`, `1.png`, ...; see `save`."""
        return run_sync(
            self.asave_all(directory, embed=embed, policy=policy, step=step, overwrite=overwrite)
        )

    async def asave_all(
        self,
        directory: Path | str,
        *,
        embed: bool = True,
        policy: EmbedPolicy | None = None,
        step: str | None = None,
        overwrite: bool = False,
    ) -> list[EmbedResult]:
        """Write every output of one step in async code; see `save`."""
        saving = self._saving(embed, policy, overwrite)
        outputs = self.media(self._step_to_save(step))
        return [
            await saving.save(outputs[index], Path(directory, f"{index}{Path(media.key).suffix}"))
            for index, media in enumerate(outputs.ref.media)
        ]

    def _saving(self, embed: bool, policy: EmbedPolicy | None, overwrite: bool) -> Saving:
        manifests = {
            media.sha256: outcome.manifest
            for outcome in self.outcomes.values()
            for media in outcome.ref.media
        }
        return Saving(manifests, embed, policy or EmbedPolicy(), overwrite)

    def _step_to_save(self, step: str | None) -> str:
        if step is not None:
            if step in self.outcomes:
                return step
            said = f"failed: {self.errors[step]}" if step in self.errors else "is not of this run"
            raise ConfigError(f"step {step!r} {said}; {self._choice()}")
        if self.errors:
            failed = next(iter(self.errors))
            raise ConfigError(f"step {failed!r} failed, so what is last is open; {self._choice()}")
        inner = {
            earlier.step_id
            for outcome in self.outcomes.values()
            for earlier in outcome.manifest.run.steps
            if earlier.step_id != outcome.ref.step_id
        }
        last = [name for name, one in self.outcomes.items() if one.ref.step_id not in inner]
        if len(last) != 1:
            raise ConfigError(f"{len(last)} steps are last in this run; {self._choice()}")
        return last[0]

    def _choice(self) -> str:
        if not self.outcomes:
            return "no step succeeded, so there is nothing to save"
        return f"save one that succeeded: step={' or '.join(map(repr, self.outcomes))}"


class RunFailedError(PipelineError):
    """Steps of a run failed; `result` holds the rest, which is stored.

    Attributes:
        failed_step_index: position of the first step that failed, from 0.
        failed_step_error: why it did.
    """

    def __init__(self, result: PipelineResult, steps: Sequence[str]) -> None:
        super().__init__(
            f"{len(result.errors)} of {len(steps)} steps failed:\n{result.error_summary()}",
            result=result,
        )
        first = next(name for name in steps if name in result.errors)
        self.failed_step_index = steps.index(first)
        self.failed_step_error = str(result.errors[first])
