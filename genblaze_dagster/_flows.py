"""Partitions on their way through their steps, on the event loop.

A partition flows through all its steps without waiting for another partition. What finishes is
durable and emitted at once; what fails is collected.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from hashlib import sha256

import dagster as dg

from genblaze_dagster.checks import Tally, find_problem
from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import (
    AccessDeniedError,
    AuthError,
    BudgetExceededError,
    GenblazeError,
    NotFoundError,
    QuotaError,
    StorageError,
    StorageFullError,
)
from genblaze_dagster.events import Finished, PartitionFailure
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.ledger.budgets import Budget
from genblaze_dagster.metadata import THUMBNAIL_SOURCE_BYTES, thumbnail
from genblaze_dagster.partitions import PromptRows
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.exhaustion import Exhausted
from genblaze_dagster.pipeline.generation import provider_of
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome, Target
from genblaze_dagster.pipeline.quoting import price_without_inputs
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.storage.refs import read_ref, read_refs, write_ref
from genblaze_dagster.storage.rendition import completed
from genblaze_dagster.storage.store import MediaStore

Inputs = Mapping[dg.AssetKey, Sequence[MediaRef]]

# Every other partition would meet these as well.
_HITS_EVERYTHING = (AuthError, QuotaError, AccessDeniedError, StorageFullError)
_READ_BACK_CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Request:
    """What one partition of a step asks for: the step, its variables, and the inputs in order."""

    spec: StepSpec
    variables: Mapping[str, object]
    inputs: Sequence[MediaRef]


Prepare = Callable[[MediaStore, str | None, Mapping[str, object], Inputs], Awaitable[Request]]


@dataclass(frozen=True, slots=True)
class BatchStep:
    """One asset of a batch: its declared step, and how a partition's request is made from it.

    `is_written` says that a function of the user's writes the request, inputs in hand.
    """

    key: dg.AssetKey
    spec: StepSpec
    code_version: str
    inputs: tuple[dg.AssetKey, ...]
    prepare: Prepare
    is_written: bool = False


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the flows need of the Dagster step they run in.

    `embed` is what embedded renditions show, None when none are made; `budgets` are those the
    runner keeps to, and `begun` the assets and partitions the ledger has in this run's scope, or
    open in any; `target` names what a partition of an asset is run for; `upstream_partitions` maps
    (asset, upstream asset, partition) to upstream partitions; `is_wanted` tells what is run and
    what is passed over; `unexpected` reports a bug.
    """

    store: MediaStore
    runner: Runner
    embed: EmbedPolicy | None
    providers: Mapping[str, Provider]
    rows: PromptRows
    segment: SegmentWriter
    budgets: Sequence[Budget]
    begun: Callable[[], Awaitable[AbstractSet[tuple[str, str | None]]]]
    target: Callable[[dg.AssetKey, str | None], Target]
    upstream_partitions: Callable[[dg.AssetKey, dg.AssetKey, str | None], list[str] | None]
    is_wanted: Callable[[dg.AssetKey, str | None], bool]
    unexpected: Callable[[dg.AssetKey, str | None, Exception], None]
    emit: Callable[[Finished], None]


@dataclass
class Results:
    """What became of the partitions, filled while they run."""

    tallies: dict[dg.AssetKey, Tally]
    failures: list[PartitionFailure] = field(default_factory=list)
    finished: int = 0


@dataclass
class _Flow:
    partition: str | None
    row: Mapping[str, object]
    checks: asyncio.TaskGroup
    tasks: dict[dg.AssetKey, asyncio.Task[None]] = field(default_factory=dict)
    outcomes: dict[dg.AssetKey, StepOutcome] = field(default_factory=dict)
    thumbnails: dict[dg.AssetKey, bytes] = field(default_factory=dict)


class Flows:
    """Runs the selected steps for every partition, so many at a time.

    Args:
        steps: the selected steps, inputs before their users.
        around: the store and everything else they share.
        results: where failures and checks are collected; its tallies name the assets to check.
        max_concurrency: partitions under way, and steps running, at once.
    """

    def __init__(
        self,
        steps: Sequence[BatchStep],
        around: Surroundings,
        results: Results,
        *,
        max_concurrency: int,
    ) -> None:
        self._steps = steps
        self._around = around
        self._results = results
        self._width = max_concurrency
        self._slots = asyncio.Semaphore(max_concurrency)
        self._read_back = asyncio.Semaphore(_READ_BACK_CONCURRENCY)
        self._fatal: GenblazeError | None = None
        self._exhausted = Exhausted(around.budgets)
        self._begun: AbstractSet[tuple[str, str | None]] | None = None

    async def run(self, partitions: Sequence[str | None]) -> None:
        """Run every partition; returns when all are finished or have failed, and are checked.

        Cancelled, it returns when every task has ended: a task group waits where `gather` does not.
        """
        waiting = iter(partitions)
        async with asyncio.TaskGroup() as checks, asyncio.TaskGroup() as workers:
            for _ in range(min(self._width, len(partitions))):
                workers.create_task(self._work_off(waiting, checks))

    async def _work_off(self, partitions: Iterator[str | None], checks: asyncio.TaskGroup) -> None:
        for partition in partitions:
            await self._run_partition(partition, checks)

    async def _run_partition(self, partition: str | None, checks: asyncio.TaskGroup) -> None:
        try:
            row = await self._around.rows.load(self._around.store, partition)
        except Exception as exc:
            for step in self._steps:
                self._failed(step, partition, exc)
            return
        flow = _Flow(partition, row, checks)
        async with asyncio.TaskGroup() as group:
            for step in self._steps:
                flow.tasks[step.key] = group.create_task(self._run_step(step, flow))

    async def _run_step(self, step: BatchStep, flow: _Flow) -> None:
        if not self._around.is_wanted(step.key, flow.partition):
            return
        # The tasks of the inputs were made before this one.
        within = [
            key
            for key in step.inputs
            if key in flow.tasks and self._around.is_wanted(key, flow.partition)
        ]
        if within:
            # Not `gather`, which would cancel the inputs a second time, in the middle of cleaning up.
            await asyncio.wait([flow.tasks[key] for key in within])
        async with self._slots:
            reason = self._reason_not_to_start(within, flow)
            if reason is not None:
                failure = PartitionFailure(step.key, flow.partition, "NotStarted", reason)
                self._results.failures.append(failure)
                return
            try:
                await self._generate(step, flow)
            except Exception as exc:
                self._failed(step, flow.partition, exc)

    def _reason_not_to_start(self, within: Sequence[dg.AssetKey], flow: _Flow) -> str | None:
        for key in within:
            if key not in flow.outcomes:
                return f"its input {key.to_user_string()} failed"
        if self._fatal is not None:
            return f"stopped after {type(self._fatal).__name__}, which every partition would meet"
        return None

    def _failed(self, step: BatchStep, partition: str | None, error: Exception) -> None:
        self._results.failures.append(PartitionFailure.of(step.key, partition, error))
        if not isinstance(error, GenblazeError):
            # A bug in a provider or a prompt function: it fails its partition, not its siblings.
            self._around.unexpected(step.key, partition, error)
        elif isinstance(error, _HITS_EVERYTHING):
            self._fatal = error
        elif isinstance(error, BudgetExceededError):
            self._exhausted.note(error, step.spec.provider_name)

    async def _generate(self, step: BatchStep, flow: _Flow) -> None:
        consumed = {key: await self._input(step, key, flow) for key in step.inputs}
        request = await step.prepare(self._around.store, flow.partition, flow.row, consumed)
        if self._exhausted:
            await self._check_room(step, flow.partition, request)
        outcome = await self._around.runner.run_step(
            request.spec,
            self._around.target(step.key, flow.partition),
            variables=request.variables,
            inputs=request.inputs,
            provider=self._around.providers.get(request.spec.provider_name),
        )
        if outcome.origin is not Origin.REUSED:
            # The run of reused media is indexed as what it was made for.
            self._around.segment.add(
                outcome.manifest,
                asset_key=outcome.ref.asset_key,
                partition_key=flow.partition,
                manifest_key=outcome.ref.manifest_key,
            )
        # A video shows the picture it was made from.
        picture = next((flow.thumbnails[k] for k in step.inputs if k in flow.thumbnails), None)
        digests: Mapping[str, str] = {}
        try:
            outcome = await self._with_renditions(outcome)
            own, digests = await self._preview(outcome.ref)
            if own is not None:
                flow.thumbnails[step.key] = picture = own
        finally:
            # Also when it is cancelled here: it is durable, so it is told.
            self._results.finished += 1
            self._around.emit(Finished(step.key, flow.partition, outcome, consumed, picture))
        flow.outcomes[step.key] = outcome
        if step.key in self._results.tallies:
            flow.checks.create_task(self._check(step.key, outcome.ref, digests))

    async def _check_room(self, step: BatchStep, partition: str | None, request: Request) -> None:
        """Refuse at once what would be asked anew and cannot be paid any more.

        Raises:
            BudgetExceededError: names the budget.
        """
        target = self._around.target(step.key, partition)
        if self._begun is None:
            self._begun = await self._around.begun()
        if target.reuse or (target.asset_key, partition) in self._begun:
            # Nothing, or nothing more, may have to be paid for it.
            return
        spec = request.spec
        try:
            cost = price_without_inputs(
                spec,
                self._around.providers.get(spec.provider_name) or provider_of(spec),
                variables=request.variables,
                kinds=[Modality.IMAGE] * (len(request.inputs) or len(spec.sources)),
            )
        except GenblazeError:
            # The runner says what is wrong with it.
            return
        self._exhausted.check(_where(target.asset_key, partition), spec.provider_name, cost)

    async def _input(self, step: BatchStep, key: dg.AssetKey, flow: _Flow) -> list[MediaRef]:
        """Return the references of one input: this run's when it makes them, else the store's."""
        if key in flow.outcomes:
            return [flow.outcomes[key].ref]
        wanted = self._around.upstream_partitions(step.key, key, flow.partition)
        return await stored_input(self._around.store, key, wanted, flow.partition)

    async def _with_renditions(self, outcome: StepOutcome) -> StepOutcome:
        """Give media of an earlier run the renditions it lacks, unless it is large."""
        if outcome.origin not in (Origin.FINISHED, Origin.REUSED):
            return outcome
        ref = await completed(self._around.store, outcome.ref, self._around.embed)
        if ref != outcome.ref:
            try:
                await write_ref(self._around.store, ref)
            except StorageError as exc:
                # The stored reference stays as it was: the media is there, its renditions are not.
                reason = f"{type(exc).__name__}: {exc}"
                media = tuple(replace(m, not_embedded=reason) for m in outcome.ref.media)
                ref = replace(outcome.ref, media=media)
        return replace(outcome, ref=ref)

    async def _preview(self, ref: MediaRef) -> tuple[bytes | None, dict[str, str]]:
        """Read a picture back once, for its thumbnail and for its check."""
        media = ref.media[0]
        if not media.media_type.startswith("image/") or media.size_bytes > THUMBNAIL_SOURCE_BYTES:
            return None, {}
        try:
            data = await self._around.store.get(media.key)
        except StorageError:
            # The media is durable; whether it can be read back is what the check is there to say.
            return None, {}

        def work() -> tuple[bytes | None, dict[str, str]]:
            return thumbnail(data, media), {media.key: sha256(data).hexdigest()}

        return await asyncio.to_thread(work)

    async def _check(self, key: dg.AssetKey, ref: MediaRef, digests: Mapping[str, str]) -> None:
        async with self._read_back:
            problem = await find_problem(self._around.store, ref, known=digests)
            self._results.tallies[key].add(ref.partition_key, problem)


async def stored_input(
    store: MediaStore, key: dg.AssetKey, wanted: Sequence[str] | None, partition: str | None
) -> list[MediaRef]:
    """Return the references of an upstream asset for one partition of what is made of it.

    Args:
        store: where they are.
        key: the upstream asset.
        wanted: its partitions that are needed, None when it has none.
        partition: what they are needed for.

    Raises:
        NotFoundError: one of them was never stored.
    """
    name = key.to_user_string()
    if wanted is None:
        # No partitions, or Dagster does not know the asset: ours may then be of the same key.
        ref = await read_ref(store, name, None)
        if ref is None and partition is not None:
            ref = await read_ref(store, name, partition)
        if ref is None:
            raise _nothing_stored(name, partition)
        return [ref]
    found = await read_refs(store, name, wanted)
    refs = [ref for one in wanted if (ref := found.get(one)) is not None]
    if len(refs) < len(wanted):
        raise _nothing_stored(name, next(one for one in wanted if found.get(one) is None))
    return refs


def _where(name: str, partition: str | None) -> str:
    return name if partition is None else f"{name}[{partition}]"


def _nothing_stored(name: str, partition: str | None) -> NotFoundError:
    return NotFoundError(
        f"input {_where(name, partition)} has no media in the store; materialize {name} first, or select it together "
        "with this asset"
    )
