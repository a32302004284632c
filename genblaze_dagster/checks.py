"""Provenance checks: the manifest verifies, and the stored bytes hash to what it says."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import dagster as dg

from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import GenblazeError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.integrity import check_ref
from genblaze_dagster.storage.refs import list_refs
from genblaze_dagster.storage.store import MediaStore

PROVENANCE = "provenance"
PROVENANCE_AUDIT = "provenance_audit"
_LISTED_FAILURES = 50
_AUDIT_CONCURRENCY = 16


def provenance_spec(key: dg.AssetKey) -> dg.AssetCheckSpec:
    """Return the check that every generated asset carries; it blocks what is downstream."""
    return dg.AssetCheckSpec(
        PROVENANCE,
        asset=key,
        blocking=True,
        description="The stored manifest verifies and the stored bytes hash to it, for every "
        "partition of the run.",
    )


@dataclass
class Tally:
    """What a check found: partitions looked at, and the problem of each that failed."""

    checked: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, partition: str | None, problem: str | None) -> None:
        """Count one partition; `problem` None means it is as it should be."""
        self.checked += 1
        if problem is not None:
            self.problems[partition or "unpartitioned"] = problem

    @property
    def passed(self) -> bool:
        """Whether there was no problem."""
        return not self.problems

    @property
    def metadata(self) -> Mapping[str, dg.MetadataValue]:
        """Counts and the failed partitions."""
        values: dict[str, dg.MetadataValue] = {
            "checked_count": dg.MetadataValue.int(self.checked),
            "failed_count": dg.MetadataValue.int(len(self.problems)),
        }
        if self.problems:
            records = [
                dg.TableRecord({"partition": partition, "problem": problem})
                for partition, problem in list(self.problems.items())[:_LISTED_FAILURES]
            ]
            values["failed"] = dg.MetadataValue.table(records)
        return values

    def result(self, key: dg.AssetKey, name: str = PROVENANCE) -> dg.AssetCheckResult:
        """Return the check's result for Dagster."""
        return dg.AssetCheckResult(
            asset_key=key, check_name=name, passed=self.passed, metadata=self.metadata
        )

    def evaluation(self, key: dg.AssetKey) -> dg.AssetCheckEvaluation:
        """Return the result as an event, for a step that is about to fail."""
        return dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=PROVENANCE,
            passed=self.passed,
            metadata=self.metadata,
            blocking=True,
        )


async def find_problem(
    store: MediaStore, ref: MediaRef, *, known: Mapping[str, str] | None = None
) -> str | None:
    """Read back what a reference names and return what is wrong with it, None when all is well.

    Args:
        store: where the reference came from.
        ref: what to check.
        known: object key to SHA-256 of objects that were read back a moment ago.
    """
    try:
        checked = await check_ref(store, ref, known=known)
    except GenblazeError as exc:
        return f"{type(exc).__name__}: {exc}"
    if checked.ok:
        return None
    first = checked.findings[0]
    detail = f" ({first.detail})" if first.detail else ""
    return f"{first.subject}: {first.problem}{detail}"


async def tally_refs(store: MediaStore, refs: AsyncIterator[MediaRef]) -> Tally:
    """Check every reference, 16 at a time."""
    tally = Tally()
    slots = asyncio.Semaphore(_AUDIT_CONCURRENCY)

    async def check(ref: MediaRef) -> None:
        try:
            tally.add(ref.partition_key, await find_problem(store, ref))
        finally:
            slots.release()

    tasks: list[asyncio.Task[None]] = []
    async for ref in refs:
        # Taken here, so that a long listing does not become as many waiting reads.
        await slots.acquire()
        tasks.append(asyncio.create_task(check(ref)))
    await asyncio.gather(*tasks)
    if not tasks:
        tally.problems["all"] = "nothing is stored for this asset; materialize it first"
    return tally


def provenance_check(
    asset: dg.AssetKey | dg.AssetsDefinition | str,
    *,
    name: str = PROVENANCE_AUDIT,
    io_manager_key: str = "media",
    blocking: bool = False,
) -> dg.AssetChecksDefinition:
    """Return a check of everything that is stored for an asset, to be run on demand or on a schedule.

    It reads every manifest and every byte back; on a bucket that is billed egress.

    Args:
        asset: a generated asset, or one whose outputs go through the media IO manager.
        name: name of the check; unique per asset.
        io_manager_key: resource key of the media IO manager.
        blocking: whether a failure keeps downstream assets of the same run from running.
    """
    key = asset.key if isinstance(asset, dg.AssetsDefinition) else dg.AssetKey.from_coercible(asset)

    @dg.asset_check(
        asset=key,
        name=name,
        blocking=blocking,
        required_resource_keys={io_manager_key},
        description="Every stored manifest verifies and every stored byte hashes to it.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        store: MediaStore = getattr(context.resources, io_manager_key).store
        tally = run_sync(tally_refs(store, list_refs(store, key.to_user_string())))
        return tally.result(key, name)

    return check
