"""Embedding as an option of the IO managers: in runs, for own functions, in metadata and checks."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster import LocalMediaIOManager, Media, MediaIOManager, Pipeline
from genblaze_dagster.checks import provenance_check
from genblaze_dagster.core.enums import PromptVisibility
from genblaze_dagster.media.extraction import extract
from genblaze_dagster.media.stripping import strip
from genblaze_dagster.providers.local import LocalProvider
from tests.storage.faults import Answer, fault_server
from tests.support.providers import png
from tests.support.world import World, prompts

EMBEDDED = ("embedded", "embedded_sha256", "embedded_bytes")


def embedding(world: World, **options: Any) -> dict[str, Any]:
    """Resources whose IO manager embeds."""
    return {"media": MediaIOManager(url=world.store_url, embed=True, **options)}


def stored(world: World, key: str, partition: str | None = None) -> Media:
    return Media(world.ref(key, partition), world.store)


def metadata(world: World, key: str, partition: str | None = None) -> dict[str, Any]:
    return dict(world.event(key, partition).metadata)


def without_rendition(world: World, key: str) -> bool:
    return world.ref(key, "a").media[0].embedded is None


def test_generated_media_gets_a_rendition_that_the_event_shows(world: World) -> None:
    """URL or path, hash and size of the derived file, beside those of the output."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    result = world.materialize(assets, ["a", "b"], resources=embedding(world))
    for partition in ("a", "b"):
        media = stored(world, "story/image", partition)
        assert media.embedded is not None
        shown = metadata(world, "story/image", partition)
        assert shown["embedded"].value == str(world.folder / "store" / media.embedded.key)
        assert shown["embedded_sha256"].value == media.embedded.sha256
        assert shown["embedded_bytes"].value == media.embedded.size_bytes
        assert shown["sha256"].value == media.sha256
        assert shown["bytes"].value == media.size_bytes
        with media:
            assert strip(media.embedded.path()) == media.bytes()
            inside = extract(media.embedded.path())
            assert inside.canonical_hash == media.manifest.canonical_hash
    assert all(check.passed for check in world.checks(result).values())


def test_real_pictures_sound_and_films_all_get_one(world: World) -> None:
    """The local provider's PNG, WAV and MP4."""
    local = LocalProvider()
    assets = (
        Pipeline("real")
        .step(local, model="local-image", name="image", prompt="a", width=64, height=64)
        .step(local, model="local-audio", name="sound", modality="audio", prompt="a", duration=1)
        .step(local, model="local-video", name="film", modality="video", prompt="a", duration=1)
        .to_assets()
    )
    result = world.materialize(assets, resources=embedding(world))
    for name in ("image", "sound", "film"):
        with stored(world, f"real/{name}") as media:
            assert media.embedded is not None
            assert strip(media.embedded.path()) == media.bytes()
        assert set(EMBEDDED) <= set(metadata(world, f"real/{name}"))
    assert all(check.passed for check in world.checks(result).values())


def test_by_default_nothing_is_embedded(world: World) -> None:
    """No object, no metadata."""
    assets = world.pipeline().to_assets(partitions=prompts("a"))
    world.materialize(assets, "a")
    assert without_rendition(world, "story/image")
    assert set(metadata(world, "story/image", "a")).isdisjoint({*EMBEDDED, "not_embedded"})


def test_what_cannot_carry_a_manifest_says_why(world: World) -> None:
    """The counting provider's "video" is no film: the step succeeds, the event has the reason."""
    assets = world.pipeline().to_assets(partitions=prompts("a"))
    result = world.materialize(assets, "a", resources=embedding(world))
    assert result.success
    shown = metadata(world, "story/video", "a")
    assert set(shown).isdisjoint(EMBEDDED)
    assert shown["not_embedded"].value == world.ref("story/video", "a").media[0].not_embedded
    assert shown["not_embedded"].value


def test_the_option_reaches_every_manager_and_hides_what_it_is_told_to(
    world: World,
) -> None:
    """Prompts, parameters and seeds are left out one by one; the stored manifest is whole."""
    manager = LocalMediaIOManager(
        base_dir=str(world.folder / "store"),
        embed=True,
        embed_prompts=False,
        embed_params=False,
        embed_seed=False,
    )
    policy = manager.embed_policy
    assert policy is not None
    assert policy.prompt_visibility is PromptVisibility.REDACTED
    local = LocalProvider()
    size = {"width": 64, "height": 64}
    assets = (
        Pipeline("story")
        .step(local, model="local-image", name="image", prompt="draw {subject}", seed=5, **size)
        .to_assets(partitions=prompts("a"))
    )
    world.materialize(assets, "a", resources={"media": manager})
    with stored(world, "story/image", "a") as media:
        assert media.embedded is not None
        assert b"draw a" not in media.embedded.bytes()
        (step,) = extract(media.embedded.path()).run.steps
        assert (step.prompt, step.params, step.seed) == (None, {}, None)
        (whole,) = media.manifest.run.steps
        assert (whole.prompt, whole.seed) == ("draw a", 5)


def test_own_functions_get_renditions_the_same_way(world: World) -> None:
    """Returned bytes and files: stored, described, and handed on with their renditions."""
    seen: list[bytes] = []

    @dg.asset(io_manager_key="media")
    def picture() -> bytes:
        return png("own")

    @dg.asset(io_manager_key="media")
    def framed(picture: Media) -> Path:
        assert picture.embedded is not None
        seen.append(strip(picture.embedded.path()))
        path = world.folder / "framed.png"
        path.write_bytes(png("framed"))
        return path

    world.materialize([picture, framed], resources=embedding(world))
    assert seen == [png("own")]
    with stored(world, "framed") as media:
        assert media.embedded is not None
        inside = extract(media.embedded.path())
        assert [step.model for step in inside.run.steps] == ["picture", "framed"]
        assert strip(media.embedded.path()) == png("framed")
    assert metadata(world, "framed")["embedded_sha256"].value == media.embedded.sha256


def test_media_that_is_handed_on_gets_the_rendition_it_lacks(world: World) -> None:
    """A function that returns its input refers to what is stored, with its manifest inside."""

    @dg.asset(io_manager_key="media")
    def picture() -> bytes:
        return png("own")

    @dg.asset(io_manager_key="media")
    def chosen(picture: Media) -> Media:
        return picture

    world.materialize([picture])
    world.materialize([picture, chosen], selection=[chosen], resources=embedding(world))
    with stored(world, "chosen") as media:
        assert media.embedded is not None
        assert strip(media.embedded.path()) == png("own")
        assert extract(media.embedded.path()).run.steps[-1].model == "picture"


def test_a_reference_that_cannot_be_updated_fails_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reused media is there as before; the event says what is missing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assets = world.pipeline().to_assets(partitions=prompts("a"), reuse=True)
    with fault_server() as faults:
        where = {"url": "s3://bucket", "endpoint_url": faults.url}
        world.materialize(assets, "a", resources={"media": MediaIOManager(**where)})
        faults.rule = lambda r: (
            Answer(403, "AccessDenied") if r.method == "PUT" and r.key.startswith("refs/") else None
        )
        manager = MediaIOManager(**where, embed=True)
        assert world.materialize(assets, "a", resources={"media": manager}).success
    shown = metadata(world, "story/image", "a")
    assert shown["not_embedded"].value.startswith("AccessDeniedError: ")
    assert set(shown).isdisjoint(EMBEDDED)


def test_reused_media_gets_the_rendition_it_lacks(world: World) -> None:
    """Switched on later: nothing is generated again, and every output has one afterwards."""
    table = prompts("a")
    world.materialize(world.pipeline().to_assets(partitions=table), "a")
    assert without_rendition(world, "story/image")
    before = world.provider.submitted
    assets = world.pipeline().to_assets(partitions=table, reuse=True)
    world.materialize(assets, "a", resources=embedding(world))
    assert world.provider.submitted == before
    with stored(world, "story/image", "a") as media:
        assert media.embedded is not None
        assert strip(media.embedded.path()) == media.bytes()
    assert metadata(world, "story/image", "a")["embedded_sha256"].value == media.embedded.sha256


def test_a_damaged_rendition_fails_the_audit(world: World) -> None:
    """The whole-asset check reads renditions too, and says which object it is."""
    assets = world.pipeline().to_assets(partitions=prompts("a"))
    resources = embedding(world)
    world.materialize(assets, "a", resources=resources)
    media = stored(world, "story/image", "a")
    assert media.embedded is not None
    file = world.folder / "store" / media.embedded.key
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    audit = provenance_check(dg.AssetKey(["story", "image"]))
    result = world.materialize(
        [*assets, audit],
        selection=dg.AssetSelection.checks(audit),
        resources=resources,
        raise_on_error=False,
    )
    found = world.checks(result)["story/image"]
    assert not found.passed
    (record,) = found.metadata["failed"].value.records
    assert media.embedded.key in str(record.data["problem"])


@pytest.mark.parametrize("value", [True, False])
def test_the_option_is_plain_config(world: World, value: bool) -> None:
    """It can come from a run's configuration, as a launchpad or YAML gives it."""
    manager = MediaIOManager.configure_at_launch(url=world.store_url)
    assets = world.pipeline().to_assets(partitions=prompts("a"))
    config = {"resources": {"media": {"config": {"embed": value}}}}
    world.materialize(assets, "a", resources={"media": manager}, run_config=config)
    assert without_rendition(world, "story/image") is not value
