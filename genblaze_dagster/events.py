"""Outcomes as Dagster events: a materialization per finished partition, one failure at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import dagster as dg

from genblaze_dagster import _compat
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import GenblazeError, HeldError
from genblaze_dagster.metadata import outcome_metadata
from genblaze_dagster.net.redact import redact
from genblaze_dagster.pipeline.outcome import StepOutcome

_LISTED_FAILURES = 50
_MESSAGE_CHARS = 200


@dataclass(frozen=True, slots=True)
class Finished:
    """One step of one partition whose media, manifest and reference are durable.

    `consumed` maps upstream assets to the references that were read; `thumbnail` is a small WebP.
    """

    key: dg.AssetKey
    partition: str | None
    outcome: StepOutcome
    consumed: Mapping[dg.AssetKey, Sequence[MediaRef]]
    thumbnail: bytes | None = None


class MaterializationLog:
    """Writes the materializations of one Dagster step; used from the step's own thread only.

    Args:
        context: the running step.
        code_versions: code version of every selected asset, inputs before their users.
        upstream: for each of them, what Dagster knew of the inputs that are made outside this
            step, before they were read.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        code_versions: Mapping[dg.AssetKey, str],
        upstream: Mapping[dg.AssetKey, Mapping[dg.AssetKey, _compat.InputVersion | None]],
    ) -> None:
        self._context = context
        self._code_versions = code_versions
        self._upstream = upstream
        self._pointers = _EventPointers(self._latest_storage_id)

    def write(self, finished: Sequence[Finished]) -> None:
        """Log materializations; returns when Dagster has stored them.

        Those of one asset are written together, inputs before what was made of them.
        """
        for key in self._code_versions:
            of_asset = [one for one in finished if one.key == key]
            if not of_asset:
                continue
            events = [self._materialization(one) for one in of_asset]
            _compat.log_materializations(self._context, events)
            self._pointers.logged(key, [one.partition for one in of_asset])

    def _materialization(self, finished: Finished) -> dg.AssetMaterialization:
        ref = finished.outcome.ref
        tags = _compat.version_tags(
            ref.data_version, self._code_versions[finished.key], self._inputs(finished)
        )
        return dg.AssetMaterialization(
            asset_key=finished.key,
            partition=finished.partition,
            metadata=outcome_metadata(finished.outcome, thumbnail=finished.thumbnail),
            tags={**tags, **_compat.dimension_tags(finished.partition)},
        )

    def _inputs(self, finished: Finished) -> dict[dg.AssetKey, _compat.InputVersion]:
        upstream = self._upstream[finished.key]
        inputs = {key: known for key, known in upstream.items() if known is not None}
        for key, refs in finished.consumed.items():
            if key in self._code_versions:
                pointer = self._pointers.after(key, finished.partition)
            else:
                known = upstream.get(key)
                pointer = known.storage_id if known else None
            inputs[key] = _compat.InputVersion(_joint_version(refs), pointer)
        return inputs

    def _latest_storage_id(self, key: dg.AssetKey) -> int | None:
        records = self._context.instance.fetch_materializations(key, limit=1).records
        return records[0].storage_id if records else None


class _EventPointers:
    """Cursors to events this step has logged itself.

    One look-up serves every event of an asset that was logged before it: any cursor between an
    event and the next one of the same partition means the same to Dagster.
    """

    def __init__(self, look_up: Callable[[dg.AssetKey], int | None]) -> None:
        self._look_up = look_up
        self._count = 0
        self._logged_as: dict[tuple[dg.AssetKey, str | None], int] = {}
        self._known: dict[dg.AssetKey, tuple[int, int | None]] = {}

    def logged(self, key: dg.AssetKey, partitions: Sequence[str | None]) -> None:
        self._count += 1
        for partition in partitions:
            self._logged_as[key, partition] = self._count

    def after(self, key: dg.AssetKey, partition: str | None) -> int | None:
        covers, pointer = self._known.get(key, (0, None))
        if covers < self._logged_as[key, partition]:
            covers, pointer = self._count, self._look_up(key)
            self._known[key] = covers, pointer
        return pointer


def _joint_version(refs: Sequence[MediaRef]) -> str:
    if len(refs) == 1:
        return refs[0].data_version
    return sha256("".join(ref.data_version for ref in refs).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PartitionFailure:
    """Why one step of one partition has no result in this run.

    `submission_id` is the ledger's, where the error names one; `is_held` says that a person has to
    decide it before anything is sent again.
    """

    key: dg.AssetKey
    partition: str | None
    error: str
    message: str
    transient: bool = False
    submission_id: str | None = None
    is_held: bool = False

    @classmethod
    def of(cls, key: dg.AssetKey, partition: str | None, error: Exception) -> Self:
        """Describe an exception; messages that are not ours are redacted."""
        ours = isinstance(error, GenblazeError)
        message = str(error) if ours else redact(str(error))
        return cls(
            key,
            partition,
            type(error).__name__,
            message[:_MESSAGE_CHARS],
            transient=isinstance(error, GenblazeError) and error.transient,
            submission_id=getattr(error, "submission_id", None),
            is_held=isinstance(error, HeldError),
        )

    @property
    def where(self) -> str:
        """Asset and partition, for people."""
        name = self.key.to_user_string()
        return name if self.partition is None else f"{name}[{self.partition}]"

    @property
    def command(self) -> str:
        """What shows the submission, or decides it; empty when the error names none."""
        if self.submission_id is None:
            return ""
        ledger = f"genblaze-dagster ledger {{}} {self.submission_id}"
        if self.is_held:
            return ledger.format("resolve") + " --job JOB_ID | --not-submitted | --paid-lost"
        return ledger.format("show")


def partitions_failure(failures: Sequence[PartitionFailure], *, finished: int) -> dg.Failure:
    """Return the failure of a step some of whose partitions failed.

    Args:
        failures: at least one.
        finished: how many materializations of this run are stored and logged.
    """
    partitions = list(dict.fromkeys(str(failure.partition) for failure in failures))
    first = failures[0]
    records = [
        dg.TableRecord(
            {
                "asset": failure.key.to_user_string(),
                "partition": failure.partition or "",
                "error": failure.error,
                "message": failure.message,
                "retry": failure.transient,
                "submission": failure.submission_id or "",
                "held": failure.is_held,
                "command": failure.command,
            }
        )
        for failure in failures[:_LISTED_FAILURES]
    ]
    return dg.Failure(
        description=(
            f"{len(failures)} of {len(failures) + finished} media failed; {finished} are stored and "
            f"cost nothing when this is run again. First: {first.where}: {first.error}: "
            f"{first.message}"
        ),
        metadata={
            "failures": dg.MetadataValue.table(records),
            "failed_partitions": dg.MetadataValue.json(partitions[:_LISTED_FAILURES]),
            "failed_count": dg.MetadataValue.int(len(failures)),
            "finished_count": dg.MetadataValue.int(finished),
        },
        allow_retries=any(failure.transient for failure in failures),
    )


def step_failure(error: GenblazeError) -> dg.Failure:
    """Return the failure of a step that an error hit as a whole, before anything was paid."""
    return dg.Failure(description=f"{type(error).__name__}: {error}", allow_retries=error.transient)
