import asyncio
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.enums import ProviderErrorCode, StepStatus
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import (
    AuthError,
    ConfigError,
    OutputError,
    ProviderError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.providers.adapter import AdaptedProvider, adapt
from genblaze_dagster.providers.base import (
    BaseProvider,
    ProgressEvent,
    RunnableConfig,
    StepRetriedEvent,
    SubmitResult,
    SyncProvider,
)
from genblaze_dagster.providers.invocation import Invocation, poll_interval
from genblaze_dagster.providers.model_spec import ModelSpec
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.pricing import per_unit
from genblaze_dagster.providers.retry import RetryPolicy
from genblaze_dagster.providers.validation import (
    DiscoveryResult,
    DiscoveryStatus,
    DiscoverySupport,
    ValidationOutcome,
)

QUICK = RetryPolicy(max_attempts=3, initial_backoff_sec=0.001, jitter="none")
PNG = Asset(url="https://media.test/a.png", media_type="image/png")


class Jobs(BaseProvider):
    """A vendor with jobs; every list is an answer (or error) per call, the last one for good."""

    name = "jobs"
    poll_interval = 0.001

    def __init__(self, **options: Any) -> None:
        self.submits: list[Any] = options.pop("submits", ["job-1"])
        self.polls: list[Any] = options.pop("polls", [True])
        self.fetches: list[Any] = options.pop("fetches", [None])
        self.seen: list[tuple[str, Any]] = []
        super().__init__(**{"retry_policy": QUICK, **options})

    def _next(self, phase: str, answers: list[Any], detail: Any) -> Any:
        self.seen.append((phase, detail))
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def count(self, phase: str) -> int:
        return sum(seen == phase for seen, _ in self.seen)

    def submit(self, step: Step, config: RunnableConfig | None = None) -> Any:
        return self._next("submit", self.submits, step)

    def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
        return self._next("poll", self.polls, prediction_id)

    def fetch_output(self, prediction_id: Any, step: Step) -> Step:
        self._next("fetch", self.fetches, prediction_id)
        step.assets.append(PNG.model_copy())
        step.cost_usd = 0.5
        return step


class Gate(SyncProvider):
    """Generates when the gate is opened."""

    name = "gate"

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.calls_made = 0

    def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
        self.calls_made += 1
        assert self.gate.wait(300)
        step.assets.append(PNG.model_copy())
        step.cost_usd = 1.0
        return step


@pytest.fixture
def gate() -> Iterator[Gate]:
    provider = Gate()
    yield provider
    provider.gate.set()


def a_step(**fields: Any) -> Step:
    return Step(**{"provider": "jobs", "model": "m", "prompt": "a fox", **fields})


def test_invoke_returns_a_finished_copy() -> None:
    """The copy has outputs, times and the job id outside the hash; the argument stays as it was."""
    step = a_step(metadata={"project": "zoo"})
    before = step.model_copy(deep=True)
    made = Jobs().invoke(step, {"max_retries": 0})
    assert made.status is StepStatus.SUCCEEDED
    assert made.assets == [PNG]
    assert made.cost_usd == 0.5
    assert made.provider_payload == {"job_id": "job-1"}
    assert made.metadata == {"project": "zoo"}
    assert made.metadata is not step.metadata
    assert made.started_at is not None
    assert made.completed_at is not None
    assert step == before


def test_progress_is_told_in_order() -> None:
    """Progress events carry status, job id and what poll_progress knows; on_submit the job id."""

    class Talking(Jobs):
        def poll_progress(self, prediction_id: Any) -> dict[str, Any]:
            return {"progress_pct": 0.5, "message": "half", "preview_url": "https://media.test/p"}

    events: list[ProgressEvent] = []
    submitted: list[tuple[str, Any]] = []
    step = a_step()
    Talking(polls=[False, True]).invoke(
        step,
        {"on_progress": events.append, "on_submit": lambda *told: submitted.append(told)},
    )
    assert [(e.status, e.request_id, e.progress_pct) for e in events] == [
        ("submitted", None, None),
        ("processing", "job-1", 0.5),
        ("succeeded", "job-1", None),
    ]
    assert submitted == [(step.step_id, "job-1")]


def test_callbacks_that_raise_are_ignored() -> None:
    """A callback cannot break a call that is being paid for."""

    def broken(*_: object) -> None:
        raise RuntimeError("no")

    made = Jobs().invoke(a_step(), {"on_progress": broken, "on_submit": broken})
    assert made.status is StepStatus.SUCCEEDED


@pytest.mark.parametrize("nothing", [None, "", b""], ids=["none", "text", "bytes"])
def test_a_submit_without_a_job_id_fails(nothing: object) -> None:
    """The code is invalid_input, and nothing is submitted again."""
    provider = Jobs(submits=[nothing])
    made = provider.invoke(a_step(), {"max_retries": 3})
    assert (made.status, made.error_code) == (StepStatus.FAILED, "invalid_input")
    assert provider.count("submit") == 1


def test_poll_and_fetch_retry_what_passes() -> None:
    """Timeouts, rate limits and 5xx of poll and fetch are tried again, and told."""
    provider = Jobs(
        polls=[ProviderError("429", code=ProviderErrorCode.RATE_LIMIT), True],
        fetches=[ProviderUnavailableError("503"), None],
    )
    told: list[StepRetriedEvent] = []
    made = provider.invoke(a_step(), {"on_retry": told.append})
    assert made.status is StepStatus.SUCCEEDED
    assert [(e.phase, e.attempt, e.max_attempts, e.error_code) for e in told] == [
        ("poll", 1, 3, "rate_limit"),
        ("fetch", 1, 3, "server_error"),
    ]
    assert provider.count("submit") == 1


@pytest.mark.parametrize(
    ("error", "submits"),
    [
        (RateLimitError("slow down", retry_after=0), 2),
        (ProviderUnavailableError("no connection", sent=False), 2),
        (ProviderUnavailableError("503", http_status=503), 1),
        (ProviderUnavailableError("the answer was lost", sent=None), 1),
        (ConnectionRefusedError(), 2),
        (ConnectionResetError(), 1),
        (RuntimeError("author of the model"), 1),
    ],
    ids=["429", "unsent", "503", "lost", "refused", "reset", "bug"],
)
def test_a_submit_is_repeated_only_when_it_cannot_pay_twice(error: Exception, submits: int) -> None:
    """Turned away or never sent is tried again, by phase and by step; all else is not."""
    provider = Jobs(submits=[error, "job-2"])
    made = provider.invoke(a_step(), {"max_retries": 2})
    assert provider.count("submit") == submits
    assert (made.status is StepStatus.SUCCEEDED) == (submits == 2)


def test_a_deduplicating_vendor_is_asked_again_after_a_lost_answer() -> None:
    """Where a second request cannot be billed, a lost answer is no reason to stop."""

    class Safe(Jobs):
        deduplicates = True

    made = Safe(submits=[ProviderUnavailableError("lost", sent=None), "job-1"]).invoke(a_step())
    assert made.status is StepStatus.SUCCEEDED


def test_step_retries_resume_the_job() -> None:
    """After an accepted submit a step retry waits for the same job, and counts."""
    errors = [ProviderUnavailableError("503")] * 4
    provider = Jobs(polls=[*errors, True])
    events: list[ProgressEvent] = []
    made = provider.invoke(a_step(), {"max_retries": 2, "on_progress": events.append})
    assert made.status is StepStatus.SUCCEEDED
    assert made.retries == 1
    assert provider.count("submit") == 1
    assert "retry_resumed" in [event.status for event in events]


def test_disabled_policy_tries_once() -> None:
    """`RetryPolicy.disabled()` repeats nothing, whatever the error."""
    provider = Jobs(polls=[RateLimitError("429")], retry_policy=RetryPolicy.disabled())
    made = provider.invoke(a_step(), {"max_retries": 3})
    assert made.error_code == "rate_limit"
    assert provider.count("poll") == 1


def test_a_retry_without_time_is_not_made() -> None:
    """When the delay would cross the timeout the step fails at once, with what went wrong."""
    provider = Jobs(polls=[RateLimitError("429", retry_after=60)])
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    invocation = Invocation.of(provider, a_step(), {"timeout": 30, "max_retries": 2})
    invocation.sleep = sleep
    made = asyncio.run(invocation.run())
    assert naps == []
    assert (made.error_code, provider.count("poll")) == (ProviderErrorCode.RATE_LIMIT, 1)


def test_resume_does_not_submit() -> None:
    """A known job is waited for and fetched."""
    provider = Jobs(polls=[False, True])
    events: list[ProgressEvent] = []
    made = provider.resume("job-9", a_step(), {"on_progress": events.append})
    assert made.status is StepStatus.SUCCEEDED
    assert made.provider_payload["job_id"] == "job-9"
    assert provider.count("submit") == 0
    assert events[0].status == "resumed"


def test_tenant_in_a_config_is_refused() -> None:
    """A tenant belongs to the pipeline; in a config it would be ignored silently."""
    with pytest.raises(ValueError, match="tenant_id"):
        Jobs().invoke(a_step(), {"tenant_id": "t"})  # type: ignore[typeddict-unknown-key]


def test_a_timeout_interrupts_a_slow_generate_and_nothing_is_paid_twice(gate: Gate) -> None:
    """The caller is free at once; the late answer is taken by the next invoke of the same step."""
    step = a_step(provider="gate")
    # Nobody opens the gate meanwhile.
    made = gate.invoke(step, {"timeout": 0.05, "max_retries": 2})
    assert (made.status, made.error_code) == (StepStatus.FAILED, ProviderErrorCode.TIMEOUT)
    gate.gate.set()
    again = gate.invoke(step)
    assert again.status is StepStatus.SUCCEEDED
    assert again.cost_usd == 1.0
    assert gate.calls_made == 1


def test_a_late_answer_is_not_given_to_another_request(gate: Gate) -> None:
    """The same step with another prompt is another request, and is asked."""
    step = a_step(provider="gate")

    async def leave() -> None:
        call = asyncio.ensure_future(gate.ainvoke(step))
        while not gate.calls_made:
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.wait([call])

    asyncio.run(leave())
    gate.gate.set()
    gate.invoke(step.model_copy(update={"prompt": "a wolf"}))
    assert gate.calls_made == 2


def test_a_slow_poll_is_interrupted() -> None:
    """The timeout holds for every phase; the job id stays known."""
    hang = threading.Event()

    class Slow(Jobs):
        def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
            return hang.wait(300)

    # On a busy machine the time may be over before there is a job.
    for timeout in (0.5, 5.0, 50.0):
        made = Slow().invoke(a_step(), {"timeout": timeout})
        if made.provider_payload:
            break
    hang.set()
    assert made.error_code is ProviderErrorCode.TIMEOUT
    assert made.provider_payload["job_id"] == "job-1"


def test_cancelling_ainvoke_is_not_a_provider_failure(gate: Gate) -> None:
    """A cancelled call raises CancelledError, as any coroutine."""

    async def body() -> None:
        async with asyncio.timeout(0.05):
            await gate.ainvoke(a_step(provider="gate"))

    with pytest.raises(TimeoutError):
        asyncio.run(body())


def test_invoke_works_inside_a_running_loop() -> None:
    """The sync twin can be called in a notebook."""

    async def body() -> Step:
        return Jobs().invoke(a_step())

    assert asyncio.run(body()).status is StepStatus.SUCCEEDED


@pytest.mark.parametrize("url", ["http://10.0.0.1/a.png", "file:///etc/passwd", "ftp://a.test/b"])
def test_unsafe_inputs_are_refused_before_the_provider_is_asked(url: str) -> None:
    """An input the vendor must not be sent to fetch fails the step, unsent."""
    provider = Jobs()
    made = provider.invoke(a_step(inputs=[Asset(url=url, media_type="image/png")]))
    assert made.error_code is ProviderErrorCode.INVALID_INPUT
    assert provider.seen == []


def test_inputs_in_the_providers_own_folder_are_allowed(tmp_path: Path) -> None:
    """What one step of a provider wrote another may read."""
    path = tmp_path / "a.png"
    path.write_bytes(b"x")

    class Owning(Jobs):
        output_dir = tmp_path

    made = Owning().invoke(a_step(inputs=[Asset(url=path.as_uri(), media_type="image/png")]))
    assert made.status is StepStatus.SUCCEEDED


def test_preflight_runs_once_and_can_be_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key stops the first submit; a right one is asked for once; a variable skips it."""

    class Checked(Jobs):
        checks = 0

        def preflight_auth(self, *, timeout: float = 5.0) -> None:
            type(self).checks += 1
            if Checked.checks == 1:
                raise AuthError("the key is wrong")

    provider = Checked()
    assert provider.invoke(a_step()).error_code is ProviderErrorCode.AUTH_FAILURE
    assert provider.count("submit") == 0
    for _ in range(3):
        assert provider.invoke(a_step()).status is StepStatus.SUCCEEDED
    assert Checked.checks == 2
    Checked.checks = 0
    monkeypatch.setenv("GENBLAZE_SKIP_PREFLIGHT", "1")
    assert Checked().invoke(a_step()).status is StepStatus.SUCCEEDED
    assert Checked.checks == 0


def test_idempotency_header_follows_the_strategy() -> None:
    """One key for all attempts by default; per attempt or none on request; none without a name."""

    class Named(Jobs):
        IDEMPOTENCY_HEADER_NAME = "Idempotency-Key"

    step = a_step()
    given = Named().idempotency_headers(step, {"Accept": "x"})
    assert given == {"Accept": "x", "Idempotency-Key": step.step_id}
    fresh = Named(retry_policy=RetryPolicy(idempotency_key_strategy="uuid_per_attempt"))
    assert fresh.idempotency_headers(step) != fresh.idempotency_headers(step)
    none = Named(retry_policy=RetryPolicy(idempotency_key_strategy="none"))
    assert none.idempotency_headers(step) == {}
    assert Jobs().idempotency_headers(step) == {}


def test_long_waits_have_heartbeats() -> None:
    """A wait of 15 s and more is cut into 10 s, with a heartbeat between; 80 % of the estimate."""
    naps: list[float] = []
    events: list[ProgressEvent] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    async def body() -> None:
        provider = Jobs(submits=[SubmitResult("job-1", estimated_seconds=40)])
        invocation = Invocation.of(provider, a_step(), {"on_progress": events.append})
        invocation.sleep = sleep
        await invocation.run()

    asyncio.run(body())
    assert naps == [10, 10, 10, 2]
    assert [event.is_heartbeat for event in events] == [False, True, True, True, False]


def test_poll_interval_doubles_every_half_minute() -> None:
    """From the first interval to 30 s, whatever the time."""
    assert [poll_interval(seconds) for seconds in (0, 29, 30, 60, 1e9)] == [1, 1, 2, 4, 30]
    assert poll_interval(31, first_seconds=0.1) == pytest.approx(0.2)


def test_sync_provider_needs_generate_only() -> None:
    """submit, poll and fetch_output of a SyncProvider work by themselves, each result once."""
    provider = Gate()
    provider.gate.set()
    step = a_step(provider="gate")
    job = provider.submit(step)
    assert (job, provider.poll(job)) == ("sync", True)
    assert provider.fetch_output(job, step).assets == [PNG]
    with pytest.raises(OutputError, match="no job to resume"):
        provider.fetch_output(job, step)


def test_coroutines_are_refused() -> None:
    """An async provider is told which interface it belongs to."""

    class Async(SyncProvider):
        name = "async"

        async def generate(self, step: Step, config: Any = None) -> Step:  # type: ignore[override]
            return step

    with pytest.raises(ConfigError, match="coroutine"):
        Async().calls  # noqa: B018


def priced() -> ModelRegistry:
    registry = ModelRegistry()
    registry.register(ModelSpec("m", pricing=per_unit(0.04)))
    return registry


def test_prices_come_from_the_registry_of_the_instance() -> None:
    """An estimate and an empty cost are filled from it; what the provider says wins."""

    class Silent(Jobs):
        def fetch_output(self, prediction_id: Any, step: Step) -> Step:
            step.assets.append(PNG.model_copy())
            return step

    provider = Silent(models=priced())
    assert provider.estimate_cost("m", {}, n=2) == Decimal("0.08")
    assert provider.invoke(a_step()).cost_usd == 0.04
    assert provider.invoke(a_step(model="other")).cost_usd is None
    assert Jobs(models=priced()).invoke(a_step()).cost_usd == 0.5
    assert [spec.model_id for spec in provider.list_models()] == ["m"]
    assert Silent().models is Silent().models
    assert Silent().models is not Jobs().models


def test_models_are_validated_with_the_vendors_list() -> None:
    """A complete list refuses what it lacks, and is asked for once; without one all is unknown."""

    class Listing(Jobs):
        discovery_support = DiscoverySupport.NATIVE
        asked = 0

        def discover_models(self, *, max_age_seconds: float | None = None) -> DiscoveryResult:
            self.asked += 1
            return DiscoveryResult(DiscoveryStatus.OK, slugs=frozenset({"fox-1"}))

    provider = Listing()
    outcomes = [provider.validate_model(name).outcome for name in ("fox-1", "fox-2")]
    assert outcomes == [ValidationOutcome.OK_AUTHORITATIVE, ValidationOutcome.NOT_FOUND]
    assert provider.asked == 1
    assert Jobs().validate_model("fox-2").outcome is ValidationOutcome.UNKNOWN_PERMISSIVE
    adapted = adapt(provider)
    assert isinstance(adapted, AdaptedProvider)
    assert adapted.validate_model("fox-2").suggested_slugs == ("fox-1",)
