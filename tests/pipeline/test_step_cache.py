import json
import subprocess
import sys
from pathlib import Path

import pytest

from genblaze_dagster import MediaStore, Pipeline
from genblaze_dagster.core.enums import StepStatus
from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import AuthError, ContentPolicyError, ModelError
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.step_cache import StepCache, cache_key
from tests.support.scripted import ScriptedProvider


def entries(cache: StepCache) -> list[Path]:
    return sorted(cache.cache_dir.glob("*.json"))


def test_keys_are_those_of_genblaze(vectors: Path) -> None:
    """With and without a tenant."""
    cases = json.loads((vectors / "genblaze" / "step_cache_keys.json").read_text())
    assert cases
    for case in cases:
        step = Step.model_validate(case["step"])
        assert cache_key(step) == case["key_no_tenant"]
        assert cache_key(step, "t1") == case["key_tenant_t1"]


def test_a_hit_is_the_outcome_of_the_new_step(tmp_path: Path) -> None:
    """It keeps id and metadata of who asks, costs nothing, and says whose outcome it is."""
    cache = StepCache(tmp_path)
    asked = Step(provider="p", model="m", prompt="x", metadata={"by": "first"})
    done = asked.model_copy(update={"status": StepStatus.SUCCEEDED, "cost_usd": 0.5})
    cache.put(asked, done)
    again = Step(provider="p", model="m", prompt="x", metadata={"by": "second"})
    hit = cache.get(again)
    assert hit is not None
    assert (hit.step_id, hit.metadata, hit.cost_usd) == (again.step_id, {"by": "second"}, 0.0)
    assert hit.provider_payload["step_cache"] == {"hit": True, "step_id": asked.step_id}
    assert cache.get(again, "acme") is None
    cache.clear()
    assert entries(cache) == []


def test_only_what_succeeded_is_kept(tmp_path: Path) -> None:
    """A failure is asked again."""
    cache = StepCache(tmp_path)
    failed = Step(provider="p", model="m", status=StepStatus.FAILED)
    cache.put(failed, failed)
    assert cache.get(failed) is None
    assert entries(cache) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b'{"model": 1}', b"\xff\xfe", b" " * (16 * 1024 * 1024 + 1)],
    ids=["empty", "cut", "deep", "wrong", "bytes", "long"],
)
def test_a_corrupt_entry_is_a_counted_miss(content: bytes, tmp_path: Path) -> None:
    """Whatever a file holds, it is no hit and no error."""
    cache = StepCache(tmp_path)
    step = Step(provider="p", model="m")
    (tmp_path / f"{cache_key(step)}.json").write_bytes(content)
    assert cache.get(step) is None
    assert cache.corruption_count == 1


def test_a_second_run_asks_nobody(tmp_path: Path, store: MediaStore, ledger: Ledger) -> None:
    """Same bytes and hash, no cost, and a record of its own that says where it comes from."""
    provider = ScriptedProvider()
    cache = StepCache(tmp_path / "cache")
    pipeline = Pipeline("p", chain=True).cache(cache).step(provider, model="m", prompt="x")
    pipeline.step(provider, model="m", prompt="y", modality="video")
    first = pipeline.run(store=store, ledger=ledger)
    second = pipeline.run(store=store, ledger=ledger)
    assert provider.submits == 2
    assert [step.cost_usd for step in second.run.steps] == [0.0, 0.0]
    assert [step.assets[0].sha256 for step in second.run.steps] == [
        step.assets[0].sha256 for step in first.run.steps
    ]
    marks = [step.provider_payload["step_cache"]["step_id"] for step in second.run.steps]
    assert marks == [step.step_id for step in first.run.steps]
    assert second.run.run_id != first.run.run_id
    assert second.manifest.verify()


def test_new_metadata_is_kept_on_a_hit(tmp_path: Path, store: MediaStore, ledger: Ledger) -> None:
    """Metadata is no part of the key, and the caller's own is recorded."""
    provider = ScriptedProvider()
    cache = StepCache(tmp_path / "cache")
    for scene in (1, 2):
        pipeline = Pipeline("p").cache(cache)
        pipeline.step(provider, model="m", prompt="x", metadata={"scene": scene})
        result = pipeline.run(store=store, ledger=ledger)
        assert result.run.steps[0].metadata == {"scene": scene}
    assert provider.submits == 1


def test_media_that_is_gone_or_changed_is_made_again(
    tmp_path: Path, store: MediaStore, ledger: Ledger
) -> None:
    """An entry whose bytes the store no longer has, or has otherwise, is a miss."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p").cache(StepCache(tmp_path / "cache"))
    pipeline.step(provider, model="m", prompt="x")
    result = pipeline.run(store=store, ledger=ledger)
    run_sync(store.delete(result.outcomes["image"].ref.media[0].key))
    again = pipeline.run(store=store, ledger=ledger)
    assert provider.submits == 2
    assert again.run.steps[0].cost_usd == 0.04


def test_an_entry_with_a_wrong_hash_is_a_miss(
    tmp_path: Path, store: MediaStore, ledger: Ledger
) -> None:
    """The bytes must be those that the entry names."""
    provider = ScriptedProvider()
    cache = StepCache(tmp_path / "cache")
    pipeline = Pipeline("p").cache(cache).step(provider, model="m", prompt="x")
    pipeline.run(store=store, ledger=ledger)
    (path,) = entries(cache)
    entry = json.loads(path.read_text())
    entry["assets"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(entry))
    pipeline.run(store=store, ledger=ledger)
    assert provider.submits == 2


def test_a_fallback_is_kept_under_the_model_that_delivered(
    tmp_path: Path, store: MediaStore, ledger: Ledger
) -> None:
    """The declared model is tried again; the one that stands in is not paid twice."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p").cache(StepCache(tmp_path / "cache"))
    pipeline.step(provider, model="bad", fallback_models=["good"], prompt="x")
    for _ in range(2):
        provider.submit_errors = [ModelError("gone", sent=True)]
        result = pipeline.run(store=store, ledger=ledger)
        assert result.run.steps[0].model == "good"
    assert [request.model for request in provider.seen] == ["bad", "good", "bad"]


def test_failures_are_not_cached(tmp_path: Path, store: MediaStore, ledger: Ledger) -> None:
    """The next run asks again."""
    provider = ScriptedProvider(submit_errors=[ContentPolicyError("refused")])
    pipeline = Pipeline("p").cache(StepCache(tmp_path / "cache")).step(provider, model="m")
    assert pipeline.run(store=store, ledger=ledger, raise_on_failure=False).errors
    assert not pipeline.run(store=store, ledger=ledger).errors


def test_a_private_prompt_is_not_in_the_cache(
    tmp_path: Path, store: MediaStore, ledger: Ledger
) -> None:
    """It is found again by the hash of the request."""
    provider = ScriptedProvider()
    cache = StepCache(tmp_path / "cache")
    pipeline = Pipeline("p").cache(cache)
    pipeline.step(provider, model="m", prompt="a secret plan", prompt_visibility="private")
    pipeline.run(store=store, ledger=ledger)
    pipeline.run(store=store, ledger=ledger)
    assert provider.submits == 1
    assert b"secret plan" not in b"".join(path.read_bytes() for path in entries(cache))


def test_a_job_that_is_paid_is_finished_by_its_vendor(
    tmp_path: Path, store: MediaStore, ledger: Ledger
) -> None:
    """A cache that knows the answer does not keep an open job from being fetched."""
    cache = StepCache(tmp_path / "cache")
    provider = ScriptedProvider(job=True)
    pipeline = Pipeline("p").cache(cache).step(provider, model="m", prompt="x")
    pipeline.run(store=store, ledger=ledger)
    (path,) = entries(cache)
    kept = path.read_bytes()
    path.unlink()
    provider.poll_errors = [AuthError("key revoked", http_status=401)]
    pipeline.run(store=store, ledger=ledger, raise_on_failure=False)
    path.write_bytes(kept)
    result = pipeline.run(store=store, ledger=ledger)
    assert result.outcomes["image"].origin.value == "resumed"
    assert provider.submits == 2


def test_genblaze_reads_our_entries_and_we_read_its_own(tmp_path: Path) -> None:
    """Both packages may share a folder."""
    pytest.importorskip("genblaze_core")
    script = (
        "import sys\n"
        "from genblaze_core import Step, StepCache\n"
        "from genblaze_core import StepStatus\n"
        "cache = StepCache(sys.argv[1])\n"
        "step = Step(provider='p', model='m', prompt='theirs')\n"
        "cache.put(step, step.model_copy(update={'status': StepStatus.SUCCEEDED}))\n"
        "found = cache.get(Step(provider='p', model='m', prompt='ours'))\n"
        "print(found.cost_usd)\n"
    )
    cache = StepCache(tmp_path)
    ours = Step(provider="p", model="m", prompt="ours")
    cache.put(ours, ours.model_copy(update={"status": StepStatus.SUCCEEDED, "cost_usd": 0.25}))
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "0.25"
    assert cache.get(Step(provider="p", model="m", prompt="theirs")) is not None
