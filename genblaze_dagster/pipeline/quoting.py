"""What a run would ask of whom and what it may cost, found out without asking anybody.

The requests are those of the run itself: the same declaration, filled by the same function, looked
up in the same ledger. Nothing is submitted, claimed or written.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import AuthError, GenblazeError, NotFoundError, ProviderError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import (
    OPEN_STATES,
    UNSETTLED_STATES,
    Intent,
    LedgerRow,
    SubmissionState,
)
from genblaze_dagster.pipeline.declaration import StepSpec
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
        carries_on: whether the scope of the targets is a run or backfill that has begun already.
        resubmits: what is held would be sent again.
        clock: current time, aware UTC.
    """

    def __init__(
        self,
        store: MediaStore,
        ledger: Ledger | None,
        *,
        carries_on: bool = False,
        resubmits: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._carries_on = carries_on
        self._resubmits = resubmits
        self._clock = clock
        self._inputs = Inputs(store, Upstream(store))
        self._known: dict[str, _Known] = {}
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
        asked: Generation | None = None
        for spec in models_of(wish.spec):
            try:
                generation = _rendered(spec, wish, media, looks)
            except GenblazeError as exc:
                refusal = refusal or exc
                if not isinstance(exc, ProviderError):
                    break
                continue
            asked = asked or generation
            if looks is None and (row := self._of(wish).unsettled(wish, generation)) is not None:
                # An open job is finished before any other model is asked.
                return await self._unsettled(wish, generation, row)
        if asked is None:
            return _outcome(wish, Outlook.IMPOSSIBLE, 0.0, _told(refusal))
        return await self._settled(wish, asked, looks)

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

    async def _settled(self, wish: Wish, asked: Generation, looks: Looks | None) -> StepQuote:
        if looks is None:
            known = self._of(wish)
            own = known.finished(wish, asked)
            if own is not None and (ref := await self._there(own)) is not None:
                return _outcome(wish, Outlook.FINISHED, 0.0, ref=ref, model=asked.spec.model)
            if wish.target.reuse and (ref := await self._reusable(asked)) is not None:
                return _outcome(wish, Outlook.REUSED, 0.0, ref=ref, model=asked.spec.model)
        return self._new(wish, asked, looks)

    async def _unsettled(self, wish: Wish, asked: Generation, row: LedgerRow) -> StepQuote:
        model = asked.spec.model
        if row.state in OPEN_STATES:
            expires = row.lease_expires_at
            if expires is not None and expires > self._clock():
                reason = f"another worker is at it, its lease ends at {expires:%H:%M:%S} UTC"
                return _outcome(wish, Outlook.UNDER_WAY, 0.0, reason, model=model)
            if row.job_id is not None:
                return _outcome(wish, Outlook.RESUMED, 0.0, f"job {row.job_id}", model=model)
            if row.sending_at is None or row.deduplicates:
                return self._new(wish, asked, None)
        if wish.target.reuse and (ref := await self._reusable(asked)) is not None:
            return _outcome(wish, Outlook.REUSED, 0.0, ref=ref, model=model)
        if self._resubmits:
            return self._new(wish, asked, None)
        reason = f"the answer of submission {row.id} was lost; resolve it in the ledger"
        return _outcome(wish, Outlook.HELD, 0.0, reason, model=model)

    def _new(self, wish: Wish, asked: Generation, looks: Looks | None) -> StepQuote:
        if looks is not None and self._is_priced_by_inputs(wish, asked, looks):
            intent, reason = _unpriced(wish.target, asked.spec), UNTIL_INPUT_EXISTS
        else:
            intent, reason = intent_of(asked, wish.target), None
            if intent.estimated_cost_usd is None:
                reason = f"{asked.provider.name} names no price for it"
        cost = intent.estimated_cost_usd
        quoted = _outcome(wish, Outlook.NEW, cost, reason, model=asked.spec.model)
        return replace(quoted, intent=intent)

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

    async def _reusable(self, asked: Generation) -> MediaRef | None:
        if self._ledger is None:
            return None
        stored = self._ledger.find(
            generation_key=asked.key, state=SubmissionState.STORED, newest_first=True, limit=1
        )
        return await self._there(stored[0]) if stored else None

    async def _there(self, row: LedgerRow) -> MediaRef | None:
        """Return what a submission stored, None when it is no longer there."""
        if row.result is None:
            return None
        ref = MediaRef.from_dict(row.result)
        found = await asyncio.gather(
            self._store.head(ref.manifest_key), *(self._store.head(m.key) for m in ref.media)
        )
        return ref if all(found) else None

    def _of(self, wish: Wish) -> "_Known":
        """Return what the ledger knows of an asset; it is asked once."""
        key = wish.target.asset_key
        if key not in self._known:
            scope = wish.target.scope if self._carries_on else None
            self._known[key] = _Known.of(self._ledger, key, scope)
        return self._known[key]


_Place = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class _Known:
    """Submissions of one asset by partition and generation key."""

    open: Mapping[_Place, LedgerRow]
    stored: Mapping[_Place, LedgerRow]

    @classmethod
    def of(cls, ledger: Ledger | None, asset_key: str, scope: str | None) -> "_Known":
        if ledger is None:
            return cls({}, {})
        unsettled = ledger.find(states=UNSETTLED_STATES, asset_key=asset_key)
        in_scope = [] if scope is None else ledger.find(asset_key=asset_key, scope=scope)
        stored = [row for row in in_scope if row.state is SubmissionState.STORED]
        return cls(_by_place(unsettled), _by_place(stored))

    def unsettled(self, wish: Wish, asked: Generation) -> LedgerRow | None:
        return self.open.get((wish.target.partition_key, asked.key))

    def finished(self, wish: Wish, asked: Generation) -> LedgerRow | None:
        return self.stored.get((wish.target.partition_key, asked.key))


def _by_place(rows: Sequence[LedgerRow]) -> dict[_Place, LedgerRow]:
    return {(row.partition_key, row.generation_key): row for row in rows}


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
