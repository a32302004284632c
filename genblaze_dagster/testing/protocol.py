"""What a provider of `genblaze_dagster.providers.Provider` promises, as 16 tests."""
# ruff: noqa: S101 - pytest shows what an assert compared

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import GenblazeError, InvalidRequestError, ProviderError
from genblaze_dagster.media.sniff import sniff_media_type
from genblaze_dagster.net.redact import find_secret
from genblaze_dagster.providers.protocol import (
    GenerationRequest,
    InputMedia,
    JobState,
    JobStatus,
    Output,
    Provider,
    Result,
    Submission,
)

T = TypeVar("T")

_KEY = "0192f1c0-0000-7000-8000-000000000001"
_LONGEST_PAYLOAD = 64 * 1024


class ProtocolComplianceTests(ABC):
    """Derive a class named `Test...`, implement the two methods, and run pytest.

    The tests make real calls: give a provider whose client answers from a recording, or expect to
    pay. `expects_cost = False` is for providers whose price nobody knows; `poll_deadline_sec` is how
    long a job may take.
    """

    expects_cost = True
    poll_deadline_sec = 60.0

    @abstractmethod
    def make_provider(self) -> Provider:
        """Return a new provider."""

    @abstractmethod
    def make_request(self) -> GenerationRequest:
        """Return a request that the provider can do, without inputs."""

    def test_has_name_and_version(self) -> None:
        """Name and version are text: manifests and code versions are made of them."""
        provider = self.make_provider()
        for value in (provider.name, provider.version):
            given: object = value
            assert isinstance(given, str)
            assert given
            assert given == given.strip()

    def test_is_a_provider(self) -> None:
        """Every method of the protocol is there, and `deduplicates` is True or False."""
        provider = self.make_provider()
        assert isinstance(provider, Provider)
        deduplicates: object = provider.deduplicates
        assert isinstance(deduplicates, bool)

    def test_validate_accepts_the_request(self) -> None:
        """A request the provider can do is not refused, and refusing needs no event loop."""
        answer: object = self.make_provider().validate(self.make_request())
        assert answer is None

    def test_estimate_is_a_price_or_unknown(self) -> None:
        """An estimate is dollars, or None when nobody knows."""
        estimate: object = self.make_provider().estimate_cost(self.make_request())
        assert estimate is None or (isinstance(estimate, int | float) and estimate >= 0)

    def test_submit_gives_a_job_or_a_result(self) -> None:
        """A submit answers with a job id or with the result, never with neither."""

        async def body(provider: Provider) -> Submission:
            return await provider.submit(self._request())

        submission: object = self._run(body)
        assert isinstance(submission, Submission)
        assert bool(submission.job_id) != (submission.result is not None)

    def test_job_id_is_text(self) -> None:
        """The job id can be written into the ledger."""

        async def body(provider: Provider) -> Submission:
            return await provider.submit(self._request())

        job_id: object = self._run(body).job_id
        assert job_id is None or isinstance(job_id, str)

    def test_poll_returns_status(self) -> None:
        """A poll answers with the state of the job."""

        async def body(provider: Provider) -> object:
            submission = await provider.submit(self._request())
            if submission.job_id is None:
                return None
            return await provider.poll(submission.job_id, self._request())

        status = self._run(body)
        if status is None:
            pytest.skip("the provider answers at once")
        assert isinstance(status, JobStatus)
        assert status.progress is None or 0 <= status.progress <= 1
        assert status.poll_after is None or status.poll_after >= 0

    def test_result_has_outputs(self) -> None:
        """A finished generation has at least one output, each in exactly one place."""
        result: object = self._run(self._generate)
        assert isinstance(result, Result)
        assert result.outputs
        for output in result.outputs:
            places = (output.data, output.path, output.url)
            assert sum(place is not None for place in places) == 1

    def test_outputs_can_be_had(self) -> None:
        """Bytes are not empty, files exist, and URLs are https."""
        for output in self._run(self._generate).outputs:
            if output.url is not None:
                assert output.url.startswith("https://"), "a URL is not https"
            elif output.path is not None:
                assert output.path.is_file()
            else:
                assert output.data

    def test_outputs_have_a_media_type(self) -> None:
        """The media type of every output is declared, or shows in its bytes."""
        for output in self._run(self._generate).outputs:
            if output.url is None:
                assert output.media_type or sniff_media_type(_head(output))

    def test_facts_are_fields_of_an_asset(self) -> None:
        """What a provider knows of its media can be recorded."""
        for output in self._run(self._generate).outputs:
            assert set(output.facts) <= set(Asset.model_fields)
            Asset.model_validate(
                {"media_type": "image/png", **output.facts, "url": "https://media.test/output"}
            )

    def test_payload_is_small_clean_json(self) -> None:
        """What goes into the manifest is JSON, without keys and without media in base64."""
        payload = dict(self._run(self._generate).provider_payload)
        text = json.dumps(payload, allow_nan=False)
        assert len(text) <= _LONGEST_PAYLOAD
        assert find_secret(payload) is None

    def test_cost_is_populated(self) -> None:
        """A result says what it cost."""
        cost = self._run(self._generate).cost_usd
        if not self.expects_cost and cost is None:
            pytest.skip("expects_cost is False")
        assert cost is not None, "set Result.cost_usd, or expects_cost = False"
        assert cost >= 0

    def test_inputs_are_read_from_the_store(self) -> None:
        """The recorded address of an input is never fetched: its bytes come from the store."""

        async def body(provider: Provider) -> None:
            request = replace(self._request(), inputs=(_unsafe_input(),))
            provider.validate(request)
            submission = await provider.submit(request)
            if submission.job_id is not None:
                await provider.cancel(submission.job_id)

        try:
            self._run(body)
        except InvalidRequestError:
            pytest.skip("the provider takes no such inputs")
        except ProviderError:
            pytest.fail("the provider failed at an input it could have read")

    def test_repeated_submit_is_one_job(self) -> None:
        """A provider that says it deduplicates answers one idempotency key with one job."""

        async def body(provider: Provider) -> tuple[Submission, Submission] | None:
            if not provider.deduplicates:
                return None
            return await provider.submit(self._request()), await provider.submit(self._request())

        answers = self._run(body)
        if answers is None:
            pytest.skip("the provider does not deduplicate")
        first, second = answers
        assert first.job_id == second.job_id
        assert (first.result is None) == (second.result is None)
        if first.result is not None and second.result is not None:
            given = [output.data for output in first.result.outputs]
            assert given == [output.data for output in second.result.outputs]

    def test_cancel_and_close_never_break(self) -> None:
        """Cancelling a job nobody knows says False or raises a typed error; closing twice is fine."""

        async def body(provider: Provider) -> object:
            try:
                return await provider.cancel("no-such-job")
            except GenblazeError:
                return False
            finally:
                await provider.aclose()

        cancelled = self._run(body)
        assert isinstance(cancelled, bool)

    def _request(self) -> GenerationRequest:
        return replace(self.make_request(), idempotency_key=_KEY)

    def _run(self, body: Callable[[Provider], Coroutine[Any, Any, T]]) -> T:
        async def closing() -> T:
            provider = self.make_provider()
            try:
                return await body(provider)
            finally:
                await provider.aclose()

        return asyncio.run(closing())

    async def _generate(self, provider: Provider) -> Result:
        request = self._request()
        submission = await provider.submit(request)
        if submission.job_id is None:
            assert submission.result is not None, "neither a job nor a result"
            return submission.result
        ends_at = time.monotonic() + self.poll_deadline_sec
        while True:
            status = await provider.poll(submission.job_id, request)
            assert status.state not in (JobState.FAILED, JobState.CANCELLED), status.message
            if status.state is JobState.SUCCEEDED:
                return await provider.fetch_output(submission.job_id, request)
            assert time.monotonic() < ends_at, f"not over after {self.poll_deadline_sec} s"
            await asyncio.sleep(1.0 if status.poll_after is None else status.poll_after)


def _head(output: Output) -> bytes:
    if output.path is not None:
        with output.path.open("rb") as file:
            return file.read(4096)
    return (output.data or b"")[:4096]


def _unsafe_input() -> InputMedia:
    from genblaze_dagster.providers.mock_media import file_of

    data = file_of("image/png", "input")

    async def read() -> bytes:
        return data

    async def stream() -> AsyncIterator[bytes]:
        yield data

    asset = Asset(
        url="http://169.254.169.254/input.png", media_type="image/png", size_bytes=len(data)
    )
    return InputMedia(asset=asset, read=read, stream=stream, public_url=lambda: None)
