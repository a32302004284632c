"""The examples of the guides, with only the imports changed."""

import asyncio
import json
from pathlib import Path

import pytest

from genblaze_dagster import (
    LoggingTracer,
    MockAudioProvider,
    MockProvider,
    MockVideoProvider,
    Modality,
    Pipeline,
    PipelineError,
    PipelineTemplate,
    PromptTemplate,
    StepCache,
    StepStatus,
)
from genblaze_dagster.core.models import Asset
from genblaze_dagster.providers import RetryPolicy
from genblaze_dagster.storage import KeyStrategy, MediaStore, ObjectStorageSink


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples name no store: everything goes below the working directory."""
    monkeypatch.chdir(tmp_path)


def test_one_step() -> None:
    """Run, unpack, verify, save."""
    run, manifest = (
        Pipeline("hello")
        .step(MockProvider(), model="mock-1", prompt="A sunset", modality=Modality.IMAGE)
        .run()
    )
    assert run.steps[0].status is StepStatus.SUCCEEDED
    assert manifest.verify()


def test_a_chain_of_image_and_video() -> None:
    """chain=True hands the image on."""
    result = (
        Pipeline("film", tenant_id="acme", chain=True)
        .step(MockProvider(), model="still", prompt="a fox")
        .step(MockVideoProvider(), model="motion", prompt="it runs", modality=Modality.VIDEO)
        .run(timeout=60, max_retries=2, fail_fast=True)
    )
    assert result.run.tenant_id == "acme"
    assert result.run.steps[1].inputs[0].sha256 == result.run.steps[0].assets[0].sha256


def test_inputs_by_index() -> None:
    """input_from takes indexes, in order."""
    result = (
        Pipeline("mix")
        .step(MockVideoProvider(), model="v", prompt="v", modality=Modality.VIDEO)
        .step(MockAudioProvider(), model="a", prompt="a", modality=Modality.AUDIO)
        .step(MockVideoProvider(), model="m", input_from=[1, 0], modality=Modality.VIDEO)
        .run()
    )
    kinds = [asset.media_type.split("/")[0] for asset in result.run.steps[2].inputs]
    assert kinds == ["audio", "video"]


def test_a_sink_and_callbacks(tmp_path: Path) -> None:
    """Media and manifest are in the bucket when run() returns."""
    sink = ObjectStorageSink(
        MediaStore((tmp_path / "bucket").as_uri()), key_strategy=KeyStrategy.HIERARCHICAL
    )
    seen: list[str] = []
    result = (
        Pipeline("s", max_concurrency=4)
        .step(MockProvider(cost_usd=0.02), model="m", prompt="x", params={"seed": 7})
        .run(
            sink=sink,
            on_progress=lambda event: seen.append(event.status),
            on_step_complete=lambda event: seen.append(f"step {event.step_index}"),
        )
    )
    assert seen == ["submitted", "succeeded", "step 0"]
    assert sink.read_manifest(result.run).canonical_hash == result.manifest.canonical_hash
    assert result.run.steps[0].seed == 7


def test_failures() -> None:
    """The error carries the result; it can be returned instead."""
    pipeline = Pipeline("f").step(
        MockProvider(should_fail=True, error_code="content_policy", error_message="no"), model="m"
    )
    with pytest.raises(PipelineError) as caught:
        pipeline.run(raise_on_failure=True)
    assert caught.value.result.error_summary() == "image: no"
    assert len(pipeline.run(raise_on_failure=False).failed_steps()) == 1


def test_streaming() -> None:
    """Sync and async streams tell the same."""
    pipeline = Pipeline("st").step(MockProvider(), model="m", prompt="x")

    async def told() -> list[str]:
        return [event.type async for event in pipeline.astream(heartbeats=False)]

    sync = [json.loads(json.dumps(event.to_dict()))["type"] for event in pipeline.stream()]
    assert sync == asyncio.run(told())
    assert (sync[0], sync[-1]) == ("pipeline.started", "pipeline.completed")


def test_batches() -> None:
    """Texts, rows for a template, and items."""
    pipeline = Pipeline("b").step(
        MockProvider(), model="m", prompt=PromptTemplate(template="a {animal} in {place}")
    )
    rows = [{"animal": "fox", "place": "snow"}, {"animal": "owl", "place": "rain"}]
    prompts = [result.run.steps[0].prompt for result in pipeline.batch_run(rows)]
    assert prompts == ["a fox in snow", "a owl in rain"]
    results = asyncio.run(pipeline.abatch_run(["one", "two"], max_concurrency=2))
    assert [result.run.steps[0].prompt for result in results] == ["one", "two"]
    (item,) = pipeline.batch_run(items=[{"prompt": "three", "metadata": {"scene": 3}}])
    assert item.run.steps[0].metadata == {"scene": 3}
    assert PromptTemplate(template="a {animal}").render(animal="fox") == "a fox"


def test_cache_tracer_metadata_and_lineage(tmp_path: Path) -> None:
    """The fluent settings chain."""
    provider = MockProvider(cost_usd=0.5)
    pipeline = (
        Pipeline("c")
        .step(provider, model="m", prompt="x")
        .cache(StepCache(tmp_path / "cache"))
        .tracer(LoggingTracer())
        .metadata(campaign="spring")
        .config({"timeout": 30})
    )
    first = pipeline.run()
    second = pipeline.from_result(first).invoke()
    assert provider.call_count == 1
    assert second.run.parent_run_id == first.run.run_id
    assert second.run.steps[0].cost_usd == 0.0


def test_retry_policies() -> None:
    """Providers take a policy."""
    provider = MockProvider(retry_policy=RetryPolicy.conservative())
    assert provider.retry_policy.max_attempts == 2
    Pipeline("r").step(provider, model="m", prompt="x").run()


def test_templates() -> None:
    """A declaration travels as JSON and gets its providers back."""
    pipeline = Pipeline("t").step(MockProvider(), model="m", prompt="a {animal}")
    template = PipelineTemplate.from_dict(pipeline.to_template(version="1").to_dict())
    again = template.instantiate({"mock": MockProvider()}, variables={"animal": "fox"})
    assert again.run().run.steps[0].prompt == "a fox"


def test_ingest(tmp_path: Path) -> None:
    """Media from elsewhere becomes a run without a provider."""
    file = tmp_path / "a.txt"
    file.write_text("words")
    result = Pipeline.ingest([file], source="camera", name="shoot")
    assert (result.run.steps[0].provider, result.run.steps[0].model) == (None, "camera")
    assert isinstance(result.run.steps[0].assets[0], Asset)
