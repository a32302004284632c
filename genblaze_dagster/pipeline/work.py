"""One step of one partition, from its claim in the ledger to its record in the store."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from genblaze_dagster.core.enums import ProviderErrorCode
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import (
    GenblazeError,
    HeldError,
    ProviderError,
    StorageError,
)
from genblaze_dagster.ledger.submission import ClaimKind, Intent, LedgerRow
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.cached_steps import CachedSteps
from genblaze_dagster.pipeline.claims import Claims, Lease, submission_ids
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.events import EventHandler, StepEvent, StepEventType
from genblaze_dagster.pipeline.fallback import CANCELLED, Fallback
from genblaze_dagster.pipeline.generation import Generation, provider_of, render
from genblaze_dagster.pipeline.inputs import Inputs
from genblaze_dagster.pipeline.job import Job
from genblaze_dagster.pipeline.lineage import Upstream, steps_before
from genblaze_dagster.pipeline.moderating import let_request_pass
from genblaze_dagster.pipeline.moderation import ModerationHook
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome, Target
from genblaze_dagster.pipeline.outputs import OutputStorage
from genblaze_dagster.pipeline.recording import Recording
from genblaze_dagster.pipeline.step_cache import StepCache
from genblaze_dagster.providers.adapter import AdaptedProvider
from genblaze_dagster.providers.protocol import Provider, Result
from genblaze_dagster.providers.retry import RetryPolicy, is_ambiguous
from genblaze_dagster.storage.refs import read_ref, write_ref
from genblaze_dagster.storage.rendition import Renditions
from genblaze_dagster.storage.store import MediaStore

T = TypeVar("T")

_STORE_ATTEMPTS = 5
_FINISH_GRACE_SECONDS = 30.0
_CAUSE_CHARS = 120
_NOTHING_TO_DO = (ClaimKind.FINISHED, ClaimKind.REUSED)


@dataclass(frozen=True, slots=True)
class Tools:
    """What all steps of one Runner share."""

    store: MediaStore
    claims: Claims
    upstream: Upstream
    inputs: Inputs
    retry: RetryPolicy | None
    on_event: EventHandler | None
    clock: Callable[[], datetime]
    embed: EmbedPolicy | None
    moderation: ModerationHook | None
    cache: StepCache | None


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
        intent = self.intent(generation)
        lease = await self._claim(intent)
        if lease.kind in _NOTHING_TO_DO:
            taken = await self._take(lease.row, lease.kind)
            if taken is not None:
                return taken
            # The ledger says stored, the store says no: somebody deleted the media. That is a new
            # intent, not a retry of the old one.
            lost = replace(intent, reuse=False, scope=f"{intent.scope}#{lease.row.run_id}")
            lease = await self._claim(lost)
            if lease.kind in _NOTHING_TO_DO:
                taken = await self._take(lease.row, lease.kind)
                if taken is not None:
                    return taken
                raise StorageError(
                    f"media of {self._target.asset_key} is deleted as fast as it is generated; "
                    "check the store's lifecycle rules"
                )
        return await self._generate(generation, lease, self._manifests)

    async def _claim(self, intent: Intent) -> Lease:
        return await self._tools.claims.claim(
            intent, patience_seconds=self._spec.timeout, new_id=partial(next, self._ids)
        )

    def intent(self, generation: Generation) -> Intent:
        """Return what a generation wants of the ledger."""
        return Intent(
            asset_key=self._target.asset_key,
            partition_key=self._target.partition_key,
            scope=self._target.scope,
            generation_key=generation.key,
            provider=generation.provider.name,
            model=generation.spec.model,
            deduplicates=generation.provider.deduplicates,
            reuse=self._target.reuse,
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
        return StepOutcome(ref, manifest, origin, time.monotonic() - self._started, 0)

    async def _generate(
        self,
        generation: Generation,
        lease: Lease,
        manifests: Sequence[Manifest],
    ) -> StepOutcome:
        started_at = self._tools.clock()
        row = lease.row
        async with lease:
            key = await self._idempotency_key(lease)
            job = Job(
                generation=replace(
                    generation, request=replace(generation.request, idempotency_key=key)
                ),
                policy=self._policy(generation.provider),
                record=lease,
                notify=self.notify,
                job_id=row.job_id,
            )
            try:
                result = await self._answer(job, lease)
                ref, manifest = await self._despite_cancellation(
                    self._finish(result, job, lease, manifests, started_at), job, lease
                )
            except GenblazeError as exc:
                await self._settle(exc, job, lease)
                raise
            except Exception:
                # A bug of ours: nobody may have to wait for the lease of a step that is not running.
                await lease.apply(self._ledger.release)
                raise
        self._tools.upstream.remember(ref, manifest)
        if job.interrupted:
            raise asyncio.CancelledError
        origin = Origin.RESUMED if lease.kind is ClaimKind.RESUME else Origin.GENERATED
        elapsed = time.monotonic() - self._started
        return StepOutcome(ref, manifest, origin, elapsed, max(job.attempts, 1))

    def _policy(self, provider: Provider) -> RetryPolicy:
        own = provider.provider.retry_policy if isinstance(provider, AdaptedProvider) else None
        return self._spec.retry or self._tools.retry or own or RetryPolicy()

    async def _answer(self, job: Job, lease: Lease) -> Result:
        try:
            return await job.run()
        except asyncio.CancelledError:
            await asyncio.shield(self._abandon(job, lease))
            raise

    async def _despite_cancellation(
        self, finish: Coroutine[Any, Any, T], job: Job, lease: Lease
    ) -> T:
        """Finish what is paid for although the run is cancelled, within a time limit."""
        task = asyncio.ensure_future(finish)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            job.interrupted = True
            await asyncio.wait({task}, timeout=_FINISH_GRACE_SECONDS)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.wait({task})
            await asyncio.shield(lease.apply(self._ledger.release))
            raise

    async def _finish(
        self,
        result: Result,
        job: Job,
        lease: Lease,
        manifests: Sequence[Manifest],
        started_at: datetime,
    ) -> tuple[MediaRef, Manifest]:
        """Bytes, manifest, reference, ledger: in this order, so that each implies the ones before."""
        async with Renditions(
            self._store, self._tools.embed, given_up=lambda: job.interrupted
        ) as renditions:
            kept = await self._keep(lease.row, result, started_at, renditions)
            recording = Recording(
                generation=job.generation,
                target=self._target,
                row=lease.row,
                job_id=job.job_id,
                result=result,
                kept=kept,
                upstream=steps_before(manifests),
                started_at=started_at,
                completed_at=self._tools.clock(),
                retries=max(job.attempts - 1, 0),
            )
            ref, manifest = await recording.write(self._store, renditions)
        await lease.apply(self._ledger.stored, result=ref.to_dict(), cost_usd=result.cost_usd)
        for media in ref.media:
            if media.not_embedded is not None:
                detail = f"no embedded rendition of {media.key}: {media.not_embedded}"
                self.notify(StepEventType.PROGRESS, detail=detail)
        return ref, manifest

    async def _idempotency_key(self, lease: Lease) -> str:
        """Return the key of this submit: the same after a lost answer, new after a real failure.

        A vendor that replays what it answered to a key would replay the failure for ever.
        """
        row = lease.row
        if row.attempt == 1:
            return row.run_id
        try:
            failed = await self._tools.claims.call(self._ledger.past_attempts, row.id)
        except asyncio.CancelledError:
            await asyncio.shield(lease.apply(self._ledger.release))
            raise
        return f"{row.run_id}-{len(failed)}" if failed else row.run_id

    async def _keep(
        self, row: LedgerRow, result: Result, started_at: datetime, renditions: Renditions
    ) -> list[tuple[Asset, MediaObject]]:
        outputs = OutputStorage(
            self._store, row.run_id, self._target.tenant_id, started_at, renditions
        )
        policy = self._tools.retry or RetryPolicy()
        attempt = 0
        while True:
            attempt += 1
            try:
                return await outputs.keep(result.outputs)
            except GenblazeError as exc:
                # The media is paid for: a store or a download that may recover gets its chance.
                if not exc.transient or attempt >= _STORE_ATTEMPTS:
                    raise
                self.notify(
                    StepEventType.RETRIED,
                    attempt=attempt + 1,
                    detail=f"store: {type(exc).__name__}",
                )
                await asyncio.sleep(policy.delay(attempt, exc))

    async def _settle(self, error: GenblazeError, job: Job, lease: Lease) -> None:
        """Leave the ledger row so that the next attempt can neither lose nor pay twice.

        Raises:
            HeldError: the submit's answer is lost and the provider cannot deduplicate.
        """
        code = getattr(error, "code", ProviderErrorCode.UNKNOWN)
        message = redact(str(error))
        if job.job_id is not None:
            if job.is_over(error):
                await lease.apply(self._ledger.failed, code=code, message=message, sent=True)
            else:
                self.left_open = True
                await lease.apply(self._ledger.release)
            return
        if not isinstance(error, ProviderError):
            # A one-call answer could not be stored: the vendor has been paid, so the row stays
            # open and is held, unless the vendor hands the same result out again.
            self.left_open = True
            await lease.apply(self._ledger.release)
            return
        answer_lost = job.answer_lost or is_ambiguous(error)
        self.left_open = answer_lost or lease.row.answer_lost
        lost = answer_lost and not job.generation.provider.deduplicates
        sent = None if answer_lost else bool(error.sent)
        await lease.apply(self._ledger.failed, code=code, message=message, sent=sent)
        if lost:
            partition = self._target.partition_key or "unpartitioned"
            raise HeldError(
                f"{self._target.asset_key} [{partition}]: the answer of {lease.row.provider} was "
                f"lost ({message[:_CAUSE_CHARS]}); it may be paid, so submission {lease.row.id} is "
                "held and not sent again. Look it up at the vendor and resolve it in the ledger",
                submission_id=lease.row.id,
            ) from error

    async def _abandon(self, job: Job, lease: Lease) -> None:
        """Stop a paid job upstream when this run is cancelled, and give the lease back."""
        nothing_sent = job.job_id is None and not job.on_the_wire
        if nothing_sent or await job.cancel_upstream():
            await lease.apply(
                self._ledger.failed,
                code=CANCELLED,
                message="cancelled with its run",
                sent=not nothing_sent,
            )
        else:
            await lease.apply(self._ledger.release)
