"""One step of one partition, from its claim in the ledger to its record in the store."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import (
    AccountBusyError,
    GenblazeError,
    HeldError,
    ProviderError,
    StorageError,
)
from genblaze_dagster.ledger.submission import ClaimKind, Intent, LedgerRow
from genblaze_dagster.pipeline.cached_steps import CachedSteps
from genblaze_dagster.pipeline.claims import Lease, submission_ids
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.events import EventHandler, StepEvent, StepEventType
from genblaze_dagster.pipeline.fallback import Fallback
from genblaze_dagster.pipeline.finishing import Finishing, GivenUp, finished, settled
from genblaze_dagster.pipeline.generation import Generation, provider_of, render
from genblaze_dagster.pipeline.intents import idempotency_key, intent_of
from genblaze_dagster.pipeline.job import Job
from genblaze_dagster.pipeline.lost_answers import Verdict
from genblaze_dagster.pipeline.moderating import let_request_pass
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome, Target
from genblaze_dagster.pipeline.rates import Account
from genblaze_dagster.pipeline.settling import Settlement, name_submission
from genblaze_dagster.pipeline.spool import drop_spooled, is_spooled, spooled_result
from genblaze_dagster.pipeline.tools import Tools
from genblaze_dagster.providers.adapter import AdaptedProvider
from genblaze_dagster.providers.protocol import Provider, Result
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.refs import read_ref, write_ref

_NOTHING_TO_DO = (ClaimKind.FINISHED, ClaimKind.REUSED)


class Work:
    """One step for one target; `run` is called once.

    `left_open` is True when the last attempt failed and its submission may still deliver.
    """

    def __init__(
        self,
        tools: Tools,
        spec: StepSpec,
        target: Target,
        on_event: EventHandler | None = None,
    ) -> None:
        self._tools = tools
        self._store = tools.store
        self._ledger = tools.claims.ledger
        self._spec = spec
        self._target = target
        self._started = time.monotonic()
        self._model = spec.model
        self._manifests: Sequence[Manifest] = ()
        self._handlers = [h for h in (tools.on_event, on_event) if h is not None]
        self._ids = submission_ids(target.run_id, target.step_id)
        self.left_open = False
        self._is_late = False

    def notify(self, kind: StepEventType, **details: Any) -> None:
        """Tell about one moment of this step."""
        if not self._handlers:
            return
        event = StepEvent(
            type=kind,
            step=self._spec.name,
            asset_key=self._target.asset_key,
            partition_key=self._target.partition_key,
            provider=self._spec.provider_name,
            model=self._model,
            elapsed_seconds=time.monotonic() - self._started,
            **details,
        )
        for handler in self._handlers:
            handler(event)

    async def run(
        self,
        variables: Mapping[str, object],
        inputs: Sequence[MediaRef],
        provider: Provider | None,
    ) -> StepOutcome:
        """Claim, generate, store and record; see `Runner.run_step`."""
        consumed = await self._tools.inputs.consumed(self._spec, inputs)
        self._manifests = consumed.manifests
        chosen = provider or provider_of(self._spec)

        def request(spec: StepSpec) -> Generation:
            return render(spec, chosen, variables=variables, inputs=consumed.media)

        if not self._spec.fallback_models:
            return await self.attempt(request(self._spec))
        models = Fallback(
            self._tools.claims, self._spec, self, render=request, scope=self._target.scope
        )
        return await models.run()

    def fell_back(self, failed: StepSpec, code: str, instead: StepSpec) -> None:
        """Tell that one model failed and another is asked."""
        self._model = failed.model
        self.notify(StepEventType.RETRIED, detail=f"fallback: {code}, next is {instead.model!r}")

    def intent(self, generation: Generation) -> Intent:
        """Return what a generation wants of the ledger."""
        return intent_of(generation, self._target)

    async def attempt(self, generation: Generation) -> StepOutcome:
        """Ask one model, or take what it has given before."""
        self.left_open = False
        self._model = generation.spec.model
        if self._tools.moderation is not None:
            await let_request_pass(self._tools.moderation, self._spec, generation.request)
        cache = self._tools.cache
        if cache is None:
            return await self._ask(generation)
        cached = CachedSteps(cache, self._tools.inputs, self._target.tenant_id)
        async with cached.answering(generation) as answer:
            if answer is not None:
                return await self._ask(replace(generation, provider=answer))
        outcome = await self._ask(generation)
        await cached.keep(generation, outcome)
        return outcome

    async def _ask(self, generation: Generation) -> StepOutcome:
        """Ask, and ask again as often as a lost answer turns out to allow it."""
        policy = self._policy(generation.provider)
        tries = 0
        while True:
            tries += 1
            try:
                return await self._ask_once(generation)
            except HeldError as exc:
                self.left_open = True
                if tries > policy.max_attempts or exc.submission_id is None:
                    raise
                verdict = await self._tools.lost_answers.decide(
                    exc.submission_id, generation, self.notify
                )
                if verdict is Verdict.HELD:
                    raise
                await self._after_lost_answer(exc.__cause__, verdict, policy, tries)

    async def _after_lost_answer(
        self, cause: BaseException | None, verdict: Verdict, policy: RetryPolicy, tries: int
    ) -> None:
        """Return when there may be another try; the row in the ledger allows it."""
        if not isinstance(cause, ProviderError):
            # It was lost by an attempt before this one.
            return
        if self._is_late:
            raise cause
        if verdict in (Verdict.STORED, Verdict.FOUND, Verdict.DECIDED):
            return
        self.left_open = verdict is Verdict.PAID_AGAIN
        if not policy.retries(cause):
            raise cause
        await asyncio.sleep(policy.delay(tries, cause))

    async def _ask_once(self, generation: Generation) -> StepOutcome:
        intent = self.intent(generation)
        lease = await self._claim(intent, generation.provider)
        if lease.kind in _NOTHING_TO_DO:
            taken = await self._take(lease.row, lease.kind)
            if taken is not None:
                return taken
            # The ledger says stored, the store says no: somebody deleted the media. That is a new
            # intent, not a retry of the old one.
            lost = replace(intent, reuse=False, scope=f"{intent.scope}#{lease.row.run_id}")
            lease = await self._claim(lost, generation.provider)
            if lease.kind in _NOTHING_TO_DO:
                taken = await self._take(lease.row, lease.kind)
                if taken is not None:
                    return taken
                raise StorageError(
                    f"media of {self._target.asset_key} is deleted as fast as it is generated; "
                    "check the store's lifecycle rules"
                )
        return await self._generate(generation, lease)

    async def _claim(self, intent: Intent, provider: Provider) -> Lease:
        account = Account.of(provider, self._tools.claims)
        return await self._tools.claims.claim(
            intent,
            patience_seconds=self._spec.timeout,
            new_id=partial(next, self._ids),
            budgets=self._tools.budgets,
            concurrency=None if account is None else account.limit.concurrency,
            on_busy=self._wait_for_account,
        )

    def _wait_for_account(self, busy: AccountBusyError) -> None:
        self.notify(
            StepEventType.PROGRESS,
            status="processing",
            detail="account busy",
            message=str(busy),
            is_heartbeat=True,
        )

    async def _take(self, row: LedgerRow, kind: ClaimKind) -> StepOutcome | None:
        """Return what an earlier run stored, or None when it is no longer there."""
        if row.result is None:
            return None
        ref = replace(
            MediaRef.from_dict(row.result),
            asset_key=self._target.asset_key,
            partition_key=self._target.partition_key,
        )
        found = await asyncio.gather(
            self._store.head(ref.manifest_key), *(self._store.head(m.key) for m in ref.media)
        )
        if not all(found):
            return None
        manifest = await self._tools.upstream.manifest(ref)
        current = await read_ref(self._store, ref.asset_key, ref.partition_key)
        if current != ref:
            await write_ref(self._store, ref)
        origin = Origin.FINISHED if kind is ClaimKind.FINISHED else Origin.REUSED
        elapsed = time.monotonic() - self._started
        return StepOutcome(ref, manifest, origin, elapsed, 0, submission_id=row.id)

    async def _generate(self, generation: Generation, lease: Lease) -> StepOutcome:
        started_at = self._tools.clock()
        async with lease:
            job = await self._job(generation, lease)
            place = lease.row.job_id if is_spooled(lease.row.job_id) else None
            end = Settlement(
                ledger=self._ledger,
                target=self._target,
                job=job,
                lease=lease,
                spool=self._tools.spool if place is None else None,
                clock=self._tools.clock,
            )
            try:
                if place is None:
                    result = await self._answer(job, end)
                else:
                    result = await self._spooled(place, end)
                finishing = Finishing(
                    tools=self._tools,
                    target=self._target,
                    job=job,
                    lease=lease,
                    manifests=self._manifests,
                    started_at=started_at,
                    result=result,
                )
                ref, manifest = await self._finish(finishing, end)
            except GenblazeError as exc:
                name_submission(exc, lease.row.id)
                if place is not None and not self.left_open:
                    await drop_spooled(place, lease.row.id)
                raise
            except Exception as exc:
                name_submission(exc, lease.row.id)
                # A bug of ours: nobody may have to wait for the lease of a step that is not running.
                await settled(end.give_back())
                raise
        if place is not None:
            await drop_spooled(place, lease.row.id)
        self._tools.upstream.remember(ref, manifest)
        if job.interrupted:
            raise asyncio.CancelledError
        origin = Origin.RESUMED if lease.kind is ClaimKind.RESUME else Origin.GENERATED
        row = lease.row
        return StepOutcome(
            ref,
            manifest,
            origin,
            elapsed_seconds=time.monotonic() - self._started,
            attempts=max(job.attempts, 1),
            submission_id=row.id,
            estimated_cost_usd=row.estimated_cost_usd,
            reserved_usd=row.reserved_usd if ref.cost_usd is None else None,
        )

    async def _job(self, generation: Generation, lease: Lease) -> Job:
        try:
            key = await idempotency_key(self._tools.claims, lease.row)
        except asyncio.CancelledError:
            await asyncio.shield(lease.apply(self._ledger.release))
            raise
        return Job(
            generation=replace(
                generation, request=replace(generation.request, idempotency_key=key)
            ),
            policy=self._policy(generation.provider),
            record=lease,
            notify=self.notify,
            account=Account.of(generation.provider, self._tools.claims),
            objection=lease.objection,
            job_id=None if is_spooled(lease.row.job_id) else lease.row.job_id,
        )

    def _policy(self, provider: Provider) -> RetryPolicy:
        own = provider.provider.retry_policy if isinstance(provider, AdaptedProvider) else None
        return self._spec.retry or self._tools.retry or own or RetryPolicy()

    async def _answer(self, job: Job, end: Settlement) -> Result:
        try:
            return await job.run()
        except asyncio.CancelledError:
            await settled(end.cancelled())
            raise
        except GenblazeError as exc:
            self._is_late = job.is_late
            self.left_open = await settled(end.unanswered(exc))
            raise

    async def _spooled(self, place: str, end: Settlement) -> Result:
        try:
            return await spooled_result(place, end.lease.row.id)
        except (GenblazeError, asyncio.CancelledError):
            self.left_open = True
            await settled(end.give_back())
            raise

    async def _finish(self, finishing: Finishing, end: Settlement) -> tuple[MediaRef, Manifest]:
        job = end.job

        def hurry() -> None:
            job.interrupted = True

        try:
            return await finished(finishing.run(), hurry=hurry)
        except GivenUp:
            await settled(end.broken_off(finishing.result))
            raise asyncio.CancelledError from None
        except GenblazeError as exc:
            self.left_open = await settled(end.unstored(exc, finishing.result))
            if job.interrupted:
                raise asyncio.CancelledError from exc
            raise
        except Exception:
            # A bug of ours must not cost what is paid for.
            await settled(end.broken_off(finishing.result))
            raise
