"""What a run would ask of whom and what it may cost, found out without asking anybody.

The requests are those of the run itself: the same declaration, filled by the same function, looked
up in the same ledger. Nothing is submitted, claimed or written.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

from genblaze_dagster.core.enums import Modality, ProviderErrorCode
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import AuthError, GenblazeError, NotFoundError, ProviderError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.peeking import Peek
from genblaze_dagster.ledger.prospects import NextStep
from genblaze_dagster.ledger.submission import Intent, LedgerRow
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.error_codes import CANCELLED
from genblaze_dagster.pipeline.fallback import models_of
from genblaze_dagster.pipeline.generation import Generation, render
from genblaze_dagster.pipeline.inputs import Inputs
from genblaze_dagster.pipeline.intents import expected_cost, intent_of
from genblaze_dagster.pipeline.lineage import Upstream
from genblaze_dagster.pipeline.outcome import Target
from genblaze_dagster.pipeline.quote import Outlook, StepQuote
from genblaze_dagster.pipeline.unmade import Looks, unmade_inputs
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Provider
from genblaze_dagster.storage.store import MediaStore

UNTIL_INPUT_EXISTS = "unknown until its input exists"
_TAKEN = {NextStep.FINISHED: Outlook.FINISHED, NextStep.REUSED: Outlook.REUSED}
# An open job is finished before any other model is asked.
_UNSETTLED = (
    NextStep.WAIT,
    NextStep.RESUME,
    NextStep.HOLD,
    NextStep.HELD,
    NextStep.TAKE_OVER,
)
_NOTHING_BEFORE = Peek(NextStep.FIRST_ATTEMPT)


@dataclass(frozen=True, slots=True)
class Wish:
    """One step of one partition, as its run would be asked for it.

    `inputs` are the references of its inputs, None when one of them is still to be generated;
    `kinds` what the inputs are then.
    """

    target: Target
    spec: StepSpec
    provider: Provider
    variables: Mapping[str, object]
    inputs: Sequence[MediaRef] | None
    kinds: Sequence[Modality] = ()


class Quoter:
    """Says what becomes of wishes.

    Args:
        store: where the run would store.
        ledger: what has been asked and paid; None when there is none yet.
        resubmits: what is held would be sent again.
        clock: current time, aware UTC.
    """

    def __init__(
        self,
        store: MediaStore,
        ledger: Ledger | None,
        *,
        resubmits: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._resubmits = resubmits
        self._clock = clock
        self._inputs = Inputs(store, Upstream(store))
        self._places: dict[str, Set[tuple[str | None, str]]] = {}
        self._priced_by_inputs: set[str] = set()

    async def quote(self, wish: Wish) -> StepQuote:
        """Return what becomes of one wish.

        Raises:
            StorageError: the store cannot be read.
            LedgerError: the ledger cannot be read.
        """
        try:
            media, looks = await self._media(wish)
        except NotFoundError as exc:
            return _outcome(wish, Outlook.IMPOSSIBLE, 0.0, str(exc))
        refusal: GenblazeError | None = None
        models: list[_Model] = []
        for position, spec in enumerate(models_of(wish.spec)):
            try:
                generation = _rendered(spec, wish, media, looks)
            except GenblazeError as exc:
                refusal = refusal or exc
                if not isinstance(exc, ProviderError):
                    break
                continue
            if looks is not None:
                return self._unmade(wish, generation, looks)
            intent = intent_of(generation, wish.target)
            models.append(_Model(position, generation, intent, self._peek(intent)))
        if not models:
            return _outcome(wish, Outlook.IMPOSSIBLE, 0.0, _told(refusal))
        return await self._claimed(wish, _first_asked(models))

    async def _media(self, wish: Wish) -> tuple[tuple[InputMedia, ...], Looks | None]:
        """Return the inputs, and who looks at them when they are not made yet."""
        if wish.inputs is None:
            return unmade_inputs(wish.kinds)
        try:
            consumed = await self._inputs.consumed(wish.spec, wish.inputs, download=False)
        except NotFoundError:
            if not wish.spec.external_inputs:
                raise
            # It is fetched, and known, when the step runs.
            return unmade_inputs([wish.spec.modality] * len(wish.spec.sources))
        return consumed.media, None

    async def _claimed(self, wish: Wish, model: "_Model") -> StepQuote:
        """Return what a run would be told by the ledger, and do then."""
        asked, intent, peek = model.asked, model.intent, model.peek
        if (found := await self._taken(wish, asked, peek)) is not None:
            return found
        if peek.step in _TAKEN and peek.row is not None:
            # It is deleted: what a run then wants is another wish.
            lost = replace(intent, reuse=False, scope=f"{intent.scope}#{peek.row.run_id}")
            peek = self._peek(lost, is_known=True)
            if (found := await self._taken(wish, asked, peek)) is not None:
                return found
        return self._asked(wish, asked, intent, peek)

    async def _taken(self, wish: Wish, asked: Generation, peek: Peek) -> StepQuote | None:
        """Return the quote of media that is stored, and still there."""
        if peek.step not in _TAKEN or peek.row is None:
            return None
        ref = await self._there(peek.row)
        if ref is None:
            return None
        return _outcome(wish, _TAKEN[peek.step], 0.0, ref=ref, model=asked.spec.model)

    def _asked(self, wish: Wish, asked: Generation, intent: Intent, peek: Peek) -> StepQuote:
        """Return the quote of media that is not stored yet."""
        model, row = asked.spec.model, peek.row
        if row is not None and peek.step is NextStep.WAIT:
            reason = (
                f"another worker is at it, its lease ends at {row.lease_expires_at:%H:%M:%S} UTC"
            )
            return _outcome(wish, Outlook.UNDER_WAY, 0.0, reason, model=model)
        if row is not None and peek.step is NextStep.RESUME:
            return _outcome(wish, Outlook.RESUMED, 0.0, f"job {row.job_id}", model=model)
        if row is not None and peek.step in (NextStep.HOLD, NextStep.HELD) and not self._resubmits:
            reason = f"the answer of submission {row.id} was lost; resolve it in the ledger"
            return _outcome(wish, Outlook.HELD, 0.0, reason, model=model)
        reason = None
        if intent.estimated_cost_usd is None:
            reason = f"{asked.provider.name} names no price for it"
        return replace(_new(wish, asked, intent, reason), taken_usd=peek.taken_usd)

    def _unmade(self, wish: Wish, asked: Generation, looks: Looks) -> StepQuote:
        """Return the quote of a request whose inputs are not made yet."""
        if self._is_priced_by_inputs(wish, asked, looks):
            return _new(wish, asked, _unpriced(wish.target, asked.spec), UNTIL_INPUT_EXISTS)
        return self._asked(wish, asked, intent_of(asked, wish.target), _NOTHING_BEFORE)

    def _is_priced_by_inputs(self, wish: Wish, asked: Generation, looks: Looks) -> bool:
        """Whether the price depends on inputs that are not made yet; one look is enough per asset."""
        if wish.target.asset_key not in self._priced_by_inputs:
            looks.at_facts = False
            # What it raises over such inputs is no failure.
            with suppress(Exception):
                asked.provider.estimate_cost(asked.request)
            if not looks.at_facts:
                return False
            self._priced_by_inputs.add(wish.target.asset_key)
        return True

    async def _there(self, row: LedgerRow) -> MediaRef | None:
        """Return what a submission stored, None when it is no longer there."""
        if row.result is None:
            return None
        ref = MediaRef.from_dict(row.result)
        found = await asyncio.gather(
            self._store.head(ref.manifest_key), *(self._store.head(m.key) for m in ref.media)
        )
        return ref if all(found) else None

    def _peek(self, intent: Intent, *, is_known: bool = False) -> Peek:
        """Return what a claim would do; the ledger is asked only about what it can know."""
        if self._ledger is None:
            return _NOTHING_BEFORE
        if not (is_known or intent.reuse):
            asset = intent.asset_key
            if asset not in self._places:
                self._places[asset] = self._ledger.places(asset, intent.scope)
            if (intent.partition_key, intent.generation_key) not in self._places[asset]:
                return _NOTHING_BEFORE
        return self._ledger.peek(intent, now=self._clock())


@dataclass(frozen=True, slots=True)
class _Model:
    """One model of a wish: what it would be asked, and what a claim of that would do."""

    position: int
    asked: Generation
    intent: Intent
    peek: Peek

    @property
    def gives_way(self) -> bool:
        """Whether it has failed in this run so that the next one is asked; see `Fallback`."""
        row = self.peek.row
        if self.peek.step is not NextStep.ANOTHER_ATTEMPT or row is None:
            return False
        if self.position > 0:
            return row.error_code != CANCELLED
        return row.error_code == ProviderErrorCode.MODEL_ERROR


def _first_asked(models: Sequence[_Model]) -> _Model:
    """Return the model that a run would begin with."""
    for steps in ((NextStep.FINISHED,), _UNSETTLED):
        for model in models:
            if model.peek.step in steps:
                return model
    return next((model for model in models if not model.gives_way), models[0])


def _new(wish: Wish, asked: Generation, intent: Intent, reason: str | None) -> StepQuote:
    cost = intent.estimated_cost_usd
    quoted = _outcome(wish, Outlook.NEW, cost, reason, model=asked.spec.model)
    return replace(quoted, intent=intent)


@dataclass(frozen=True, slots=True)
class _Checking:
    """A provider as `render` uses it: its refusals count unless they are about unmade inputs."""

    provider: Provider
    looks: Looks | None

    @property
    def name(self) -> str:
        return self.provider.name

    @property
    def version(self) -> str:
        return self.provider.version

    def validate(self, request: GenerationRequest) -> None:
        try:
            self.provider.validate(request)
        except AuthError:
            # The price does not depend on the key, and whoever asks need not have it.
            return
        except GenblazeError:
            if self.looks is None or not (self.looks.at_kind or self.looks.at_facts):
                raise


def check_declared(
    spec: StepSpec,
    provider: Provider,
    *,
    variables: Mapping[str, object],
    kinds: Sequence[Modality] = (),
) -> None:
    """Let a provider look at what is declared, although its inputs, of these kinds, do not exist.

    Raises:
        PromptTemplateError: the row lacks a variable.
        ProviderError: the provider refuses the request, for another reason than a missing key.
    """
    media, looks = unmade_inputs(kinds)
    render(spec, cast(Provider, _Checking(provider, looks)), variables=variables, inputs=media)


def price_without_inputs(
    spec: StepSpec,
    provider: Provider,
    *,
    variables: Mapping[str, object],
    kinds: Sequence[Modality] = (),
) -> float | None:
    """Return what a request is expected to cost in USD, its inputs unread; None when they matter.

    Raises:
        GenblazeError: the request cannot be made.
    """
    media, looks = unmade_inputs(kinds)
    checking = cast(Provider, _Checking(provider, looks))
    asked = render(spec, checking, variables=variables, inputs=media)
    looks.at_facts = False
    cost = expected_cost(provider, asked.request)
    return None if looks.at_facts else cost


def _unpriced(target: Target, spec: StepSpec) -> Intent:
    """Return what the ledger would be told of a request whose price is not known before the run."""
    return Intent(
        asset_key=target.asset_key,
        partition_key=target.partition_key,
        scope=target.scope,
        generation_key="",
        provider=spec.provider_name,
        model=spec.model,
        tenant_id=target.tenant_id,
        for_asset=target.for_asset,
    )


def unknown_quote(spec: StepSpec, target: Target, reason: str) -> StepQuote:
    """Return the quote of a request that is not known before the run."""
    return StepQuote(
        asset_key=target.asset_key,
        partition_key=target.partition_key,
        provider=spec.provider_name,
        model=spec.model,
        outlook=Outlook.NEW,
        cost_usd=None,
        reason=reason,
        intent=_unpriced(target, spec),
    )


def _rendered(
    spec: StepSpec, wish: Wish, media: Sequence[InputMedia], looks: Looks | None
) -> Generation:
    checking = cast(Provider, _Checking(wish.provider, looks))
    generation = render(spec, checking, variables=wish.variables, inputs=media)
    return replace(generation, provider=wish.provider)


def _outcome(
    wish: Wish,
    outlook: Outlook,
    cost: float | None,
    reason: str | None = None,
    *,
    ref: MediaRef | None = None,
    model: str | None = None,
) -> StepQuote:
    return StepQuote(
        asset_key=wish.target.asset_key,
        partition_key=wish.target.partition_key,
        provider=wish.provider.name,
        model=model or wish.spec.model,
        outlook=outlook,
        cost_usd=cost,
        reason=reason,
        ref=ref,
    )


def _told(error: GenblazeError | None) -> str:
    return f"{type(error).__name__}: {error}"
