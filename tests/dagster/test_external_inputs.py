import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from genblaze_dagster import CallableEvaluator, Media, Pipeline, agent_asset, generation_asset
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


def test_prompt_functions_take_media_from_elsewhere_and_fall_back(
    world: World, tmp_path: Path
) -> None:
    """Upstream media is for the function's eyes then; what it returns as inputs comes first."""
    reference = tmp_path / "reference.png"
    reference.write_bytes(png("reference"))
    sha256 = hashlib.sha256(reference.read_bytes()).hexdigest()
    provider = Overloaded()

    @generation_asset(provider=world.provider, model="m")
    def sketch() -> str:
        return "sketch"

    def poster(sketch: Media) -> dict[str, object]:
        return {"prompt": "poster", **({"inputs": [sketch]} if returns else {})}

    for returns, expected in ((False, sha256), (True, None)):
        made = generation_asset(
            provider=provider,
            model="m",
            fallback_models=["m2"],
            external_inputs=reference.as_uri(),
            code_version=str(returns),
        )(poster)
        assert world.materialize([sketch, made]).success
        manifest = run_sync(read_manifest(world.store, world.ref("poster").run_id))
        wanted = expected or world.ref("sketch").media[0].sha256
        assert [asset.sha256 for asset in manifest.run.steps[-1].inputs] == [wanted]
        assert world.event("poster").metadata["model"].value == "m2"


@pytest.mark.parametrize("kind", ["pipeline", "function", "agent"])
def test_an_option_that_does_not_exist_is_refused_as_python_does(world: World, kind: str) -> None:
    """The options all generated assets share are checked although no signature lists them."""
    pipeline = Pipeline("p").step(world.provider, model="m", prompt="x")
    accept = CallableEvaluator(lambda result: True)
    makers: dict[str, Callable[..., object]] = {
        "pipeline": pipeline.to_assets,
        "function": partial(generation_asset, provider=world.provider, model="m"),
        "agent": partial(agent_asset, lambda context: pipeline, accept, name="a"),
    }
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_concurency'"):
        makers[kind](max_concurency=2)
