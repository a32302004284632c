import asyncio
from dataclasses import dataclass, field

import pytest

from genblaze_dagster.errors import (
    ContentPolicyError,
    HeldError,
    InvalidRequestError,
    ModelError,
    ProviderError,
    ProviderUnavailableError,
    RateLimitError,
)
from genblaze_dagster.ledger.ledger import Ledger
from genblaze_dagster.ledger.submission import SubmissionState
from genblaze_dagster.pipeline.declaration import Pipeline, StepSpec
from genblaze_dagster.pipeline.events import StepEvent, StepEventType
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome
from genblaze_dagster.pipeline.plan import stored_steps
from genblaze_dagster.pipeline.runner import Runner
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.storage.store import MediaStore
from tests.support.scripted import ScriptedProvider
from tests.support.steps import QUICK, ROW, run, step, target

BROKEN = "the model is overloaded for good"


@dataclass
class Choosy(ScriptedProvider):
    """Does not know some models at all."""

    unknown: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def validate(self, request: GenerationRequest) -> None:
        if request.model in self.unknown:
            raise ModelError(f"model {request.model} is retired", sent=False)

    async def submit(self, request: GenerationRequest):
        self.asked.append(request.model)
        return await super().submit(request)


def broken(*errors: ProviderError, **options: object) -> Choosy:
    """A provider whose first submits meet a model error, then these."""
    return Choosy(submit_errors=[ModelError(BROKEN), *errors], **options)  # type: ignore[arg-type]


def with_fallback(provider: ScriptedProvider, *models: str, **options: object) -> StepSpec:
    return step(provider, fallback_models=list(models or ("m2", "m3")), **options)


def attempts(outcome: StepOutcome) -> list[dict[str, str]]:
    return outcome.manifest.run.steps[-1].metadata.get("fallback_attempts", [])


def test_the_declared_model_is_enough_when_it_works(store: MediaStore, ledger: Ledger) -> None:
    """Nothing else is asked, and the manifest names the models that could have stood in."""
    provider = Choosy()
    outcome = run(store, ledger, with_fallback(provider))
    recorded = outcome.manifest.run.steps[-1]
    assert provider.asked == ["m"]
    assert recorded.model == outcome.ref.model == "m"
    assert recorded.metadata == {"_fallback_models": ["m2", "m3"]}


def test_a_model_error_is_followed_by_the_next_model(store: MediaStore, ledger: Ledger) -> None:
    """The record has the model that ran and genblaze's fields, and every failure is visible."""
    provider = broken()
    events: list[StepEvent] = []
    outcome = run(store, ledger, with_fallback(provider), events=events)
    recorded = outcome.manifest.run.steps[-1]
    assert provider.asked == ["m", "m2"]
    assert recorded.model == outcome.ref.model == "m2"
    assert recorded.metadata == {
        "_fallback_models": ["m2", "m3"],
        "fallback_from": "m",
        "fallback_model": "m2",
        "fallback_attempts": [{"model": "m", "code": "model_error"}],
    }
    assert outcome.manifest.verify()
    told = [(e.type, e.model, e.detail) for e in events]
    assert (StepEventType.RETRIED, "m", "fallback: model_error, next is 'm2'") in told
    assert told[-1] == (StepEventType.COMPLETED, "m2", "generated")
    assert [row.model for row in ledger.rows()] == ["m", "m2"]


@pytest.mark.parametrize(
    "error",
    [
        ContentPolicyError("refused"),
        InvalidRequestError("no such size"),
        RateLimitError("later", http_status=429, retry_after=0.0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_ask_no_other_model(
    store: MediaStore, ledger: Ledger, error: ProviderError
) -> None:
    """Only a model error of the declared model is one that another model could mend."""
    provider = Choosy(submit_errors=[error] * QUICK.max_attempts)
    with pytest.raises(type(error)):
        run(store, ledger, with_fallback(provider))
    assert set(provider.asked) == {"m"}


def test_after_the_first_any_failure_leads_on(store: MediaStore, ledger: Ledger) -> None:
    """A fallback that is refused for whatever reason gives way, and is listed with its code."""
    provider = broken(ContentPolicyError("refused"))
    outcome = run(store, ledger, with_fallback(provider))
    assert provider.asked == ["m", "m2", "m3"]
    assert outcome.ref.model == "m3"
    assert attempts(outcome) == [
        {"model": "m", "code": "model_error"},
        {"model": "m2", "code": "content_policy"},
    ]


def test_a_model_that_is_gone_costs_no_call(store: MediaStore, ledger: Ledger) -> None:
    """What the provider knows to be gone is passed over before anything is sent, and told."""
    provider = Choosy(unknown=("m", "m2"))
    events: list[StepEvent] = []
    outcome = run(store, ledger, with_fallback(provider), events=events)
    assert provider.asked == ["m3"]
    assert [failed["model"] for failed in attempts(outcome)] == ["m", "m2"]
    assert [e.model for e in events if e.type is StepEventType.RETRIED] == ["m", "m2"]


def test_when_no_model_delivers_the_error_names_them_all(store: MediaStore, ledger: Ledger) -> None:
    """One error, with every model and its code; a retry begins again with the declared one."""
    limit = RateLimitError("too many", http_status=429, retry_after=0.0)
    provider = broken(ContentPolicyError("no"), *[limit] * QUICK.max_attempts)
    with pytest.raises(ModelError, match="m: model_error; m2: content_policy; m3: rate_limit") as e:
        run(store, ledger, with_fallback(provider))
    assert e.value.transient
    provider.asked.clear()
    assert run(store, ledger, with_fallback(provider)).ref.model == "m"
    assert provider.asked == ["m"]


def test_no_model_is_asked_while_one_may_still_deliver(store: MediaStore, ledger: Ledger) -> None:
    """A fallback whose job is out of reach is not replaced by a third: it is paid already."""
    outage = [ProviderUnavailableError("down", http_status=503) for _ in range(QUICK.max_attempts)]
    provider = broken(job=True, poll_errors=outage)
    with pytest.raises(ProviderUnavailableError):
        run(store, ledger, with_fallback(provider))
    assert provider.asked == ["m", "m2"]
    states = {row.model: row.state for row in ledger.rows()}
    assert states == {"m": SubmissionState.FAILED, "m2": SubmissionState.SUBMITTED}


@pytest.mark.parametrize("scope", ["run-1", "run-2"])
def test_the_open_job_of_a_fallback_is_resumed(
    store: MediaStore, ledger: Ledger, scope: str
) -> None:
    """Whoever comes next, in this run or another, takes up the paid job and asks nobody else."""
    outage = [ProviderUnavailableError("down", http_status=503) for _ in range(QUICK.max_attempts)]
    provider = broken(job=True, poll_errors=outage)
    with pytest.raises(ProviderUnavailableError):
        run(store, ledger, with_fallback(provider))
    outcome = run(store, ledger, with_fallback(provider), target(scope))
    assert outcome.origin is Origin.RESUMED
    assert provider.asked == ["m", "m2"]
    assert attempts(outcome) == [{"model": "m", "code": "model_error"}]
    # And once it is stored, every retry of that run finds it without asking the first model again.
    again = run(store, ledger, with_fallback(provider), target(scope))
    assert again.origin is Origin.FINISHED
    assert again.ref == outcome.ref
    assert provider.asked == ["m", "m2"]


def test_a_crash_between_two_models_goes_on_with_the_second(
    store: MediaStore, ledger: Ledger
) -> None:
    """A model that failed in this run is not asked twice by it."""

    class Killed(Exception):
        pass

    def die(event: StepEvent) -> None:
        if event.type is StepEventType.RETRIED:
            raise Killed

    async def killed(spec: StepSpec) -> None:
        async with Runner(store, ledger, retry=QUICK, on_event=die) as runner:
            await runner.run_step(spec, target(), variables=ROW)

    provider = broken()
    with pytest.raises(Killed):
        asyncio.run(killed(with_fallback(provider)))
    assert provider.asked == ["m"]
    outcome = run(store, ledger, with_fallback(provider))
    assert provider.asked == ["m", "m2"]
    assert attempts(outcome) == [{"model": "m", "code": "model_error"}]
    # Another run is another wish: it begins with the declared model.
    assert run(store, ledger, with_fallback(provider), target("run-2")).ref.model == "m"


def test_a_cancelled_fallback_is_asked_again(store: MediaStore, ledger: Ledger) -> None:
    """That a run was cancelled says nothing about the model it was waiting for."""
    provider = broken(job=True, polls=1_000_000)

    async def cancelled() -> None:
        async with Runner(store, ledger, retry=QUICK) as runner:
            spec = with_fallback(provider)
            work = asyncio.ensure_future(runner.run_step(spec, target(), variables=ROW))
            while provider.asked != ["m", "m2"]:
                await asyncio.sleep(0.001)
            work.cancel()
            await asyncio.wait({work})

    asyncio.run(cancelled())
    provider.polls = 1
    assert run(store, ledger, with_fallback(provider)).ref.model == "m2"
    assert provider.asked == ["m", "m2", "m2"]


def test_a_stored_fallback_is_found_by_every_retry_of_its_run(
    store: MediaStore, ledger: Ledger
) -> None:
    """The retry of a finished partition pays nobody, although its first model had failed."""
    provider = broken()
    first = run(store, ledger, with_fallback(provider))
    again = run(store, ledger, with_fallback(provider))
    assert (again.origin, again.ref) == (Origin.FINISHED, first.ref)
    assert provider.asked == ["m", "m2"]


def test_what_a_run_has_stored_is_found_whatever_failed_meanwhile(
    store: MediaStore, ledger: Ledger
) -> None:
    """A taken-over job that failed and a third model that delivered: the retry asks nobody."""
    outage = [ProviderUnavailableError("down", http_status=503) for _ in range(QUICK.max_attempts)]
    provider = broken(job=True, poll_errors=outage)
    with pytest.raises(ProviderUnavailableError):
        run(store, ledger, with_fallback(provider))
    provider.poll_errors = [ModelError("the job failed")]
    third = run(store, ledger, with_fallback(provider), target("run-2"))
    assert provider.asked == ["m", "m2", "m3"]
    assert third.ref.model == "m3"
    again = run(store, ledger, with_fallback(provider), target("run-2"))
    assert (again.origin, again.ref) == (Origin.FINISHED, third.ref)
    assert provider.asked == ["m", "m2", "m3"]


def test_a_failure_of_another_run_says_nothing_about_this_one(
    store: MediaStore, ledger: Ledger
) -> None:
    """Its own first failure was no model error, so the declared model is asked again."""
    limit = [RateLimitError("later", http_status=429, retry_after=0.0)] * QUICK.max_attempts
    provider = Choosy(submit_errors=list(limit))
    with pytest.raises(RateLimitError):
        run(store, ledger, with_fallback(provider))
    provider.submit_errors = [ModelError(BROKEN)]
    assert run(store, ledger, with_fallback(provider), target("run-2")).ref.model == "m2"
    assert run(store, ledger, with_fallback(provider)).ref.model == "m"


def test_a_lost_answer_of_a_fallback_is_held(store: MediaStore, ledger: Ledger) -> None:
    """Nobody knows whether the second model was paid, so no third one is."""
    provider = broken(ProviderUnavailableError("reset", sent=None))
    for scope in ("run-1", "run-1", "run-2"):
        with pytest.raises(HeldError):
            run(store, ledger, with_fallback(provider), target(scope))
    assert provider.asked == ["m", "m2"]


def test_a_model_error_after_a_lost_answer_asks_nobody_else(
    store: MediaStore, ledger: Ledger
) -> None:
    """A deduplicating vendor's refusal does not deny that an earlier submit was accepted."""
    lost = ProviderUnavailableError("reset", sent=None)
    provider = Choosy(submit_errors=[lost, ModelError(BROKEN)], deduplicates=True)
    with pytest.raises(ModelError, match="overloaded"):
        run(store, ledger, with_fallback(provider))
    assert provider.asked == ["m", "m"]


def test_models_do_not_share_a_generation(store: MediaStore, ledger: Ledger) -> None:
    """A plain step of the second model is another generation than the fallback to it."""
    provider = broken()
    fell_back = run(store, ledger, with_fallback(provider))
    plain = run(store, ledger, step(provider, model="m2"), target("run-2", reuse=True))
    assert plain.origin is Origin.GENERATED
    assert plain.ref.generation_key != fell_back.ref.generation_key


def test_the_plan_knows_what_a_fallback_has_stored(store: MediaStore, ledger: Ledger) -> None:
    """A step is stored when any of its models delivered it as it is declared now."""
    provider = broken()
    models = ["m2", "m3"]

    def pipeline(*fallback: str) -> Pipeline:
        return Pipeline("p").step(
            provider, model="m", name="a", prompt="x", fallback_models=fallback
        )

    async def stored(*fallback: str) -> list[str]:
        found = await stored_steps(
            pipeline(*fallback), store, partition_key=None, variables={}, key_prefix=["p"]
        )
        return sorted(found)

    pipeline(*models).run(store=store, ledger=ledger)
    assert asyncio.run(stored(*models)) == ["a"]
    assert asyncio.run(stored("m3")) == []
    assert asyncio.run(stored()) == []
