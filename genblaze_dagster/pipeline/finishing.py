"""From a vendor's answer to what is durable: bytes, manifest, reference, ledger, in this order."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import GenblazeError, OutputError
from genblaze_dagster.pipeline.claims import Lease
from genblaze_dagster.pipeline.events import StepEventType
from genblaze_dagster.pipeline.job import Job
from genblaze_dagster.pipeline.lineage import steps_before
from genblaze_dagster.pipeline.outcome import Target
from genblaze_dagster.pipeline.outputs import OutputStorage
from genblaze_dagster.pipeline.recording import Previous, Recording
from genblaze_dagster.pipeline.tools import Tools
from genblaze_dagster.providers.protocol import Result
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.rendition import Renditions
from genblaze_dagster.storage.staging import ends

T = TypeVar("T")

_STORE_ATTEMPTS = 5
_GRACE_SECONDS = 30.0


class GivenUp(Exception):
    """The time after a cancellation is over, and nothing has come of it."""


async def finished(
    finish: Coroutine[Any, Any, T],
    *,
    hurry: Callable[[], None],
    grace_seconds: float = _GRACE_SECONDS,
) -> T:
    """Finish what is paid for although the caller is cancelled, within a time limit.

    `hurry` is called when it is. After the limit the coroutine is cancelled and waited for; what it
    returns all the same counts. Whoever gets a result goes on with the cancellation by itself.

    Raises:
        GivenUp: it was broken off.
    """
    task = asyncio.ensure_future(finish)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        hurry()
    if not await ends(task, within=grace_seconds):
        task.cancel()
        await ends(task)
    if task.cancelled():
        raise GivenUp
    return task.result()


async def settled(settling: Coroutine[Any, Any, T]) -> T:
    """Settle an attempt in the ledger although the caller is cancelled meanwhile.

    Raises:
        CancelledError: it was; what had to be written is written.
    """
    is_cancelled = False

    def note() -> None:
        nonlocal is_cancelled
        is_cancelled = True

    try:
        result = await finished(settling, hurry=note)
    except (GenblazeError, GivenUp) as exc:
        if is_cancelled:
            raise asyncio.CancelledError from exc
        raise
    if is_cancelled:
        raise asyncio.CancelledError
    return result


@dataclass(slots=True)
class Finishing:
    """One answer on its way into the store; `run` is called once.

    `result` is what the vendor gave last: outputs may have had to be asked for again.
    """

    tools: Tools
    target: Target
    job: Job
    lease: Lease
    manifests: Sequence[Manifest]
    started_at: datetime
    result: Result

    async def run(self) -> tuple[MediaRef, Manifest]:
        """Store everything and return its reference and manifest.

        Raises:
            OutputError: what the vendor gave is unusable.
            StorageError: the store failed.
            LedgerError: another worker goes on with it.
        """
        tools, job, lease = self.tools, self.job, self.lease
        await self._record_expiry()
        async with (
            Previous(tools.store, self.target) as previous,
            Renditions(tools.store, tools.embed, given_up=lambda: job.interrupted) as renditions,
        ):
            kept = await self._keep(renditions)
            recording = Recording(
                generation=job.generation,
                target=self.target,
                row=lease.row,
                job_id=job.job_id,
                result=self.result,
                kept=kept,
                upstream=steps_before(self.manifests),
                started_at=self.started_at,
                completed_at=tools.clock(),
                retries=max(job.attempts - 1, 0),
            )
            ref, manifest = await recording.write(tools.store, renditions, previous)
        await lease.apply(
            tools.claims.ledger.stored, result=ref.to_dict(), cost_usd=self.result.cost_usd
        )
        for media in ref.media:
            if media.not_embedded is not None:
                detail = f"no embedded rendition of {media.key}: {media.not_embedded}"
                job.notify(StepEventType.PROGRESS, detail=detail)
        return ref, manifest

    async def _record_expiry(self) -> None:
        """Note what a job cost, and until when its outputs can be fetched, before they are."""
        if self.job.job_id is None or not _is_remote(self.result):
            return
        ends = [
            output.expires_at for output in self.result.outputs if output.expires_at is not None
        ]
        await self.lease.apply(
            self.tools.claims.ledger.succeeded,
            cost_usd=self.result.cost_usd,
            outputs_expire_at=min(map(_aware, ends), default=None),
        )

    async def _keep(self, renditions: Renditions) -> list[tuple[Asset, MediaObject]]:
        tools = self.tools
        outputs = OutputStorage(
            tools.store, self.lease.row.run_id, self.target.tenant_id, self.started_at, renditions
        )
        policy = tools.retry or RetryPolicy()
        attempt = 0
        while True:
            attempt += 1
            try:
                return await outputs.keep(self.result.outputs)
            except GenblazeError as exc:
                # The media is paid for: a store or a download that may recover gets its chance.
                is_elsewhere = self._may_have_expired(exc)
                if attempt >= _STORE_ATTEMPTS or not (exc.transient or is_elsewhere):
                    raise
                what = "a new address is asked for" if is_elsewhere else "store"
                detail = f"{what}: {type(exc).__name__}"
                self.job.notify(StepEventType.RETRIED, attempt=attempt + 1, detail=detail)
                if attempt > 1 or not is_elsewhere:
                    await asyncio.sleep(policy.delay(attempt, exc))
                if is_elsewhere:
                    self.result = await self.job.fetch_again()
                    await self._record_expiry()

    def _may_have_expired(self, error: GenblazeError) -> bool:
        """Whether a job's outputs are no longer where the vendor said, but may be elsewhere."""
        if self.job.job_id is None or not _is_remote(self.result):
            return False
        if isinstance(error, OutputError) and error.http_status is not None:
            return True
        return has_expired(self.result, self.tools.clock())


def has_expired(result: Result, now: datetime) -> bool:
    """Whether the vendor has said that an output would be gone by now."""
    ends = [output.expires_at for output in result.outputs if output.expires_at is not None]
    return any(_aware(end) <= now for end in ends)


def _is_remote(result: Result) -> bool:
    return any(output.url is not None for output in result.outputs)


def _aware(moment: datetime) -> datetime:
    # Vendors that leave out the zone mean UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
