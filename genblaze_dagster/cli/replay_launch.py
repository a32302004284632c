"""Launch a replay as a run of a Dagster deployment."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from genblaze_dagster.cli.deployment import SUCCESS, Deployment
from genblaze_dagster.cli.output import print_lines, printable, progress
from genblaze_dagster.errors import NotFoundError
from genblaze_dagster.pipeline.assignments import written
from genblaze_dagster.pipeline.replay import Replay
from genblaze_dagster.pipeline.replay_config import REPLAY_OF_TAG, check_changes, check_inline

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore


@dataclass(frozen=True, slots=True)
class Launched:
    """A run of the deployment; `status` None when nobody waited for its end."""

    run_id: str
    url: str
    location: str
    status: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is known to have gone wrong."""
        return self.status in (None, SUCCESS)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "dagster_run_id": self.run_id,
            "url": self.url,
            "location": self.location,
            "status": self.status,
        }


async def launch_replay(
    replay: Replay,
    deployment: Deployment,
    *,
    location: str | None,
    changes: Mapping[str, object],
    store: "MediaStore | None",
    force: bool,
) -> Launched:
    """Launch a replay on a deployment.

    Args:
        replay: what to run; whether its providers are installed here does not matter.
        deployment: where.
        location: the code location, when several have a replay job.
        changes: as `replay` was made with.
        store: the deployment's, when it is known; a manifest in it is sent as its run id.
        force: also when the manifest was changed after it was written.

    Raises:
        IntegrityError: the manifest was changed, and not `force`.
        ConfigError: something cannot be restored, may not stand in run configuration, or the
            deployment does not take it.
    """
    if not force:
        replay.check_hash()
    replay.require(installed=False)
    check_changes(replay)
    config = {**await _manifest(replay, store), "changes": written(changes), "force": force}
    job = await deployment.replay_job(location)
    run_id = await deployment.launch(job, config, {REPLAY_OF_TAG: replay.run_id})
    return Launched(run_id, deployment.run_url(run_id), job.location)


async def followed(deployment: Deployment, launched: Launched) -> Launched:
    """Wait for the end of a run and return it with its status.

    Raises:
        ConfigError: the deployment does not answer any more; the run goes on.
    """
    with progress(f"run {launched.run_id}", total=None):
        return replace(launched, status=await deployment.follow(launched.run_id))


async def _manifest(replay: Replay, store: "MediaStore | None") -> dict[str, str]:
    manifest = replay.manifest
    if store is not None and await _is_stored(replay, store):
        return {"manifest": manifest.run.run_id}
    check_inline(replay, manifest)
    return {"manifest_json": manifest.to_canonical_json()}


async def _is_stored(replay: Replay, store: "MediaStore") -> bool:
    from genblaze_dagster.storage.manifests import read_manifest

    try:
        stored = await read_manifest(store, replay.manifest.run.run_id, verify=False)
    except NotFoundError:
        return False
    return stored.canonical_hash == replay.manifest.canonical_hash


def print_launched(launched: Launched) -> None:
    """Print where the run is."""
    print_lines([Text(f"run         {launched.run_id}"), Text(f"open        {launched.url}")])


def print_status(launched: Launched) -> None:
    """Print how the run ended."""
    style = "green" if launched.ok else "red"
    status = printable(launched.status or "unknown")
    print_lines([Text.assemble("status      ", (status, style))])
