"""A vendor's golden exchanges, replayed through a provider's whole life: submit, poll, fetch, download."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    QuotaError,
    RateLimitError,
)
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    JobState,
    JobStatus,
    Provider,
    Result,
)
from tests.support.wire import Scenario, differences, replay

ERRORS: Mapping[str, tuple[type[ProviderError], ...]] = {
    "AUTH": (AuthError,),
    "QUOTA": (QuotaError,),
    "CONTENT_POLICY": (ContentPolicyError,),
    "INVALID_INPUT": (InvalidRequestError,),
    "MODEL_ERROR": (ModelError, OutputError),
    "RATE_LIMIT": (RateLimitError,),
    "TIMEOUT": (ProviderTimeoutError,),
    "SERVER_ERROR": (ProviderUnavailableError,),
}
"""The vectors' names for errors. A success without an output is an OutputError, a model error."""

MakeProvider = Callable[[httpx.AsyncClient], Provider]
_OVER = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass
class Driven:
    """What came of a call: statuses of the polls in order, and a result or an error."""

    statuses: list[JobStatus] = field(default_factory=list)
    job_id: str | None = None
    result: Result | None = None
    error: ProviderError | None = None
    failed_attempts: list[ProviderError] = field(default_factory=list)
    downloaded: list[bytes] = field(default_factory=list)

    @property
    def states(self) -> list[str]:
        """States of the polls."""
        return [status.state.value for status in self.statuses]

    @property
    def data(self) -> list[bytes]:
        """The bytes of the outputs: those in hand, else those downloaded."""
        outputs = self.result.outputs if self.result is not None else ()
        in_hand = [output.data for output in outputs if output.data is not None]
        return in_hand or self.downloaded


def replayed(
    scenario: Scenario,
    make: MakeProvider,
    request: GenerationRequest,
    *,
    download: bool = False,
    fetch: bool = True,
    same_requests: bool = True,
) -> Driven:
    """Make the scenario's call through the provider and assert that every request is equal.

    The call is repeated while it fails in a way that passes and the scenario has more to say, as the
    Runner would. With `download` the outputs' URLs are fetched too, with their headers only. Without
    `fetch` the life ends with the last poll. Without `same_requests` only the answers are played:
    for what the vendor refuses and we refuse before it is sent, asked for in another way.
    """
    exchanges = list(scenario.exchanges)
    if download:
        exchanges += scenario.downloads
    played = replace(scenario, exchanges=exchanges)

    async def main() -> Driven:
        async with wire.client() as client:
            return await _drive(
                make(client),
                request,
                lambda: len(exchanges) - len(wire.received),
                client if download else None,
                fetch,
            )

    with replay(played) as wire:
        driven = asyncio.run(main())
    if same_requests:
        assert_equal_requests(played, wire.received)
    return driven


def called(scenario: Scenario, make: MakeProvider, call: Callable[[Any], Any]) -> Any:
    """Await `call(provider)` once, assert that every request is equal, and return its answer."""

    async def main() -> Any:
        async with wire.client() as client:
            return await call(make(client))

    with replay(scenario) as wire:
        answer = asyncio.run(main())
    assert_equal_requests(scenario, wire.received)
    return answer


def assert_equal_requests(scenario: Scenario, received: list[Any]) -> None:
    """Assert that what arrived is what the vendor's own client sent, in number and content."""
    for exchange, arrived in zip(scenario.exchanges, received, strict=False):
        found = differences(exchange["request"], arrived, provider=scenario.provider)
        assert found == [], f"{exchange['request']['method']} {exchange['request']['url']}: {found}"
    assert len(received) == len(scenario.exchanges)


async def _drive(
    provider: Provider,
    request: GenerationRequest,
    left: Callable[[], int],
    downloads: httpx.AsyncClient | None,
    fetch: bool,
) -> Driven:
    driven = Driven()
    try:
        submission = await _patiently(lambda: provider.submit(request), left, driven)
        driven.job_id = submission.job_id
        driven.result = submission.result
        if submission.job_id is not None and submission.result is None and left():
            await _wait(provider, submission.job_id, request, left, driven, fetch)
        if driven.result is not None and downloads is not None:
            for output in driven.result.outputs:
                if output.url is not None:
                    answer = await downloads.get(output.url, headers=dict(output.headers))
                    driven.downloaded.append(answer.content)
    except ProviderError as exc:
        driven.error = exc
    return driven


async def _wait(
    provider: Provider,
    job_id: str,
    request: GenerationRequest,
    left: Callable[[], int],
    driven: Driven,
    fetch: bool,
) -> None:
    while True:
        status = await _patiently(lambda: provider.poll(job_id, request), left, driven)
        driven.statuses.append(status)
        if status.state in _OVER:
            break
        if not left():
            return
    if status.state is not JobState.SUCCEEDED:
        assert isinstance(status.error, ProviderError)
        driven.error = status.error
    elif fetch:
        driven.result = await _patiently(
            lambda: provider.fetch_output(job_id, request), left, driven
        )


async def _patiently(call: Callable[[], Any], left: Callable[[], int], driven: Driven) -> Any:
    while True:
        try:
            return await call()
        except ProviderError as exc:
            if not exc.transient or not left():
                raise
            driven.failed_attempts.append(exc)


def check_expected(scenario: Scenario, driven: Driven, *, key: str) -> None:
    """Assert what every vendor's vectors have in common: error, states, outputs, bytes."""
    expect = scenario.expect
    if "error_code" in expect:
        _check_error(expect, driven, key)
        return
    if expect.get("final") == "cancelled":
        assert driven.statuses[-1].state is JobState.CANCELLED
        return
    assert driven.error is None, driven.error
    if "retry_after_s" in expect:
        assert driven.failed_attempts[0].retry_after == expect["retry_after_s"]
    if "attempts" in expect:
        assert len(driven.failed_attempts) + 1 == expect["attempts"]
    _check_states(expect, driven)
    urls = expect.get("outputs") or expect.get("output_urls")
    if urls and driven.result is not None:
        assert [output.url for output in driven.result.outputs] == urls
    if "output_sha256" in expect and driven.data:
        wanted = expect["output_sha256"]
        found = [hashlib.sha256(data).hexdigest() for data in driven.data]
        assert found == (wanted if isinstance(wanted, list) else [wanted])
    if driven.result is not None:
        payload = repr(driven.result.provider_payload)
        assert "https://" not in payload
        assert key not in payload


def _check_states(expect: Mapping[str, Any], driven: Driven) -> None:
    # Some vectors begin with the state in the submit's answer, which here is just: there is a job.
    for states in (expect.get("states"), expect.get("normalized")):
        if states is not None and driven.statuses:
            assert driven.states in (states, states[1:])
    if "provider_job_id" in expect:
        assert driven.job_id == expect["provider_job_id"]


def _check_error(expect: Mapping[str, Any], driven: Driven, key: str) -> None:
    error = driven.error
    assert error is not None
    assert isinstance(error, ERRORS[expect["error_code"]]), repr(error)
    assert error.transient is expect["retryable"], repr(error)
    if "retry_after_s" in expect:
        assert error.retry_after == expect["retry_after_s"]
    assert key not in str(error)
