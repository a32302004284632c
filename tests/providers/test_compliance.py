from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality, StepStatus
from genblaze_dagster.core.models import Asset, AudioMetadata, Step
from genblaze_dagster.errors import ProviderError
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.base import BaseProvider, RunnableConfig, SubmitResult
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.mock_media import file_of
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Output,
    Provider,
    Result,
    Submission,
)
from genblaze_dagster.testing import (
    MockAudioProvider,
    MockProvider,
    MockVideoProvider,
    ProtocolComplianceTests,
    ProviderComplianceTests,
)

PNG = Asset(url="https://media.test/a.png", media_type="image/png")


class JobProvider(BaseProvider):
    """A job that is over at its second poll."""

    name = "jobs"
    poll_interval = 0.001

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.polls = 0

    def submit(self, step: Step, config: RunnableConfig | None = None) -> Any:
        return SubmitResult("job-1")

    def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
        self.polls += 1
        return self.polls % 2 == 0

    def fetch_output(self, prediction_id: Any, step: Step) -> Step:
        step.assets.append(PNG.model_copy())
        step.cost_usd = 0.01
        return step

    def read_output(self, asset: Asset, step: Step) -> bytes:
        return file_of(asset.media_type, step.prompt or "")


class _Guide(ProviderComplianceTests):
    def make_step(self) -> Step:
        return Step(provider="any", model="m", prompt="a fox", params={"size": "8x8"})


class TestMock(_Guide):
    def make_provider(self) -> BaseProvider:
        return MockProvider(cost_usd=0.01)


class TestMockVideo(_Guide):
    def make_provider(self) -> BaseProvider:
        return MockVideoProvider(cost_usd=0.01)


class TestMockAudio(_Guide):
    expects_cost = False

    def make_provider(self) -> BaseProvider:
        return MockAudioProvider()


class TestJobs(_Guide):
    def make_provider(self) -> BaseProvider:
        return JobProvider()


class _Protocol(ProtocolComplianceTests):
    def make_request(self) -> GenerationRequest:
        return GenerationRequest(model="m", prompt="a fox")


class TestAdaptedMock(_Protocol):
    def make_provider(self) -> Provider:
        return adapt(MockProvider(cost_usd=0.01))


class TestAdaptedJobs(_Protocol):
    def make_provider(self) -> Provider:
        return adapt(JobProvider())


class TestLocal(_Protocol):
    def make_provider(self) -> Provider:
        return LocalProvider()

    def make_request(self) -> GenerationRequest:
        return GenerationRequest(
            model="local-image", prompt="a fox", params={"width": 32, "height": 32}
        )


class TestLocalJobs(TestLocal):
    def make_provider(self) -> Provider:
        return LocalProvider(latency=0.02)


def _of(make: Callable[..., Any], **attributes: Any) -> ProviderComplianceTests:
    """Return the guide-style suite over a JobProvider whose class is changed."""

    class Broken(_Guide):
        def make_provider(self) -> BaseProvider:
            return make()

    for name, value in attributes.items():
        setattr(Broken, name, value)
    return Broken()


def _jobs(**attributes: Any) -> ProviderComplianceTests:
    return _of(type("Broken", (JobProvider,), attributes))


def _mock(**attributes: Any) -> ProviderComplianceTests:
    return _of(type("Broken", (MockProvider,), attributes))


def _with_asset(asset: Asset, cost: float | None = 0.01) -> ProviderComplianceTests:
    return _of(lambda: MockProvider(assets=[asset], cost_usd=cost))


def _reckless(self: BaseProvider, step: Step, config: object = None) -> Step:
    return step.model_copy(update={"status": StepStatus.SUCCEEDED, "assets": [PNG]})


def _mutating(self: BaseProvider, step: Step, config: object = None) -> Step:
    step.status = StepStatus.SUCCEEDED
    return step.model_copy()


class _NoKeywords(JobProvider):
    def __init__(self) -> None:
        super().__init__()


# Tolerant loading lets such a record through.
_TYPELESS = PNG.model_copy(update={"media_type": ""})

BROKEN_GUIDE = {
    "test_has_name": lambda: _jobs(name="base"),
    "test_name_is_string": lambda: _jobs(name=7),
    "test_submit_returns_prediction_id": lambda: _jobs(submit=lambda *_: None),
    "test_poll_returns_bool": lambda: _jobs(poll=lambda *_: "done"),
    "test_fetch_output_returns_step": lambda: _jobs(fetch_output=lambda *_: None),
    "test_invoke_succeeds": lambda: _jobs(invoke=_mutating),
    "test_invoke_sets_timestamps": lambda: _jobs(invoke=_reckless),
    "test_assets_have_valid_urls": lambda: _with_asset(
        Asset(url="ftp://media.test/a.png", media_type="image/png")
    ),
    "test_assets_have_media_type": lambda: _with_asset(_TYPELESS),
    "test_sync_provider_generate_is_sufficient": lambda: _mock(poll=lambda *_: False),
    "test_get_capabilities_returns_valid_type": lambda: _jobs(get_capabilities=lambda _: {}),
    "test_audio_providers_populate_audio_metadata": lambda: _with_asset(
        Asset(url="https://media.test/a.mp3", media_type="audio/mpeg")
    ),
    "test_chain_input_urls_validated": lambda: _jobs(invoke=_reckless),
    "test_normalize_params_idempotent": lambda: _jobs(
        normalize_params=lambda _, params, modality: {**params, "n": params.get("n", 0) + 1}
    ),
    "test_accepts_probe_cache_kwargs": lambda: _of(_NoKeywords),
    "test_invoke_populates_cost": lambda: _with_asset(PNG, cost=None),
}


def _checks(suite: type) -> list[str]:
    return [name for name in vars(suite) if name.startswith("test_")]


def _refuses(suite: Any, check: str) -> None:
    # A missing keyword shows as Python's own error.
    own = (TypeError,) if check == "test_accepts_probe_cache_kwargs" else ()
    with pytest.raises((AssertionError, pytest.fail.Exception, *own)):
        getattr(suite, check)()


@pytest.mark.parametrize("check", _checks(ProviderComplianceTests))
def test_each_guide_check_refuses_a_broken_provider(check: str) -> None:
    """Every one of the 16 checks fails for a provider that breaks what it checks."""
    assert len(BROKEN_GUIDE) == 16
    _refuses(BROKEN_GUIDE[check](), check)


class Scripted:
    """A provider of the protocol whose answers a test replaces one by one."""

    name = "scripted"
    version = "1"
    deduplicates = False
    result = Result((Output(data=b"\x89PNG\r\n\x1a\n" + bytes(64)),), cost_usd=0.0)

    def validate(self, request: GenerationRequest) -> None:
        return None

    def estimate_cost(self, request: GenerationRequest) -> float | None:
        return 0.0

    async def submit(self, request: GenerationRequest) -> Submission:
        return Submission(result=self.result)

    async def poll(self, job_id: str, request: GenerationRequest) -> JobStatus:
        return JobStatus(JobState.SUCCEEDED)

    async def fetch_output(self, job_id: str, request: GenerationRequest) -> Result:
        return self.result

    async def cancel(self, job_id: str) -> bool:
        return False

    async def aclose(self) -> None:
        return None


class TestScripted(_Protocol):
    def make_provider(self) -> Provider:
        return Scripted()


def _scripted(**attributes: Any) -> ProtocolComplianceTests:
    class Broken(_Protocol):
        def make_provider(self) -> Provider:
            return type("BrokenProvider", (Scripted,), attributes)()

    return Broken()


def _answering(**changes: Any) -> ProtocolComplianceTests:
    return _scripted(result=replace(Scripted.result, **changes))


def _giving(answer: object) -> Callable[..., Any]:
    async def method(*_: object) -> object:
        return answer

    return method


class _Dangerous(Scripted):
    async def submit(self, request: GenerationRequest) -> Submission:
        for item in request.inputs:
            raise ProviderError(f"cannot fetch {item.asset.url}")
        return await super().submit(request)


class _Forgetful(Scripted):
    deduplicates = True
    made = 0

    async def submit(self, request: GenerationRequest) -> Submission:
        self.made += 1
        return Submission(job_id=f"job-{self.made}")


def _class(kind: type) -> ProtocolComplianceTests:
    return _scripted(**{k: v for k, v in vars(kind).items() if not k.startswith("__")})


BROKEN_PROTOCOL = {
    "test_has_name_and_version": lambda: _scripted(version=""),
    "test_is_a_provider": lambda: _scripted(deduplicates=None),
    "test_validate_accepts_the_request": lambda: _scripted(validate=lambda *_: False),
    "test_estimate_is_a_price_or_unknown": lambda: _scripted(estimate_cost=lambda *_: -1.0),
    "test_submit_gives_a_job_or_a_result": lambda: _scripted(submit=_giving(Submission())),
    "test_job_id_is_text": lambda: _scripted(submit=_giving(Submission(job_id=7))),  # type: ignore[arg-type]
    "test_poll_returns_status": lambda: _scripted(
        submit=_giving(Submission(job_id="a")), poll=_giving(True)
    ),
    "test_result_has_outputs": lambda: _answering(outputs=()),
    "test_outputs_can_be_had": lambda: _answering(outputs=(Output(url="http://media.test/a"),)),
    "test_outputs_have_a_media_type": lambda: _answering(outputs=(Output(data=b"?"),)),
    "test_facts_are_fields_of_an_asset": lambda: _answering(
        outputs=(Output(data=b"?", facts={"colour": "red"}),)
    ),
    "test_payload_is_small_clean_json": lambda: _answering(
        provider_payload={"image": "A" * 100_000}
    ),
    "test_cost_is_populated": lambda: _answering(cost_usd=None),
    "test_inputs_are_read_from_the_store": lambda: _scripted(submit=_Dangerous.submit),
    "test_repeated_submit_is_one_job": lambda: _class(_Forgetful),
    "test_cancel_and_close_never_break": lambda: _scripted(cancel=_giving(None)),
}


@pytest.mark.parametrize("check", _checks(ProtocolComplianceTests))
def test_each_protocol_check_refuses_a_broken_provider(check: str) -> None:
    """Every one of the 16 checks fails for a provider that breaks what it checks."""
    assert len(BROKEN_PROTOCOL) == 16
    _refuses(BROKEN_PROTOCOL[check](), check)


def test_a_job_that_never_ends_is_given_up() -> None:
    """The suites wait for a job no longer than they are told."""
    suite = _of(type("Slow", (JobProvider,), {"poll": lambda *_: False}), poll_deadline_sec=0.05)
    with pytest.raises(AssertionError, match=r"not over after 0\.05 s"):
        suite.test_fetch_output_returns_step()


def test_word_timings_count_as_audio_metadata() -> None:
    """A speech provider that knows its words passes the audio check."""
    asset = Asset(
        url="https://media.test/a.mp3",
        media_type="audio/mpeg",
        audio=AudioMetadata.model_validate(
            {"word_timings": [{"word": "fox", "start": 0, "end": 0.4}]}
        ),
    )
    _with_asset(asset).test_audio_providers_populate_audio_metadata()


def test_the_step_of_a_suite_may_be_of_any_modality() -> None:
    """Nothing in the suites supposes pictures."""

    class Speech(_Guide):
        def make_provider(self) -> BaseProvider:
            return MockAudioProvider(cost_usd=0.0)

        def make_step(self) -> Step:
            return Step(provider="any", model="m", modality=Modality.AUDIO)

    for check in _checks(ProviderComplianceTests):
        getattr(Speech(), check)()
