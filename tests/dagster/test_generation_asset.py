from collections.abc import Mapping

import dagster as dg
import pytest

from genblaze_dagster import Column, Media, generation_asset
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.loop import run_sync
from tests.support.world import World, failure_text, prompts, selection


def test_the_function_writes_the_prompt_of_each_partition(world: World) -> None:
    """It is called with the row and the key; its text is the prompt, braces and all."""

    @generation_asset(
        provider=world.provider, model="m", partitions=prompts("a", "b"), seed=Column("seed_column")
    )
    def poster(row: dict[str, object], partition_key: str) -> dict[str, object]:
        """A poster."""
        return {"prompt": f'{{"subject": "{row["subject"]}"}} of {partition_key}', "seed": 5}

    world.materialize([poster], ["a", "b"])
    assert world.provider.submits == {'{"subject": "a"} of a': 1, '{"subject": "b"} of b': 1}
    manifest = Media(world.ref("poster", "a"), world.store).manifest
    assert manifest.run.steps[-1].seed == 5
    assert poster.specs_by_key[dg.AssetKey("poster")].description == "A poster."


def test_upstream_media_is_given_by_name_and_becomes_the_input(world: World) -> None:
    """The function sees Media; the model gets the same as input; the manifest links them."""

    @generation_asset(provider=world.provider, model="m", partitions=prompts("a", "b"))
    def image(row: dict[str, object]) -> str:
        return f"draw {row['subject']}"

    @generation_asset(
        provider=world.provider, model="m", modality="video", partitions=prompts("a", "b")
    )
    async def clip(image: Media, partition_key: str) -> str:
        return f"move {partition_key} {len(await image.aread())}"

    world.materialize([image, clip], ["a", "b"])
    made = world.ref("image", "a").media[0]
    assert world.provider.submits[f"move a {made.size_bytes}"] == 1
    manifest = Media(world.ref("clip", "a"), world.store).manifest
    assert [asset.sha256 for asset in manifest.run.steps[-1].inputs] == [made.sha256]
    assert len(manifest.run.steps) == 2
    event = world.event("clip", "a")
    assert event.tags["dagster/input_data_version/image"] == made.sha256


def test_all_partitions_of_an_upstream_asset_arrive_by_key(world: World) -> None:
    """A partition mapping decides what a partition needs; several arrive as a dict."""

    @generation_asset(provider=world.provider, model="m", partitions=prompts("a", "b", "c"))
    def image(row: dict[str, object]) -> str:
        return f"draw {row['subject']}"

    @generation_asset(
        provider=world.provider,
        model="m",
        ins={"images": dg.AssetDep("image", partition_mapping=dg.AllPartitionMapping())},
    )
    def collage(images: dict[str, Media]) -> Mapping[str, object]:
        return {"prompt": "+".join(sorted(images)), "inputs": [images["b"]]}

    world.materialize([image], ["a", "c"])
    world.materialize([image, collage], selection=selection("collage"))
    assert world.provider.submits["a+b+c"] == 1
    manifest = Media(world.ref("collage"), world.store).manifest
    assert [a.sha256 for a in manifest.run.steps[-1].inputs] == [
        world.ref("image", "b").media[0].sha256
    ]


def test_code_version_follows_the_settings_and_the_source(world: World) -> None:
    """Changing model, parameters or the function's text changes it; nothing else does."""

    def define(model: str, quality: str) -> str | None:
        @generation_asset(provider=world.provider, model=model, params={"quality": quality})
        def poster() -> str:
            return "x"

        return poster.specs_by_key[dg.AssetKey("poster")].code_version

    @generation_asset(provider=world.provider, model="m", params={"quality": "high"})
    def poster() -> str:
        return "y"

    base = define("m", "high")
    assert base == define("m", "high")
    other = poster.specs_by_key[dg.AssetKey("poster")].code_version
    assert len({base, define("m2", "high"), define("m", "low"), other}) == 4


def test_parameters_it_returns_reach_the_model_as_they_are(world: World) -> None:
    """Types survive, and text with braces is no template."""

    @generation_asset(provider=world.provider, model="m", params={"size": "1x1"})
    def poster() -> Mapping[str, object]:
        return {"prompt": "p", "negative_prompt": "{no}", "params": {"steps": 3, "note": "{x}"}}

    world.materialize([poster])
    step = Media(world.ref("poster"), world.store).manifest.run.steps[-1]
    assert step.params == {"size": "1x1", "steps": 3, "note": "{x}"}
    assert step.negative_prompt == "{no}"


@pytest.mark.parametrize(
    ("returned", "named"),
    [(3, "returned a int"), ({"promt": "x"}, "'promt'"), ({"prompt": 3}, "a int as prompt")],
)
def test_what_is_no_prompt_is_refused_by_name(world: World, returned: object, named: str) -> None:
    """A wrong return value fails the partition and says what would be right."""

    @generation_asset(provider=world.provider, model="m")
    def poster() -> object:
        return returned

    result = world.materialize([poster], raise_on_error=False)
    assert named in failure_text(result)
    assert world.provider.submitted == 0


def test_a_function_that_raises_fails_its_partition_only(world: World) -> None:
    """Siblings are made; the exception is in the failure."""

    @generation_asset(provider=world.provider, model="m", partitions=prompts("a", "b"))
    def poster(partition_key: str) -> str:
        if partition_key == "a":
            raise ZeroDivisionError("no luck")
        return "fine"

    result = world.materialize([poster], ["a", "b"], raise_on_error=False)
    assert world.materialized("poster") == {"b"}
    assert "ZeroDivisionError" in failure_text(result)


def test_signatures_that_cannot_be_served_are_refused_at_once(world: World) -> None:
    """A context, stars and unused ins are errors of the definition."""

    def with_context(context: object) -> str:
        return ""

    def with_stars(**anything: object) -> str:
        return ""

    def with_default(image: Media | None = None) -> str:
        return ""

    decorate = generation_asset(provider=world.provider, model="m")
    with pytest.raises(ConfigError, match="Dagster context"):
        decorate(with_context)
    with pytest.raises(ConfigError, match="name every parameter"):
        decorate(with_stars)
    with pytest.raises(ConfigError, match="no parameter"):
        generation_asset(provider=world.provider, model="m", ins={"image": "x"})(with_default)


def test_outputs_of_a_function_of_ones_own_can_be_inputs(world: World) -> None:
    """A user's asset behind the media IO manager feeds a generated one, in one run."""

    @dg.asset(io_manager_key="media")
    def sketch() -> bytes:
        return b"\x89PNG\r\n\x1a\n not really"

    @generation_asset(provider=world.provider, model="m")
    def drawing(sketch: Media) -> str:
        return f"redraw {sketch.media_type}"

    world.materialize([sketch, drawing])
    assert world.provider.submits == {"redraw image/png": 1}
    manifest = run_sync(Media(world.ref("drawing"), world.store).amanifest())
    assert [step.provider for step in manifest.run.steps] == ["dagster", "counting"]
