from pathlib import Path

import pytest

from genblaze_dagster import Manifest, MediaStore, Pipeline, Run, SegmentWriter
from genblaze_dagster.core.enums import RunStatus, StepStatus
from genblaze_dagster.errors import (
    ConfigError,
    ContentPolicyError,
    PipelineError,
    UnknownProviderError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.plan import stored_steps
from genblaze_dagster.storage.integrity import check_refs
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.refs import list_refs
from tests.support.scripted import ScriptedProvider


def test_a_chain_unpacks_into_run_and_manifest(store: MediaStore, ledger: Ledger) -> None:
    """The last step's manifest is the pipeline's: it verifies and holds every step in order."""
    provider = ScriptedProvider()
    pipeline = (
        Pipeline("shots", chain=True, tenant_id=" acme ", project_id="p1")
        .step(provider, model="m", prompt="a {subject}")
        .step(provider, model="m", prompt="move", modality="video")
    )
    run, manifest = pipeline.run(store=store, ledger=ledger, variables={"subject": "fox"})
    assert isinstance(run, Run)
    assert isinstance(manifest, Manifest)
    assert manifest.verify()
    assert (run.status, run.name, run.tenant_id) == (RunStatus.COMPLETED, "shots", "acme")
    assert [s.prompt for s in run.steps] == ["a fox", "move"]
    assert run.steps[1].inputs[0].sha256 == run.steps[0].assets[0].sha256


def test_media_is_reached_by_step_name(store: MediaStore, ledger: Ledger) -> None:
    """The result opens each step's stored bytes."""
    pipeline = Pipeline("shots").step(ScriptedProvider(size=100), model="m", name="still")
    result = pipeline.run(store=store, ledger=ledger)
    assert len(result.media("still").bytes()) == 100
    with pytest.raises(KeyError):
        result.media("clip")


def test_a_fan_out_gets_a_manifest_of_the_whole_run(store: MediaStore, ledger: Ledger) -> None:
    """With several last steps one more manifest holds them all, each step once."""
    provider = ScriptedProvider()
    pipeline = (
        Pipeline("fan")
        .step(provider, model="m", name="still")
        .step(provider, model="m", name="one", prompt="1", input_from="still")
        .step(provider, model="m", name="two", prompt="2", input_from="still")
    )
    result = pipeline.run(store=store, ledger=ledger)
    assert [s.prompt for s in result.run.steps] == [None, "1", "2"]
    assert run_sync(read_manifest(store, result.run.run_id)).verify()
    assert provider.submits == 3


def test_a_failure_is_raised_with_what_succeeded(store: MediaStore, ledger: Ledger) -> None:
    """The error carries the result; the good step is stored, its dependants were not run."""
    good = ScriptedProvider()
    bad = ScriptedProvider(name="bad", submit_errors=[ContentPolicyError("refused")])
    pipeline = (
        Pipeline("p")
        .step(good, model="m", name="a")
        .step(bad, model="m", name="b", input_from="a")
        .step(good, model="m", name="c", input_from="b")
    )
    with pytest.raises(PipelineError, match="2 of 3 steps failed") as caught:
        pipeline.run(store=store, ledger=ledger)
    result = caught.value.result
    assert result is not None
    assert list(result.outcomes) == ["a"]
    assert good.submits == 1
    assert "its input 'b' failed" in result.error_summary()
    stored = run_sync(read_manifest(store, result.run.run_id))
    assert stored.run.status is RunStatus.FAILED
    assert [s.status for s in stored.run.steps] == [
        StepStatus.SUCCEEDED,
        StepStatus.FAILED,
        StepStatus.FAILED,
    ]
    assert stored.run.steps[1].error_code == "content_policy"
    assert stored.verify()


def test_failures_can_be_returned_and_others_go_on(store: MediaStore, ledger: Ledger) -> None:
    """Without fail_fast independent steps still run, and nothing is raised when not wanted."""
    bad = ScriptedProvider(name="bad", submit_errors=[ContentPolicyError("refused")])
    good = ScriptedProvider()
    pipeline = Pipeline("p", max_concurrency=1).step(bad, model="m", name="a")
    pipeline.step(good, model="m", name="b")
    result = pipeline.run(store=store, ledger=ledger, fail_fast=False, raise_on_failure=False)
    assert (list(result.errors), list(result.outcomes)) == (["a"], ["b"])
    assert [s.error_code for s in result.failed_steps()] == ["content_policy"]
    assert len(result.succeeded_steps()) == 1


def test_fail_fast_starts_nothing_after_a_failure(store: MediaStore, ledger: Ledger) -> None:
    """A step that has not started when another fails is not paid for."""
    bad = ScriptedProvider(name="bad", submit_errors=[ContentPolicyError("refused")])
    good = ScriptedProvider()
    pipeline = Pipeline("p", max_concurrency=1).step(bad, model="m", name="a")
    pipeline.step(good, model="m", name="b")
    result = pipeline.run(store=store, ledger=ledger, raise_on_failure=False)
    assert list(result.errors) == ["a", "b"]
    assert good.submits == 0


def test_reuse_makes_the_second_run_free(store: MediaStore, ledger: Ledger) -> None:
    """reuse=True asks the provider for nothing when nothing has changed."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p", chain=True).step(provider, model="m", prompt="x")
    pipeline.step(provider, model="m", prompt="y", modality="video")
    first = pipeline.run(store=store, ledger=ledger)
    second = pipeline.run(store=store, ledger=ledger, reuse=True)
    assert provider.submits == 2
    assert {o.paid_usd for o in second.outcomes.values()} == {0.0}
    assert second.manifest.canonical_hash == first.manifest.canonical_hash


def test_the_plan_knows_what_is_stored(store: MediaStore, ledger: Ledger) -> None:
    """Only steps whose request and bytes are unchanged count as stored."""
    provider = ScriptedProvider()

    def pipeline(prompt: str) -> Pipeline:
        made = Pipeline("p", chain=True).step(provider, model="m", name="a", prompt="{x}")
        return made.step(provider, model="m", name="b", prompt=prompt)

    async def stored(prompt: str, x: str) -> list[str]:
        found = await stored_steps(
            pipeline(prompt), store, partition_key=None, variables={"x": x}, key_prefix=["p"]
        )
        return sorted(found)

    result = pipeline("b").run(store=store, ledger=ledger, variables={"x": "1"})
    assert run_sync(stored("b", "1")) == ["a", "b"]
    assert run_sync(stored("other", "1")) == ["a"]
    assert run_sync(stored("b", "2")) == []
    run_sync(store.delete(result.outcomes["b"].ref.media[0].key))
    assert run_sync(stored("b", "1")) in (["a"], [])


def test_the_index_gets_every_step(store: MediaStore, ledger: Ledger) -> None:
    """An indexer collects one manifest per step and is flushed."""
    pipeline = Pipeline("p", chain=True).step(ScriptedProvider(), model="m", name="a")
    pipeline.step(ScriptedProvider(), model="m", name="b")
    pipeline.run(store=store, ledger=ledger, index=SegmentWriter(store))

    async def keys() -> list[str]:
        return [info.key async for info in store.list("index/")]

    indexed = run_sync(keys())
    assert any("/steps/" in key for key in indexed)
    pipeline.run(store=store, ledger=ledger, index=SegmentWriter(store), reuse=True)
    # What was reused is indexed already, as what it was made for.
    assert run_sync(keys()) == indexed


def test_defaults_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments media and ledger go where the variables say."""
    monkeypatch.setenv("GENBLAZE_STORE", (tmp_path / "media").as_uri())
    monkeypatch.setenv("GENBLAZE_LEDGER", f"sqlite:///{tmp_path / 'l.db'}")
    Pipeline("p").step("local", model="local-image", prompt="x").run()

    async def refs() -> int:
        store = MediaStore((tmp_path / "media").as_uri())
        found = [ref async for ref in list_refs(store)]
        checks = await check_refs(store, found)
        assert all(check.ok for check in checks)
        return len(found)

    assert run_sync(refs()) == 1
    assert (tmp_path / "l.db").exists()


def test_wrong_calls_say_what_to_do(store: MediaStore, ledger: Ledger) -> None:
    """An empty pipeline, two destinations and an unknown provider are typed errors."""
    with pytest.raises(ConfigError, match="no steps"):
        Pipeline("p").run(store=store, ledger=ledger)
    pipeline = Pipeline("p").step("nowhere", model="m")
    with pytest.raises(PipelineError) as caught:
        pipeline.run(store=store, ledger=ledger)
    assert isinstance(caught.value.result.errors["image"], UnknownProviderError)  # type: ignore[attr-defined]


def test_run_works_inside_a_running_loop(store: MediaStore, ledger: Ledger) -> None:
    """A notebook has a loop already; run() does not mind."""

    async def cell() -> int:
        pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
        return len(pipeline.run(store=store, ledger=ledger).run.steps)

    assert run_sync(cell()) == 1
