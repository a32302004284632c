"""IO managers that carry references: bytes stay in the media store, steps pass small handles.

A user's own asset may return bytes, a path or `Media`, and gets `Media` for its inputs. Generated
assets store as they go and only share the store kept here.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, get_origin

import dagster as dg
from pydantic import Field, PrivateAttr

from genblaze_dagster import _compat
from genblaze_dagster._user_outputs import OwnOutput, by_partition, inputs_of_partition
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.core.policy import EmbedPolicy
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, NotFoundError
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.metadata import media_metadata
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.environment import default_store_url
from genblaze_dagster.storage.keys import KeyStrategy, join_key
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.refs import read_ref, read_refs
from genblaze_dagster.storage.store import MediaStore

ALLOW_MISSING = "allow_missing_partitions"
"""Input metadata that leaves out partitions nobody materialized yet, instead of failing."""

_CONCURRENCY = 16

_Step = tuple[str, str]
_Place = tuple[str, str | None]


class StoreIOManager(dg.ConfigurableIOManager):
    """What the IO managers below share; subclasses say which store."""

    public_url_base: str | None = Field(
        default=None,
        description="Public base URL of the store, such as a CDN; links and previews use it.",
    )
    key_strategy: KeyStrategy = Field(
        default=KeyStrategy.CONTENT_ADDRESSABLE,
        description="`content_addressable` stores equal bytes once; `hierarchical` sorts by run.",
    )
    embed: bool = Field(
        default=False,
        description="Also store every output with its manifest inside the file, as an object of "
        "its own; the output itself stays as it is.",
    )
    embed_prompts: bool = Field(default=True, description="Embedded manifests show prompts.")
    embed_params: bool = Field(default=True, description="Embedded manifests show parameters.")
    embed_seed: bool = Field(default=True, description="Embedded manifests show seeds.")

    _store: MediaStore | None = PrivateAttr(default=None)
    # References each step has loaded: what its outputs were made from.
    _loaded: dict[_Step, dict[_Place, MediaRef]] = PrivateAttr(default_factory=dict)

    @abstractmethod
    def open_store(self) -> MediaStore:
        """Return the configured store; nothing is contacted."""

    @property
    def store(self) -> MediaStore:
        """The media store; made on first use."""
        if self._store is None:
            self._store = self.open_store()
        return self._store

    @property
    def embed_policy(self) -> EmbedPolicy | None:
        """What embedded manifests show; None when nothing is embedded."""
        if not self.embed:
            return None
        prompts = PromptVisibility.PUBLIC if self.embed_prompts else PromptVisibility.REDACTED
        return EmbedPolicy(
            prompt_visibility=prompts,
            include_params=self.embed_params,
            include_seed=self.embed_seed,
        )

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store a returned value: bytes, a path, `Media`, or a dict of these by partition key.

        Raises:
            ConfigError: the value is none of these, or lacks a partition of the run.
            StorageError: the store failed.
        """
        address = _address(context)
        partitions = _partitions(context)
        values = {None: obj} if partitions is None else by_partition(obj, partitions, address)
        step = _compat.step_identity(context)
        loaded = list(self._loaded[step].values()) if step in self._loaded else []
        refs = run_sync(_keep_all(self, address, values, loaded))
        if context.has_asset_key:
            _compat.describe_output(
                context,
                data_version=_joint_version(refs),
                metadata={k: media_metadata(ref) for k, ref in refs.items()}
                if len(refs) > 1
                else {},
            )
        if len(refs) == 1:
            context.add_output_metadata(media_metadata(next(iter(refs.values()))))

    def load_input(self, context: dg.InputContext) -> Media | dict[str, Media] | None:
        """Return `Media` for one partition, a dict by partition key for several.

        Only references are read, at the same time; bytes are read when the media is opened.
        Input metadata `allow_missing_partitions: True` leaves partitions out that have no media.

        Raises:
            NotFoundError: an input was never stored; names asset and partition.
        """
        address = _address(context)
        partitions = _partitions(context)
        if partitions is None:
            refs = {None: run_sync(read_ref(self.store, address, None))}
        else:
            refs = dict(run_sync(read_refs(self.store, address, partitions)))
        found = {key: ref for key, ref in refs.items() if ref is not None}
        wanted = [None] if partitions is None else partitions
        missing = [key for key in wanted if key not in found]
        if missing and not (context.definition_metadata or {}).get(ALLOW_MISSING):
            raise NotFoundError(_nothing_stored(address, missing))
        step = _compat.step_identity(context)
        if step is not None:
            of_step = self._loaded.setdefault(step, {})
            of_step.update({(address, key): ref for key, ref in found.items()})
        media = {key: Media(ref, self.store) for key, ref in found.items()}
        if partitions is None or (len(partitions) == 1 and not _wants_dict(context)):
            return next(iter(media.values()), None)
        return {key: media[key] for key in partitions if key in media}


class MediaIOManager(StoreIOManager):
    """Media in the store of a URL: `s3://`, `b2://`, `file://` or `memory://`."""

    url: str | None = Field(
        default=None,
        description="URL of the store. GENBLAZE_STORE, else `.genblaze/store` below the working "
        "directory, when left out.",
    )
    endpoint_url: str | None = Field(default=None, description="Endpoint of an S3-like service.")
    region: str | None = Field(default=None, description="Region of the bucket.")
    # Any, because naming S3Resource imports dagster_aws, which takes seconds.
    s3: dg.ResourceDependency[Any] = Field(default=None, repr=False)  # pyright: ignore[reportAssignmentType]

    def open_store(self) -> MediaStore:
        """Return the store; credentials come from `s3` or the environment."""
        return MediaStore(
            self.url or default_store_url(),
            endpoint_url=self.endpoint_url,
            region=self.region,
            public_url_base=self.public_url_base,
            key_strategy=self.key_strategy,
            s3=self.s3,
        )


class S3MediaIOManager(StoreIOManager):
    """Media in a bucket of S3 or of a service that speaks it.

    Example:
        S3MediaIOManager(bucket="media", s3=S3Resource(endpoint_url="https://..."))
    """

    bucket: str = Field(description="Name of the bucket; it must exist.")
    prefix: str = Field(default="genblaze", description="First part of every object key.")
    endpoint_url: str | None = Field(default=None, description="Endpoint of an S3-like service.")
    region: str | None = Field(default=None, description="Region of the bucket.")
    # Any, because naming S3Resource imports dagster_aws, which takes seconds.
    s3: dg.ResourceDependency[Any] = Field(default=None, repr=False)  # pyright: ignore[reportAssignmentType]

    def open_store(self) -> MediaStore:
        """Return the store; credentials come from `s3` or the environment."""
        return MediaStore(
            f"s3://{join_key(self.bucket, self.prefix)}",
            endpoint_url=self.endpoint_url,
            region=self.region,
            public_url_base=self.public_url_base,
            key_strategy=self.key_strategy,
            s3=self.s3,
        )


class LocalMediaIOManager(StoreIOManager):
    """Media in a directory; for one machine, and for development."""

    base_dir: str = Field(description="Directory of the store; created on first use.")

    def open_store(self) -> MediaStore:
        """Return the store."""
        return MediaStore(
            Path(self.base_dir).resolve().as_uri(),
            public_url_base=self.public_url_base,
            key_strategy=self.key_strategy,
        )


async def _keep_all(
    manager: StoreIOManager,
    address: str,
    values: Mapping[Any, object],
    loaded: Sequence[MediaRef],
) -> dict[str | None, MediaRef]:
    slots = asyncio.Semaphore(_CONCURRENCY)
    store, embed = manager.store, manager.embed_policy
    segment = SegmentWriter(store)
    refs: dict[str | None, MediaRef] = {}

    async def keep(partition: str | None, value: object) -> None:
        async with slots:
            inputs = inputs_of_partition(loaded, partition)
            output = OwnOutput(store, address, partition, inputs, segment, embed)
            refs[partition] = await output.keep(value)

    # All of them are finished, also when one fails: none is left half-stored.
    ended = await asyncio.gather(
        *(keep(partition, value) for partition, value in values.items()), return_exceptions=True
    )
    await segment.flush()
    for error in ended:
        if error is not None:
            raise error
    return refs


def _address(context: dg.OutputContext | dg.InputContext) -> str:
    if context.has_asset_key:
        return context.asset_key.to_user_string()
    # Outputs of plain ops live as long as their run.
    owner = context.upstream_output if isinstance(context, dg.InputContext) else context
    if owner is None:
        raise ConfigError(
            "an op input has no upstream output; the media IO manager loads only what it stored"
        )
    return "/".join(("ops", *owner.get_identifier()))


def _partitions(context: dg.OutputContext | dg.InputContext) -> list[str] | None:
    if not (context.has_asset_key and context.has_asset_partitions):
        return None
    # For outputs this is in the order of a set: match by key, never by position.
    return list(context.asset_partition_keys)


def _joint_version(refs: Mapping[str | None, MediaRef]) -> str:
    if len(refs) == 1:
        return next(iter(refs.values())).data_version
    pairs = sorted(f"{key}={ref.data_version}" for key, ref in refs.items())
    return sha256("\n".join(pairs).encode()).hexdigest()


def _wants_dict(context: dg.InputContext) -> bool:
    try:
        wanted = context.dagster_type.typing_type
    except dg.DagsterInvariantViolationError:
        # A context built by a unit test has no type.
        return False
    return (get_origin(wanted) or wanted) in (dict, Mapping)


def _nothing_stored(address: str, missing: Sequence[str | None]) -> str:
    what = address if missing[0] is None else f"{address}[{missing[0]}]"
    others = f" (and {len(missing) - 1} more partitions)" if len(missing) > 1 else ""
    return (
        f"{what}{others} has no media in the store; materialize it first, or give the input "
        f"metadata {{'{ALLOW_MISSING}': True}}. An asset of yours must use the media IO manager"
    )
