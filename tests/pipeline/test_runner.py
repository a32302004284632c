import asyncio
import hashlib
import time
import uuid
from pathlib import Path

import pytest

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    HeldError,
    ManifestError,
    ModelError,
    OutputError,
    PromptTemplateError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.events import StepEvent, StepEventType
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import GenerationRequest, JobStatus, Output
from genblaze_dagster.storage.integrity import check_ref
from genblaze_dagster.storage.manifests import read_manifest
from genblaze_dagster.storage.refs import read_ref
from genblaze_dagster.storage.store import MediaStore
from tests.pipeline.conftest import SteadyClock
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, run, step, target


def test_a_finished_step_is_durable_in_every_place(store: MediaStore, ledger: Ledger) -> None:
    """Bytes, manifest, reference and ledger row exist, agree and verify."""
    provider = ScriptedProvider()
    events: list[StepEvent] = []
    outcome = run(store, ledger, step(provider, seed=7, params={"steps": 4}), events=events)

    media = outcome.ref.media[0]
    data = asyncio.run(store.get(media.key))
    assert hashlib.sha256(data).hexdigest() == media.sha256 == outcome.ref.data_version
    stored = asyncio.run(read_manifest(store, outcome.ref.manifest_key))
    assert stored.verify()
    assert stored.run.run_id == outcome.ref.run_id
    assert uuid.UUID(outcome.ref.run_id).version == 7
    executed = stored.run.steps[-1]
    assert (executed.prompt, executed.seed, executed.params) == ("a fox", 7, {"steps": 4})
    assert executed.cost_usd == 0.04
    assert asyncio.run(read_ref(store, "image", "fox")) == outcome.ref
    assert asyncio.run(check_ref(store, outcome.ref)).ok
    rows = list(ledger.rows())
    assert [row.state for row in rows] == [SubmissionState.STORED]
    assert rows[0].cost_usd == 0.04
    assert [(event.type, event.status) for event in events] == [
        (StepEventType.STARTED, None),
        (StepEventType.PROGRESS, "submitted"),
        (StepEventType.PROGRESS, "succeeded"),
        (StepEventType.COMPLETED, None),
    ]
    assert outcome.origin is Origin.GENERATED


def test_a_retry_in_the_same_scope_pays_nothing(store: MediaStore, ledger: Ledger) -> None:
    """Whoever asks again inside one run or backfill gets what is stored."""
    provider = ScriptedProvider()
    first = run(store, ledger, step(provider))
    again = run(store, ledger, step(provider))
    assert provider.submits == 1
    assert again.origin is Origin.FINISHED
    assert again.ref == first.ref
    assert again.paid_usd == 0.0


def test_a_new_scope_is_a_new_intent_with_its_parent(store: MediaStore, ledger: Ledger) -> None:
    """Materialising again generates again, and the manifest names the one before."""
    provider = ScriptedProvider()
    first = run(store, ledger, step(provider))
    second = run(store, ledger, step(provider), target("run-2"))
    assert provider.submits == 2
    assert second.manifest.run.parent_run_id == first.ref.run_id


def test_reuse_takes_an_equal_generation_of_anyone(store: MediaStore, ledger: Ledger) -> None:
    """reuse=True gives another partition with the same request the stored media, for nothing."""
    provider = ScriptedProvider()
    first = run(store, ledger, step(provider))
    reused = run(store, ledger, step(provider), target("run-2", "other", reuse=True))
    assert provider.submits == 1
    assert reused.origin is Origin.REUSED
    assert reused.ref.partition_key == "other"
    assert reused.ref.media == first.ref.media
    assert asyncio.run(read_ref(store, "image", "other")) == reused.ref


def test_deleted_media_is_generated_again(store: MediaStore, ledger: Ledger) -> None:
    """A ledger row whose bytes are gone does not give a reference to nothing."""
    provider = ScriptedProvider()
    first = run(store, ledger, step(provider))
    asyncio.run(store.delete(first.ref.media[0].key))
    again = run(store, ledger, step(provider))
    assert again.origin is Origin.GENERATED
    assert provider.submits == 2
    assert asyncio.run(check_ref(store, again.ref)).ok
    assert run(store, ledger, step(provider)).origin is Origin.FINISHED
    assert provider.submits == 2


def test_a_job_is_polled_to_its_end_and_its_id_stays_out_of_the_hash(
    store: MediaStore, ledger: Ledger
) -> None:
    """Job APIs are submitted, polled and fetched; two equal runs have one canonical hash."""
    provider = ScriptedProvider(job=True, polls=2)
    events: list[StepEvent] = []
    outcome = run(store, ledger, step(provider), events=events)
    payload = outcome.manifest.run.steps[-1].provider_payload
    assert payload["job_id"].startswith("job-")
    progress = [e for e in events if e.type is StepEventType.PROGRESS]
    assert [e.progress for e in progress if e.progress] == [
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    ]
    assert [e.status for e in progress] == ["submitted", *["processing"] * 3, "succeeded"]
    assert [e.job_id for e in progress] == [None, *[payload["job_id"]] * 4]
    other = run(store, ledger, step(provider), target("run-2"))
    assert other.ref.canonical_hash == outcome.ref.canonical_hash


def test_a_job_left_behind_is_resumed_not_submitted(store: MediaStore, ledger: Ledger) -> None:
    """Polling that gives up leaves the job open; the next attempt of any scope fetches it."""
    outage = [ProviderUnavailableError("down", http_status=503) for _ in range(3)]
    provider = ScriptedProvider(job=True, poll_errors=list(outage))
    with pytest.raises(ProviderUnavailableError):
        run(store, ledger, step(provider))
    assert next(iter(ledger.rows())).state is SubmissionState.SUBMITTED
    outcome = run(store, ledger, step(provider), target("run-2"))
    assert outcome.origin is Origin.RESUMED
    assert provider.submits == 1
    assert len(provider.billed) == 1


def test_a_wrong_key_while_polling_does_not_lose_the_job(store: MediaStore, ledger: Ledger) -> None:
    """A revoked key says nothing about a paid job: it is resumed when the key works again."""
    provider = ScriptedProvider(job=True, poll_errors=[AuthError("key revoked", http_status=401)])
    with pytest.raises(AuthError):
        run(store, ledger, step(provider))
    assert run(store, ledger, step(provider)).origin is Origin.RESUMED
    assert provider.submits == 1


def test_a_failed_job_may_be_tried_again(store: MediaStore, ledger: Ledger) -> None:
    """The vendor's own failure ends the row; the next attempt is a new submit of the same run."""
    provider = ScriptedProvider(job=True, failing_job=True)
    with pytest.raises(ModelError):
        run(store, ledger, step(provider))
    assert next(iter(ledger.rows())).state is SubmissionState.FAILED
    provider.failing_job = False
    assert run(store, ledger, step(provider)).origin is Origin.GENERATED
    assert provider.submits == 2
    # A vendor that replays answers by key must not replay the failure.
    assert len({request.idempotency_key for request in provider.seen}) == 2


def test_a_lost_answer_is_held_and_never_sent_again(store: MediaStore, ledger: Ledger) -> None:
    """Nobody knows whether the vendor took the request, so a person decides."""
    lost = ProviderUnavailableError("connection reset", sent=None)
    provider = ScriptedProvider(submit_errors=[lost], accept_before_error=True)
    with pytest.raises(HeldError) as caught:
        run(store, ledger, step(provider))
    assert caught.value.__cause__ is lost
    with pytest.raises(HeldError):
        run(store, ledger, step(provider))
    with pytest.raises(HeldError):
        run(store, ledger, step(provider), target("run-2"))
    assert provider.submits == 1
    assert len(provider.billed) == 1


def test_a_lost_answer_of_a_deduplicating_vendor_is_sent_again_with_the_same_key(
    store: MediaStore, ledger: Ledger
) -> None:
    """The same idempotency key cannot be billed twice, so the Runner retries by itself."""
    lost = ProviderUnavailableError("connection reset", sent=None)
    provider = ScriptedProvider(submit_errors=[lost], deduplicates=True)
    outcome = run(store, ledger, step(provider))
    assert provider.submits == 2
    assert len({request.idempotency_key for request in provider.seen}) == 1
    assert outcome.manifest.run.steps[-1].retries == 1


def test_one_lost_answer_outweighs_later_refusals(store: MediaStore, ledger: Ledger) -> None:
    """A refusal after a lost acceptance does not free the key: the next attempt uses it again."""
    lost = ProviderUnavailableError("connection reset", sent=None)
    refused = ContentPolicyError("refused")
    provider = ScriptedProvider(
        submit_errors=[lost, refused], deduplicates=True, accept_before_error=True
    )
    with pytest.raises(ContentPolicyError):
        run(store, ledger, step(provider))
    run(store, ledger, step(provider), target("run-2"))
    assert len({request.idempotency_key for request in provider.seen}) == 1


@pytest.mark.parametrize(
    "error",
    [
        ProviderUnavailableError("no route", sent=False),
        RateLimitError("slow down", http_status=429, retry_after=0.001),
    ],
)
def test_what_the_vendor_never_took_is_sent_again(
    store: MediaStore, ledger: Ledger, error: Exception
) -> None:
    """Failures before sending and refusals for rate are retried within the policy."""
    events: list[StepEvent] = []
    provider = ScriptedProvider(submit_errors=[error, error])
    assert run(store, ledger, step(provider), events=events).attempts == 3
    assert [e.type for e in events].count(StepEventType.RETRIED) == 2


def test_attempts_are_bounded(store: MediaStore, ledger: Ledger) -> None:
    """After max_attempts the error is raised and the row says failed."""
    errors: list[BaseException] = [
        ProviderUnavailableError("no route", sent=False) for _ in range(9)
    ]
    provider = ScriptedProvider(submit_errors=errors)
    with pytest.raises(ProviderUnavailableError):
        run(store, ledger, step(provider))
    assert provider.submits == 3
    assert next(iter(ledger.rows())).state is SubmissionState.FAILED


@pytest.mark.parametrize(
    "error",
    [
        ProviderUnavailableError("busy", http_status=500),
        ProviderUnavailableError("busy", http_status=503, retry_after=0.001),
        ProviderTimeoutError("no worker in time", http_status=504),
        ProviderTimeoutError("request timeout", http_status=408),
    ],
    ids=lambda error: str(error.http_status),
)
def test_a_vendor_that_fails_at_a_submit_may_have_taken_it(
    store: MediaStore, ledger: Ledger, error: Exception
) -> None:
    """Its answer says nothing about the job: a person decides, whichever retry comes by."""
    provider = ScriptedProvider(submit_errors=[error], accept_before_error=True)
    with pytest.raises(HeldError) as caught:
        run(store, ledger, step(provider))
    assert caught.value.__cause__ is error
    with pytest.raises(HeldError):
        run(store, ledger, step(provider))
    assert (provider.submits, len(provider.billed)) == (1, 1)
    assert next(iter(ledger.rows())).state is SubmissionState.HELD


def test_a_deduplicating_vendor_that_fails_at_a_submit_is_asked_again(
    store: MediaStore, ledger: Ledger
) -> None:
    """Under the same key it bills once, whatever it had done when it failed."""
    failed = ProviderUnavailableError("busy", http_status=500)
    provider = ScriptedProvider(submit_errors=[failed], deduplicates=True, accept_before_error=True)
    assert run(store, ledger, step(provider)).attempts == 2
    assert len({request.idempotency_key for request in provider.seen}) == 1


def test_a_refusal_leaves_nothing_in_the_ledger(store: MediaStore, ledger: Ledger) -> None:
    """What the provider's own rules refuse is refused before there is an intent."""
    provider = ScriptedProvider(refuse=ModelError("no such model: nope"))
    with pytest.raises(ModelError):
        run(store, ledger, step(provider))
    assert list(ledger.rows()) == []
    assert provider.submits == 0


@pytest.mark.parametrize(
    ("params", "error"),
    [({"x": {1, 2}}, ManifestError), ({"x": "\ud800"}, ManifestError), ({"x": b""}, ManifestError)],
)
def test_what_no_manifest_can_hold_is_refused_before_paying(
    store: MediaStore, ledger: Ledger, params: dict[str, object], error: type[Exception]
) -> None:
    """Sets, bytes and lone surrogates would make a manifest that cannot be hashed."""
    provider = ScriptedProvider()
    spec = StepSpec(name="image", provider=provider, model="m", prompt="a", params=params)
    with pytest.raises(error):
        run(store, ledger, spec)
    assert provider.submits == 0


def test_a_missing_variable_stops_before_paying(store: MediaStore, ledger: Ledger) -> None:
    """The template's error comes before any submit."""
    provider = ScriptedProvider()
    with pytest.raises(PromptTemplateError, match="subject"):
        run(store, ledger, step(provider), row={"topic": "fox"})
    assert provider.submits == 0


@pytest.mark.parametrize("outputs", [(), (Output(data=b""),), (Output(),)])
def test_a_success_without_media_is_an_error(
    store: MediaStore, ledger: Ledger, outputs: tuple[Output, ...]
) -> None:
    """No output, an empty one and an undefined one are all reported, and nothing is recorded."""
    provider = ScriptedProvider(outputs=outputs)
    with pytest.raises(OutputError):
        run(store, ledger, step(provider))
    assert asyncio.run(read_ref(store, "image", "fox")) is None


def test_a_step_that_takes_too_long_is_interrupted_and_resumed(
    store: MediaStore, ledger: Ledger, steady_clock: SteadyClock
) -> None:
    """The timeout cuts a slow job, which the next attempt continues."""

    class Slow(ScriptedProvider):
        async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
            if self.polls:
                steady_clock.skip(100)
            return await super().poll(job_id, request)

    provider = Slow(job=True, polls=10_000)
    with pytest.raises(ProviderTimeoutError):
        run(store, ledger, step(provider, timeout=300))
    provider.polls = 0
    assert run(store, ledger, step(provider)).origin is Origin.RESUMED
    assert provider.submits == 1


def test_cancelling_stops_the_paid_job_upstream(store: MediaStore, ledger: Ledger) -> None:
    """A terminated run asks the vendor to stop and records the row as failed."""
    provider = ScriptedProvider(job=True, polls=10_000)

    async def body() -> None:
        async with Runner(store, ledger, retry=QUICK) as runner:
            task = asyncio.create_task(runner.run_step(step(provider), target(), variables=ROW))
            while not provider.submits:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(body())
    assert len(provider.cancelled) == 1
    row = next(iter(ledger.rows()))
    assert (row.state, row.error_code) == (SubmissionState.FAILED, "cancelled")


def test_cancelling_during_a_one_call_answer_keeps_what_was_paid(
    store: MediaStore, ledger: Ledger
) -> None:
    """The answer on the wire is waited for and stored before the cancellation goes on."""
    provider = ScriptedProvider(delay=0.2)

    async def body() -> None:
        async with Runner(store, ledger, retry=QUICK) as runner:
            task = asyncio.create_task(runner.run_step(step(provider), target(), variables=ROW))
            while not provider.submits:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(body())
    assert next(iter(ledger.rows())).state is SubmissionState.STORED
    assert run(store, ledger, step(provider)).origin is Origin.FINISHED
    assert provider.submits == 1


def test_many_workers_on_one_partition_submit_once(store: MediaStore, ledger: Ledger) -> None:
    """Concurrent attempts inside one scope wait for the one that holds the lease."""
    provider = ScriptedProvider(delay=0.05)

    async def body() -> list[StepOutcome]:
        async with Runner(store, ledger, retry=QUICK) as one, Runner(store, ledger) as two:
            return await asyncio.gather(
                *(r.run_step(step(provider), target(), variables=ROW) for r in [one, two] * 5)
            )

    outcomes = asyncio.run(body())
    assert provider.submits == 1
    assert len({outcome.ref.run_id for outcome in outcomes}) == 1


def test_content_policy_is_permanent_and_its_message_is_redacted(
    store: MediaStore, ledger: Ledger
) -> None:
    """A refusal by moderation is recorded with its code; a key in its text is not."""
    key = "sk-proj-" + "Ab1" * 15
    provider = ScriptedProvider(submit_errors=[ContentPolicyError(f"refused for {key}")])
    events: list[StepEvent] = []
    with pytest.raises(ContentPolicyError):
        run(store, ledger, step(provider), events=events)
    row = next(iter(ledger.rows()))
    assert (row.state, row.error_code) == (SubmissionState.FAILED, "content_policy")
    assert key not in repr(row)
    assert key not in repr(events)


def test_a_bug_in_an_adapter_is_typed_and_holds_what_may_be_paid(
    store: MediaStore, ledger: Ledger
) -> None:
    """An exception no adapter should raise becomes a held submit, not a stuck lease."""
    provider = ScriptedProvider(submit_errors=[KeyError("data")])
    with pytest.raises(HeldError) as caught:
        run(store, ledger, step(provider))
    assert "bug in the adapter" in str(caught.value.__cause__)
    polling = ScriptedProvider(job=True, poll_errors=[KeyError("state")])
    spec = step(polling, model="other")
    with pytest.raises(ProviderError, match="unexpected KeyError"):
        run(store, ledger, spec)
    assert run(store, ledger, spec).origin is Origin.RESUMED


@pytest.mark.parametrize("job", [False, True])
def test_a_cancellation_at_any_moment_holds_and_blocks_nothing(
    tmp_path: Path, store: MediaStore, job: bool
) -> None:
    """Wherever the cancellation lands, the next attempt goes on at once and nothing is paid twice."""

    async def cancelled_after(turns: int, provider: ScriptedProvider, ledger: Ledger) -> None:
        async with Runner(store, ledger, retry=QUICK) as runner:
            where = target(f"run-{turns}", f"key-{turns}")
            task = asyncio.create_task(runner.run_step(step(provider), where, variables=ROW))
            for _ in range(turns):
                await asyncio.sleep(0.0004)
            task.cancel()
            await asyncio.wait({task})

    with Ledger(f"sqlite:///{tmp_path / 'cancelled.db'}") as ledger:
        for turns in range(0, 60, 2):
            provider = ScriptedProvider(job=job, polls=0, delay=0.002)
            asyncio.run(cancelled_after(turns, provider, ledger))
            begun = time.monotonic()
            outcome = run(
                store, ledger, step(provider), target(f"run-{turns}", f"key-{turns}"), row=ROW
            )
            # A lease that was left behind would last a minute and more.
            assert time.monotonic() - begun < 50
            assert asyncio.run(check_ref(store, outcome.ref)).ok
            assert len(provider.billed) - len(provider.cancelled) <= 1
        assert not ledger.find(state=SubmissionState.HELD)
