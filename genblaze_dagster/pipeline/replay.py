"""From a manifest back to the pipeline that made it, to run it again or with changes."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Self, cast

from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Step, is_valid_sha256
from genblaze_dagster.core.redaction import RECORD
from genblaze_dagster.errors import ConfigError, IntegrityError, ManifestError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec, is_step_name
from genblaze_dagster.pipeline.execution import Refinement, execute
from genblaze_dagster.pipeline.outcome import StepOutcome
from genblaze_dagster.pipeline.recording import STEP_NAME
from genblaze_dagster.pipeline.restoring import Problem, ProblemKind, restore
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.wiring import Wiring
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.providers.registry import provider_names

_MOST_ID_CHARS = 200
_MOST_NAME_CHARS = 100


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """A step that will be run, the record of the one it repeats, and the fields that differ."""

    spec: StepSpec
    recorded: Step
    changed: tuple[str, ...] = ()

    @property
    def recorded_sha256(self) -> tuple[str | None, ...]:
        """The hashes of the recorded outputs, in order."""
        return tuple(asset.sha256 for asset in self.recorded.assets)

    def is_repeated_by(self, outcome: StepOutcome) -> bool | None:
        """Whether the new bytes are the recorded ones; None when those have no hash."""
        if not all(is_valid_sha256(sha256) for sha256 in self.recorded_sha256):
            return None
        return self.recorded_sha256 == tuple(media.sha256 for media in outcome.ref.media)


class Replay:
    """What a manifest says of the pipeline behind it.

    Steps are called by their modality (`image`, `video`, `video_2`), as manifests do not name them.
    Media that was ingested or imported is external input now. What cannot be restored is listed in
    `problems`, and nothing is run then. `notes` say what the user of a replay should know.
    """

    def __init__(
        self,
        manifest: Manifest,
        steps: Sequence[ReplayStep],
        problems: Sequence[Problem],
        notes: Sequence[str],
        pipeline: Pipeline,
    ) -> None:
        self.manifest = manifest
        self.steps = tuple(steps)
        self.problems = tuple(problems)
        self.notes = tuple(notes)
        self._pipeline = pipeline

    @classmethod
    def from_manifest(
        cls,
        manifest: Manifest,
        *,
        changes: Mapping[str, object] | None = None,
        providers: Mapping[str, Provider] | None = None,
    ) -> Self:
        """Restore the pipeline of a manifest.

        Args:
            manifest: read from anywhere; its hash is looked at when it is run.
            changes: what to make different, by `step.field` or, when there is one step, `field`:
                prompt, negative_prompt, seed, model, provider, prompt_visibility, or a parameter.
                A prompt that is not recorded is given here too, and compared with its SHA-256.
            providers: instances to use instead of what their names stand for.

        Raises:
            ConfigError: a change names no step, or has a value of the wrong type.
        """
        given = providers or {}
        known = {*given, *provider_names()}
        names = _names(manifest.run.steps)
        by_step = _by_step(changes or {}, [name for name in names if name is not None])
        wiring = Wiring(names)
        steps: list[ReplayStep] = []
        problems = _of_run(manifest, names)
        notes: list[str] = []
        for recorded, name in zip(manifest.run.steps, names, strict=True):
            sources = wiring.next(recorded)
            if name is None:
                notes.append(
                    f"media of {recorded.model!r} ({recorded.step_type}) is not made again"
                )
                continue
            wanted = by_step.get(name, {})
            chosen = wanted.get("provider", recorded.provider)
            restored = restore(
                recorded, name, sources, changes=wanted, provider=given.get(str(chosen))
            )
            steps.append(ReplayStep(restored.spec, recorded, tuple(wanted)))
            problems += restored.problems
            notes += restored.notes
        pipeline = _declared(manifest, steps, problems)
        problems += _uninstalled([step.spec for step in steps], known)
        return cls(manifest, steps, problems, notes, pipeline)

    @property
    def has_private_prompts(self) -> bool:
        """Whether any step keeps its prompts from readers."""
        steps = (step.spec.prompt_visibility for step in self.steps)
        recorded = (step.prompt_visibility for step in self.manifest.run.steps)
        return any(visibility is not PromptVisibility.PUBLIC for visibility in (*steps, *recorded))

    @property
    def hash_ok(self) -> bool:
        """Whether the manifest hashes to what it says; False also when it cannot be hashed."""
        try:
            return self.manifest.verify_hash()
        except ManifestError:
            return False

    def check_hash(self) -> None:
        """Refuse a manifest that was changed after it was written.

        Raises:
            IntegrityError: it does not hash to what it says.
        """
        if not self.hash_ok:
            raise IntegrityError(
                f"manifest of run {self.run_id} does not hash to its canonical_hash: it was changed "
                "after it was written; get the original, or run it as it is with force",
                expected=self.manifest.canonical_hash,
            )

    @property
    def pipeline(self) -> Pipeline:
        """The restored pipeline.

        Raises:
            ConfigError: something of it cannot be restored; names what and the remedy.
        """
        self.require()
        return self._pipeline

    def require(self, *, installed: bool = True) -> None:
        """Refuse what cannot be run.

        Args:
            installed: False leaves out whether this machine has the providers.

        Raises:
            ConfigError: something cannot be restored; names what and the remedy.
        """
        found = [p for p in self.problems if installed or p.kind is not ProblemKind.PROVIDER]
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            raise ConfigError(f"run {self.run_id} cannot be replayed: {found[0]}{more}")

    @property
    def run_id(self) -> str:
        """The id of the recorded run, cut to what a message can hold."""
        return self.manifest.run.run_id[:_MOST_ID_CHARS]

    @property
    def refines(self) -> Refinement:
        """The recorded run as the parent of the next one."""
        run = self.manifest.run
        return Refinement(run.run_id, run.metadata)

    def run(self, *, force: bool = False, **options: Any) -> PipelineResult:
        """Run the pipeline again and return when all is stored; see `arun`."""
        return run_sync(self.arun(force=force, **options))

    async def arun(self, *, force: bool = False, **options: Any) -> PipelineResult:
        """Run the pipeline again, as a run whose parent is the recorded one.

        Options are those of `genblaze_dagster.pipeline.execution.execute`.

        Args:
            force: also when the manifest was changed after it was written.
            **options: store, ledger and the like.

        Raises:
            IntegrityError: the manifest does not hash to what it says, and not `force`.
            ConfigError: something cannot be restored.
            PipelineError: a step failed.
        """
        if not force:
            self.check_hash()
        return await execute(self.pipeline, refines=self.refines, **options)


def _names(steps: Sequence[Step]) -> list[str | None]:
    """Return what each step is called, as recorded or by what it makes; None for brought-in media.

    The record is not vouched for by the manifest's hash, so it is only taken for a name.
    """
    names: list[str | None] = []
    taken: set[str | None] = {None}
    numbers: dict[str, Iterator[int]] = {}
    for step in steps:
        if step.provider is None:
            names.append(None)
            continue
        kind = step.modality.value
        more = numbers.setdefault(kind, count(2))
        candidates = chain((_recorded_name(step), kind), (f"{kind}_{n}" for n in more))
        names.append(next(name for name in candidates if name not in taken))
        taken.add(names[-1])
    return names


def _recorded_name(step: Step) -> str | None:
    recorded = step.provider_payload.get(STEP_NAME)
    if not isinstance(recorded, str) or len(recorded) > _MOST_NAME_CHARS:
        return None
    return recorded if is_step_name(recorded) else None


def _by_step(changes: Mapping[str, object], names: Sequence[str]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    known = set(names)
    for key, value in changes.items():
        step, dot, field = key.partition(".")
        if not dot and len(names) == 1:
            step, field = names[0], key
        if step not in known or not field:
            raise ConfigError(
                f"change {key[:80]!r} names no step of the run; write it as step.field, where the "
                f"step is one of: {', '.join(names[:20]) or 'none'}"
            )
        found.setdefault(step, {})[field] = value
    return found


def _of_run(manifest: Manifest, names: Sequence[str | None]) -> list[Problem]:
    problems: list[Problem] = []
    run = manifest.run
    record: object = run.metadata.get(RECORD)
    if record is not None:
        whole, gone = _redaction(record)
        problems.append(
            Problem(
                ProblemKind.REDACTED,
                None,
                f"the manifest is a redacted copy without {gone}",
                f"replay the whole one, whose canonical_hash is {whole}",
            )
        )
    if not any(names):
        problems.append(
            Problem(
                ProblemKind.NOTHING,
                None,
                "no step of the run asked a provider for anything",
                "replay a manifest of generated media",
            )
        )
    if not 0 < len(run.run_id) <= _MOST_ID_CHARS or not run.run_id.isprintable():
        problems.append(
            Problem(
                ProblemKind.DECLARATION,
                None,
                f"its run id is no name of 1 to {_MOST_ID_CHARS} printable characters",
                "give the manifest a run id to refer to",
            )
        )
    return problems


def _redaction(record: object) -> tuple[str, str]:
    """Return hash of the whole manifest and what is gone, from a record that anyone may have set."""
    fields = cast(dict[str, object], record) if isinstance(record, dict) else {}
    whole, gone = fields.get("canonical_hash"), fields.get("fields")
    named = (
        [str(name)[:40] for name in cast(list[object], gone)[:9]] if isinstance(gone, list) else []
    )
    is_hash = isinstance(whole, str) and is_valid_sha256(whole)
    return str(whole) if is_hash else "not recorded", ", ".join(named) or "some of its content"


def _uninstalled(specs: Sequence[StepSpec], known: Collection[str]) -> list[Problem]:
    steps: dict[str, list[str]] = {}
    for spec in specs:
        if spec.provider_name not in known:
            steps.setdefault(spec.provider_name, []).append(spec.name)
    return [
        Problem(
            ProblemKind.PROVIDER,
            None,
            f"provider {provider[:80]!r} of {', '.join(names[:9])} is not installed here",
            "install the package that has it, or choose another provider and model for each step "
            f"(there are: {', '.join(sorted(known))})",
        )
        for provider, names in steps.items()
    ]


def _declared(manifest: Manifest, steps: Sequence[ReplayStep], problems: list[Problem]) -> Pipeline:
    """Return the pipeline; a step that cannot be declared is one more problem."""
    run = manifest.run
    pipeline = Pipeline(run.name, tenant_id=run.tenant_id, project_id=run.project_id)
    left_out = {problem.step for problem in problems}
    for step in steps:
        if left_out.intersection((step.spec.name, *step.spec.inputs)):
            left_out.add(step.spec.name)
            continue
        try:
            pipeline.add(step.spec)
        except ConfigError as exc:
            left_out.add(step.spec.name)
            problems.append(
                Problem(
                    ProblemKind.DECLARATION, step.spec.name, str(exc), "declare the pipeline again"
                )
            )
    return pipeline
