import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import (
    ConfigError,
    ManifestError,
    PromptTemplateError,
    UnknownProviderError,
)
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.pipeline_template import (
    MAX_TEMPLATE_BYTES,
    PipelineTemplate,
    StepTemplate,
    template_of,
)
from genblaze_dagster.pipeline.template import Column, PromptTemplate
from genblaze_dagster.storage.store import MediaStore
from tests.support.scripted import ScriptedProvider

PROVIDERS = {"scripted": ScriptedProvider()}


def film() -> Pipeline:
    provider = PROVIDERS["scripted"]
    pipeline = Pipeline("film", max_concurrency=3)
    pipeline.step(
        provider,
        model="m1",
        name="still",
        prompt=PromptTemplate("a {subject}"),
        negative_prompt="rain",
        seed=Column("seed"),
        params={"size": "{size}", "n": 1, "deep": [{"x": Column("x")}]},
        fallback_models=["m2"],
        prompt_visibility="private",
        metadata={"team": "{team}"},
        timeout=5,
    )
    pipeline.step(provider, model="m3", modality="audio", prompt="{{literal}}", seed=4)
    pipeline.step(provider, model="m4", modality="video", input_from=["audio", "still"])
    return pipeline


def declared(pipeline: Pipeline) -> list[Any]:
    return [(spec.name, spec.code_version, spec.timeout) for spec in pipeline.steps]


def one(**step: Any) -> PipelineTemplate:
    step = {"provider_name": "scripted", "model": "m", **step}
    return PipelineTemplate.from_dict({"steps": [step]})


def test_a_pipeline_survives_the_way_through_json(tmp_path: Path) -> None:
    """The pipeline of its own template declares the same: names, edges, prompts, everything."""
    template = template_of(film(), description="d", version="2", tags=["t"])
    template.save(tmp_path / "new" / "film.json")
    loaded = PipelineTemplate.from_file(tmp_path / "new" / "film.json")
    assert loaded == template
    pipeline = loaded.instantiate(PROVIDERS)
    assert declared(pipeline) == declared(film())
    assert (pipeline.name, pipeline.max_concurrency) == ("film", 3)
    assert (loaded.description, loaded.version, loaded.tags) == ("d", "2", ["t"])


def test_a_chain_stays_a_chain() -> None:
    """Steps that follow the one before say nothing; others name their inputs."""
    pipeline = Pipeline(chain=True)
    for number in range(3):
        pipeline.step(PROVIDERS["scripted"], model="m", input_from=0 if number == 2 else None)
    template = template_of(pipeline)
    assert [step.input_from for step in template.steps] == [None, None, [0]]
    assert declared(template.instantiate(PROVIDERS)) == declared(pipeline)


def test_variables_fill_prompts_and_texts_in_params() -> None:
    """Columns keep the type of their value, text is text, escaped braces are braces."""
    values = {"subject": "fox", "seed": 9, "size": "4K", "x": [1, 2], "team": "a"}
    steps = template_of(film()).instantiate(PROVIDERS, variables=values).steps
    assert (steps[0].prompt, steps[0].seed) == ("a fox", 9)
    assert steps[0].params == {"size": "4K", "n": 1, "deep": [{"x": [1, 2]}]}
    assert steps[0].metadata == {"team": "a"}
    assert steps[1].prompt == "{literal}"


def test_missing_variables_are_all_named() -> None:
    """Nothing is sent with half of its fields filled."""
    with pytest.raises(PromptTemplateError, match="needs seed, team, x, which") as missing:
        template_of(film()).instantiate(PROVIDERS, variables={"subject": "fox", "size": "4K"})
    assert isinstance(missing.value, ValueError)


def test_without_variables_a_prompt_waits_for_its_row() -> None:
    """A prompt with fields is a template of the pipeline, one without is text."""
    steps = template_of(film()).instantiate(PROVIDERS).steps
    assert steps[0].prompt == PromptTemplate("a {subject}")
    assert one(prompt="plain").instantiate(PROVIDERS).steps[0].prompt == "plain"


def test_an_instance_runs(tmp_path: Path) -> None:
    """From JSON to stored media, for a tenant."""
    template = PipelineTemplate(
        name="p", steps=[StepTemplate(provider_name="scripted", model="m", prompt="a {subject}")]
    )
    loaded = PipelineTemplate.from_json(template.to_json())
    pipeline = loaded.instantiate(
        {"scripted": ScriptedProvider()}, variables={"subject": "fox"}, tenant_id=" t "
    )
    store = MediaStore(f"memory://{uuid.uuid4().hex}")
    result = pipeline.run(store=store, ledger=f"sqlite:///{tmp_path / 'ledger.db'}")
    assert result.run.steps[0].prompt == "a fox"
    assert result.run.tenant_id == "t"


def test_providers_are_looked_up_by_name() -> None:
    """Those given, or when none are, the registered ones."""
    with pytest.raises(UnknownProviderError, match=r"'scripted', which is not among those given"):
        one().instantiate({"other": ScriptedProvider()})
    assert one().instantiate().steps[0].provider == "scripted"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON at line 1"),
        ("[]", "not a JSON object"),
        ('{"steps": [{}]}', "steps.0.provider_name"),
        ('{"steps": [{"provider_name": "p", "model": "m", "modality": "hush"}]}', "modality"),
        ('{"steps": [{"provider_name": "p", "model": "m", "timeout": -1}]}', "timeout"),
        ('{"max_concurrency": 0}', "max_concurrency"),
        ('{"a": ' + "[" * 400_000, "not JSON"),
        ('{"a": 1' + "1" * 5000 + "}", "not JSON"),
        (
            '{"steps": [{"provider_name": "p", "model": "m", "params": {"a": %s}}]}'
            % ("[" * 500 + "]" * 500),
            "nested too deep",
        ),
        ('{"steps": [{"provider_name": "p", "model": "m", "params": {"a": 1e999}}]}', "infinities"),
        ('{"steps": [{"provider_name": "p", "model": "m", "prompt": "\\ud800"}]}', "prompt"),
        (json.dumps({"steps": [{"provider_name": "p", "model": "m"}] * 1001}), "at most 1000"),
        (" " * (MAX_TEMPLATE_BYTES + 1), "the limit is"),
    ],
    ids=[
        *("empty", "cut", "list", "missing", "modality", "timeout", "concurrency", "brackets"),
        *("digits", "deep", "infinite", "surrogate", "steps", "size"),
    ],
)
def test_hostile_json_is_a_typed_error(text: str, said: str) -> None:
    """It names the field, quotes no value, and takes no time."""
    with pytest.raises(ConfigError, match=said) as refused:
        PipelineTemplate.from_json(text)
    assert "hush" not in str(refused.value)
    assert len(str(refused.value)) < 600


def test_unknown_keys_are_dropped() -> None:
    """As genblaze does with ours."""
    template = PipelineTemplate.from_dict({"steps": [], "later": 1})
    assert "later" not in template.to_dict()


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"params": {"api_key": "sk-" + "a1B2" * 8}}, "looks like a secret"),
        ({"params": {"metadata": {}}}, "pass it to step"),
        ({"metadata": {"_fallback_models": []}}, "_fallback_models"),
        ({"input_from": [0]}, "names no earlier step"),
        ({"input_from": [-1]}, "names no earlier step"),
        ({"name": "../x"}, "not usable"),
        ({"prompt": "{a.b}"}, "not a plain name"),
    ],
    ids=["secret", "reserved", "metadata", "input", "negative", "name", "field"],
)
def test_a_template_can_do_no_more_than_a_pipeline(step: dict[str, Any], said: str) -> None:
    """What `Pipeline.step` refuses is refused when it comes from a file."""
    with pytest.raises(ConfigError, match=said):
        one(**step).instantiate(PROVIDERS)


def test_what_a_template_cannot_hold_is_refused() -> None:
    """External media would lose its bytes on the way, an object its meaning."""
    record = Asset(url="https://x/a.png", media_type="image/png", sha256="a" * 64)
    provider = PROVIDERS["scripted"]
    with pytest.raises(ConfigError, match="external media"):
        template_of(Pipeline().step(provider, model="m", external_inputs=record))
    with pytest.raises(ManifestError, match="params of step"):
        template_of(Pipeline().step(provider, model="m", thing=object()))


def test_files_that_cannot_be_used_are_config_errors(tmp_path: Path) -> None:
    """A missing file, a folder and other bytes than text."""
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        PipelineTemplate.from_file(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="not UTF-8"):
        PipelineTemplate.from_file(tmp_path / "x.json")
    with pytest.raises(ConfigError, match="cannot be written"):
        one().save(tmp_path)


def test_prompts_are_not_in_the_repr() -> None:
    """A template in a log line shows no prompt."""
    assert "hush" not in repr(one(prompt="hush", params={"a": "hush"}))


GENBLAZE = """
import sys
from genblaze_core.pipeline.template import PipelineTemplate
from genblaze_core.testing import MockProvider
template = PipelineTemplate.from_json(sys.stdin.read())
pipeline = template.instantiate(
    providers={"scripted": MockProvider(name="scripted")},
    variables={"subject": "fox", "seed": "1", "size": "4K", "x": "1", "team": "a"},
)
print(template.to_json())
"""


def test_genblaze_reads_ours_and_we_read_its() -> None:
    """What both know survives genblaze and comes back."""
    ours = template_of(film(), tags=["t"])
    answer = subprocess.run(
        [sys.executable, "-c", GENBLAZE],
        input=ours.to_json(),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = PipelineTemplate.from_json(answer.stdout)
    for step, back in zip(ours.steps, theirs.steps, strict=True):
        assert back.params == step.params
        assert (back.prompt, back.model, back.input_from) == (
            *(step.prompt, step.model, step.input_from),
        )
    assert (theirs.name, theirs.tags, theirs.max_concurrency) == ("film", ["t"], 3)
    assert theirs.instantiate(PROVIDERS).steps[0].name == "image"
