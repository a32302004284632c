from pathlib import Path

import dagster as dg

from genblaze_dagster.checks import provenance_check
from tests.support.world import World, prompts, selection


def damage(world: World, key: str, partition: str) -> Path:
    """Change one stored byte behind everybody's back."""
    file = world.folder / "store" / world.ref(key, partition).media[0].key
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return file


def test_every_asset_is_checked_once_per_run_over_all_its_partitions(world: World) -> None:
    """One passed evaluation per asset, with the count of what it looked at."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"))
    found = world.checks(world.materialize(assets, ["a", "c"]))
    assert set(found) == {"story/image", "story/video"}
    for evaluation in found.values():
        assert evaluation.passed
        assert evaluation.blocking
        assert evaluation.metadata["checked_count"].value == 3


def test_bytes_that_changed_in_the_store_block_what_is_downstream(world: World) -> None:
    """A reused image that no longer hashes to its manifest fails the check and stops the run."""
    ran: list[str] = []

    @dg.asset(deps=[dg.AssetKey(["story", "video"])])
    def publish() -> None:
        ran.append("publish")

    table = prompts("a", "b")
    world.materialize(world.pipeline().to_assets(partitions=table), ["a", "b"])
    damage(world, "story/image", "b")
    assets = world.pipeline().to_assets(partitions=table, reuse=True)
    result = world.materialize([*assets, publish], ["a", "b"], raise_on_error=False)
    found = world.checks(result)["story/image"]
    assert not result.success
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR
    records = found.metadata["failed"].value.records
    assert [r.data["partition"] for r in records] == ["b"]
    assert ran == []


def test_a_step_that_fails_in_part_still_reports_its_checks(world: World) -> None:
    """What was made is checked, although the step has no outputs."""
    world.provider.errors = {"draw a": RuntimeError("no")}
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    result = world.materialize(assets, ["a", "b"], raise_on_error=False)
    assert world.checks(result)["story/image"].metadata["checked_count"].value == 1


def test_the_check_can_be_run_alone(world: World) -> None:
    """Selecting only the check reads all that is stored of its asset and generates nothing."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b"))
    world.materialize(assets, ["a", "b"])
    before = world.provider.submitted
    damage(world, "story/video", "a")
    result = world.materialize(
        assets,
        selection=dg.AssetSelection.checks_for_assets(*selection("story/video")),
        raise_on_error=False,
    )
    assert world.provider.submitted == before
    found = world.checks(result)["story/video"]
    assert not found.passed
    assert found.metadata["checked_count"].value == 2
    assert [r.data["partition"] for r in found.metadata["failed"].value.records] == ["a"]


def test_an_audit_reads_everything_that_was_ever_stored_for_an_asset(world: World) -> None:
    """The standalone check covers partitions of all runs, and finds a damaged manifest."""
    assets = world.pipeline().to_assets(partitions=prompts("a", "b", "c"))
    world.materialize(assets, ["a", "c"])
    audit = provenance_check(dg.AssetKey(["story", "image"]))
    passed = world.materialize([*assets, audit], selection=dg.AssetSelection.checks(audit))
    assert world.checks(passed)["story/image"].metadata["checked_count"].value == 3
    manifest = world.folder / "store" / world.ref("story/image", "c").manifest_key
    manifest.write_text(manifest.read_text().replace("draw c", "draw x"))
    failed = world.materialize(
        [*assets, audit], selection=dg.AssetSelection.checks(audit), raise_on_error=False
    )
    found = world.checks(failed)["story/image"]
    assert not found.passed
    records = found.metadata["failed"].value.records
    assert [r.data["partition"] for r in records] == ["c"]
    assert "manifest invalid" in str(records)


def test_nothing_stored_is_a_failed_check_when_it_is_asked_for_alone(world: World) -> None:
    """An asset without media does not pass by being empty."""
    assets = world.pipeline().to_assets(partitions=prompts("a"))
    world.materialize(assets, "a", selection=selection("story/image"))
    result = world.materialize(
        assets,
        selection=dg.AssetSelection.checks_for_assets(*selection("story/video")),
        raise_on_error=False,
    )
    found = world.checks(result)["story/video"]
    assert not found.passed
    assert "nothing is stored" in str(found.metadata["failed"])
