import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from dagster_graphql.schema import create_schema

from genblaze_dagster import Manifest, MediaStore, Pipeline
from genblaze_dagster.cli.deployment import Deployment
from genblaze_dagster.cli.replay_launch import Launched, followed, launch_replay
from genblaze_dagster.core.enums import RunStatus
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.errors import ConfigError, IntegrityError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.replay import Replay
from genblaze_dagster.pipeline.replay_config import REPLAY_OF_TAG, run_config
from genblaze_dagster.replay import replay_job
from genblaze_dagster.resources import genblaze_resources
from genblaze_dagster.storage.integrity import check_refs
from genblaze_dagster.storage.manifests import read_manifest, write_manifest
from genblaze_dagster.storage.refs import list_refs
from tests.support.daemon import Daemon, daemon, sqlite_instance
from tests.support.process import running
from tests.support.s3 import free_port
from tests.support.world import World

LOCATION = Path(__file__).parent / "locations" / "replay.py"
ROOT = Path(__file__).resolve().parents[2]
SECRET = "a prompt that nobody but its author may read"


def film(visibility: str = "public") -> Pipeline:
    """A picture and a video made from it, by the local provider."""
    return (
        Pipeline("film")
        .step(
            "local",
            model="local-image",
            prompt=SECRET if visibility != "public" else "dunes",
            prompt_visibility=visibility,
            seed=3,
            params={"width": 64, "height": 64},
        )
        .step(
            "local",
            model="local-video",
            modality="video",
            params={"duration": 1.0, "fps": 6},
            input_from="image",
        )
    )


@dataclass(frozen=True)
class Recorded:
    """A run in the store of a world."""

    world: World
    manifest: Manifest

    def replay(self, **config: object) -> dg.ExecuteInProcessResult:
        """Execute the job in this process."""
        definitions = dg.Definitions(jobs=[replay_job()], resources=self.world.resources)
        return definitions.resolve_job_def("replay").execute_in_process(
            instance=self.world.instance,
            run_config=run_config("replay", config),
            raise_on_error=False,
        )


def recorded(world: World, pipeline: Pipeline) -> Recorded:
    ledger = f"sqlite:///{world.folder / 'ledger.db'}"
    return Recorded(world, pipeline.run(store=world.store, ledger=ledger).manifest)


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.get_step_failure_events()
    data = event.step_failure_data
    assert data.user_failure_data is not None
    return data.user_failure_data.description or ""


@pytest.mark.parametrize("by", ["run id", "key", "text"])
def test_the_job_repeats_a_run_and_logs_each_step(by: str, world: World) -> None:
    """Named in the store or given as text: equal media, materialized like that of any asset."""
    first = recorded(world, film())
    run_id = first.manifest.run.run_id
    text = first.manifest.to_canonical_json()
    config = {
        "run id": {"manifest": run_id},
        "key": {"manifest": f"manifests/{run_id}.json"},
        "text": {"manifest_json": text},
    }[by]
    assert first.replay(**config).success
    for name, old in zip(("image", "video"), first.manifest.run.steps, strict=True):
        event = world.event(f"replay/film/{name}", run_id)
        values = {key: value.value for key, value in event.metadata.items()}
        assert values["sha256"] == old.assets[0].sha256
        assert values["how"] == "generated"
        assert event.tags["dagster/data_version"] == old.assets[0].sha256
    video = world.event("replay/film/video", run_id)
    made_from = video.tags["dagster/input_data_version/replay/film/image"]
    assert made_from == first.manifest.run.steps[0].assets[0].sha256
    assert "preview" in world.event("replay/film/image", run_id).metadata


def test_the_run_is_linked_and_changed_as_asked(world: World) -> None:
    """The new manifest has the recorded run as its parent, and the changes of the configuration."""
    first = recorded(world, film())
    result = first.replay(
        manifest=first.manifest.run.run_id,
        changes=["image.seed=9", "video.fps=8", "video.seed=null"],
    )
    assert result.success
    (output,) = [e for e in result.all_node_events if e.event_type_value == "STEP_OUTPUT"]
    facts = {k: v.value for k, v in output.step_output_data.metadata.items()}
    made = run_sync(read_manifest(world.store, facts["run_id"]))
    assert facts["parent_run_id"] == made.run.parent_run_id == first.manifest.run.run_id
    assert made.run.steps[0].seed == 9
    assert made.run.steps[1].params["fps"] == 8


def test_a_re_execution_pays_nothing_twice(world: World) -> None:
    """The retry of a replay is the same wish: what the first attempt stored is taken."""
    first = recorded(world, film())
    config = run_config("replay", {"manifest": first.manifest.run.run_id})
    job = dg.Definitions(jobs=[replay_job()], resources=world.resources).resolve_job_def("replay")
    tags = {"dagster/root_run_id": "one"}
    for _ in range(2):
        assert job.execute_in_process(instance=world.instance, run_config=config, tags=tags).success
    run_id = first.manifest.run.run_id
    hows = [e.metadata["how"].value for e in world.events("replay/film/video")]
    assert hows == ["generated", "finished"]
    assert world.ref("replay/film/video", run_id).run_id


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "give one of manifest"),
        ({"manifest": "a", "manifest_json": "{}"}, "give one of manifest"),
        ({"manifest": "no-such-run"}, "NotFoundError"),
        ({"manifest_json": "{"}, "not JSON"),
        ({"changes": ["seed=1"]}, "names no step"),
        ({"changes": ["seed"]}, "has no value"),
    ],
    ids=["neither", "both", "unknown run", "broken text", "unknown step", "no value"],
)
def test_a_wrong_configuration_fails_before_anything_is_made(
    config: dict[str, object], words: str, world: World
) -> None:
    """The failure says what to correct, and is not retried."""
    first = recorded(world, film())
    if "changes" in config:
        config = {**config, "manifest": first.manifest.run.run_id}
    result = first.replay(**config)
    assert not result.success
    assert words in failure(result)
    assert not world.events("replay/film/image")


def test_a_tampered_manifest_is_replayed_by_force_only(world: World) -> None:
    """The hash is looked at as everywhere."""
    first = recorded(world, film())
    text = first.manifest.to_canonical_json().replace("dunes", "reefs")
    refused = first.replay(manifest_json=text)
    assert "IntegrityError" in failure(refused)
    assert first.replay(manifest_json=text, force=True).success


def test_private_prompts_never_stand_in_run_configuration(world: World) -> None:
    """Neither in a manifest given as text nor as a change; the message does not repeat them."""
    first = recorded(world, film("private"))
    inline = first.replay(manifest_json=first.manifest.to_canonical_json())
    assert "not public" in failure(inline)
    by_id = first.replay(manifest=first.manifest.run.run_id)
    assert "give image.prompt" in failure(by_id)
    changed = first.replay(manifest=first.manifest.run.run_id, changes=["image.prompt=x"])
    assert "run it in process" in failure(changed)
    assert not world.events("replay/film/image")


def test_a_private_prompt_the_store_has_is_used_and_shown_nowhere(world: World) -> None:
    """genblaze's manifests hold it; the job reads it from the store, and Dagster never has it."""
    step = Step(
        provider="local",
        model="local-image",
        prompt=SECRET,
        prompt_visibility="private",
        params={"width": 64, "height": 64},
    )
    manifest = Manifest.from_run(Run(name="theirs", status=RunStatus.COMPLETED, steps=[step]))
    run_sync(write_manifest(world.store, manifest))
    first = Recorded(world, manifest)
    result = first.replay(manifest=manifest.run.run_id)
    assert result.success
    made = world.ref("replay/theirs/image", manifest.run.run_id)
    kept = run_sync(read_manifest(world.store, made.manifest_key)).run.steps[0]
    assert kept.prompt is None
    logs = world.instance.all_logs(result.run_id)
    run = world.instance.get_run_by_id(result.run_id)
    assert SECRET not in repr((logs, run))


def test_the_job_is_named_and_keyed_as_the_user_wants(world: World) -> None:
    """Other resource keys and another job name work, and the tag by which it is found stays."""
    first = recorded(world, film())
    job = replay_job(
        name="again", provider_resources=["local"], io_manager_key="files", ledger_key="book"
    )
    assert job.tags["genblaze/replay"] == "true"
    plain = genblaze_resources(
        store=world.store_url, ledger=f"sqlite:///{world.folder / 'ledger.db'}"
    )
    resources = {"files": plain["media"], "book": plain["ledger"], "local": plain["local"]}
    result = (
        dg.Definitions(jobs=[job], resources=resources)
        .resolve_job_def("again")
        .execute_in_process(
            instance=world.instance,
            run_config=run_config("again", {"manifest": first.manifest.run.run_id}),
        )
    )
    assert result.success


# Over GraphQL: Dagster's own schema behind an HTTP transport, and its own run launcher.


class GraphQLTransport(httpx.AsyncBaseTransport):
    """Answers as the webserver does, from the schema it serves."""

    def __init__(self, workspace: Daemon) -> None:
        self._workspace = workspace
        self._schema = create_schema()
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        asked = json.loads(request.content)
        answer = self._schema.execute_async(
            asked["query"],
            variables=asked["variables"],
            context=self._workspace.create_request_context(),
        )
        # Launching executes the run here and now, which Dagster cannot do on a running event loop.
        is_launch = asked["query"].lstrip().startswith("mutation")
        done = await (asyncio.to_thread(_stepped, answer) if is_launch else answer)
        errors = [error.formatted for error in done.errors or ()]
        return httpx.Response(200, json={"data": done.data, "errors": errors})


def _stepped(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("launching a run waits for something")


@dataclass(frozen=True)
class Site:
    """A deployment with a replay job, its folder, and what it was asked."""

    folder: Path
    workspace: Daemon
    transport: GraphQLTransport

    @property
    def store(self) -> MediaStore:
        return MediaStore((self.folder / "store").as_uri())

    def record(self, pipeline: Pipeline, store: MediaStore | None = None) -> Manifest:
        ledger = f"sqlite:///{self.folder / 'ours.db'}"
        return pipeline.run(store=store or self.store, ledger=ledger).manifest

    def launch(
        self,
        manifest: Manifest,
        *,
        changes: dict[str, object] | None = None,
        store: MediaStore | None = None,
        location: str | None = None,
    ) -> Launched:
        async def body() -> Launched:
            async with httpx.AsyncClient(transport=self.transport) as client:
                deployment = Deployment("http://dagster.internal:3000/", client=client)
                replay = Replay.from_manifest(manifest, changes=changes)
                launched = await launch_replay(
                    replay,
                    deployment,
                    location=location,
                    changes=changes or {},
                    store=store,
                    force=False,
                )
                return await followed(deployment, launched)

        return run_sync(body())

    def config(self, launched: Launched) -> dict[str, object]:
        run = self.workspace.instance.get_run_by_id(launched.run_id)
        assert run is not None
        return run.run_config["ops"]["replay_run"]["config"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    names = {
        "GENBLAZE_STORE": (folder / "store").as_uri(),
        "GENBLAZE_LEDGER": f"sqlite:///{folder / 'ledger.db'}",
    }
    with pytest.MonkeyPatch.context() as patch, sqlite_instance() as instance:
        for name, value in names.items():
            patch.setenv(name, value)
        with daemon(LOCATION, instance) as workspace:
            yield Site(folder, workspace, GraphQLTransport(workspace))


@pytest.fixture(autouse=True)
def _settings_of_the_site(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # Runs are executed in this process, whose settings each test begins without.
    if "site" in request.fixturenames:
        folder = request.getfixturevalue("site").folder
        monkeypatch.setenv("GENBLAZE_STORE", (folder / "store").as_uri())
        monkeypatch.setenv("GENBLAZE_LEDGER", f"sqlite:///{folder / 'ledger.db'}")


def test_a_replay_is_launched_on_a_deployment_and_followed(site: Site) -> None:
    """The job is found by its tag, the run tagged with what it repeats, and its media is there."""
    elsewhere = MediaStore("memory://launched-from-elsewhere")
    manifest = site.record(film(), elsewhere)
    launched = site.launch(manifest, changes={"image.seed": 8})
    assert (launched.status, launched.ok, launched.location) == ("SUCCESS", True, "under_test")
    assert launched.url == f"http://dagster.internal:3000/runs/{launched.run_id}"
    run = site.workspace.instance.get_run_by_id(launched.run_id)
    assert run is not None
    assert run.tags[REPLAY_OF_TAG] == manifest.run.run_id
    assert site.config(launched)["manifest_json"] == manifest.to_canonical_json()

    async def parents() -> set[str | None]:
        found = [ref async for ref in list_refs(site.store, "replay/film/video")]
        assert all(check.ok for check in await check_refs(site.store, found))
        return {ref.partition_key for ref in found}

    assert manifest.run.run_id in run_sync(parents())


def test_a_manifest_the_deployment_has_is_sent_by_its_run_id(site: Site) -> None:
    """No manifest stands in run configuration then, whatever is in it."""
    manifest = site.record(film())
    launched = site.launch(manifest, store=site.store)
    assert launched.ok
    assert site.config(launched)["manifest"] == manifest.run.run_id
    assert "manifest_json" not in site.config(launched)


def test_nothing_private_is_launched(site: Site) -> None:
    """A private prompt is asked for, refused as a change, and refused in a manifest, unsent."""
    manifest = site.record(film("private"))
    sent = len(site.transport.requests)
    with pytest.raises(ConfigError, match="only its SHA-256 is recorded"):
        site.launch(manifest, store=site.store)
    with pytest.raises(ConfigError, match="run it in process"):
        site.launch(manifest, store=site.store, changes={"image.prompt": SECRET})
    in_clear = manifest.model_copy(deep=True)
    in_clear.run.steps[0].prompt = SECRET
    in_clear.compute_hash()
    with pytest.raises(ConfigError, match="put it in the deployment's store") as refused:
        site.launch(in_clear)
    assert SECRET not in str(refused.value)
    with pytest.raises(IntegrityError):
        site.launch(in_clear.model_copy(update={"canonical_hash": "0" * 64}))
    assert len(site.transport.requests) == sent


def test_a_failed_run_is_told(site: Site) -> None:
    """The status of the run is the status of the command."""
    manifest = site.record(film(), MediaStore("memory://gone"))
    launched = site.launch(manifest, changes={"image.width": -1})
    assert (launched.status, launched.ok) == ("FAILURE", False)


def test_a_deployment_without_the_job_says_what_to_add(site: Site) -> None:
    """The remedy is one line in the Definitions of the code location."""
    manifest = site.record(film(), MediaStore("memory://nowhere"))
    with pytest.raises(ConfigError, match=r"has no replay job; add .*replay_job\(\)"):
        site.launch(manifest, location="another")


@pytest.mark.slow
def test_the_command_launches_on_a_real_webserver(tmp_path: Path) -> None:
    """A webserver process, its code server, its run worker: launched, followed, and in the store."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}\n"
    )
    store = MediaStore((tmp_path / "store").as_uri())
    manifest = film().run(store=store, ledger=f"sqlite:///{tmp_path / 'ours.db'}").manifest
    path = tmp_path / "manifest.json"
    path.write_text(manifest.to_canonical_json())
    env = {
        "DAGSTER_HOME": str(home),
        "GENBLAZE_STORE": store.url,
        "GENBLAZE_LEDGER": f"sqlite:///{tmp_path / 'ledger.db'}",
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    port = free_port()
    program = Path(sys.executable).with_name("dagster-webserver")
    command = [str(program), "-f", str(LOCATION), "-h", "127.0.0.1", "-p", str(port)]
    with running(command, env=env, cwd=ROOT, log=tmp_path / "log.txt") as process:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, tmp_path / "log.txt")
        ours = Path(sys.executable).with_name("genblaze-dagster")
        done = subprocess.run(
            [ours, "replay", path, "--launch", url, "--wait", "--json"],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "HOME": str(tmp_path)},
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "SUCCESS"

    async def children() -> list[Manifest]:
        keys = [info.key async for info in store.list("manifests")]
        return [await read_manifest(store, key) for key in keys]

    repeated = [m for m in run_sync(children()) if m.run.parent_run_id == manifest.run.run_id]
    assert [m.canonical_hash for m in repeated] == [manifest.canonical_hash]


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/server_info", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"the webserver was not ready: {log.read_text()}")
