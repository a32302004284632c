import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from genblaze_dagster import IndexCatalog
from genblaze_dagster.agents import agent_asset
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError, ProviderUnavailableError
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.agent import (
    AgentContext,
    CallableEvaluator,
    EvaluationResult,
    Evaluator,
    ThresholdEvaluator,
)
from genblaze_dagster.pipeline.declaration import Pipeline
from genblaze_dagster.pipeline.moderation import ModerationHook
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.refs import read_ref
from tests.dagster.test_recovery import interrupted, interrupted_after
from tests.support.world import World, failed_records, failure_metadata, failure_text, prompts


@dataclass
class Judge(Evaluator):
    """Accepts the given iterations of each prompt's subject, and counts whom it was asked about."""

    accepts: dict[str, int]
    asked: Counter[str] = field(default_factory=Counter)
    breaks: Callable[[str], bool] = lambda prompt: False

    def evaluate(self, result: PipelineResult) -> EvaluationResult:
        prompt = result.run.steps[-1].prompt or ""
        self.asked[prompt] += 1
        if self.breaks(prompt):
            raise RuntimeError("the judge is out")
        _, subject, number = prompt.split()
        return EvaluationResult(
            int(number) == self.accepts[subject], score=int(number) / 10, feedback=f"after {number}"
        )


def drawing(world: World) -> Callable[[AgentContext], Pipeline]:
    def draw(context: AgentContext) -> Pipeline:
        """A drawing that gets better."""
        prompt = f"draw {{subject}} {context.iteration}"
        return Pipeline("sketch").step(
            world.provider, model="m", name="image", prompt=prompt, retry=RetryPolicy.disabled()
        )

    return draw


def sketch(world: World, judge: Evaluator, *keys: str, **options: Any) -> dg.AssetsDefinition:
    return agent_asset(
        drawing(world),
        judge,
        name="sketch",
        partitions=prompts(*keys) if keys else None,
        **options,
    )


def stored(world: World, key: str, partition: str | None) -> MediaRef | None:
    return run_sync(read_ref(world.store, key, partition))


def parents(world: World, run_id: str | None) -> list[str]:
    """The chain of runs that ends in this one, oldest first."""
    found: list[str] = []
    while run_id is not None:
        found.insert(0, run_id)
        run_id = run_sync(read_manifest(world.store, run_id)).run.parent_run_id
    return found


def test_the_accepted_iteration_becomes_the_asset(world: World) -> None:
    """Reference, version tags and metadata are those of the accepted one; the rest is listed."""
    asset = sketch(world, Judge({"fox": 2}), "fox")
    assert world.materialize([asset], "fox").success
    event = world.event("sketch", "fox")
    values = {name: value.value for name, value in event.metadata.items()}
    ref = world.ref("sketch", "fox")
    assert values["sha256"] == ref.media[0].sha256 == event.tags["dagster/data_version"]
    assert event.tags["dagster/code_version"] == asset.specs_by_key[event.asset_key].code_version
    assert values["prompt"] == "draw fox 2"
    assert (values["how"], values["score"], values["iteration_count"]) == ("generated", 0.2, 3)
    assert values["cost_usd"] == pytest.approx(0.12)
    tried = [record.data for record in event.metadata["iterations"].records]
    assert [(row["iteration"], row["accepted"], row["feedback"]) for row in tried] == [
        (0, False, "after 0"),
        (1, False, "after 1"),
        (2, True, "after 2"),
    ]
    assert parents(world, ref.run_id) == [row["run_id"] for row in tried]


def test_every_iteration_is_in_the_index(world: World) -> None:
    """Candidates are indexed under a key of their own, the accepted one under the asset's."""
    world.materialize([sketch(world, Judge({"fox": 1}), "fox")], "fox")
    catalog = IndexCatalog(world.store)
    run_sync(catalog.load())
    rows = catalog.query("select asset_key, partition_key from runs order by 1").to_pylist()
    found = [(row["asset_key"], row["partition_key"]) for row in rows]
    assert found == [("agent/sketch", "fox"), ("sketch", "fox")]


def test_partitions_are_loops_of_their_own(world: World) -> None:
    """One that is not accepted fails alone; the failure names its best score and what was tried."""
    judge = Judge({"fox": 0, "owl": 9, "yak": 1})
    asset = sketch(world, judge, "fox", "owl", "yak")
    result = world.materialize([asset], ["fox", "yak"], raise_on_error=False)
    assert world.materialized("sketch") == {"fox", "yak"}
    assert stored(world, "sketch", "owl") is None
    assert "none of 3 iterations was accepted" in failure_text(result)
    (failed,) = failed_records(result)
    assert (failed["partition"], failed["error"], failed["retry"]) == (
        "owl",
        "PipelineError",
        False,
    )
    metadata = failure_metadata(result)
    assert metadata["best_scores"] == {"owl": 0.2}
    rows = [record.data for record in metadata["iterations"].records]
    assert [(row["partition"], row["score"]) for row in rows] == [
        ("owl", "0"),
        ("owl", "0.1"),
        ("owl", "0.2"),
    ]
    assert all(run_sync(read_manifest(world.store, row["run_id"])).verify() for row in rows)


def test_what_is_not_accepted_leaves_the_asset_as_it_was(world: World) -> None:
    """A later loop without success changes neither reference nor materialisation."""
    asset = sketch(world, Judge({"fox": 1}), "fox")
    world.materialize([asset], "fox")
    before = world.ref("sketch", "fox")
    never = sketch(world, Judge({"fox": 9}), "fox")
    assert not world.materialize([never], "fox", raise_on_error=False).success
    assert world.ref("sketch", "fox") == before
    assert len(world.events("sketch")) == 1
    latest = stored(world, "agent/sketch", "fox")
    assert latest is not None
    chain = parents(world, latest.run_id)
    # The new loop refines what the asset held.
    assert chain[-4] == before.run_id
    assert len(chain) == 5


def test_a_retry_neither_pays_nor_judges_again(world: World) -> None:
    """A judge that breaks down at the third candidate costs nothing but the third judgement."""
    out = [True]
    judge = Judge({"fox": 2}, breaks=lambda prompt: out[0] and prompt == "draw fox 2")
    asset = sketch(world, judge, "fox")
    tags = {"dagster/root_run_id": "one"}
    failed = world.materialize([asset], "fox", raise_on_error=False, tags=tags)
    assert "RuntimeError" in failure_text(failed)
    assert world.provider.submitted == 3
    out[0] = False
    assert world.materialize([asset], "fox", tags=tags).success
    assert world.provider.submitted == 3
    assert judge.asked == {"draw fox 0": 1, "draw fox 1": 1, "draw fox 2": 2}
    values = {name: v.value for name, v in world.event("sketch", "fox").metadata.items()}
    assert (values["how"], values["cost_usd"], values["iteration_count"]) == ("finished", 0.0, 3)


@pytest.mark.parametrize("submitted", [1, 7, 20])
def test_a_loop_that_is_interrupted_at_any_moment_pays_for_nothing_twice(
    tmp_path: Path, submitted: int
) -> None:
    """Wherever the interrupt lands, running again asks only for what was not made."""
    keys = [f"k{i}" for i in range(10)]
    judge = Judge(dict.fromkeys(keys, 2))
    tags = {"dagster/root_run_id": "one"}
    # A log in files: an interrupt leaves the table of one in memory locked for good.
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        world = World(tmp_path, instance)
        asset = sketch(world, judge, *keys, max_concurrency=3)
        interrupt = interrupted_after(world, submitted)
        interrupted(world, [asset], keys, interrupt, tags=tags)
        world.provider.gate = None
        assert world.materialized("sketch") != set(keys)
        assert world.materialize([asset], keys, tags=tags).success
        assert world.materialized("sketch") == set(keys)
        wanted = [f"draw {key} {number}" for key in keys for number in range(3)]
        assert world.provider.submits == dict.fromkeys(wanted, 1)
        event = world.event("sketch", "k0")
        assert len(event.metadata["iterations"].records) == 3


def test_finished_iterations_count_even_if_the_factory_says_something_else_now(
    world: World,
) -> None:
    """A factory that writes a new prompt each time does not make a retry pay again."""
    numbers = itertools.count()

    def draw(context: AgentContext) -> Pipeline:
        prompt = f"draw {next(numbers)}"
        return Pipeline("sketch").step(world.provider, model="m", name="image", prompt=prompt)

    seen: list[str | None] = []

    def judge(result: PipelineResult) -> bool:
        seen.append(result.run.steps[-1].prompt)
        if len(seen) == 2:
            raise RuntimeError("the judge is out")
        return len(seen) == 3

    asset = agent_asset(draw, CallableEvaluator(judge), name="sketch")
    tags = {"dagster/root_run_id": "one"}
    world.materialize([asset], raise_on_error=False, tags=tags)
    assert world.materialize([asset], tags=tags).success
    assert seen == ["draw 0", "draw 1", "draw 1"]
    assert world.provider.submitted == 2


def test_another_evaluator_judges_what_is_there(world: World) -> None:
    """Who corrects the evaluator and re-executes pays for nothing that was made."""
    tags = {"dagster/root_run_id": "one"}

    def strict(result: PipelineResult) -> bool:
        return False

    def mild(result: PipelineResult) -> bool:
        return True

    def asset(judge: Callable[[PipelineResult], bool]) -> dg.AssetsDefinition:
        return agent_asset(drawing(world), CallableEvaluator(judge), name="a", partitions=table)

    table = prompts("fox")
    world.materialize([asset(strict)], "fox", raise_on_error=False, tags=tags)
    assert world.provider.submitted == 3
    assert not world.materialize([asset(strict)], "fox", raise_on_error=False, tags=tags).success
    assert world.materialize([asset(mild)], "fox", tags=tags).success
    assert world.provider.submitted == 3
    assert world.event("a", "fox").metadata["prompt"].value == "draw fox 0"


@pytest.mark.parametrize(
    ("body", "words"),
    [(b"{", "JSONDecodeError"), (b"[]", "TypeError"), (b'{"version": 2}', "ValueError")],
    ids=["broken", "no object", "newer"],
)
def test_a_damaged_record_is_a_typed_error(body: bytes, words: str, world: World) -> None:
    """It names the object to delete; nothing is paid meanwhile."""
    tags = {"dagster/root_run_id": "one"}
    asset = sketch(world, Judge({"fox": 9}), "fox", max_iterations=1)
    world.materialize([asset], "fox", raise_on_error=False, tags=tags)
    (record,) = (world.folder / "store" / "agents").rglob("0.json")
    record.write_bytes(body)
    result = world.materialize([asset], "fox", raise_on_error=False, tags=tags)
    (failed,) = failed_records(result)
    assert failed["error"] == "SchemaError"
    assert words in failed["message"]
    assert world.provider.submitted == 1


def test_an_evaluation_that_cannot_be_kept_is_refused(world: World) -> None:
    """Its metadata is part of the record that a retry reads; the media is kept all the same."""

    def judge(result: PipelineResult) -> EvaluationResult:
        return EvaluationResult(True, metadata={"image": object()})

    asset = agent_asset(drawing(world), CallableEvaluator(judge), name="a", partitions=prompts("x"))
    tags = {"dagster/root_run_id": "one"}
    for _ in range(2):
        result = world.materialize([asset], "x", raise_on_error=False, tags=tags)
        (failed,) = failed_records(result)
        assert "it is not JSON" in failed["message"]
    assert world.provider.submitted == 1


def test_a_new_materialisation_is_a_new_loop(world: World) -> None:
    """Another run is another wish: it pays, and refines what the asset holds."""
    asset = sketch(world, Judge({"fox": 0}), "fox")
    world.materialize([asset], "fox")
    first = world.ref("sketch", "fox")
    world.materialize([asset], "fox")
    second = world.ref("sketch", "fox")
    assert world.provider.submits == {"draw fox 0": 2}
    assert parents(world, second.run_id) == [first.run_id, second.run_id]


def test_deleted_media_is_made_again_by_a_retry(world: World) -> None:
    """A record of media that is gone is no reason to fail."""
    asset = sketch(world, Judge({"fox": 0}), "fox")
    tags = {"dagster/root_run_id": "one"}
    world.materialize([asset], "fox", tags=tags)
    run_sync(world.store.delete(world.ref("sketch", "fox").media[0].key))
    assert world.materialize([asset], "fox", tags=tags).success
    assert world.provider.submits == {"draw fox 0": 2}
    assert run_sync(world.store.head(world.ref("sketch", "fox").media[0].key))


def test_a_step_that_fails_fails_its_partition_with_its_own_error(world: World) -> None:
    """Outages are retried by Dagster; what was finished before is not asked again."""
    world.failed_prompts(ProviderUnavailableError("503", sent=False), "draw fox 1")
    asset = sketch(world, Judge({"fox": 1}), "fox")
    tags = {"dagster/root_run_id": "one"}
    result = world.materialize([asset], "fox", raise_on_error=False, tags=tags)
    (failed,) = failed_records(result)
    assert (failed["error"], failed["retry"]) == ("ProviderUnavailableError", True)
    world.provider.errors = {}
    assert world.materialize([asset], "fox", tags=tags).success
    assert world.provider.submits == {"draw fox 0": 1, "draw fox 1": 2}


def test_the_budget_of_a_partition_holds_across_attempts(world: World) -> None:
    """What earlier attempts paid counts."""
    out = [True]
    judge = Judge({"fox": 9}, breaks=lambda prompt: out[0] and prompt == "draw fox 1")
    asset = sketch(world, judge, "fox", max_iterations=9, max_cost_usd=0.1)
    tags = {"dagster/root_run_id": "one"}
    world.materialize([asset], "fox", raise_on_error=False, tags=tags)
    out[0] = False
    result = world.materialize([asset], "fox", raise_on_error=False, tags=tags)
    assert "(max_cost)" in failure_text(result)
    assert world.provider.submitted == 2


def test_upstream_media_reaches_the_factory(world: World) -> None:
    """It is given by asset key, and recorded as input of the step that uses it."""

    def draw(context: AgentContext) -> Pipeline:
        return Pipeline("moving").step(
            world.provider,
            model="m",
            modality="video",
            prompt=f"move {{subject}} {context.iteration}",
            external_inputs=context.inputs["story/image"],
        )

    pipeline = Pipeline("story").step(
        world.provider, model="m", name="image", prompt="draw {subject}"
    )
    table = prompts("fox")
    (image,) = pipeline.to_assets(partitions=table)
    moving = agent_asset(
        draw,
        Judge({"fox": 1}),
        name="moving",
        modality="video",
        deps=["story/image"],
        partitions=table,
    )
    assert world.materialize([image, moving], "fox").success
    made_from = world.ref("story/image", "fox").media[0].sha256
    event = world.event("moving", "fox")
    assert event.tags["dagster/input_data_version/story/image"] == made_from
    manifest = run_sync(read_manifest(world.store, world.ref("moving", "fox").run_id))
    assert [asset.sha256 for asset in manifest.run.steps[-1].inputs] == [made_from]
    assert manifest.verify()


def test_several_steps_make_one_candidate(world: World) -> None:
    """The last step is the asset; its manifest holds the steps before it."""

    def draw(context: AgentContext) -> Pipeline:
        return (
            Pipeline("film", tenant_id="acme")
            .step(world.provider, model="m", name="still", prompt="a still")
            .step(world.provider, model="m", name="clip", prompt="move x 0", input_from="still")
        )

    asset = agent_asset(draw, Judge({"x": 0}), name="film", key_prefix=["studio"])
    assert world.materialize([asset]).success
    manifest = run_sync(read_manifest(world.store, world.ref("studio/film").run_id))
    assert [step.prompt for step in manifest.run.steps] == ["a still", "move x 0"]
    assert (manifest.run.tenant_id, manifest.run.name) == ("acme", "film")


def test_providers_come_from_resources(world: World) -> None:
    """A name that is a resource key is that resource's provider."""

    def draw(context: AgentContext) -> Pipeline:
        size = {"width": 64, "height": 64}
        return Pipeline("p").step("local", model="local-image", prompt="draw x 0", params=size)

    asset = agent_asset(draw, Judge({"x": 0}), name="art", provider_resources=["local"])
    assert "local" in asset.required_resource_keys
    assert world.materialize([asset]).success
    assert "preview" in world.event("art").metadata


def test_the_check_looks_at_the_accepted_media(world: World) -> None:
    """Provenance is checked as for every generated asset."""
    result = world.materialize([sketch(world, Judge({"fox": 1}), "fox")], "fox")
    assert world.checks(result)["sketch"].passed


def test_the_asset_shows_what_it_is(world: World) -> None:
    """Docstring, kinds and limits; what decides the media decides the code version."""

    def spec(**options: Any) -> dg.AssetSpec:
        return next(iter(sketch(world, Judge({}), "fox", **options).specs))

    plain = spec(group_name="art", owners=["team:media"])
    assert (plain.description, plain.kinds) == ("A drawing that gets better.", {"image", "agent"})
    assert (plain.group_name, list(plain.owners)) == ("art", ["team:media"])
    assert plain.code_version == spec().code_version != spec(max_iterations=4).code_version
    assert spec(code_version="7").code_version == "7"
    judge = CallableEvaluator(lambda _: True)
    (unnamed,) = agent_asset(lambda _: Pipeline(), judge, name="x").specs
    assert unnamed.description == "Image that an evaluator accepts, in 3 tries at most."


def test_another_evaluator_is_another_code_version(world: World) -> None:
    """Its functions and its threshold decide what is accepted."""

    def score(result: PipelineResult) -> float:
        return 0.5

    judges: list[Evaluator] = [
        ThresholdEvaluator(score, 0.1),
        ThresholdEvaluator(score, 0.2),
        ThresholdEvaluator(score, 0.2, higher_is_better=False),
        ThresholdEvaluator(partial(score), 0.2, feedback_fn=str.format),  # type: ignore[arg-type]
        CallableEvaluator(score),  # type: ignore[arg-type]
        Judge({}),
    ]
    specs = [next(iter(sketch(world, judge).specs)) for judge in judges]
    assert len({spec.code_version for spec in specs}) == len(judges)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"max_iterations": 0}, "max_iterations"), ({"max_cost_usd": 0.0}, "max_cost_usd")],
    ids=["iterations", "cost"],
)
def test_limits_that_allow_nothing_are_refused(
    options: dict[str, Any], words: str, world: World
) -> None:
    """The definition fails, not a run."""
    with pytest.raises(ConfigError, match=words):
        sketch(world, Judge({}), **options)


def test_moderation_that_would_not_be_asked_is_refused(world: World) -> None:
    """As by `to_assets`."""

    def draw(context: AgentContext) -> Pipeline:
        return Pipeline("p", moderation=ModerationHook()).step(world.provider, model="m")

    result = world.materialize([agent_asset(draw, Judge({}), name="a")], raise_on_error=False)
    assert "moderation is looked at by run()" in failure_text(result)
    assert world.provider.submitted == 0


def test_a_pipeline_that_makes_two_media_is_refused(world: World) -> None:
    """Before anything is paid; the message names both."""

    def draw(context: AgentContext) -> Pipeline:
        pipeline = Pipeline("p").step(world.provider, model="m", name="a")
        return pipeline.step(world.provider, model="m", name="b")

    asset = agent_asset(draw, Judge({}), name="two")
    result = world.materialize([asset], raise_on_error=False)
    assert "ends in a, b" in failure_text(result)
    assert world.provider.submitted == 0
