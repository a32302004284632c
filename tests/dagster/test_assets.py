import time

import dagster as dg
import pytest

from genblaze_dagster import IndexCatalog
from genblaze_dagster.assets import pipeline_assets
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.errors import (
    AuthError,
    ConfigError,
    ContentPolicyError,
    PromptTemplateError,
    ProviderUnavailableError,
    UnknownProviderError,
)
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.partitions import PromptTable
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.translator import AssetStep, GenblazeTranslator
from tests.support.providers import CountingProvider
from tests.support.world import (
    World,
    failed_records,
    failure_metadata,
    failure_text,
    prompts,
    selection,
)

REFUSED = ContentPolicyError("the prompt was refused by moderation")


def test_every_asset_shows_what_it_is(world: World) -> None:
    """Kinds, owners, group, description, code version, tags and partitions are set."""
    (assets,) = world.pipeline().to_assets(
        partitions=prompts("a", "b"), owners=["team:media"], tags={"tier": "gold"}
    )
    spec = assets.specs_by_key[dg.AssetKey(["story", "video"])]
    assert spec.kinds == {"video", "counting"}
    assert list(spec.owners) == ["team:media"]
    assert spec.group_name == "story"
    assert "move {subject}" in (spec.description or "")
    assert spec.code_version == world.pipeline().steps[1].code_version
    assert spec.tags["genblaze/provider"] == "counting"
    assert spec.tags["tier"] == "gold"
    assert [dep.asset_key for dep in spec.deps] == selection("story/image")
    assert spec.partitions_def is not None
    assert spec.partitions_def.get_partition_keys() == ["a", "b"]
    policy = assets.backfill_policy
    assert policy is not None
    assert policy.max_partitions_per_run == 50


def test_a_private_prompt_is_not_in_the_definition_nor_in_any_event(world: World) -> None:
    """Descriptions and events are open to everybody who sees the UI."""
    pipeline = Pipeline("story").step(
        world.provider,
        model="m",
        prompt="a secret {subject}",
        prompt_visibility=PromptVisibility.PRIVATE,
    )
    (assets,) = pipeline.to_assets(partitions=prompts("a"))
    assert "secret" not in str(assets.specs_by_key)
    world.materialize([assets], "a")
    assert "secret" not in str(world.event("story/image", "a"))
    assert world.provider.submits == {"a secret a": 1}


def test_a_range_is_one_step_that_makes_everything_once(world: World) -> None:
    """All partitions of both assets are made in one Dagster step, each by one request."""
    keys = [f"k{i:02}" for i in range(20)]
    assets = world.pipeline().to_assets(partitions=prompts(*keys))
    result = world.materialize(assets, keys)
    steps = {event.step_key for event in result.all_events if event.is_step_start}
    assert steps == {"story_pipeline"}
    for name in ("story/image", "story/video"):
        assert world.materialized(name) == set(keys)
        assert len(world.events(name)) == len(keys)
    assert set(world.provider.submits.values()) == {1}
    assert world.provider.submitted == 2 * len(keys)


def test_concurrency_stays_within_its_limit(world: World) -> None:
    """No more requests are under way than allowed, and no fewer than possible."""
    keys = [f"k{i:02}" for i in range(24)]
    pipeline = Pipeline("p").step(world.provider, model="m", name="image", prompt="{subject}")
    full_since: list[float] = []

    def open_after_a_while(prompt: str) -> bool:
        # Nobody is let through before the limit is reached, and time for one too many has passed.
        if world.provider.most_at_once >= 6 and not full_since:
            full_since.append(time.monotonic())
        return bool(full_since) and time.monotonic() - full_since[0] > 0.1

    world.provider.gate = open_after_a_while
    assets = pipeline.to_assets(partitions=prompts(*keys), max_concurrency=6)
    world.materialize(assets, keys)
    assert world.provider.most_at_once == 6


def test_partitions_flow_through_their_steps_without_waiting_for_others(world: World) -> None:
    """A video is made while the image of another partition is still being made."""
    seen = world.provider.submits
    # The image of the first partition is done only after the video of the second was asked for.
    world.provider.gate = lambda prompt: prompt != "draw a" or "move b" in seen
    world.materialize(world.pipeline().to_assets(partitions=prompts("a", "b")), ["a", "b"])
    assert world.materialized("story/video") == {"a", "b"}


def test_an_event_says_what_was_made(world: World) -> None:
    """Preview, links, hash, size, price, model and manifest are on every materialization."""
    world.materialize(world.pipeline().to_assets(partitions=prompts("a", "b")), ["a", "b"])
    metadata = {name: v.value for name, v in world.event("story/image", "b").metadata.items()}
    ref = world.ref("story/image", "b")
    assert metadata["sha256"] == ref.media[0].sha256
    assert metadata["bytes"] == ref.size_bytes
    assert metadata["cost_usd"] == 0.04
    assert (metadata["provider"], metadata["model"]) == ("counting", "m")
    assert metadata["how"] == "generated"
    assert metadata["cached"] is False
    assert metadata["request_key"] == ref.generation_key
    assert str(metadata["manifest"]).endswith(f"{ref.run_id}.json")
    assert str(metadata["preview"]).startswith("![image/png")
    assert "data:image/webp;base64," in str(metadata["preview"])
    video = {name: v.value for name, v in world.event("story/video", "b").metadata.items()}
    assert "data:image/webp;base64," in str(video["preview"])


def test_a_failed_partition_fails_alone_and_its_siblings_stay(world: World) -> None:
    """Exactly the good partitions are materialized; the failure names exactly the bad one."""
    world.failed_prompts(REFUSED, "draw b")
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"))
    result = world.materialize(assets, ["a", "c"], raise_on_error=False)
    assert not result.success
    assert world.materialized("story/image") == {"a", "c"}
    assert world.materialized("story/video") == {"a", "c"}
    metadata = failure_metadata(result)
    assert metadata["failed_partitions"] == ["b"]
    assert metadata["finished_count"] == 4
    records = failed_records(result)
    assert [(r["asset"], r["partition"], r["error"]) for r in records] == [
        ("story/image", "b", "ContentPolicyError"),
        ("story/video", "b", "NotStarted"),
    ]
    assert "move b" not in world.provider.submits


def test_the_index_has_what_was_finished_also_when_the_step_failed(world: World) -> None:
    """One segment per Dagster step, written at its end whatever the end."""
    world.failed_prompts(REFUSED, "move b")
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    world.materialize(assets, ["a", "b"], raise_on_error=False)
    catalog = IndexCatalog(world.store)
    run_sync(catalog.load())
    rows = catalog.query("select asset_key, partition_key from runs order by 1, 2").to_pylist()
    assert [(row["asset_key"], row["partition_key"]) for row in rows] == [
        ("story/image", "a"),
        ("story/image", "b"),
        ("story/video", "a"),
    ]
    segments = list((world.folder / "store" / "index").rglob("runs/*.parquet"))
    assert len(segments) == 1


def test_a_failed_video_keeps_its_image(world: World) -> None:
    """What was made before the failure is stored and materialized."""
    world.failed_prompts(REFUSED, "move b")
    world.materialize(
        world.pipeline().to_assets(partitions=prompts("a", "b")), ["a", "b"], raise_on_error=False
    )
    assert world.materialized("story/image") == {"a", "b"}
    assert world.materialized("story/video") == {"a"}


@pytest.mark.parametrize(
    ("error", "retries"),
    [(REFUSED, 0), (ProviderUnavailableError("the vendor answers 503", sent=False), 2)],
)
def test_dagster_retries_only_what_may_succeed(
    world: World, error: Exception, retries: int
) -> None:
    """A refusal is final; an outage is retried, and what is stored is not asked again."""
    world.failed_prompts(error, "draw b")
    pipeline = Pipeline("story", max_concurrency=2).step(
        world.provider,
        model="m",
        prompt="draw {subject}",
        name="image",
        retry=RetryPolicy.disabled(),
    )
    assets = pipeline.to_assets(
        partitions=prompts("a", "b"), retry_policy=dg.RetryPolicy(max_retries=2)
    )
    world.materialize(assets, ["a", "b"], raise_on_error=False)
    assert world.provider.submits == {"draw a": 1, "draw b": 1 + retries}
    assert world.materialized("story/image") == {"a"}


def test_an_unexpected_exception_fails_its_partition_and_is_redacted(world: World) -> None:
    """A bug in a provider is not hidden, does not take siblings down, and leaks no key."""
    world.failed_prompts(RuntimeError("boom with key sk-ant-" + "a" * 40), "draw b")
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    result = world.materialize(assets, ["a", "b"], raise_on_error=False)
    assert world.materialized("story/video") == {"a"}
    text = str(failure_metadata(result)["failures"])
    assert "boom" in text
    assert "sk-ant-" not in text


def test_what_every_partition_would_meet_stops_the_rest(world: World) -> None:
    """After a wrong key nothing more is asked; the other partitions say why they did not start."""
    keys = [f"k{i:02}" for i in range(30)]
    world.failed_prompts(AuthError("the key is wrong; set X"), *(f"draw {key}" for key in keys))
    assets = world.pipeline().to_assets(partitions=prompts(*keys), max_concurrency=2)
    result = world.materialize(assets, keys, raise_on_error=False)
    assert world.provider.submitted <= 4
    assert failure_metadata(result)["failed_count"] == 60
    assert "AuthError" in failure_text(result)


def test_a_store_nobody_can_write_to_fails_before_anything_is_paid(world: World) -> None:
    """The step fails with the typed message and the provider is never asked."""
    world.store_url = "s3://no-such-bucket/x"
    world.materialize(
        world.pipeline().to_assets(partitions=prompts("a")),
        "a",
        raise_on_error=False,
    )
    assert world.provider.submitted == 0


def test_running_again_in_a_new_run_is_a_new_intent_and_reuse_takes_what_is_there(
    world: World,
) -> None:
    """Materializing again refines; with reuse it costs nothing and says so."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    world.materialize(assets, ["a", "b"])
    world.materialize(assets, ["a", "b"])
    assert set(world.provider.submits.values()) == {2}
    world.materialize(world.pipeline().to_assets(partitions=prompts("a", "b"), reuse=True), "a")
    assert set(world.provider.submits.values()) == {2}
    metadata = {name: v.value for name, v in world.event("story/image", "a").metadata.items()}
    assert (metadata["how"], metadata["cached"], metadata["cost_usd"]) == ("reused", True, 0.0)


def test_an_unpartitioned_pipeline_is_one_asset_per_step(world: World) -> None:
    """Without partitions a run makes each asset once, with the usual events and versions."""
    pipeline = (
        Pipeline("one")
        .step(world.provider, model="m", name="image", prompt="a lighthouse")
        .step(world.provider, model="m", name="video", modality="video", input_from="image")
        .step(world.provider, model="m", name="audio", modality="audio", prompt="sea")
    )
    world.materialize(pipeline.to_assets())
    for name in ("image", "video", "audio"):
        event = world.event(f"one/{name}")
        assert event.tags["dagster/data_version"] == world.ref(f"one/{name}").data_version
    record = world.instance.get_latest_data_version_record(dg.AssetKey(["one", "video"]))
    assert record is not None


def test_one_step_alone_takes_its_input_from_the_store(world: World) -> None:
    """Selecting only the video uses the image of an earlier run."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    world.materialize(assets, ["a", "b"], selection=selection("story/image"))
    assert world.materialized("story/video") == set()
    world.materialize(assets, ["a", "b"], selection=selection("story/video"))
    assert world.materialized("story/video") == {"a", "b"}
    assert world.provider.submits["draw a"] == 1


def test_a_missing_input_fails_its_partition_with_the_remedy(world: World) -> None:
    """The video of a partition without image fails and says what to materialize."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    world.materialize(assets, "a", selection=selection("story/image"))
    result = world.materialize(
        assets, ["a", "b"], selection=selection("story/video"), raise_on_error=False
    )
    assert world.materialized("story/video") == {"a"}
    records = failed_records(result)
    assert "materialize story/image first" in records[0]["message"]
    assert "story/image[b]" in records[0]["message"]


def test_unfused_steps_are_dagster_steps_of_their_own(world: World) -> None:
    """fuse=False gives one op per asset, with the same result."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"), fuse=False)
    assert [a.op.name for a in assets] == ["story__image", "story__video"]
    result = world.materialize(assets, ["a", "b"])
    assert {e.step_key for e in result.all_events if e.is_step_start} == {
        "story__image",
        "story__video",
    }
    assert world.materialized("story/video") == {"a", "b"}
    assert set(world.provider.submits.values()) == {1}


def test_outputs_are_released_once_and_only_our_events_are_written(world: World) -> None:
    """A user's asset in the same run gets the media, and no event hides the per-partition ones."""

    @dg.asset(
        ins={"video": dg.AssetIn(dg.AssetKey(["story", "video"]))},
        partitions_def=prompts("a", "b").static_partitions(),
        backfill_policy=dg.BackfillPolicy.multi_run(50),
        io_manager_key="media",
    )
    def poster(video: dict[str, object]) -> dict[str, bytes]:
        return {key: media.bytes()[:32] for key, media in video.items()}  # type: ignore[attr-defined]

    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    world.materialize([*assets, poster], ["a", "b"])
    assert world.materialized("poster") == {"a", "b"}
    versions = {e.partition: e.tags["dagster/data_version"] for e in world.events("story/video")}
    assert versions == {key: world.ref("story/video", key).data_version for key in "ab"}
    assert len(world.events("story/video")) == 2


def test_dynamic_partitions_take_their_rows_from_the_store(world: World) -> None:
    """Keys and rows added while Dagster runs are generated without a change of code."""
    table = prompts("a", "b")
    assets = world.pipeline().to_assets(partitions=table.dynamic_partitions("prompts"))
    table.add_to(world.instance, "prompts", store=world.store)
    prompts("c").add_to(world.instance, "prompts", store=world.store)
    world.materialize(assets, ["a", "c"])
    assert world.materialized("story/video") == {"a", "b", "c"}
    assert world.provider.submits["draw c"] == 1


def test_a_key_without_a_row_fails_alone_and_names_the_column(world: World) -> None:
    """A partition added by hand, whose template needs a row, says what is missing."""
    assets = world.pipeline().to_assets(partitions=dg.DynamicPartitionsDefinition(name="prompts"))
    prompts("a").add_to(world.instance, "prompts", store=world.store)
    world.instance.add_dynamic_partitions("prompts", ["by-hand"])
    result = world.materialize(assets, ["a", "by-hand"], raise_on_error=False)
    assert world.materialized("story/image") == {"a"}
    assert "subject" in str(failure_metadata(result)["failures"])


def test_combined_partitions_use_their_dimensions(world: World) -> None:
    """A prompt x style grid needs no table."""
    grid = dg.MultiPartitionsDefinition(
        {
            "subject": dg.StaticPartitionsDefinition(["fox", "owl"]),
            "style": dg.StaticPartitionsDefinition(["ink", "oil"]),
        }
    )
    pipeline = Pipeline("grid").step(
        world.provider, model="m", name="image", prompt="{subject} in {style}"
    )
    key = dg.MultiPartitionKey({"subject": "fox", "style": "oil"})
    world.materialize(pipeline.to_assets(partitions=grid), key)
    assert world.provider.submits == {"fox in oil": 1}
    assert world.event("grid/image", str(key)).tags["dagster/partition/style"] == "oil"


def test_a_translator_decides_keys_and_wiring_follows(world: World) -> None:
    """Renamed assets are still each other's inputs."""

    class Ours(GenblazeTranslator):
        def get_asset_spec(self, step: AssetStep) -> dg.AssetSpec:
            spec = super().get_asset_spec(step)
            return spec.replace_attributes(
                key=dg.AssetKey(["media", f"{step.spec.name}s"]), group_name="ours"
            )

    assets = world.pipeline().to_assets(partitions=prompts("a"), translator=Ours())
    world.materialize(assets, "a")
    assert world.materialized("media/videos") == {"a"}
    assert world.ref("media/videos", "a").asset_key == "media/videos"


def test_the_prefix_is_the_pipelines_name_unless_said_otherwise(world: World) -> None:
    """Two pipelines may both have a step called image."""
    assert world.pipeline().to_assets()[0].keys == set(selection("story/image", "story/video"))
    keys = world.pipeline().to_assets(key_prefix=["a", "b"])[0].keys
    assert keys == set(selection("a/b/image", "a/b/video"))
    assert world.pipeline().to_assets(key_prefix=[])[0].keys == set(selection("image", "video"))
    spaced = world.pipeline("My story, part 2").to_assets()[0]
    assert spaced.keys == set(selection("My_story_part_2/image", "My_story_part_2/video"))


def test_declarations_that_cannot_work_fail_when_definitions_load(world: World) -> None:
    """Nothing is started for a missing column, an unknown provider or an empty pipeline."""
    with pytest.raises(PromptTemplateError, match="step 'image' needs subject"):
        world.pipeline().to_assets(partitions=PromptTable.from_rows([{"key": "a"}]))
    with pytest.raises(UnknownProviderError, match="openai"):
        Pipeline("x").step("opnai", model="m").to_assets()
    with pytest.raises(ConfigError, match="no steps"):
        pipeline_assets(Pipeline("x"))
    with pytest.raises(ConfigError, match="max_concurrency"):
        world.pipeline().to_assets(max_concurrency=-1)


def test_an_unknown_model_costs_nothing_and_says_so(world: World) -> None:
    """The provider's own message reaches the failure."""
    pipeline = Pipeline("x").step(world.provider, model="no-such-model", name="image", prompt="p")
    result = world.materialize(pipeline.to_assets(), raise_on_error=False)
    assert "is unknown; use 'm'" in failure_text(result)
    assert world.provider.submitted == 0


def test_a_named_provider_comes_from_its_resource(world: World) -> None:
    """`provider_resources` names keys of resources; their get_provider is used and closed."""
    from genblaze_dagster.provider_resources import ProviderResource

    provider = CountingProvider(name="house")

    class House(ProviderResource):
        def get_provider(self) -> CountingProvider:
            return provider

    pipeline = Pipeline("x").step("house", model="m", name="image", prompt="p")
    assets = pipeline.to_assets(provider_resources=["house"])
    world.materialize(assets, resources={"house": House()})
    assert provider.submits == {"p": 1}
    assert world.ref("x/image").provider == "house"
