"""A Dagster job that replays a recorded run: add `replay_job()` to your Definitions.

`genblaze-dagster replay ... --launch URL` starts it. In the launchpad it takes a manifest of the
store by its key or run id, or one as JSON text, and changes such as `image.seed=7`. Nothing of a
prompt that is not public may stand in run configuration, which Dagster keeps and shows.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import dagster as dg
from pydantic import Field

from genblaze_dagster import _compat
from genblaze_dagster._background import Background
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.parse import parse_manifest
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, GenblazeError, StorageError
from genblaze_dagster.events import step_failure
from genblaze_dagster.index.segment import SegmentWriter
from genblaze_dagster.io_manager import StoreIOManager
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.metadata import THUMBNAIL_SOURCE_BYTES, link, outcome_metadata, thumbnail
from genblaze_dagster.pipeline.assignments import parse_assignments
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.outcome import StepOutcome
from genblaze_dagster.pipeline.replay import Replay
from genblaze_dagster.pipeline.replay_config import (
    REPLAY_TAG,
    check_changes,
    check_inline,
    op_name,
)
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.provider_resources import PROVIDER_RESOURCES, resource_key
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.resources import LEDGER_KEY, MEDIA_KEY, LedgerResource
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.store import MediaStore


class ReplayConfig(dg.Config):
    """What to replay. Give one of `manifest` and `manifest_json`."""

    manifest: str | None = Field(
        default=None, description="Key of a manifest in the media store, or the id of its run."
    )
    manifest_json: str | None = Field(
        default=None, description="A manifest as JSON text; every prompt in it must be public."
    )
    changes: list[str] = Field(
        default_factory=list,
        description="What to make different, such as `image.seed=7`; the field alone when the run "
        "has one step. Prompts must be public.",
    )
    force: bool = Field(
        default=False, description="Replay a manifest although it was changed after it was written."
    )


def replay_job(
    *,
    name: str = "replay",
    provider_resources: Collection[str] = tuple(PROVIDER_RESOURCES),
    io_manager_key: str = MEDIA_KEY,
    ledger_key: str = LEDGER_KEY,
) -> dg.JobDefinition:
    """Return the job that replays runs; it uses the resources of `genblaze_resources`.

    Every step logs a materialization of `replay/<pipeline>/<step>` with the recorded run's id as
    partition, so the current media of no asset changes.

    Args:
        name: of the job.
        provider_resources: keys of the resources that hold providers.
        io_manager_key: resource key of a media IO manager.
        ledger_key: resource key of a `LedgerResource`.
    """
    keys = _Keys(frozenset(provider_resources), io_manager_key, ledger_key)

    @dg.op(
        name=op_name(name),
        required_resource_keys={io_manager_key, ledger_key, *provider_resources},
        out=dg.Out(dg.Nothing),
    )
    def replay_run(context: dg.OpExecutionContext, config: ReplayConfig):
        _Execution(context, config, keys).run()

    @dg.job(
        name=name,
        description="Run again what a manifest records, unchanged or with changes.",
        tags={REPLAY_TAG: "true"},
    )
    def job():
        replay_run()

    return job


@dataclass(frozen=True, slots=True)
class _Keys:
    """Resource keys the job uses."""

    providers: frozenset[str]
    io_manager: str
    ledger: str


@dataclass(frozen=True, slots=True)
class _Finished:
    """A step that is durable; `thumbnail` is a small WebP of its picture."""

    spec: StepSpec
    outcome: StepOutcome
    thumbnail: bytes | None


class _Execution:
    """One execution of the job's only op: the replay on a loop of its own, events on this thread."""

    def __init__(self, context: dg.OpExecutionContext, config: ReplayConfig, keys: _Keys) -> None:
        self._context = context
        self._config = config
        self._keys = keys
        self._logged: dict[str, MediaRef] = {}
        self._result: PipelineResult | None = None

    def run(self) -> None:
        """Replay the run and log each step as it becomes durable.

        Raises:
            Failure: the run cannot be replayed, or a step failed; what is durable is logged.
        """
        with Background[_Finished](self._main) as work:
            try:
                work.each(self._log)
            except GenblazeError as exc:
                raise step_failure(exc) from exc
            finally:
                # Also on interrupt: what is durable is logged, whatever becomes of the run.
                work.stop()
                work.rest(self._log)
        if self._result is not None:
            self._describe(self._result)

    async def _main(self, emit: Callable[[_Finished], None]) -> None:
        store, ledger = self._open()
        # Before anything is paid: a store nobody can write to fails the step at once.
        await store.check_access()
        manifest = await self._manifest(store)
        changes = parse_assignments(self._config.changes)

        async def finished(spec: StepSpec, outcome: StepOutcome) -> None:
            emit(_Finished(spec, outcome, await _thumbnail(store, outcome.ref)))

        async with AsyncExitStack() as opened:
            replay = Replay.from_manifest(
                manifest,
                changes=changes,
                providers=self._open_providers(manifest, changes, opened),
            )
            check_changes(replay)
            if self._config.manifest_json is not None:
                check_inline(replay, manifest)
            for note in replay.notes:
                self._context.log.info(note)
            self._result = await replay.arun(
                force=self._config.force,
                store=store,
                ledger=ledger,
                index=SegmentWriter(store),
                # It reads the run only, which every context has.
                scope=_compat.intent_scope(self._context),  # pyright: ignore[reportArgumentType]
                on_outcome=finished,
            )

    def _open(self) -> tuple[MediaStore, Ledger]:
        manager = getattr(self._context.resources, self._keys.io_manager)
        ledger = getattr(self._context.resources, self._keys.ledger)
        if not isinstance(manager, StoreIOManager) or not isinstance(ledger, LedgerResource):
            raise ConfigError(
                f"resources {self._keys.io_manager!r} and {self._keys.ledger!r} are a "
                f"{type(manager).__name__} and a {type(ledger).__name__}; a replay needs a media IO "
                "manager, such as S3MediaIOManager, and a LedgerResource"
            )
        return manager.store, ledger.get_ledger()

    async def _manifest(self, store: MediaStore) -> Manifest:
        config = self._config
        if (config.manifest is None) == (config.manifest_json is None):
            raise ConfigError("give one of manifest (a key or run id) and manifest_json")
        if config.manifest_json is not None:
            return parse_manifest(config.manifest_json)
        # The replay itself looks at the hash, which `force` may overrule.
        return await read_manifest(store, config.manifest or "", verify=False)

    def _open_providers(
        self, manifest: Manifest, changes: Mapping[str, object], opened: AsyncExitStack
    ) -> dict[str, Provider]:
        wanted = {step.provider for step in manifest.run.steps}
        wanted |= {value for value in changes.values() if isinstance(value, str)}
        providers: dict[str, Provider] = {}
        for name in sorted(filter(None, wanted)):
            if resource_key(name) not in self._keys.providers:
                continue
            resource = getattr(self._context.resources, resource_key(name))
            provider: Provider = resource.provider_named(name)
            opened.push_async_callback(provider.aclose)
            providers[name] = provider
        return providers

    def _log(self, finished: Sequence[_Finished]) -> None:
        for one in finished:
            ref = one.outcome.ref
            inputs = {
                _asset_key(self._logged[name]): _compat.InputVersion(
                    self._logged[name].data_version, None
                )
                for name in one.spec.inputs
            }
            self._logged[one.spec.name] = ref
            self._context.log_event(
                dg.AssetMaterialization(
                    asset_key=_asset_key(ref),
                    partition=ref.partition_key,
                    metadata=outcome_metadata(one.outcome, thumbnail=one.thumbnail),
                    tags=_compat.version_tags(ref.data_version, one.spec.code_version, inputs),
                )
            )

    def _describe(self, result: PipelineResult) -> None:
        run, uri = result.run, result.manifest.manifest_uri
        self._context.add_output_metadata(
            {
                "run_id": run.run_id,
                "parent_run_id": run.parent_run_id or "",
                "canonical_hash": result.manifest.canonical_hash,
                **({"manifest": link(uri)} if uri else {}),
            }
        )


def _asset_key(ref: MediaRef) -> dg.AssetKey:
    return dg.AssetKey(ref.asset_key.split("/"))


async def _thumbnail(store: MediaStore, ref: MediaRef) -> bytes | None:
    first = ref.media[0]
    if not first.media_type.startswith("image/") or first.size_bytes > THUMBNAIL_SOURCE_BYTES:
        return None
    try:
        data = await store.get(first.key)
    except StorageError:
        # The media is durable; a preview that cannot be made is only missing.
        return None
    return await asyncio.to_thread(thumbnail, data, first)
