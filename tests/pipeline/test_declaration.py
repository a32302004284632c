import pytest

from genblaze_dagster.core.enums import Modality, PromptVisibility
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import ConfigError, UnknownProviderError
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.template import Column
from tests.support.scripted import ScriptedProvider


def test_chain_links_each_step_to_the_one_before() -> None:
    """With chain=True a step's input is its predecessor, unless it names its own."""
    provider = ScriptedProvider()
    pipeline = (
        Pipeline("p", chain=True)
        .step(provider, model="m")
        .step(provider, model="m", modality="video")
        .step(provider, model="m", modality="video", input_from=[0, "video"])
    )
    assert [step.name for step in pipeline.steps] == ["image", "video", "video_2"]
    assert [step.inputs for step in pipeline.steps] == [(), ("image",), ("image", "video")]


def test_seed_and_negative_prompt_move_out_of_params() -> None:
    """Both are fields of a step, wherever the caller wrote them; keywords win over params."""
    pipeline = Pipeline("p").step(
        ScriptedProvider(),
        model="m",
        params={"seed": 1, "negative_prompt": "blur", "steps": 4},
        steps=8,
    )
    spec = pipeline.steps[0]
    assert (spec.seed, spec.negative_prompt, dict(spec.params)) == (1, "blur", {"steps": 8})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_from": "nowhere"}, "names no earlier step"),
        ({"input_from": 3}, "names no earlier step"),
        ({"name": "first"}, "is taken"),
        ({"name": "a b"}, "not usable"),
        ({"params": {"inputs": []}}, "pass it to step"),
        ({"external_inputs": [], "input_from": "first"}, "both input_from and external_inputs"),
        ({"external_inputs": "picture.png"}, "nor a URL"),
        ({"external_inputs": [7]}, "neither an Asset"),
        ({"fallback_models": ["n", "m"]}, "repeat a model"),
        ({"fallback_models": ""}, "empty one"),
        ({"metadata": {"_fallback_models": ["x"]}}, "choose another key"),
        ({"metadata": {"_input_from": 0}}, "choose another key"),
        ({"metadata": {"fallback_attempts": []}}, "choose another key"),
        ({"prompt_visibility": "encrypted"}, "no encryption"),
        ({"params": {"nested": [{"key": "sk-proj-" + "a1B2" * 10}]}}, "looks like a secret"),
    ],
)
def test_a_wrong_declaration_fails_where_it_is_written(
    options: dict[str, object], words: str
) -> None:
    """Every mistake is a ConfigError that says what is wrong."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m", name="first")
    with pytest.raises(ConfigError, match=words):
        pipeline.step(ScriptedProvider(), model="m", **options)  # type: ignore[arg-type]


def test_an_empty_provider_name_is_refused() -> None:
    """An empty string names no provider."""
    with pytest.raises(UnknownProviderError, match="empty"):
        Pipeline("p").step("", model="m")


def test_concurrency_below_one_is_refused() -> None:
    """Nothing would ever run."""
    with pytest.raises(ConfigError, match="max_concurrency"):
        Pipeline("p", max_concurrency=0)


def test_code_version_follows_everything_that_decides_the_output() -> None:
    """Prompt, model, params, seed, wiring, visibility and adapter version change it; nothing else."""

    def version(**changes: object) -> str:
        provider = ScriptedProvider(version=str(changes.pop("adapter", "1")))
        options: dict[str, object] = {"model": "m", "prompt": "a {x}", "params": {"a": 1}}
        options.update(changes)
        pipeline = Pipeline("p").step(provider, model="m", name="up")
        return pipeline.step(provider, **options).steps[-1].code_version  # type: ignore[arg-type]

    base = version()
    assert base == version()
    assert base == version(timeout=5.0)
    different = [
        version(prompt="b {x}"),
        version(model="n"),
        version(params={"a": 1.0}),
        version(seed=4),
        version(seed=Column("seed")),
        version(negative_prompt="no"),
        version(input_from="up"),
        version(modality=Modality.VIDEO),
        version(prompt_visibility=PromptVisibility.PRIVATE),
        version(metadata={"k": "v"}),
        version(adapter="2"),
        version(fallback_models=["n"]),
        version(fallback_models=["n", "o"]),
        version(external_inputs="https://cdn.example.com/a.png"),
        version(external_inputs=Asset(url="x", media_type="image/png", sha256="a" * 64)),
        version(external_inputs=Asset(url="x", media_type="image/png", sha256="b" * 64)),
    ]
    assert len({base, *different}) == len(different) + 1


def test_external_inputs_replace_the_step_before() -> None:
    """In a chain a step with inputs from elsewhere takes these alone, also when there are none."""
    asset = Asset(url="https://cdn.example.com/a.png", media_type="image/png", sha256="a" * 64)
    pipeline = (
        Pipeline("p", chain=True)
        .step(ScriptedProvider(), model="m")
        .step(ScriptedProvider(), model="m", external_inputs=[asset])
        .step(ScriptedProvider(), model="m", external_inputs=[])
    )
    assert [step.inputs for step in pipeline.steps] == [(), (), ()]
    assert [len(step.external_inputs) for step in pipeline.steps] == [0, 1, 0]


def test_where_bytes_lie_does_not_change_the_code_version() -> None:
    """An asset is its bytes: the same hash at another address is the same declaration."""

    def version(url: str) -> str:
        asset = Asset(url=url, media_type="image/png", sha256="a" * 64)
        pipeline = Pipeline("p").step(ScriptedProvider(), model="m", external_inputs=asset)
        return pipeline.steps[0].code_version

    assert version("https://one.example.com/a.png") == version("file:///tmp/a.png")


def test_a_signed_address_is_not_part_of_a_declaration() -> None:
    """Another signature on the same URL is the same declaration."""

    def version(signature: str) -> str:
        url = f"https://b.example.com/a.png?X-Amz-Signature={signature}&X-Amz-Expires=9"
        pipeline = Pipeline("p").step(ScriptedProvider(), model="m", external_inputs=url)
        assert signature not in repr(pipeline.steps[0])
        return pipeline.steps[0].code_version

    assert version("feedface" * 4) == version("cafebabe" * 4)


def test_variables_are_collected_from_the_whole_step() -> None:
    """A partition's row must have every column that prompt, params, seed or metadata use."""
    pipeline = Pipeline("p").step(
        ScriptedProvider(),
        model="m",
        prompt="{subject}",
        negative_prompt="{avoid}",
        seed=Column("seed"),
        params={"voice": "{voice}"},
        metadata={"team": Column("team")},
    )
    assert pipeline.steps[0].variables == {"subject", "avoid", "seed", "voice", "team"}
