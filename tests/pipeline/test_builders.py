import pytest

from genblaze_dagster.core.enums import (
    Modality,
    PromptVisibility,
    RunStatus,
    StepStatus,
    StepType,
)
from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.errors import ConfigError, SchemaError
from genblaze_dagster.pipeline.builders import RunBuilder, StepBuilder

SHA256 = "a" * 64


def test_a_step_has_what_was_set() -> None:
    """Every method sets its field, and all of them can be chained."""
    step = (
        StepBuilder("luma", "ray-2")
        .prompt("a fox")
        .negative_prompt("rain")
        .modality(Modality.VIDEO)
        .visibility(PromptVisibility.PRIVATE)
        .step_type(StepType.EDIT)
        .seed(7)
        .model_version("v2")
        .model_hash("h")
        .status(StepStatus.SUCCEEDED)
        .input_asset("https://x/a.png", "image/png", sha256=SHA256)
        .asset("https://x/b.mp4", "video/mp4", duration=2.0, width=64)
        .params(steps=4)
        .params(steps=5, fps=24)
        .meta(team="a")
        .build()
    )
    assert (step.provider, step.model, step.prompt, step.negative_prompt) == (
        *("luma", "ray-2", "a fox", "rain"),
    )
    assert (step.modality, step.prompt_visibility, step.step_type, step.seed) == (
        *(Modality.VIDEO, PromptVisibility.PRIVATE, StepType.EDIT, 7),
    )
    assert (step.model_version, step.model_hash, step.status) == ("v2", "h", StepStatus.SUCCEEDED)
    assert (step.params, step.metadata) == ({"steps": 5, "fps": 24}, {"team": "a"})
    assert [asset.sha256 for asset in step.inputs] == [SHA256]
    assert [(asset.duration, asset.width) for asset in step.assets] == [(2.0, 64)]


def test_builds_are_independent() -> None:
    """Building again gives another step, which later calls do not reach."""
    builder = StepBuilder("p", "m").params(a=1).asset("https://x/a.png", "image/png")
    first = builder.build()
    second = builder.params(b=2).asset("https://x/b.png", "image/png").build()
    assert first.step_id != second.step_id
    assert (first.params, len(first.assets)) == ({"a": 1}, 1)
    assert (second.params, len(second.assets)) == ({"a": 1, "b": 2}, 2)


def test_a_run_numbers_its_steps() -> None:
    """Steps carry the run's id and their place; the caller's own objects are left alone."""
    step = StepBuilder("p", "m").build()
    run = (
        RunBuilder("film")
        .run_id("r1")
        .tenant(" t ")
        .project("p")
        .parent("r0")
        .status(RunStatus.COMPLETED)
        .add_step(step)
        .add_step(StepBuilder("p", "m").build())
        .meta(a=1)
        .build()
    )
    assert (run.name, run.run_id, run.tenant_id, run.project_id, run.parent_run_id) == (
        *("film", "r1", "t", "p", "r0"),
    )
    assert (run.status, run.metadata) == (RunStatus.COMPLETED, {"a": 1})
    assert [(one.run_id, one.step_index) for one in run.steps] == [("r1", 0), ("r1", 1)]
    assert (step.run_id, step.step_index) == (None, None)
    assert Manifest.from_run(run).verify_hash()


def test_a_blank_tenant_is_none() -> None:
    """As for a pipeline."""
    assert RunBuilder().tenant("  ").build().tenant_id is None


def test_a_provider_may_be_missing_only_on_import() -> None:
    """A step that generates has one."""
    assert StepBuilder(None, "camera").step_type(StepType.INGEST).build().provider is None
    with pytest.raises(SchemaError, match="provider"):
        StepBuilder(None, "camera").build()


def test_wrong_fields_are_named_not_quoted() -> None:
    """The error can be shown: it has the field and not the value."""
    with pytest.raises(SchemaError, match="media_type") as refused:
        StepBuilder("p", "m").asset("https://x/a", "hush hush")
    assert "hush" not in str(refused.value)


def test_secrets_do_not_get_into_params() -> None:
    """They would be stored and hashed."""
    with pytest.raises(ConfigError, match="looks like a secret at api_key"):
        StepBuilder("p", "m").params(api_key="sk-" + "a1B2" * 8)
