"""Write what a step did: its manifest, and the reference others find it by."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from genblaze_dagster.core.enums import PromptVisibility, RunStatus, StepStatus
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.core.redaction import without_echoes
from genblaze_dagster.core.reference import MediaObject, MediaRef
from genblaze_dagster.errors import ConflictError, ManifestError
from genblaze_dagster.ledger.submission import LedgerRow
from genblaze_dagster.pipeline.generation import Generation, recorded_prompts
from genblaze_dagster.pipeline.outcome import Target
from genblaze_dagster.providers.protocol import Result
from genblaze_dagster.storage.manifests import read_manifest, write_manifest
from genblaze_dagster.storage.refs import read_ref, write_ref
from genblaze_dagster.storage.rendition import Renditions
from genblaze_dagster.storage.store import MediaStore

STEP_NAME: Final = "step_name"
"""Key in `provider_payload` under which a step's record says what its pipeline calls it."""

_FRESH_SECONDS = 1.0
# More than one is there after an attempt that failed, or died, each time with other media.
_MOST_RECORDS = 32

# RFC 9562, 5.7: 48 bits of time, the version, 12 bits, the variant, 62 bits.
_TIME_SHIFT = 80
_LAST_TIME = (1 << 48) - 1
_VERSION_AND_VARIANT = 0xF << 76 | 0b11 << 62
_VERSION_7 = 7 << 76 | 0b10 << 62


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything known about one finished generation.

    `kept` are the stored outputs, `upstream` the steps of its inputs, each once and in order.
    """

    generation: Generation
    target: Target
    row: LedgerRow
    job_id: str | None
    result: Result
    kept: Sequence[tuple[Asset, MediaObject]]
    upstream: Sequence[Step]
    started_at: datetime
    completed_at: datetime
    retries: int

    async def write(
        self, store: MediaStore, renditions: Renditions, previous: "Previous"
    ) -> tuple[MediaRef, Manifest]:
        """Write manifest, then reference; after a crash the same call gives the same objects.

        The renditions are made in between, of what the manifest proves; if one cannot be made, the
        reference says why.

        Raises:
            StorageError: nothing after the failed object was written.
        """
        run = self._run()
        replaced = await previous.ref()
        if replaced is not None and replaced.run_id != run.run_id:
            run.parent_run_id = replaced.run_id
        manifest, manifest_key = await _recorded(store, run)
        media = await renditions.made([media for _, media in self.kept], manifest)
        ref = self._ref(store, manifest, manifest_key, media)
        await write_ref(store, ref)
        return ref, manifest

    def _run(self) -> Run:
        return Run(
            run_id=self.row.run_id,
            tenant_id=self.target.tenant_id,
            project_id=self.target.project_id,
            name=self.target.pipeline,
            status=RunStatus.COMPLETED,
            steps=[*self.upstream, self._step()],
            created_at=self.completed_at,
            started_at=self.started_at,
            completed_at=self.completed_at,
        )

    def _step(self) -> Step:
        spec, request = self.generation.spec, self.generation.request
        prompt, negative_prompt, metadata = recorded_prompts(self.generation)
        payload = dict(self.result.provider_payload)
        if spec.prompt_visibility is not PromptVisibility.PUBLIC:
            payload = without_echoes(payload)
        if self.job_id is not None:
            # Outside the hash: two equal runs have different job ids and one canonical hash.
            payload.setdefault("job_id", self.job_id)
        # Not in the hash either: what a step is called does not change what it makes.
        payload[STEP_NAME] = spec.name
        return Step(
            step_id=self.row.step_id,
            run_id=self.row.run_id,
            provider=self.generation.provider.name,
            model=spec.model,
            model_version=self.result.model_version,
            step_type=spec.step_type,
            modality=spec.modality,
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_visibility=spec.prompt_visibility,
            seed=request.seed,
            params=dict(request.params),
            status=StepStatus.SUCCEEDED,
            inputs=[item.asset for item in request.inputs],
            assets=[asset for asset, _ in self.kept],
            provider_payload=payload,
            retries=self.retries,
            cost_usd=self.result.cost_usd,
            started_at=self.started_at,
            completed_at=self.completed_at,
            step_index=len(self.upstream),
            metadata=metadata,
        )

    def _ref(
        self,
        store: MediaStore,
        manifest: Manifest,
        manifest_key: str,
        media: tuple[MediaObject, ...],
    ) -> MediaRef:
        return MediaRef(
            asset_key=self.target.asset_key,
            partition_key=self.target.partition_key,
            run_id=manifest.run.run_id,
            step_id=self.row.step_id,
            manifest_key=manifest_key,
            manifest_url=store.durable_url(manifest_key),
            canonical_hash=manifest.canonical_hash,
            generation_key=self.generation.key,
            provider=self.generation.provider.name,
            model=self.generation.spec.model,
            modality=self.generation.spec.modality.value,
            cost_usd=self.result.cost_usd,
            created_at=self.completed_at.isoformat(),
            media=media,
        )


async def _recorded(store: MediaStore, run: Run) -> tuple[Manifest, str]:
    """Write the manifest of a run and return it with its key; the run may get another id.

    Raises:
        ConflictError: every id that it might have is taken.
        StorageError: it was not written.
    """
    *others, last = record_ids(run.run_id)
    for run_id in others:
        try:
            return await _recorded_as(store, run, run_id)
        except ConflictError as exc:
            # The run was recorded as failed, or an attempt that died had written other media under
            # its id. That record stays; this one has an id of its own.
            run.parent_run_id = await _parent_beside(store, exc.key, run)
    return await _recorded_as(store, run, last)


async def _recorded_as(store: MediaStore, run: Run, run_id: str) -> tuple[Manifest, str]:
    run.run_id = run.steps[-1].run_id = run_id
    manifest = Manifest.from_run(run)
    return manifest, await write_manifest(store, manifest)


def record_ids(run_id: str) -> list[str]:
    """Return the ids that the record of a run may have: its own, and those beside it.

    They end: of a store that has something under every key nothing is to be expected.
    """
    ids = [run_id]
    while len(ids) < _MOST_RECORDS:
        ids.append(_beside(ids[-1]))
    return ids


def _beside(run_id: str) -> str:
    """Return the id of the record next to one whose id is taken; it sorts right behind.

    It follows from that id alone: whoever repeats the record after a crash finds it, instead of
    adding one more.
    """
    digest = hashlib.sha256(run_id.encode()).digest()
    try:
        milliseconds = uuid.UUID(run_id).int >> _TIME_SHIFT
    except ValueError:
        return str(uuid.UUID(bytes=digest[:16], version=5))
    rest = int.from_bytes(digest[:10]) & ~_VERSION_AND_VARIANT | _VERSION_7
    # The 48 bits of time at the front of a version 7 may not overflow.
    later = min(milliseconds + 1, _LAST_TIME)
    return str(uuid.UUID(int=later << _TIME_SHIFT | rest))


async def _parent_beside(store: MediaStore, key: str | None, run: Run) -> str:
    """Return the parent of a run whose id is taken by the record at `key`.

    That is the record, unless the way to the media that this run replaces would end there.

    Raises:
        StorageError: the record cannot be read.
    """
    if run.parent_run_id is None or key is None:
        return run.run_id
    try:
        recorded = (await read_manifest(store, key)).run
    except ManifestError:
        return run.parent_run_id
    return run.run_id if recorded.parent_run_id == run.parent_run_id else run.parent_run_id


class Previous:
    """The reference that a step is about to replace, read while its bytes go up.

    Use as an async context manager around the upload.
    """

    def __init__(self, store: MediaStore, target: Target) -> None:
        self._store = store
        self._target = target
        self._read_at = time.monotonic()
        self._reading = asyncio.ensure_future(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def ref(self) -> MediaRef | None:
        """Return it, None when there is none.

        Raises:
            StorageError: it cannot be read.
            SchemaError: it is not a reference this release reads.
        """
        # After a long upload another run may have been faster, or the store be back.
        if time.monotonic() - self._read_at < _FRESH_SECONDS:
            await asyncio.wait({self._reading})
            if self._reading.exception() is None:
                return self._reading.result()
        return await self._read()

    async def _read(self) -> MediaRef | None:
        return await read_ref(self._store, self._target.asset_key, self._target.partition_key)
