import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_aws.s3 import S3Resource

from genblaze_dagster import IndexCatalog, LocalMediaIOManager, Media, MediaRef, S3MediaIOManager
from genblaze_dagster._compat import partition_range_tags
from genblaze_dagster.core.enums import StepType
from genblaze_dagster.errors import ConfigError, NotFoundError
from genblaze_dagster.io_manager import MediaIOManager, StoreIOManager
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.storage.refs import read_ref
from genblaze_dagster.storage.store import MediaStore
from tests.support.providers import png
from tests.support.s3 import S3Server

# Dagster reads its own deprecated attribute for every resource nested in another.
pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run")

KEYS = ["a", "b", "c"]
PARTITIONS = dg.StaticPartitionsDefinition(KEYS)
RANGE = partition_range_tags("a", "c")
RANGED = {"partitions_def": PARTITIONS, "backfill_policy": dg.BackfillPolicy.single_run()}


@pytest.fixture(params=["memory", "file", "s3", "s3-resource"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> StoreIOManager:
    """The same contract on every kind of store."""
    if request.param == "memory":
        return MediaIOManager(url=f"memory://{uuid.uuid4().hex}")
    if request.param == "file":
        return LocalMediaIOManager(base_dir=str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3_server")
    bucket: str = request.getfixturevalue("s3_bucket")
    if request.param == "s3-resource":
        resource = S3Resource(
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
        )
        return S3MediaIOManager(bucket=bucket, s3=resource)
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment().items():
        patch.setenv(name, value)
    return S3MediaIOManager(bucket=bucket, prefix="media/run")


def run(
    assets: list[Any], manager: StoreIOManager, instance: dg.DagsterInstance, **options: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize(assets, resources={"media": manager}, instance=instance, **options)


def test_bytes_of_a_users_asset_reach_the_next_one_as_media(
    manager: StoreIOManager, instance: dg.DagsterInstance
) -> None:
    """What one function returns, another opens, reads, saves as a file and can prove."""
    picture = png("x")
    seen: dict[str, object] = {}

    @dg.asset(io_manager_key="media")
    def image() -> bytes:
        return picture

    @dg.asset
    def look(image: Media) -> None:
        with image:
            file = image.path()
            seen["suffix"], seen["file"] = file.suffix, file.read_bytes()
        seen["bytes"], seen["head"] = image.bytes(), image.open().read(8)
        seen["verified"] = image.manifest.verify()

    run([image, look], manager, instance)
    assert seen == {
        "suffix": ".png",
        "file": picture,
        "bytes": picture,
        "head": picture[:8],
        "verified": True,
    }


def test_a_multi_partition_output_is_matched_by_key(
    manager: StoreIOManager, instance: dg.DagsterInstance
) -> None:
    """One ranged run stores every partition; a later single one, and a later range, get theirs."""
    seen: dict[str, bytes] = {}

    @dg.asset(io_manager_key="media", **RANGED)
    def image(context: dg.AssetExecutionContext) -> dict[str, bytes]:
        return {key: png(key) for key in reversed(context.partition_keys)}

    @dg.asset(**RANGED)
    def look(image: dict[str, Media]) -> None:
        seen.update({key: media.bytes() for key, media in image.items()})

    @dg.asset(partitions_def=PARTITIONS)
    def look_once(image: Media) -> None:
        seen["once"] = image.bytes()

    run([image, look], manager, instance, tags=RANGE)
    run([image, look_once], manager, instance, partition_key="b", selection=[look_once])
    assert seen == {**{key: png(key) for key in KEYS}, "once": png("b")}
    shown = {e.partition: e.metadata["sha256"].value for e in events(instance, "image")}
    assert shown == {key: Media(ref(manager, "image", key), manager.store).sha256 for key in KEYS}


def ref(manager: StoreIOManager, key: str, partition: str | None = None) -> MediaRef:
    found = run_sync(read_ref(manager.store, key, partition))
    assert found is not None
    return found


def events(instance: dg.DagsterInstance, key: str) -> list[dg.AssetMaterialization]:
    records = instance.fetch_materializations(dg.AssetKey(key), limit=100).records
    return [r.asset_materialization for r in records if r.asset_materialization is not None]


@pytest.fixture
def memory() -> MediaIOManager:
    return MediaIOManager(url=f"memory://{uuid.uuid4().hex}")


def test_the_data_version_is_the_hash_of_the_media(
    memory: MediaIOManager, instance: dg.DagsterInstance
) -> None:
    """Equal bytes give an equal version; the event shows the media."""

    @dg.asset(io_manager_key="media")
    def image() -> bytes:
        return png("same")

    versions = set()
    for _ in range(2):
        run([image], memory, instance)
        event = events(instance, "image")[0]
        versions.add(event.tags["dagster/data_version"])
        assert event.metadata["sha256"].value in versions
    assert len(versions) == 1


def test_files_are_ingested_and_stay_where_they_were(
    memory: MediaIOManager, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A path, as Path or as text, is stored; its manifest says it was brought in."""
    (tmp_path / "in.png").write_bytes(png("file"))

    @dg.asset(io_manager_key="media")
    def as_path() -> Path:
        return tmp_path / "in.png"

    @dg.asset(io_manager_key="media")
    def as_text() -> str:
        return str(tmp_path / "in.png")

    run([as_path, as_text], memory, instance)
    for name in ("as_path", "as_text"):
        media = Media(ref(memory, name), memory.store)
        assert media.bytes() == png("file")
        step = media.manifest.run.steps[-1]
        assert (step.step_type, step.provider) == (StepType.INGEST, None)
    assert (tmp_path / "in.png").exists()


def test_what_a_function_made_of_its_inputs_is_in_its_manifest(
    memory: MediaIOManager, instance: dg.DagsterInstance
) -> None:
    """The steps that led to a user's own output come before it, linked by hash, per partition."""

    @dg.asset(io_manager_key="media", **RANGED)
    def image(context: dg.AssetExecutionContext) -> dict[str, bytes]:
        return {key: png(key) for key in context.partition_keys}

    @dg.asset(io_manager_key="media", **RANGED)
    def cut(image: dict[str, Media]) -> dict[str, bytes]:
        return {key: media.bytes()[:40] for key, media in image.items()}

    run([image, cut], memory, instance, tags=RANGE)
    manifest = Media(ref(memory, "cut", "b"), memory.store).manifest
    assert [step.model for step in manifest.run.steps] == ["image", "cut"]
    last = manifest.run.steps[-1]
    assert [a.sha256 for a in last.inputs] == [
        Media(ref(memory, "image", "b"), memory.store).sha256
    ]
    assert last.step_type is StepType.CUSTOM
    assert manifest.verify()


def test_a_users_output_is_in_the_index(
    memory: MediaIOManager, instance: dg.DagsterInstance
) -> None:
    """One segment per output, with asset and partition, like generated media."""

    @dg.asset(io_manager_key="media", **RANGED)
    def image(context: dg.AssetExecutionContext) -> dict[str, bytes]:
        return {key: png(key) for key in context.partition_keys}

    run([image], memory, instance, tags=RANGE)
    catalog = IndexCatalog(memory.store)
    run_sync(catalog.load())
    rows = catalog.query("select asset_key, partition_key from runs order by 2").to_pylist()
    assert rows == [{"asset_key": "image", "partition_key": key} for key in KEYS]


def test_media_that_is_passed_on_is_not_stored_again(
    memory: MediaIOManager, instance: dg.DagsterInstance
) -> None:
    """Choosing one of several inputs makes a reference to the same manifest."""

    @dg.asset(io_manager_key="media", **RANGED)
    def image(context: dg.AssetExecutionContext) -> dict[str, bytes]:
        return {key: png(key) for key in context.partition_keys}

    @dg.asset(
        io_manager_key="media",
        ins={"image": dg.AssetIn(partition_mapping=dg.AllPartitionMapping())},
    )
    def best(image: dict[str, Media]) -> Media:
        return image["b"]

    run([image], memory, instance, tags=RANGE)
    run([image, best], memory, instance, selection=[best])
    assert ref(memory, "best").manifest_key == ref(memory, "image", "b").manifest_key


def test_materializing_again_refines(memory: MediaIOManager, instance: dg.DagsterInstance) -> None:
    """The new manifest names the one before it as its parent."""
    contents = iter([png("first"), png("second")])

    @dg.asset(io_manager_key="media")
    def image() -> bytes:
        return next(contents)

    run([image], memory, instance)
    first = ref(memory, "image").run_id
    run([image], memory, instance)
    assert Media(ref(memory, "image"), memory.store).manifest.run.parent_run_id == first


def test_a_missing_partition_is_named_or_left_out(
    memory: MediaIOManager, instance: dg.DagsterInstance
) -> None:
    """By default it fails with asset, partition and remedy; with the metadata it is skipped."""
    seen: list[str] = []

    @dg.asset(io_manager_key="media", partitions_def=PARTITIONS)
    def image() -> bytes:
        return png("x")

    def define(metadata: dict[str, bool]) -> dg.AssetsDefinition:
        @dg.asset(
            ins={"image": dg.AssetIn(partition_mapping=dg.AllPartitionMapping(), metadata=metadata)}
        )
        def all_images(image: dict[str, Media]) -> None:
            seen.extend(image)

        return all_images

    run([image], memory, instance, partition_key="b")
    strict = define({})
    with pytest.raises(NotFoundError, match=r"image\[a\] \(and 1 more partitions\) has no media"):
        run([image, strict], memory, instance, selection=[strict])
    tolerant = define({"allow_missing_partitions": True})
    run([image, tolerant], memory, instance, selection=[tolerant])
    assert seen == ["b"]


def test_one_partition_arrives_as_a_dict_when_the_function_says_so(
    memory: MediaIOManager, instance: dg.DagsterInstance
) -> None:
    """Code that is written for ranges works for a single partition."""
    seen: list[object] = []

    @dg.asset(io_manager_key="media", partitions_def=PARTITIONS)
    def image() -> bytes:
        return png("x")

    @dg.asset(partitions_def=PARTITIONS)
    def look(image: dict[str, Media]) -> None:
        seen.extend(image)

    run([image, look], memory, instance, partition_key="b")
    assert seen == ["b"]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (b"one for all", "returned one bytes for 3 partitions"),
        ({"a": b"1", "b": b"2"}, "no value for 1 of 3 partitions, such as 'c'"),
        ({"a": b"1", "b": b"2", "c": b"3", "d": b"4"}, "'d', which is no partition"),
        ({"a": b"1", "b": 2, "c": b"3"}, r"image\[b\] returned a int"),
        ({"a": b"1", "b": "no such file", "c": b"3"}, "12 characters of text, which is no file"),
        ({"a": b"1", "b": "x" * 9000, "c": b"3"}, "9000 characters of text, which is no file"),
        ({"a": b"1", "b": Path("/gone.png"), "c": b"3"}, "path /gone.png, which is no file"),
    ],
)
def test_values_that_cannot_be_stored_are_refused(
    memory: MediaIOManager, instance: dg.DagsterInstance, value: object, named: str
) -> None:
    """The error says which partition, what was returned, and what would be right."""

    @dg.asset(io_manager_key="media", **RANGED)
    def image() -> Any:
        return value

    with pytest.raises(ConfigError, match=named):
        run([image], memory, instance, tags=RANGE)


def test_contexts_of_a_unit_test_are_enough(memory: MediaIOManager) -> None:
    """handle_output and load_input work with Dagster's builders."""
    out = dg.build_output_context(
        asset_key="image", partition_key="a", asset_partitions_def=PARTITIONS
    )
    memory.handle_output(out, png("x"))
    assert out.get_logged_metadata()["bytes"].value == len(png("x"))
    loaded = memory.load_input(
        dg.build_input_context(
            asset_key="image",
            partition_key="a",
            asset_partitions_def=PARTITIONS,
            asset_partition_key_range=dg.PartitionKeyRange("a", "a"),
        )
    )
    assert isinstance(loaded, Media)
    assert loaded.bytes() == png("x")


def test_op_outputs_live_under_their_run(memory: MediaIOManager) -> None:
    """Plain ops of a graph can pass media as well."""
    seen: list[bytes] = []

    @dg.op(out=dg.Out(io_manager_key="media"))
    def make() -> bytes:
        return png("op")

    @dg.op
    def use(media: Media) -> None:
        seen.append(media.bytes())

    @dg.job(resource_defs={"media": memory.get_resource_definition()})
    def job() -> None:
        use(make())

    assert job.execute_in_process().success
    assert seen == [png("op")]


def test_the_environment_says_where_when_nobody_else_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """GENBLAZE_STORE is read when the store is first used; without it the folder is .genblaze."""
    monkeypatch.chdir(tmp_path)
    assert MediaIOManager().store.url == (tmp_path / ".genblaze" / "store").as_uri()
    monkeypatch.setenv("GENBLAZE_STORE", "memory://there")
    assert MediaIOManager().store.url == MediaStore("memory://there").url
    assert not (tmp_path / ".genblaze").exists()
