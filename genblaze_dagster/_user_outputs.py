"""Store what a user's own asset function returned, with a manifest as good as a generated one's."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from uuid_utils import compat as uuid_utils

from genblaze_dagster.core.canonical import canonical_hash
from genblaze_dagster.core.enums import Modality, RunStatus, StepStatus, StepType
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.pipeline.lineage import Upstream, asset_record, input_media, steps_before
from genblaze_dagster.pipeline.outputs import OutputStorage
from genblaze_dagster.providers.protocol import Output
from genblaze_dagster.storage.manifests import write_manifest
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.refs import read_ref, write_ref
from genblaze_dagster.storage.rendition import Renditions, completed
from genblaze_dagster.storage.store import MediaStore

OWN_FUNCTION = "dagster"
"""Provider name of media that a function of the code location made."""

# The steps behind so many inputs would make a manifest nobody can read; the inputs stay listed.
_INPUTS_WITH_STEPS = 64

_MODALITIES = {modality.value: modality for modality in Modality}


@dataclass(frozen=True, slots=True)
class OwnOutput:
    """Where a returned value goes and what it was made from; `segment` collects for the index.

    With `embed` every output is also stored with its manifest inside.
    """

    store: MediaStore
    asset_key: str
    partition_key: str | None
    inputs: Sequence[MediaRef]
    segment: SegmentWriter
    embed: EmbedPolicy | None = None

    async def keep(self, value: object) -> MediaRef:
        """Store a value and return its reference.

        Args:
            value: `bytes`, a `Path` or the text of an existing file's path, a list of those, or
                `Media`/`MediaRef` that is stored already and then only referred to.

        Raises:
            ConfigError: the value is none of these, or the file does not exist.
            StorageError: the store failed; no reference was written then.
        """
        if isinstance(value, Media):
            value = value.ref
        if isinstance(value, MediaRef):
            ref = replace(value, asset_key=self.asset_key, partition_key=self.partition_key)
            ref = await completed(self.store, ref, self.embed)
        else:
            async with Renditions(self.store, self.embed) as renditions:
                ref = await self._record(self._outputs(value), renditions)
        await write_ref(self.store, ref)
        return ref

    def _outputs(self, value: object) -> list[Output]:
        items = list(value) if isinstance(value, list | tuple) else [value]
        return [self._output(item) for item in items]

    def _output(self, value: object) -> Output:
        if isinstance(value, bytes | bytearray | memoryview):
            return Output(data=bytes(value))
        if isinstance(value, str | Path):
            # Unlike Path.is_file this takes any text, however long.
            if os.path.isfile(value):
                return Output(path=Path(value))
            what = (
                f"path {value}" if isinstance(value, Path) else f"{len(value)} characters of text"
            )
            raise ConfigError(f"{self._where} returned {what}, which is no file; {_ACCEPTED}")
        raise ConfigError(f"{self._where} returned a {type(value).__name__}; {_ACCEPTED}")

    @property
    def _where(self) -> str:
        partition = "" if self.partition_key is None else f"[{self.partition_key}]"
        return f"{self.asset_key}{partition}"

    async def _record(self, outputs: Sequence[Output], renditions: Renditions) -> MediaRef:
        now = datetime.now(UTC)
        run_id, step_id = str(uuid_utils.uuid7()), str(uuid_utils.uuid7())
        kept = await OutputStorage(self.store, run_id, None, now, renditions).keep(outputs)
        manifests: list[Manifest] = []
        if len(self.inputs) <= _INPUTS_WITH_STEPS:
            manifests = await Upstream(self.store).manifests(self.inputs)
            consumed = [m.asset for m in input_media(self.store, self.inputs, manifests)]
        else:
            consumed = [asset_record(media) for ref in self.inputs for media in ref.media]
        previous = await read_ref(self.store, self.asset_key, self.partition_key)
        upstream = steps_before(manifests)
        brought_in = not self.inputs and all(output.path is not None for output in outputs)
        step = Step(
            step_id=step_id,
            run_id=run_id,
            provider=None if brought_in else OWN_FUNCTION,
            model=self.asset_key,
            step_type=StepType.INGEST if brought_in else StepType.CUSTOM,
            modality=_modality(kept[0][1].media_type),
            status=StepStatus.SUCCEEDED,
            inputs=consumed,
            assets=[asset for asset, _ in kept],
            started_at=now,
            completed_at=now,
            step_index=len(upstream),
        )
        run = Run(
            run_id=run_id,
            status=RunStatus.COMPLETED,
            steps=[*upstream, step],
            parent_run_id=previous.run_id if previous else None,
            created_at=now,
            started_at=now,
            completed_at=now,
        )
        manifest = Manifest.from_run(run)
        manifest_key = await write_manifest(self.store, manifest)
        self.segment.add(
            manifest,
            asset_key=self.asset_key,
            partition_key=self.partition_key,
            manifest_key=manifest_key,
        )
        media = await renditions.made([media for _, media in kept], manifest)
        return MediaRef(
            asset_key=self.asset_key,
            partition_key=self.partition_key,
            run_id=run_id,
            step_id=step_id,
            manifest_key=manifest_key,
            manifest_url=self.store.durable_url(manifest_key),
            canonical_hash=manifest.canonical_hash,
            generation_key=canonical_hash(
                {
                    "asset": self.asset_key,
                    "inputs": [asset.sha256 for asset in consumed],
                    "outputs": [media.sha256 for _, media in kept],
                }
            ),
            provider=step.provider,
            model=step.model,
            modality=step.modality.value,
            cost_usd=None,
            created_at=now.isoformat(),
            media=media,
        )


_ACCEPTED = (
    "return bytes, the path of a file, Media, or a dict of these by partition key when the run has "
    "several partitions"
)


def by_partition(value: object, keys: Sequence[str], asset_key: str) -> Mapping[str, object]:
    """Match a returned value to the partitions of its run, by key and never by position.

    Raises:
        ConfigError: several partitions and no dict, or the dict's keys are others.
    """
    if len(keys) == 1 and not (isinstance(value, Mapping) and set(value) == set(keys)):
        return {keys[0]: value}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{asset_key} returned one {type(value).__name__} for {len(keys)} partitions; {_ACCEPTED}"
        )
    missing = sorted(set(keys) - set(value))
    if missing:
        raise ConfigError(
            f"{asset_key} returned no value for {len(missing)} of {len(keys)} partitions, such as "
            f"{missing[0]!r}; return one per partition key of the run"
        )
    unknown = sorted(str(key) for key in set(value) - set(keys))
    if unknown:
        raise ConfigError(
            f"{asset_key} returned a value for {unknown[0]!r}, which is no partition of this run"
        )
    return value


def inputs_of_partition(refs: Sequence[MediaRef], partition: str | None) -> list[MediaRef]:
    """Return the loaded references one partition was made from.

    An input of the same partition key stands for its asset; an asset without one went into every
    partition as a whole.
    """
    chosen: list[MediaRef] = []
    for asset_key in dict.fromkeys(ref.asset_key for ref in refs):
        of_asset = [ref for ref in refs if ref.asset_key == asset_key]
        own = [ref for ref in of_asset if ref.partition_key == partition]
        chosen += own or of_asset
    return chosen


def _modality(media_type: str) -> Modality:
    return _MODALITIES.get(media_type.partition("/")[0], Modality.TEXT)
