import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.reconcile import Reconciliation, reconcile, reconcile_sensor
from genblaze_dagster.resources import genblaze_resources
from genblaze_dagster.translator import AssetStep, GenblazeTranslator
from tests.support.daemon import stale_causes
from tests.support.world import World, prompts, selection

KEYS = ["a", "b", "c"]
IMAGE, VIDEO = selection("story/image", "story/video")
AT_ONCE = timedelta(0)
OF_ITS_RUN = {
    *("attempts", "cached", "generation_s", "how", "submission_id"),
    *("cost_usd", "estimated_cost_usd", "reserved_usd"),
}


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[World]:
    """The same store, seen by a Dagster instance that nobody will hear of again."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield World(tmp_path, instance)


def reconciled(
    world: World, assets: list[dg.AssetsDefinition], **options: object
) -> Reconciliation:
    options = {"settled_for": AT_ONCE, **options}
    return reconcile(world.instance, world.store, assets, **options)  # type: ignore[arg-type]


def causes(
    world: World, assets: list[dg.AssetsDefinition], key: dg.AssetKey
) -> dict[str | None, list[str]]:
    definitions = dg.Definitions(assets=assets, resources=world.resources)
    return dict(stale_causes(world.instance, definitions, key, KEYS))


def test_what_a_run_stored_and_never_told_is_reported_as_it_would_have_been(
    world: World, lost: World
) -> None:
    """Same versions and metadata as the lost event; fresh; and exactly once."""
    assets = lost.pipeline().to_assets(partitions=prompts(*KEYS))
    lost.materialize(assets, ["a", "c"])
    found = reconciled(world, assets)
    assert {(key.to_user_string(), one) for key, one in found.reported} == {
        (name, key) for name in ("story/image", "story/video") for key in KEYS
    }
    for name in ("story/image", "story/video"):
        told, meant = world.event(name, "b"), lost.event(name, "b")
        versions = {k: v for k, v in meant.tags.items() if "input_event_pointer" not in k}
        assert {k: v for k, v in told.tags.items() if "input_event_pointer" not in k} == versions
        assert told.tags.keys() == meant.tags.keys()
        kept = {k: v for k, v in told.metadata.items() if k not in OF_ITS_RUN}
        # A video shows the picture it was made from, which is not looked up again.
        expected = {k: v for k, v in meant.metadata.items() if k not in OF_ITS_RUN}
        if name == "story/video":
            kept.pop("preview"), expected.pop("preview")
        assert kept == expected
        assert told.metadata["how"].value == "reconciled"
        assert "cost_usd" not in told.metadata
    assert causes(world, assets, VIDEO) == {"a": [], "b": [], "c": []}
    again = reconciled(world, assets)
    assert (again.reported, again.without_media, again.checked) == ((), (), 6)


def test_a_reported_materialization_takes_part_in_staleness(world: World, lost: World) -> None:
    """After it, a new image makes the video of its own partition stale and no other."""
    lost.materialize(lost.pipeline().to_assets(partitions=prompts(*KEYS)), ["a", "c"])
    changed = prompts(*KEYS, subject={"a": "a", "b": "a bee", "c": "c"})
    assets = world.pipeline().to_assets(partitions=changed)
    reconciled(world, assets)
    world.materialize(assets, "b", selection=[IMAGE])
    assert causes(world, assets, VIDEO) == {
        "a": [],
        "b": ["has a new dependency data version"],
        "c": [],
    }


def test_a_video_reported_after_its_image_was_made_anew_is_stale(world: World, lost: World) -> None:
    """It says which image it was made of, not which one is there now."""
    assets = world.pipeline().to_assets(partitions=prompts(*KEYS))
    world.materialize(assets, ["a", "c"], selection=[IMAGE])
    lost.provider = world.provider
    lost.materialize(assets, ["a", "c"], selection=[VIDEO])
    changed = prompts(*KEYS, subject={"a": "a", "b": "a bee", "c": "c"})
    assets = world.pipeline().to_assets(partitions=changed)
    world.materialize(assets, "b", selection=[IMAGE])
    assert len(reconciled(world, assets).reported) == 3
    assert causes(world, assets, VIDEO)["b"] == ["has a new dependency data version"]
    assert causes(world, assets, VIDEO)["a"] == []


def test_only_partitions_whose_latest_media_dagster_has_not_heard_of_are_reported(
    world: World, lost: World
) -> None:
    """Also when an older materialization is there, and when the new media has the same bytes."""
    assets = world.pipeline().to_assets(partitions=prompts(*KEYS))
    world.materialize(assets, ["a", "c"], selection=[IMAGE])
    lost.materialize(assets, "b", selection=[IMAGE])
    found = reconciled(world, assets)
    assert found.reported == ((IMAGE, "b"),)
    assert len([e for e in world.events("story/image") if e.partition == "b"]) == 2


def test_young_references_are_left_to_the_run_that_made_them(world: World, lost: World) -> None:
    """A run writes its reference a moment before its event."""
    assets = lost.pipeline().to_assets(partitions=prompts(*KEYS))
    lost.materialize(assets, ["a", "c"])
    found = reconciled(world, assets, settled_for=timedelta(minutes=1))
    assert (found.checked, found.reported, found.up_to) == (0, (), None)
    assert world.materialized("story/image") == set()


def test_a_limit_pages_through_everything_inputs_first(world: World, lost: World) -> None:
    """Each page goes on where the one before ended, and none is skipped."""
    assets = lost.pipeline().to_assets(partitions=prompts(*KEYS))
    lost.materialize(assets, ["a", "c"])
    # A moment of its own for each, as runs that are further apart would have.
    written = sorted(
        (lost.folder / "store").rglob("refs/**/*.json"),
        # The file system's clock is coarse; within one of its ticks images come before videos.
        key=lambda path: (path.stat().st_mtime_ns, str(path)),
    )
    for position, path in enumerate(written):
        os.utime(path, (1_700_000_000 + position, 1_700_000_000 + position))
    reported: list[tuple[dg.AssetKey, str | None]] = []
    since: datetime | None = None
    for _ in range(6):
        page = reconciled(world, assets, changed_since=since, limit=2)
        assert 1 <= page.checked <= 3
        reported += page.reported
        since = page.up_to
    assert len(reported) == len(set(reported)) == 6
    for key in KEYS:
        assert reported.index((IMAGE, key)) < reported.index((VIDEO, key))


def test_many_changes_in_one_moment_do_not_stop_the_paging(world: World, lost: World) -> None:
    """Stores tell whole seconds: more references than a page holds may have changed in one."""
    assets = lost.pipeline().to_assets(partitions=prompts(*KEYS))
    lost.materialize(assets, ["a", "c"])
    for path in (lost.folder / "store").rglob("refs/**/*.json"):
        moment = 1_700_000_000 if "image" in str(path) else 1_700_000_001
        os.utime(path, (moment, moment))
    first = reconciled(world, assets, limit=2)
    assert set(first.reported) == {(IMAGE, key) for key in KEYS}
    second = reconciled(world, assets, changed_since=first.up_to, limit=2)
    assert set(second.reported) == {(VIDEO, key) for key in KEYS}


def test_media_that_are_gone_are_named_and_not_reported(world: World, lost: World) -> None:
    """Deleted bytes are no materialization; a materialization without a reference is named."""
    assets = world.pipeline().to_assets(partitions=prompts(*KEYS))
    world.materialize(assets, "a", selection=[IMAGE])
    lost.materialize(assets, "b", selection=[IMAGE])
    run_sync(world.store.delete("refs/story/image/a.json"))
    run_sync(world.store.delete(lost.ref("story/image", "b").media[0].key))
    found = reconciled(world, assets)
    assert found.reported == ()
    assert set(found.without_media) == {(IMAGE, "a"), (IMAGE, "b")}
    assert "without media in the store: story/image[a], story/image[b]" in str(found)


def test_assets_without_partitions_and_with_two_dimensions_are_reported(
    world: World, lost: World
) -> None:
    """The event of a two-dimensional key carries its dimensions, as Dagster's own does."""
    grid = dg.MultiPartitionsDefinition(
        {
            "look": dg.StaticPartitionsDefinition(["ink", "oil"]),
            "size": dg.StaticPartitionsDefinition(["s"]),
        }
    )
    step = {"model": "m", "name": "image", "prompt": "draw {partition_key}"}
    from genblaze_dagster import Pipeline

    two = Pipeline("two").step(lost.provider, **step).to_assets(partitions=grid)
    one = Pipeline("one").step(lost.provider, model="m", name="image", prompt="draw").to_assets()
    lost.materialize(two, "oil|s")
    lost.materialize(one)
    assert len(reconciled(world, [*one, *two]).reported) == 2
    assert world.event("one/image").partition is None
    expected = lost.event("two/image", "oil|s").tags
    assert world.event("two/image", "oil|s").tags == expected
    assert reconciled(world, [*one, *two]).reported == ()


class AlsoOf(GenblazeTranslator):
    """Makes every asset depend on one the pipeline knows nothing of."""

    def get_asset_spec(self, step: AssetStep) -> dg.AssetSpec:
        spec = super().get_asset_spec(step)
        return spec.replace_attributes(deps=[*step.deps, dg.AssetDep("style")])


def test_an_input_that_is_no_media_is_the_one_of_its_time(world: World, lost: World) -> None:
    """Its latest materialization before the media was made counts as consumed."""

    @dg.asset(code_version="1")
    def style() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(data_version=dg.DataVersion(next(versions)))

    versions = iter("123")
    assets = [
        *world.pipeline().to_assets(partitions=prompts(*KEYS), translator=AlsoOf()),
        style,
    ]
    world.materialize(assets, selection=[style])
    lost.provider = world.provider
    lost.materialize(assets, ["a", "c"], selection=[IMAGE])
    reconciled(world, assets)
    assert causes(world, assets, IMAGE) == {"a": [], "b": [], "c": []}
    world.materialize(assets, selection=[style])
    assert causes(world, assets, IMAGE)["a"] == ["has a new dependency data version"]


def test_the_sensor_reports_some_at_every_tick_and_launches_nothing(
    world: World, lost: World
) -> None:
    """Its cursor moves on; what came later is found by a later tick."""
    assets = world.pipeline().to_assets(partitions=prompts(*KEYS))
    lost.materialize(assets, ["a", "c"])
    sensor = reconcile_sensor(assets, settled_for=AT_ONCE, per_tick=4)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    cursor: str | None = None
    resources = genblaze_resources(store=world.store_url)
    for _ in range(4):
        with dg.build_sensor_context(
            instance=world.instance, cursor=cursor, resources={"media": resources["media"]}
        ) as context:
            tick = sensor.evaluate_tick(context)
        assert tick.run_requests == []
        cursor = tick.cursor
    assert world.materialized("story/video") == set(KEYS)
    assert cursor is not None
    assert datetime.fromisoformat(cursor) <= datetime.now(UTC)
    assert "0 materializations reported" in str(tick.skip_message)
    assert world.instance.get_runs() == []
