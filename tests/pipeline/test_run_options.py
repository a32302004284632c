import asyncio
import io
import json
import logging
import threading
import time
from decimal import Decimal
from typing import Any

import pytest

from genblaze_dagster import Manifest, MediaStore, ObjectStorageSink, Pipeline, Run
from genblaze_dagster.core.enums import ProviderErrorCode, RunStatus, StepStatus
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import (
    ConfigError,
    ContentPolicyError,
    ModelError,
    PipelineError,
    PipelineTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.net.loop import run_sync
from genblaze_dagster.pipeline.announcing import StepCompleteEvent
from genblaze_dagster.pipeline.moderation import ModerationHook, ModerationResult
from genblaze_dagster.pipeline.result import PipelineResult
from genblaze_dagster.providers.base import BaseProvider
from genblaze_dagster.providers.mock import MockProvider
from genblaze_dagster.providers.protocol import GenerationRequest, JobStatus, Submission
from genblaze_dagster.providers.validation import ValidationResult, ValidationSource
from genblaze_dagster.providers.values import ProgressEvent, StepRetriedEvent
from genblaze_dagster.storage.manifests import read_manifest
from tests.pipeline.conftest import SteadyClock
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK


def test_a_failed_run_raises_with_its_first_failure(store: MediaStore, ledger: Ledger) -> None:
    """raise_on_failure is the default; the error says which step and why, and has the result."""
    bad = ScriptedProvider(submit_errors=[ContentPolicyError("refused")])
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m").step(bad, model="m", prompt="x")
    with pytest.raises(PipelineError) as caught:
        pipeline.run(store=store, ledger=ledger)
    assert caught.value.failed_step_index == 1
    assert caught.value.failed_step_error == "refused"
    assert len(caught.value.result.succeeded_steps()) == 1


def test_an_input_that_failed_is_recorded_as_such(store: MediaStore, ledger: Ledger) -> None:
    """The next step is failed, invalid_input, and its provider is never asked."""
    bad = ScriptedProvider(submit_errors=[ContentPolicyError("refused")])
    never = ScriptedProvider(name="never")
    pipeline = Pipeline("p", chain=True).step(bad, model="m").step(never, model="m", name="next")
    result = pipeline.run(store=store, ledger=ledger, fail_fast=False, raise_on_failure=False)
    failed = result.run.steps[1]
    assert (failed.status, failed.error_code) == (StepStatus.FAILED, "invalid_input")
    assert failed.metadata["failure_reason"] == "input_resolution"
    assert failed.metadata["provider_invoked"] is False
    assert never.submits == 0


def test_a_timeout_interrupts_a_slow_phase(store: MediaStore, ledger: Ledger) -> None:
    """run(timeout=) holds for every step, in the middle of waiting for a job."""
    provider = ScriptedProvider(job=True, polls=100_000)
    started = time.monotonic()
    result = (
        Pipeline("p")
        .step(provider, model="m", timeout=300)
        .run(store=store, ledger=ledger, timeout=0.15, raise_on_failure=False)
    )
    assert time.monotonic() - started < 60
    assert result.run.steps[0].error_code is ProviderErrorCode.TIMEOUT


def test_max_retries_alone_does_not_change_the_timeout(store: MediaStore, ledger: Ledger) -> None:
    """The request keeps the step's own 600 s, and the failed step is run again."""
    # One more than the policy itself tries again.
    refused = [RateLimitError("429", http_status=429) for _ in range(QUICK.max_attempts)]
    provider = ScriptedProvider(submit_errors=[*refused])
    pipeline = Pipeline("p").step(provider, model="m", retry=QUICK)
    pipeline.run(store=store, ledger=ledger, max_retries=1)
    assert [request.timeout for request in provider.seen] == [600.0] * (QUICK.max_attempts + 1)
    assert len(provider.billed) == 1


def test_what_does_not_pass_is_not_retried(store: MediaStore, ledger: Ledger) -> None:
    """max_retries is for errors that may pass; a refusal is final."""
    provider = ScriptedProvider(submit_errors=[ContentPolicyError("refused")])
    pipeline = Pipeline("p").step(provider, model="m", retry=QUICK)
    with pytest.raises(PipelineError, match="refused"):
        pipeline.run(store=store, ledger=ledger, max_retries=3)
    assert provider.submits == 1


@pytest.mark.parametrize("phase", ["submit", "poll"])
def test_a_retry_that_comes_too_late_is_not_waited_for(
    phase: str, store: MediaStore, ledger: Ledger
) -> None:
    """When the vendor asks for more time than there is, its own answer is the error, at once."""
    busy = RateLimitError("slow down", http_status=429, retry_after=60)
    provider = ScriptedProvider(job=True, **{f"{phase}_errors": [busy]})
    started = time.monotonic()
    result = (
        Pipeline("p")
        .step(provider, model="m", timeout=50)
        .run(store=store, ledger=ledger, raise_on_failure=False)
    )
    assert time.monotonic() - started < 40
    assert result.run.steps[0].error_code is ProviderErrorCode.RATE_LIMIT


def test_too_many_requests_and_lost_connections_pass_by_themselves(
    store: MediaStore, ledger: Ledger
) -> None:
    """429 and what never left are sent again without max_retries, and billed once."""
    provider = ScriptedProvider(
        submit_errors=[
            RateLimitError("slow down", http_status=429),
            ProviderUnavailableError("no route", sent=False),
        ]
    )
    Pipeline("p").step(provider, model="m", retry=QUICK).run(store=store, ledger=ledger)
    assert (provider.submits, len(provider.billed)) == (3, 1)


class Slow(ScriptedProvider):
    """Ten minutes pass while it works."""

    def __init__(self, clock: SteadyClock, **options: Any) -> None:
        super().__init__(**options)
        self.clock = clock

    async def submit(self, request: GenerationRequest) -> Submission:
        submission = await super().submit(request)
        if not self.job:
            self.clock.skip(600)
            # What is due by now happens before the answer is there.
            await asyncio.sleep(0.05)
        return submission

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        self.clock.skip(600)
        return await super().poll(job_id, request)


def test_pipeline_timeout_keeps_what_is_done(
    store: MediaStore, ledger: Ledger, steady_clock: SteadyClock
) -> None:
    """The error has the partial result, the running job is cancelled, the rest is not started."""
    slow = Slow(steady_clock, name="slow", job=True, polls=100_000)
    pipeline = (
        Pipeline("p")
        .step(ScriptedProvider(), model="m", name="done")
        .step(slow, model="m", name="slow", input_from="done", timeout=3600)
        .step(ScriptedProvider(), model="m", name="never", input_from="slow")
    )
    with pytest.raises(PipelineTimeoutError) as caught:
        pipeline.run(store=store, ledger=ledger, pipeline_timeout=300, raise_on_failure=False)
    result = caught.value.result
    assert isinstance(result, PipelineResult)
    assert list(result.outcomes) == ["done"]
    assert [step.status.value for step in result.run.steps] == ["succeeded", "failed", "failed"]
    assert len(slow.cancelled) == 1
    assert run_sync(read_manifest(store, result.run.run_id)).run.status is RunStatus.FAILED


def test_a_timeout_while_the_last_step_is_stored_keeps_both_records(
    store: MediaStore, ledger: Ledger, steady_clock: SteadyClock
) -> None:
    """What is paid is stored all the same, and the run's own record says that it was too late."""
    provider = Slow(steady_clock)
    pipeline = Pipeline("p").step(provider, model="m", prompt="x", timeout=3600)
    with pytest.raises(PipelineTimeoutError) as caught:
        pipeline.run(store=store, ledger=ledger, pipeline_timeout=300)
    late = caught.value.result.run
    assert late.status is RunStatus.FAILED
    assert run_sync(read_manifest(store, late.run_id)).verify()
    (row,) = ledger.rows()
    assert (row.state, row.run_id) == ("stored", late.parent_run_id)
    assert run_sync(read_manifest(store, row.run_id)).run.status is RunStatus.COMPLETED


def test_callbacks_hear_and_cannot_harm(
    store: MediaStore, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is called with its own event; what one raises is logged once and ignored."""
    progress: list[ProgressEvent] = []
    retried: list[StepRetriedEvent] = []
    completed: list[StepCompleteEvent] = []

    def on_progress(event: ProgressEvent) -> None:
        progress.append(event)
        raise RuntimeError("key sk-proj-" + "a1B2" * 8)

    provider = ScriptedProvider(
        job=True, poll_errors=[ProviderUnavailableError("down", sent=False)]
    )
    submitted: list[tuple[str, str]] = []
    pipeline = Pipeline("p").step(provider, model="m", retry=QUICK)
    pipeline.config({"on_submit": lambda step, job: submitted.append((step, job))})
    with caplog.at_level(logging.WARNING):
        result = pipeline.run(
            store=store,
            ledger=ledger,
            on_progress=on_progress,
            on_retry=retried.append,
            on_step_complete=completed.append,
        )
    assert [event.status for event in progress] == [
        *("submitted", "processing", "processing", "succeeded"),
    ]
    assert [(event.phase, event.error_code) for event in retried] == [("poll", "server_error")]
    (done,) = completed
    assert (done.step_index, done.total_steps, done.step) == (0, 1, result.run.steps[0])
    assert submitted == [(done.step.step_id, done.step.provider_payload["job_id"])]
    said = [record.getMessage() for record in caplog.records if "on_progress" in record.message]
    assert len(said) == 1
    assert "a1B2" not in said[0]


def test_config_gives_way_to_arguments(store: MediaStore, ledger: Ledger) -> None:
    """A keyword wins over invoke's config, which wins over the pipeline's."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p").step(provider, model="m").config({"timeout": 5.0})
    pipeline.run(store=store, ledger=ledger)
    run_sync(pipeline.arun(store=store, ledger=ledger, config={"timeout": 6.0}))
    pipeline.run(store=store, ledger=ledger, config={"timeout": 6.0}, timeout=7.0)
    assert [request.timeout for request in provider.seen] == [5.0, 6.0, 7.0]


@pytest.mark.parametrize(
    ("config", "words"),
    [({"tenant_id": "acme"}, "tenant_id"), ({"time_out": 3}, "'time_out'")],
    ids=["tenant", "unknown"],
)
def test_a_config_that_says_nothing_is_refused(config: dict[str, Any], words: str) -> None:
    """Tenants belong to the pipeline, and a misspelt key is not swallowed."""
    with pytest.raises(ConfigError, match=words):
        Pipeline("p").config(config)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"pipeline_timeout": float("nan")}, "pipeline_timeout"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"sink": object()}, "write_run"),
    ],
    ids=["retries", "timeout", "pipeline_timeout", "concurrency", "sink"],
)
def test_options_out_of_range_are_refused(
    options: dict[str, Any], words: str, store: MediaStore, ledger: Ledger
) -> None:
    """Nothing is asked with an option that makes no sense."""
    provider = ScriptedProvider()
    with pytest.raises(ConfigError, match=words):
        Pipeline("p").step(provider, model="m").run(store=store, ledger=ledger, **options)
    assert provider.submits == 0


def test_a_run_can_be_the_child_of_another(store: MediaStore, ledger: Ledger) -> None:
    """from_result links by parent_run_id, which is stored and does not change the hash."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    first = pipeline.run(store=store, ledger=ledger)
    second = pipeline.from_result(first).run(store=store, ledger=ledger)
    assert second.run.parent_run_id == first.run.run_id
    assert second.manifest.canonical_hash == first.manifest.canonical_hash
    stored = run_sync(read_manifest(store, second.run.run_id))
    assert stored.run.parent_run_id == first.run.run_id


def test_metadata_is_recorded_with_the_run(store: MediaStore, ledger: Ledger) -> None:
    """Of the pipeline and of the config; both are hashed."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m").metadata(campaign="spring")
    result = pipeline.config({"tags": ["a"], "metadata": {"by": "me"}}).run(
        store=store, ledger=ledger
    )
    assert result.run.metadata == {"campaign": "spring", "tags": ["a"], "by": "me"}
    assert result.manifest.verify()


def test_a_missing_model_stops_the_run_before_anything_is_asked(
    store: MediaStore, ledger: Ledger
) -> None:
    """Preflight names the model; switched off, the vendor decides."""

    class Picky(MockProvider):
        def validate_model(self, model_id: str, *, refresh: bool = False) -> ValidationResult:
            return ValidationResult.not_found(ValidationSource.USER, detail="gone")

    provider = Picky()
    pipeline = Pipeline("p").step(provider, model="old")
    with pytest.raises(ModelError, match="'old'"):
        pipeline.run(store=store, ledger=ledger)
    assert provider.call_count == 0
    pipeline.preflight(False).run(store=store, ledger=ledger)
    assert provider.call_count == 1


class Censor(ModerationHook):
    """Refuses a word in prompts, and all outputs if told to."""

    def __init__(self, word: str, *, outputs: bool = False) -> None:
        self.word = word
        self.outputs = outputs
        self.asked = 0

    def check_prompt(self, prompt: str | None, params: dict[str, Any]) -> ModerationResult:
        self.asked += 1
        return ModerationResult(self.word not in (prompt or ""), "unfit", ["words"])

    def check_output(self, assets: list[Asset]) -> ModerationResult:
        return ModerationResult(not self.outputs, "unfit to be seen")


def test_a_refused_prompt_is_not_sent(store: MediaStore, ledger: Ledger) -> None:
    """The step is failed with the hook's reasons, and nothing is in the ledger."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p", moderation=Censor("blood")).step(provider, model="m", prompt="blood")
    result = pipeline.run(store=store, ledger=ledger, raise_on_failure=False)
    step = result.run.steps[0]
    assert step.error == "Moderation rejected prompt/input: unfit (words)"
    assert step.error_code is ProviderErrorCode.INVALID_INPUT
    assert step.metadata["moderation"]["stage"] == "pre"
    assert provider.submits == 0
    assert list(ledger.rows()) == []


def test_a_refused_output_stays_on_its_failed_step(store: MediaStore, ledger: Ledger) -> None:
    """It is made and paid for: the record says both, and that it is not let through."""
    provider = ScriptedProvider()
    pipeline = Pipeline("p", moderation=Censor("none", outputs=True))
    pipeline.step(provider, model="m", prompt="x")
    result = pipeline.run(store=store, ledger=ledger, raise_on_failure=False)
    (step,) = result.run.steps
    assert (step.status, step.cost_usd, len(step.assets)) == (StepStatus.FAILED, 0.04, 1)
    assert step.metadata["moderation"]["stage"] == "post"
    assert result.outcomes == {}
    assert run_sync(read_manifest(store, result.run.run_id)).verify()


def test_assets_do_not_lose_moderation_silently() -> None:
    """Dagster assets are run without the hook, so they are refused."""
    pipeline = Pipeline("p", moderation=Censor("x")).step(ScriptedProvider(), model="m")
    with pytest.raises(ConfigError, match="moderation"):
        pipeline.to_assets()


def test_structured_log_writes_json_lines(
    store: MediaStore, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line on stderr is a JSON object, from the start of the run to its end."""
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    Pipeline("p", structured_log=True).step(ScriptedProvider(), model="m").run(
        store=store, ledger=ledger
    )
    events = [json.loads(line)["event"] for line in stderr.getvalue().splitlines()]
    assert events[0] == "pipeline.start"
    assert events[-2:] == ["step.completed", "pipeline.complete"]


def test_a_sink_without_a_store_is_told_of_the_run(store: MediaStore, ledger: Ledger) -> None:
    """What a ParquetSink or WebhookSink gets is stored by then."""
    told: list[tuple[Run, Manifest]] = []

    class Told:
        def write_run(self, run: Run, manifest: Manifest) -> None:
            told.append((run, manifest))

    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    result = pipeline.run(sink=Told(), store=store, ledger=ledger)
    assert told == [(result.run, result.manifest)]


def test_the_price_is_known_before_the_run() -> None:
    """The sum of the steps in decimal; None when one is unknown."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m")
    pipeline.step(ScriptedProvider(cost_usd=0.1), model="m", prompt="x")
    assert pipeline.estimated_cost() == Decimal("0.14")
    pipeline.step(ScriptedProvider(cost_usd=None), model="m", prompt="y")
    assert pipeline.estimated_cost() is None


@pytest.mark.parametrize("provider", [object(), 7, MockProvider], ids=["object", "number", "class"])
def test_what_is_no_provider_is_refused(provider: object) -> None:
    """It is both a ConfigError and a TypeError, and names what was given."""
    with pytest.raises(ConfigError, match="no provider") as caught:
        Pipeline("p").step(provider, model="m")  # type: ignore[arg-type]
    assert isinstance(caught.value, TypeError)


def test_a_guide_style_provider_keeps_its_retry_policy(store: MediaStore, ledger: Ledger) -> None:
    """The policy of its constructor holds when neither step nor run has one."""

    class Down(BaseProvider):
        name = "down"
        asked = 0

        def submit(self, step: Step, config: Any = None) -> Any:
            self.asked += 1
            raise ProviderUnavailableError("down", sent=False)

        def poll(self, prediction_id: Any, config: Any = None) -> bool:
            return True

        def fetch_output(self, prediction_id: Any, step: Step) -> Step:
            return step

    provider = Down(retry_policy=QUICK)
    with pytest.raises(PipelineError):
        Pipeline("p").step(provider, model="m").run(store=store, ledger=ledger)
    assert provider.asked == QUICK.max_attempts


def test_a_job_from_elsewhere_is_resumed() -> None:
    """resume_step polls a known job and returns its step."""
    provider = MockProvider()
    step = Step(provider="mock", model="m", prompt="x")
    assert provider.submit(step) == "sync"
    made = Pipeline("p").resume_step(step, "sync", provider)
    assert made.status is StepStatus.SUCCEEDED


def test_sync_runs_are_concurrent(store: MediaStore, ledger: Ledger) -> None:
    """Blocking providers run side by side in run(), each call on a thread."""
    everyone = threading.Barrier(4)

    class Meeting(MockProvider):
        def generate(self, step: Step, config: Any = None) -> Step:
            # One that waited for another to end would find nobody here.
            everyone.wait(60)
            return super().generate(step, config)

    pipeline = Pipeline("p").preflight(False)
    for index in range(4):
        pipeline.step(Meeting(), model="m", prompt=str(index))
    pipeline.run(sink=ObjectStorageSink(store), ledger=ledger)


def test_invoke_takes_a_config_only(store: MediaStore, ledger: Ledger) -> None:
    """An input has nowhere to go."""
    with pytest.raises(ConfigError, match="input"):
        asyncio.run(Pipeline("p").ainvoke("x"))  # type: ignore[arg-type]


def test_a_run_may_be_named_by_its_caller(store: MediaStore, ledger: Ledger) -> None:
    """A run id that is no UUID is kept, and what it makes is stored under it."""
    pipeline = Pipeline("p").step(ScriptedProvider(), model="m", name="one", prompt="x")
    result = pipeline.run(store=store, ledger=ledger, config={"run_id": "my-run"})
    assert result.run.run_id == "my-run"
    again = run_sync(read_manifest(store, "my-run"))
    assert again.run.steps[-1].assets[0].sha256
