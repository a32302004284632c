"""Which model of a step is asked, and what follows when it ends in a model error.

Every model is a generation of its own, with its own key and its own submission in the ledger. The
next one is asked only when the one before has ended and can deliver nothing any more. A submission
that is open, whoever left it behind, is finished before any other model is asked; and within one
run or backfill a model that has failed is not asked again while a later one may have delivered.

A model that a budget leaves no room for is followed by the next as well, which is a claim of its
own: it is asked only if its own price fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.errors import BudgetExceededError, ModelError, ProviderError
from genblaze_dagster.ledger.submission import (
    UNSETTLED_STATES,
    ClaimKind,
    Intent,
    LedgerRow,
    SubmissionState,
)
from genblaze_dagster.pipeline.claims import Claims
from genblaze_dagster.pipeline.declaration import FALLBACK_ATTEMPTS, StepSpec
from genblaze_dagster.pipeline.error_codes import CANCELLED, OVER_BUDGET
from genblaze_dagster.pipeline.generation import Generation
from genblaze_dagster.pipeline.outcome import StepOutcome

_CAUSE_CHARS = 80


def models_of(spec: StepSpec) -> tuple[StepSpec, ...]:
    """Return the step as each of its models is asked for it, the declared one first."""
    others = (
        replace(spec, model=model, fallback_from=spec.model) for model in spec.fallback_models
    )
    return (spec, *others)


class Attempts(Protocol):
    """The work of one step, as the choice of its model sees it."""

    @property
    def left_open(self) -> bool:
        """Whether the attempt that failed may still deliver."""
        ...

    def intent(self, generation: Generation) -> Intent:
        """Return what a generation wants of the ledger."""
        ...

    async def attempt(self, generation: Generation) -> StepOutcome:
        """Ask one model."""
        ...

    def fell_back(self, failed: StepSpec, code: str, instead: StepSpec) -> None:
        """Tell that one model failed and another is asked."""
        ...


@dataclass(slots=True)
class _Candidate:
    """One model: its request or why it has none, and what the ledger knows of it, oldest first.

    `failure` is the error it has met in this process.
    """

    spec: StepSpec
    request: Generation | ProviderError
    rows: Sequence[LedgerRow]
    scope: str
    failure: ProviderError | BudgetExceededError | None = None

    @property
    def is_open(self) -> bool:
        return any(row.state in UNSETTLED_STATES for row in self.rows)

    @property
    def code(self) -> str:
        """The error code it failed with, in this run if it did there."""
        error = self.failure or self.request
        if isinstance(error, BudgetExceededError):
            return OVER_BUDGET
        if isinstance(error, ProviderError):
            return error.code.value
        failed = [row for row in self.rows if row.state is SubmissionState.FAILED]
        own = [row for row in failed if row.scope == self.scope]
        codes = [row.error_code for row in own or failed]
        return (codes[-1] if codes else None) or ProviderErrorCode.UNKNOWN.value

    def ended_as(self, state: SubmissionState) -> bool:
        """Whether the last submission that this run made of it ended so."""
        last = next((row for row in reversed(self.rows) if row.scope == self.scope), None)
        return last is not None and last.state is state

    @property
    def has_failed(self) -> bool:
        """Whether it cannot be asked, or has failed in this run by itself."""
        if isinstance(self.request, ProviderError):
            return True
        return self.ended_as(SubmissionState.FAILED) and self.code != CANCELLED


class Fallback:
    """Asks the models of one step in turn.

    Args:
        claims: the ledger.
        spec: the declared step.
        work: carries out one attempt.
        render: makes the request for one model.
        scope: the run or backfill in which nothing is paid twice.
    """

    def __init__(
        self,
        claims: Claims,
        spec: StepSpec,
        work: Attempts,
        *,
        render: Callable[[StepSpec], Generation],
        scope: str,
    ) -> None:
        self._claims = claims
        self._spec = spec
        self._work = work
        self._render = render
        self._scope = scope
        self._candidates: list[_Candidate] = []

    async def run(self) -> StepOutcome:
        """Return what the first model gave that delivers.

        Raises:
            ProviderError: the declared model failed with something else than a model error, or one
                that may still deliver failed for now; `ModelError` when none delivers.
            BudgetExceededError: there is room for none of those that may be asked.
        """
        self._candidates = [await self._look_up(model) for model in models_of(self._spec)]
        start = await self._start()
        for position in range(start):
            self._tell(position)
        errors: list[ProviderError] = []
        refusals: list[BudgetExceededError] = []
        for position in range(start, len(self._candidates)):
            try:
                return await self._work.attempt(self._generation(position))
            except BudgetExceededError as exc:
                self._candidates[position].failure = exc
                refusals.append(exc)
                self._tell(position)
            except ProviderError as exc:
                self._candidates[position].failure = exc
                if self._work.left_open or not self._gives_way(position):
                    raise
                errors.append(exc)
                self._tell(position)
        if refusals:
            # More room would help, whatever the other models said.
            raise refusals[0]
        raise self._none_delivers(errors)

    async def _look_up(self, model: StepSpec) -> _Candidate:
        try:
            generation = self._render(model)
        except ProviderError as exc:
            return _Candidate(model, exc, (), self._scope)
        intent = self._work.intent(generation)
        rows = await self._claims.call(
            self._claims.ledger.find,
            generation_key=intent.generation_key,
            asset_key=intent.asset_key,
            partition_key=intent.partition_key or "",
        )
        return _Candidate(model, generation, rows, self._scope)

    async def _start(self) -> int:
        """Return the position of the model to ask first."""
        for position, candidate in enumerate(self._candidates):
            if candidate.ended_as(SubmissionState.STORED):
                return position
        for position, candidate in enumerate(self._candidates):
            if candidate.is_open:
                await self._pass_over(position)
                return position
        for position, candidate in enumerate(self._candidates):
            if not (candidate.has_failed and self._gives_way(position)):
                return position
        # All have failed in this run, which is retried as a whole.
        return 0

    def _gives_way(self, position: int) -> bool:
        """Whether a model that failed is followed by the next: the declared one by a model error."""
        first = self._candidates[0]
        return (
            position > 0
            or isinstance(first.failure, BudgetExceededError)
            or first.code == ProviderErrorCode.MODEL_ERROR
        )

    async def _pass_over(self, position: int) -> None:
        """Note in the ledger that this run goes on with an open submission of a later model.

        Without the note the next retry of this run would find the earlier models unasked.
        """
        for candidate in self._candidates[:position]:
            if candidate.has_failed or isinstance(candidate.request, ProviderError):
                continue
            intent = replace(self._work.intent(candidate.request), reuse=False)
            lease = await self._claims.claim(intent, patience_seconds=self._spec.timeout)
            if lease.kind is ClaimKind.NEW:
                await lease.apply(
                    self._claims.ledger.failed,
                    code=candidate.code,
                    message=f"not asked: {self._candidates[position].spec.model} is under way",
                    sent=False,
                )

    def _generation(self, position: int) -> Generation:
        """Return the request of a model, to be recorded with the failures before it."""
        generation = self._candidates[position].request
        if isinstance(generation, ProviderError):
            raise generation
        failed = [
            {"model": before.spec.model, "code": before.code}
            for before in self._candidates[:position]
        ]
        if not failed:
            return generation
        # After the key was computed: what failed on the way does not decide what is asked.
        return replace(generation, metadata={**generation.metadata, FALLBACK_ATTEMPTS: failed})

    def _tell(self, position: int) -> None:
        if position + 1 < len(self._candidates):
            candidate = self._candidates[position]
            self._work.fell_back(
                candidate.spec, candidate.code, self._candidates[position + 1].spec
            )

    def _none_delivers(self, errors: Sequence[ProviderError]) -> ModelError:
        tried = "; ".join(f"{c.spec.model}: {c.code}" for c in self._candidates)
        last = errors[-1]
        waits = [error.retry_after for error in errors if error.retry_after is not None]
        return ModelError(
            f"step {self._spec.name!r}: no model delivers ({tried}); the last says: "
            f"{str(last)[:_CAUSE_CHARS]}",
            transient=any(error.transient for error in errors),
            provider=self._spec.provider_name,
            model=last.model,
            retry_after=max(waits, default=None),
            sent=any(error.sent is not False for error in errors),
        )
