import subprocess
import sys
from functools import partial

import dagster as dg
import pytest
from dagster_shared.libraries import DagsterLibraryRegistry

import genblaze_dagster
from genblaze_dagster import _compat
from tests.support.daemon import sqlite_instance
from tests.support.world import World, prompts, selection


def test_the_five_version_tags_have_the_names_dagster_reads() -> None:
    """The strings are what Dagster's own events carry."""
    key = dg.AssetKey(["a", "b"])
    tags = _compat.version_tags("v", "c", {key: _compat.InputVersion("in", 7)})
    assert tags == {
        "dagster/data_version": "v",
        "dagster/code_version": "c",
        "dagster/data_version_is_user_provided": "true",
        "dagster/input_data_version/a/b": "in",
        "dagster/input_event_pointer/a/b": "7",
    }
    none = _compat.version_tags("v", "c", {key: _compat.InputVersion("in", None)})
    assert none["dagster/input_event_pointer/a/b"] == "NULL"


def test_our_tags_are_those_dagster_would_have_written(world: World) -> None:
    """An ordinary asset of the same shape gets tags of the same names from Dagster itself."""

    @dg.asset(key=["plain", "video"], deps=[dg.AssetKey(["story", "image"])], code_version="1")
    def plain() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(data_version=dg.DataVersion("x"))

    assets = world.pipeline().to_assets(partitions=prompts("a"))
    world.materialize(assets, "a")
    world.materialize([*assets, plain], selection=[plain])
    ours = {t for t in world.event("story/video", "a").tags if t.startswith("dagster/")}
    theirs = {t for t in world.event("plain/video").tags if t.startswith("dagster/")}
    assert ours == theirs


def test_events_written_together_are_those_written_one_by_one() -> None:
    """On SQLite, Dagster reads the same from a batch as from log_event: asset, run and result."""
    keys = ["a", "b", "c"]

    def define(name: str, together: bool) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=name,
            specs=[
                dg.AssetSpec(
                    name, partitions_def=dg.StaticPartitionsDefinition(keys), skippable=True
                )
            ],
            can_subset=True,
        )
        def log(context: dg.AssetExecutionContext):
            events = [
                dg.AssetMaterialization(
                    name,
                    partition=key,
                    metadata={"n": number},
                    tags=_compat.version_tags(f"v{number}", "c", {}),
                )
                for number, key in enumerate(keys)
            ]
            if together:
                _compat.log_materializations(context, events)
            else:
                for event in events:
                    context.log_event(event)
            yield from ()

        return log

    def read(instance: dg.DagsterInstance, name: str, run: dg.ExecuteInProcessResult) -> object:
        key = dg.AssetKey(name)
        found = instance.fetch_materializations(key, limit=10).records
        events = [r.event_log_entry.dagster_event for r in found]
        record = instance.get_asset_records([key])[0].asset_entry.last_materialization_record
        assert record is not None
        versions = [instance.get_latest_data_version_record(key, partition_key=k) for k in keys]
        logged = [e.dagster_event for e in instance.all_logs(run.run_id)]
        return {
            "materialized": set(instance.get_materialized_partitions(key)),
            "events": [
                (e.partition, e.step_key, e.message.replace(name, ""), e.event_type_value)
                for e in events
                if e is not None and e.message is not None
            ],
            "metadata": [
                r.asset_materialization.metadata for r in found if r.asset_materialization
            ],
            "latest": record.partition_key,
            "newest_is_latest": record.storage_id == found[0].storage_id,
            "versions": [v.event_log_entry.tags for v in versions if v is not None],
            "in_run_log": sum(1 for e in logged if e is not None and e.is_step_materialization),
            "in_result": len(run.asset_materializations_for_node(name)),
        }

    with sqlite_instance() as instance:
        answers = []
        for name, together in (("one", False), ("two", True)):
            run = dg.materialize(
                [define(name, together)],
                instance=instance,
                tags=_compat.partition_range_tags("a", "c"),
            )
            answer = read(instance, name, run)
            answers.append(str(answer).replace(name, "asset"))
    assert answers[0] == answers[1]


def test_an_output_is_released_without_a_second_event() -> None:
    """The marker lets a downstream step run and writes no materialization of Dagster's own."""
    ran: list[str] = []

    @dg.multi_asset(specs=[dg.AssetSpec("quiet", skippable=True)])
    def quiet(context: dg.AssetExecutionContext):
        context.log_event(dg.AssetMaterialization("quiet"))
        yield dg.MaterializeResult(asset_key="quiet", metadata=dict(_compat.RELEASED_WITHOUT_EVENT))

    @dg.asset(deps=["quiet"])
    def after() -> None:
        ran.append("after")

    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([quiet, after], instance=instance)
        assert len(instance.fetch_materializations(dg.AssetKey("quiet"), limit=10).records) == 1
    assert ran == ["after"]


@pytest.mark.parametrize(
    ("tags", "scope"),
    [
        ({}, None),
        ({"dagster/root_run_id": "root", "dagster/parent_run_id": "root"}, "root"),
        ({"dagster/backfill": "b1"}, "b1"),
        ({"dagster/backfill": "b2", "dagster/root_backfill_id": "b1"}, "b1"),
    ],
)
def test_retries_share_the_scope_of_what_they_retry(
    world: World, tags: dict[str, str], scope: str | None
) -> None:
    """A backfill and its retries, a run and its re-executions, are one intent."""
    seen: list[str] = []

    @dg.asset
    def look(context: dg.AssetExecutionContext) -> None:
        seen.append(_compat.intent_scope(context))

    result = dg.materialize([look], instance=world.instance, tags=tags)
    assert seen == [scope or result.run_id]


def test_range_tags_make_a_ranged_run() -> None:
    """The run sees all partitions from first to last."""
    seen: list[str] = []

    @dg.asset(
        partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def look(context: dg.AssetExecutionContext) -> None:
        seen.extend(context.partition_keys)

    dg.materialize([look], tags=_compat.partition_range_tags("a", "b"))
    assert seen == ["a", "b"]


def test_upstream_partitions_follow_the_mapping() -> None:
    """Identity, all, and none, for one partition at a time."""
    partitions = dg.StaticPartitionsDefinition(["a", "b"])
    seen: dict[str, object] = {}

    @dg.multi_asset(
        specs=[
            dg.AssetSpec(
                "down",
                partitions_def=partitions,
                deps=[
                    "same",
                    dg.AssetDep("every", partition_mapping=dg.AllPartitionMapping()),
                    dg.AssetDep(
                        "fixed", partition_mapping=dg.SpecificPartitionsPartitionMapping(["b"])
                    ),
                    "single",
                    "unknown",
                ],
            )
        ]
    )
    def down(context: dg.AssetExecutionContext):
        for name in ("same", "every", "fixed", "single", "unknown"):
            seen[name] = _compat.upstream_partitions(
                context, dg.AssetKey("down"), dg.AssetKey(name), "a"
            )
        seen["parents"] = {
            k.to_user_string() for k in _compat.parent_keys(context, context.asset_key)
        }
        yield dg.MaterializeResult(asset_key="down")

    upstream = [
        dg.AssetSpec("same", partitions_def=partitions),
        dg.AssetSpec("every", partitions_def=partitions),
        dg.AssetSpec("fixed", partitions_def=partitions),
        dg.AssetSpec("single"),
    ]
    dg.materialize([down, *upstream], partition_key="a", selection=["down"])
    assert seen == {
        "same": ["a"],
        "every": ["a", "b"],
        "fixed": ["b"],
        "single": None,
        "unknown": None,
        "parents": {"same", "every", "fixed", "single", "unknown"},
    }


def test_the_version_of_an_input_comes_with_its_cursor(world: World) -> None:
    """What Dagster saw of an input before the body ran: version and storage id."""
    seen: list[_compat.InputVersion | None] = []

    @dg.asset
    def up() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(data_version=dg.DataVersion("v1"))

    @dg.asset(deps=["up", "never"])
    def down(context: dg.AssetExecutionContext) -> None:
        seen.append(_compat.input_version(context, dg.AssetKey("up")))
        seen.append(_compat.input_version(context, dg.AssetKey("never")))

    dg.materialize([up, down], instance=world.instance)
    record = world.instance.fetch_materializations(dg.AssetKey("up"), limit=1).records[0]
    assert seen == [_compat.InputVersion("v1", record.storage_id), None]


def test_dimensions_of_a_combined_key_become_tags() -> None:
    """Dagster finds the partition of an event by these."""
    key = dg.MultiPartitionKey({"model": "m", "prompt": "p"})
    assert _compat.dimension_tags(key) == {
        "dagster/partition/model": "m",
        "dagster/partition/prompt": "p",
    }
    assert _compat.dimension_tags("a") == {}
    assert _compat.dimension_tags(None) == {}


def test_another_dagster_is_warned_about() -> None:
    """A release whose private names nobody checked is named, with the one that was."""
    _compat.warn_about_version("1.13.99")
    with pytest.warns(RuntimeWarning, match=r"Dagster 1\.14\.0 .* 'dagster==1\.13"):
        _compat.warn_about_version("1.14.0")


def test_the_library_is_registered_when_a_dagster_module_is_imported() -> None:
    """Dagster lists us with our version."""
    assert DagsterLibraryRegistry.get()["genblaze-dagster"] == genblaze_dagster.__version__


def test_importing_the_assets_imports_no_heavy_library() -> None:
    """Every run pays for what definitions import: no dagster_aws, boto3, duckdb or media library."""
    code = (
        "import sys, genblaze_dagster.assets, genblaze_dagster.resources\n"
        "heavy = {'dagster_aws', 'boto3', 'duckdb', 'pyarrow', 'av', 'PIL', 'numpy', 'mutagen'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_only_selected_assets_are_in_the_log(world: World) -> None:
    """parent_keys names upstream assets of a subset as well, selected or not."""
    assets = world.pipeline().to_assets(partitions=prompts("a"))
    world.materialize(assets, "a", selection=selection("story/image"))
    world.materialize(assets, "a", selection=selection("story/video"))
    tags = world.event("story/video", "a").tags
    image = world.instance.fetch_materializations(dg.AssetKey(["story", "image"]), limit=1)
    assert tags["dagster/input_event_pointer/story/image"] == str(image.records[0].storage_id)


def test_the_body_of_assets_is_found_again_in_copies_of_them() -> None:
    """By it a definition is known as ours, whatever Dagster's own functions have done to it."""

    def body(context: dg.AssetExecutionContext):
        yield dg.MaterializeResult(asset_key="a")

    made = dg.multi_asset(name="x", specs=[dg.AssetSpec("a")])(body)
    copies = [
        made,
        *dg.map_asset_specs(lambda spec: spec.merge_attributes(tags={"t": "1"}), [made]),
    ]
    graph = dg.Definitions(assets=copies[1:]).get_repository_def().asset_graph
    for one in (*copies, graph.assets_def_for_key(dg.AssetKey("a"))):
        assert isinstance(one, dg.AssetsDefinition)
        assert _compat.body_of(one) is body
    assert _compat.body_of(dg.AssetsDefinition(specs=[dg.AssetSpec("external")])) is None


def test_upstream_partitions_are_mapped_without_a_run() -> None:
    """As in a run: by the mapping and in upstream's order, else the same key, or None."""
    letters = dg.StaticPartitionsDefinition([*"hgfedcba"])
    mapped = partial(_compat.mapped_partitions, instance=None)
    assert mapped(None, letters, letters, "b") == ["b"]
    assert mapped(dg.AllPartitionMapping(), None, letters, None) == [*"hgfedcba"]
    assert mapped(None, letters, None, "b") is None


def test_a_job_of_assets_has_the_type_we_name() -> None:
    """It has no public name."""
    assert isinstance(dg.define_asset_job("j"), _compat.AssetJob)
