"""What a provider over `Step` promises, as 16 tests."""
# ruff: noqa: S101 - pytest shows what an assert compared

import time
from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import urlsplit

import pytest

from genblaze_dagster.core.enums import StepStatus
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.providers.base import (
    BaseProvider,
    ProviderCapabilities,
    SubmitResult,
    SyncProvider,
)

_UNSAFE_INPUTS = (
    "http://169.254.169.254/latest/meta-data/",
    "https://127.0.0.1/input.png",
    "file:///etc/passwd",
)
_ENDED = (StepStatus.SUCCEEDED, StepStatus.FAILED)


class ProviderComplianceTests(ABC):
    """Derive a class named `Test...`, implement the two methods, and run pytest.

    The tests make real calls: give a provider whose client answers from a recording, or expect to
    pay. `expects_cost = False` is for providers whose price nobody knows; `poll_deadline_sec` is how
    long a job may take.
    """

    expects_cost = True
    poll_deadline_sec = 60.0

    @abstractmethod
    def make_provider(self) -> BaseProvider:
        """Return a new provider."""

    @abstractmethod
    def make_step(self) -> Step:
        """Return a new step that the provider can do."""

    def constructor_kwargs_for_probe_cache_test(self) -> dict[str, Any]:
        """Return what the class needs to be constructed, besides the probe cache keywords."""
        return {}

    def test_has_name(self) -> None:
        """The provider has a name of its own, which manifests keep."""
        name = self.make_provider().name
        assert name, "give the class a name"
        assert name != BaseProvider.name, "the class has the name of BaseProvider"

    def test_name_is_string(self) -> None:
        """The name is text without blanks around it."""
        name: object = self.make_provider().name
        assert isinstance(name, str)
        assert name == name.strip()

    def test_submit_returns_prediction_id(self) -> None:
        """A submit returns a job id, bare or in a SubmitResult."""
        self._id(self.make_provider().submit(self.make_step()))

    def test_poll_returns_bool(self) -> None:
        """A poll returns True or False, and nothing that merely looks like it."""
        provider = self.make_provider()
        answer: object = provider.poll(self._id(provider.submit(self.make_step())))
        assert isinstance(answer, bool)

    def test_fetch_output_returns_step(self) -> None:
        """The output of a job that is over comes in a step."""
        provider, step = self.make_provider(), self.make_step()
        prediction_id = self._id(provider.submit(step))
        ends_at = time.monotonic() + self.poll_deadline_sec
        while not provider.poll(prediction_id):
            assert time.monotonic() < ends_at, f"not over after {self.poll_deadline_sec} s"
            time.sleep(min(provider.poll_interval, 1.0))
        fetched: object = provider.fetch_output(prediction_id, step)
        assert isinstance(fetched, Step)

    def test_invoke_succeeds(self) -> None:
        """A call ends, succeeded or failed, without raising and without touching its argument."""
        step = self.make_step()
        before = step.model_copy(deep=True)
        made = self.make_provider().invoke(step)
        assert made.status in _ENDED
        assert made is not step
        assert step == before, "invoke changed the step it was given"
        if made.status is StepStatus.FAILED:
            assert made.error
            assert made.error_code is not None

    def test_invoke_sets_timestamps(self) -> None:
        """A finished step says when it started and when it ended."""
        made = self.make_provider().invoke(self.make_step())
        assert made.started_at is not None
        assert made.completed_at is not None
        assert made.started_at <= made.completed_at

    def test_assets_have_valid_urls(self) -> None:
        """Outputs lie at https or file URLs."""
        for asset in self._succeeded().assets:
            parts = urlsplit(asset.url)
            assert parts.scheme in ("https", "file"), f"an output has the scheme {parts.scheme!r}"
            assert parts.netloc if parts.scheme == "https" else parts.path

    def test_assets_have_media_type(self) -> None:
        """Every output has a media type."""
        for asset in self._succeeded().assets:
            assert asset.media_type
            assert asset.media_type.count("/") == 1

    def test_sync_provider_generate_is_sufficient(self) -> None:
        """A SyncProvider needs nothing but `generate`: its job is over when submit returns."""
        provider = self.make_provider()
        if not isinstance(provider, SyncProvider):
            pytest.skip("a provider with jobs")
        step = self.make_step()
        prediction_id = self._id(provider.submit(step))
        assert provider.poll(prediction_id) is True
        fetched: object = provider.fetch_output(prediction_id, step)
        assert isinstance(fetched, Step)

    def test_get_capabilities_returns_valid_type(self) -> None:
        """Capabilities are declared as ProviderCapabilities, or not at all."""
        declared: object = self.make_provider().get_capabilities()
        assert declared is None or isinstance(declared, ProviderCapabilities)

    def test_audio_providers_populate_audio_metadata(self) -> None:
        """Audio outputs say how they sound."""
        for asset in self._succeeded().assets:
            if asset.media_type.startswith("audio/"):
                assert asset.audio is not None, "set Asset.audio"

    def test_chain_input_urls_validated(self) -> None:
        """An input on a private address, or in a system file, is refused."""
        for url in _UNSAFE_INPUTS:
            step = self.make_step()
            step.inputs = [Asset(url=url, media_type="image/png")]
            made = self.make_provider().invoke(step)
            assert made.status is StepStatus.FAILED, f"the provider took {url}"

    def test_normalize_params_idempotent(self) -> None:
        """Parameters that are normalised already stay as they are."""
        provider, step = self.make_provider(), self.make_step()
        once = provider.normalize_params(dict(step.params), step.modality)
        twice = provider.normalize_params(dict(once), step.modality)
        assert twice == once

    def test_accepts_probe_cache_kwargs(self) -> None:
        """The constructor takes the keywords of the probe cache, and they arrive."""
        kind = type(self.make_provider())
        provider = kind(
            probe_cache_ttl=12.5,
            probe_cache_max_entries=7,
            **self.constructor_kwargs_for_probe_cache_test(),
        )
        assert provider.PROBE_CACHE_TTL_SECONDS == 12.5
        assert provider.PROBE_CACHE_MAX_ENTRIES == 7

    def test_invoke_populates_cost(self) -> None:
        """A finished step says what it cost."""
        if not self.expects_cost:
            pytest.skip("expects_cost is False")
        cost = self._succeeded().cost_usd
        assert cost is not None, "set step.cost_usd, register a pricing, or expects_cost = False"
        assert cost >= 0

    def _succeeded(self) -> Step:
        made = self.make_provider().invoke(self.make_step())
        assert made.status is StepStatus.SUCCEEDED, f"the call failed: {made.error}"
        assert made.assets, "the call succeeded without an output"
        return made

    def _id(self, answer: object) -> Any:
        prediction_id = answer.prediction_id if isinstance(answer, SubmitResult) else answer
        assert prediction_id is not None
        assert prediction_id not in ("", b""), "submit returned no job id"
        return prediction_id
