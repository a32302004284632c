"""A runner whose every step is a whole agent loop, for assets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from genblaze_dagster.core.canonical import canonical_hash
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, PipelineError
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.pipeline.agent.course import (
    AgentIteration,
    Course,
    Limits,
    PipelineFactory,
    total,
)
from genblaze_dagster.pipeline.agent.evaluation import Evaluator
from genblaze_dagster.pipeline.agent.records import IterationRecords, Kept
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec
from genblaze_dagster.pipeline.events import EventHandler
from genblaze_dagster.pipeline.execution import Indexer
from genblaze_dagster.pipeline.lost_answers import OnAmbiguous
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome, Target
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.refs import read_ref, write_ref
from genblaze_dagster.storage.store import MediaStore

CANDIDATES = "agent"
"""First part of the asset keys under which what a loop tries is referenced."""
EARLIER_STEPS = "agent_steps"
"""The same of what the steps before the last one make; apart, since assets may be named alike."""


@dataclass(frozen=True, slots=True)
class LoopReport:
    """What a loop for one partition has done; small enough to be kept for every partition.

    `paid_usd` is what this attempt paid, None when that is not known; `estimated_usd` what the
    providers expected of it, `reserved_usd` what it counts as in budgets where the cost is unknown.
    Both are None when there is no such sum.
    """

    iterations: tuple["IterationReport", ...]
    paid_usd: float | None
    best: int | None
    estimated_usd: float | None = None
    reserved_usd: float | None = None


@dataclass(frozen=True, slots=True)
class IterationReport:
    """One iteration; `cost_usd` is what it paid in whichever attempt it was run."""

    index: int
    run_id: str
    sha256: str
    passed: bool
    score: float | None
    feedback: str | None
    cost_usd: float | None


class AgentRunner(Runner):
    """Runs a loop for the step it is given, and gives back the accepted media.

    Candidates are referenced as `agent/<asset>`, so the media of the asset itself stays what it
    is until one is accepted. Each candidate's manifest has the one before it as its parent, the
    first one what the asset holds. Iterations that finished in the scope are not run again.

    Args:
        store: where media, manifests and references go.
        ledger: what has been asked and paid.
        factory: makes the pipeline of each iteration; its last step makes the asset.
        evaluator: judges each candidate.
        limits: when to stop.
        providers: instances by the name under which steps ask for them.
        index: collects the manifests.
        embed: what embedded renditions show.
        budgets: as for every `Runner`.
        on_ambiguous: as for every `Runner`.
    """

    def __init__(
        self,
        store: MediaStore,
        ledger: Ledger,
        *,
        factory: PipelineFactory,
        evaluator: Evaluator,
        limits: Limits,
        providers: Mapping[str, Provider],
        index: Indexer,
        embed: EmbedPolicy | None = None,
        budgets: Sequence[Budget] = (),
        on_ambiguous: OnAmbiguous | str = OnAmbiguous.HOLD,
    ) -> None:
        super().__init__(store, ledger, embed=embed, budgets=budgets, on_ambiguous=on_ambiguous)
        self._factory = factory
        self._evaluator = evaluator
        self._limits = limits
        self._providers = providers
        self._index = index
        self.reports: dict[str | None, LoopReport] = {}

    async def run_step(
        self,
        spec: StepSpec,
        target: Target,
        *,
        variables: Mapping[str, object] | None = None,
        inputs: Sequence[MediaRef] = (),
        provider: Provider | None = None,
        on_event: EventHandler | None = None,
    ) -> StepOutcome:
        """Run the loop for one partition and return what was accepted, stored as the asset's.

        Raises:
            PipelineError: nothing was accepted; `result` is the `AgentResult`.
            GenblazeError: a step failed, as from `Runner.run_step`; what was finished is kept.
        """
        media: dict[str, list[Media]] = {}
        for ref in inputs:
            media.setdefault(ref.asset_key, []).append(Media(ref, self.store))
        course = Course(
            self._factory, self._evaluator, self._limits, variables=variables, inputs=media
        )
        judge = canonical_hash(self._evaluator.declared)
        records = IterationRecords(self.store, target, judge=judge)
        try:
            while course.stopped is None:
                await self._iterate(course, records, target, variables or {})
        finally:
            self.reports[target.partition_key] = _report(course)
        best = course.best
        if best is None or not best.evaluation.passed:
            raise _nothing_accepted(course)
        outcome = _last(best.result)
        ref = replace(outcome.ref, asset_key=target.asset_key, partition_key=target.partition_key)
        await write_ref(self.store, ref)
        return replace(outcome, ref=ref)

    async def _iterate(
        self,
        course: Course,
        records: IterationRecords,
        target: Target,
        variables: Mapping[str, object],
    ) -> None:
        index = len(course.iterations)
        kept = await records.read(index)
        if kept is None:
            pipeline = await course.pipeline()
            if index == 0:
                await self._start_from_current(target)
            result = await self._candidate(pipeline, index, target, variables)
            kept = Kept(result, total(map(_cost, result.outcomes.values())), None)
            await records.write(index, kept)
        else:
            # The attempt that made it may have died before its part of the index was written.
            for outcome in kept.result.outcomes.values():
                self._add_to_index(outcome)
        if kept.evaluation is not None:
            course.add(AgentIteration(index, kept.result, kept.evaluation, kept.cost_usd))
            return
        course.made(kept.result, kept.cost_usd)
        done = await course.judge()
        await records.write(index, replace(kept, evaluation=done.evaluation))

    def _add_to_index(self, outcome: StepOutcome) -> None:
        self._index.add(
            outcome.manifest,
            asset_key=outcome.ref.asset_key,
            partition_key=outcome.ref.partition_key,
            manifest_key=outcome.ref.manifest_key,
        )

    async def _start_from_current(self, target: Target) -> None:
        """Make what the asset holds the parent of the first candidate."""
        current = await read_ref(self.store, target.asset_key, target.partition_key)
        if current is not None:
            await write_ref(self.store, replace(current, asset_key=_candidates(target)))

    async def _candidate(
        self, pipeline: Pipeline, index: int, target: Target, variables: Mapping[str, object]
    ) -> PipelineResult:
        """Run the steps of one iteration, one after the other."""
        last = _last_step(pipeline)
        outcomes: dict[str, StepOutcome] = {}
        for spec in pipeline.steps:
            earlier = f"{EARLIER_STEPS}/{target.asset_key}/{spec.name}"
            outcome = outcomes[spec.name] = await super().run_step(
                spec,
                replace(
                    target,
                    asset_key=_candidates(target) if spec.name == last else earlier,
                    for_asset=target.asset_key,
                    scope=f"{target.scope}#{index}",
                    tenant_id=pipeline.tenant_id,
                    project_id=pipeline.project_id,
                    pipeline=pipeline.name,
                ),
                variables=variables,
                inputs=[outcomes[name].ref for name in spec.inputs],
                provider=self._providers.get(spec.provider)
                if isinstance(spec.provider, str)
                else None,
            )
            self._add_to_index(outcome)
        manifest = outcomes[last].manifest
        return PipelineResult(manifest.run, manifest, self.store, outcomes)


def _candidates(target: Target) -> str:
    return f"{CANDIDATES}/{target.asset_key}"


def _last_step(pipeline: Pipeline) -> str:
    if not pipeline.steps:
        raise ConfigError("the pipeline of an agent asset has no steps; add one with .step(...)")
    if pipeline.moderation is not None:
        raise ConfigError(
            "moderation is looked at by run() and not by assets; leave it out of the pipeline of an "
            "agent asset, and let the evaluator refuse"
        )
    used = {name for spec in pipeline.steps for name in spec.inputs}
    last = [spec.name for spec in pipeline.steps if spec.name not in used]
    if len(last) > 1:
        raise ConfigError(
            f"the pipeline of an agent asset ends in {', '.join(last)}; an asset is one media, so "
            "let one step take the others as inputs"
        )
    return last[0]


def _last(result: PipelineResult) -> StepOutcome:
    # The only step that no other uses; inputs are declared before their users.
    return list(result.outcomes.values())[-1]


def _cost(outcome: StepOutcome) -> float | None:
    """Return what the media cost within this scope, in whichever attempt it was made."""
    return 0.0 if outcome.origin is Origin.REUSED else outcome.ref.cost_usd


def _report(course: Course) -> LoopReport:
    iterations = [
        IterationReport(
            index=one.index,
            run_id=one.result.run.run_id,
            sha256=_last(one.result).ref.media[0].sha256,
            passed=one.evaluation.passed,
            score=one.evaluation.score,
            feedback=one.evaluation.feedback,
            cost_usd=one.cost_usd,
        )
        for one in course.iterations
    ]
    outcomes = [made for one in course.iterations for made in one.result.outcomes.values()]
    # What was asked of a provider has a row in the ledger; what an earlier attempt has kept is read
    # from the store.
    asked = [made for made in outcomes if made.origin in (Origin.GENERATED, Origin.RESUMED)]
    reserved = [made.reserved_usd for made in asked if made.reserved_usd is not None]
    best = course.best
    return LoopReport(
        tuple(iterations),
        paid_usd=total(made.paid_usd for made in outcomes),
        best=None if best is None else best.index,
        estimated_usd=total(made.estimated_cost_usd for made in asked) if asked else None,
        reserved_usd=total(reserved) if reserved else None,
    )


def _nothing_accepted(course: Course) -> PipelineError:
    result, best = course.result, course.best
    named = "none was scored"
    if best is not None:
        named = f"best is iteration {best.index}, score {best.evaluation.score}"
    return PipelineError(
        f"none of {len(result.iterations)} iterations was accepted ({result.stopped}); {named}; all "
        "are stored. Raise the limits or ask for less",
        result=result,
    )
