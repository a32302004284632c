from dataclasses import replace
from pathlib import Path

import dagster as dg

from genblaze_dagster.pipeline.declaration import Pipeline
from tests.support.daemon import sqlite_instance, stale_causes
from tests.support.world import World, prompts, selection

IMAGE, VIDEO = selection("story/image", "story/video")


def causes(
    world: World, assets: list[dg.AssetsDefinition], key: dg.AssetKey
) -> dict[str, list[str]]:
    found = stale_causes(
        world.instance,
        dg.Definitions(assets=assets, resources=world.resources),
        key,
        ["a", "b", "c"],
    )
    return {str(partition): reasons for partition, reasons in found.items()}


def test_after_a_ranged_run_everything_is_fresh(world: World) -> None:
    """Versions, and the pointers to inputs made in the same step, agree."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"))
    world.materialize(assets, ["a", "c"])
    assert causes(world, assets, IMAGE) == {"a": [], "b": [], "c": []}
    assert causes(world, assets, VIDEO) == {"a": [], "b": [], "c": []}


def test_a_changed_row_makes_only_its_own_partition_downstream_stale(world: World) -> None:
    """A new image of one partition flags the video of that partition and of no other."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"))
    world.materialize(assets, ["a", "c"])
    changed = prompts("a", "b", "c", subject={"a": "a", "b": "a bee", "c": "c"})
    assets = world.pipeline().to_assets(partitions=changed)
    world.materialize(assets, ["a", "c"], selection=[IMAGE])
    assert causes(world, assets, VIDEO) == {
        "a": [],
        "b": ["has a new dependency data version"],
        "c": [],
    }


def test_pointers_into_a_persistent_event_log_are_as_exact(tmp_path: Path) -> None:
    """On SQLite, where events are written in batches, the same partition and no other is stale."""
    with sqlite_instance() as instance:
        world = World(tmp_path, instance)
        world.materialize(world.pipeline().to_assets(partitions=prompts("a", "b", "c")), ["a", "c"])
        changed = prompts("a", "b", "c", subject={"a": "a", "b": "a bee", "c": "c"})
        assets = world.pipeline().to_assets(partitions=changed)
        assert causes(world, assets, VIDEO) == {"a": [], "b": [], "c": []}
        world.materialize(assets, ["a", "c"], selection=[IMAGE])
        assert causes(world, assets, VIDEO) == {
            "a": [],
            "b": ["has a new dependency data version"],
            "c": [],
        }


def test_equal_bytes_made_again_leave_everything_fresh(world: World) -> None:
    """Staleness follows content, not runs."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"))
    world.materialize(assets, ["a", "c"])
    world.materialize(assets, ["a", "c"], selection=[IMAGE])
    assert world.provider.submits["draw a"] == 2
    assert causes(world, assets, VIDEO) == {"a": [], "b": [], "c": []}


def test_a_video_made_alone_points_at_the_image_it_used(world: World) -> None:
    """With inputs from the store the pointer is Dagster's own; a later image makes it stale."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"))
    world.materialize(assets, ["a", "c"], selection=[IMAGE])
    world.materialize(assets, ["a", "c"], selection=[VIDEO])
    assert causes(world, assets, VIDEO) == {"a": [], "b": [], "c": []}
    changed = prompts("a", "b", "c", subject={"a": "an ant", "b": "b", "c": "c"})
    assets = world.pipeline().to_assets(partitions=changed)
    world.materialize(assets, "a", selection=[IMAGE])
    assert causes(world, assets, VIDEO)["a"] == ["has a new dependency data version"]
    assert causes(world, assets, VIDEO)["b"] == []


def test_a_changed_declaration_makes_its_asset_stale(world: World) -> None:
    """A new model is a new code version of that step alone."""
    world.materialize(world.pipeline().to_assets(partitions=prompts("a", "b", "c")), ["a", "c"])
    pipeline = world.pipeline()
    changed = Pipeline("story")
    changed.add(replace(pipeline.steps[0], model="m2"))
    changed.add(pipeline.steps[1])
    assets = changed.to_assets(partitions=prompts("a", "b", "c"))
    assert causes(world, assets, IMAGE)["a"] == ["has a new code version"]
    assert causes(world, assets, VIDEO)["a"] == []


def test_unfused_and_unpartitioned_assets_have_versions_as_well(world: World) -> None:
    """The tags are the same whatever the shape of the run."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"), fuse=False)
    world.materialize(assets, ["a", "c"])
    assert causes(world, assets, VIDEO) == {"a": [], "b": [], "c": []}
    single = (
        Pipeline("one")
        .step(world.provider, model="m", name="image", prompt="x")
        .step(world.provider, model="m", name="video", modality="video", input_from="image")
    )
    assets = single.to_assets()
    world.materialize(assets)
    (video,) = selection("one/video")
    found = stale_causes(
        world.instance, dg.Definitions(assets=assets, resources=world.resources), video, [None]
    )
    assert found == {None: []}


def test_an_unrelated_dependency_is_tagged_like_any_other(world: World) -> None:
    """A dependency that is no media does not make partitions look new for ever."""
    from genblaze_dagster.translator import AssetStep, GenblazeTranslator

    @dg.asset
    def settings() -> None:
        return None

    class WithSettings(GenblazeTranslator):
        def get_asset_spec(self, step: AssetStep) -> dg.AssetSpec:
            spec = super().get_asset_spec(step)
            return spec.replace_attributes(deps=[*spec.deps, dg.AssetDep("settings")])

    assets = world.pipeline().to_assets(
        partitions=prompts("a", "b", "c"), translator=WithSettings()
    )
    world.materialize([settings, *assets], ["a", "c"], selection=selection("settings"))
    world.materialize([settings, *assets], ["a", "c"], selection=[IMAGE, VIDEO])
    assert causes(world, [settings, *assets], VIDEO) == {"a": [], "b": [], "c": []}
