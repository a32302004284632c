import hashlib
from pathlib import Path

from genblaze_dagster import Pipeline
from genblaze_dagster.errors import ModelError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.providers.protocol import GenerationRequest, Submission
from genblaze_dagster.storage.manifests import read_manifest
from tests.support.providers import CountingProvider, png
from tests.support.world import World, prompts


class Overloaded(CountingProvider):
    """Its first model never delivers."""

    async def submit(self, request: GenerationRequest) -> Submission:
        if request.model == "m":
            raise ModelError("overloaded")
        return await super().submit(request)


def test_assets_take_media_from_elsewhere(world: World, tmp_path: Path) -> None:
    """One reference picture for every partition is recorded as the input of each."""
    reference = tmp_path / "reference.png"
    reference.write_bytes(png("reference"))
    sha256 = hashlib.sha256(reference.read_bytes()).hexdigest()
    pipeline = Pipeline("styled").step(
        world.provider,
        model="m",
        name="image",
        prompt="draw {subject}",
        external_inputs=reference.as_uri(),
    )
    assets = pipeline.to_assets(partitions=prompts("fox", "owl"))
    assert world.materialize(assets, ["fox", "owl"]).success
    for key in ("fox", "owl"):
        manifest = run_sync(read_manifest(world.store, world.ref("styled/image", key).run_id))
        assert [asset.sha256 for asset in manifest.run.steps[-1].inputs] == [sha256]


def test_assets_fall_back_to_another_model(world: World) -> None:
    """The materialization shows the model that ran, and a retry of the run pays nobody."""
    provider = Overloaded()
    pipeline = Pipeline("safe").step(
        provider, model="m", name="image", prompt="draw {subject}", fallback_models=["m2"]
    )
    assets = pipeline.to_assets(partitions=prompts("fox"))
    for how in ("generated", "finished"):
        assert world.materialize(assets, "fox", tags={"dagster/root_run_id": "one"}).success
        metadata = {k: v.value for k, v in world.event("safe/image", "fox").metadata.items()}
        assert (metadata["model"], metadata["how"]) == ("m2", how)
    assert provider.submits == {"draw fox": 1}
