"""Providers for tests: they answer offline, count what they are asked, and fail when told to.

The records are genblaze's (URLs below `https://mock.test/`, constant hashes); the bytes behind them
are real files made from the request, so that a pipeline stores, probes and embeds them without a
network. What a store records is the hash of these bytes.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genblaze_dagster.core.enums import Modality, ProviderErrorCode
from genblaze_dagster.core.models import Asset, AudioMetadata, Step, VideoMetadata
from genblaze_dagster.providers.base import RunnableConfig, SyncProvider
from genblaze_dagster.providers.failures import error_for_code
from genblaze_dagster.providers.mock_media import file_of
from genblaze_dagster.providers.retry import RetryPolicy

if TYPE_CHECKING:
    from genblaze_dagster.providers.models import ModelRegistry

_SHAPELESS = "application/octet-stream"
_BY_MODALITY = {
    Modality.IMAGE: "image/png",
    Modality.VIDEO: "video/mp4",
    Modality.AUDIO: "audio/mpeg",
    Modality.TEXT: "text/plain",
}


class MockProvider(SyncProvider):
    """Answers every step with the same records and a file made from its request.

    Attributes:
        call_count: how often it was asked.
        received_steps: what it was asked, in the order of arrival.

    Args:
        name: as it stands in manifests; the class's own when left out.
        assets: the outputs, or a function that makes them from the step. The bytes of an http URL
            are made here, those of a file URL are read.
        latency: seconds a call takes; it blocks as long.
        should_fail: raise instead of answering.
        error_code: of that error. `server_error` and `timeout` count as a lost answer, as those of
            a real vendor would.
        error_message: of that error.
        cost_usd: what a call costs; None is unknown.
        models: this and the following as in `BaseProvider`.
        retry_policy: see there.
        probe_cache_ttl: see there.
        probe_cache_max_entries: see there.
    """

    name = "mock"

    def __init__(
        self,
        *,
        name: str | None = None,
        assets: Sequence[Asset] | Callable[[Step], Sequence[Asset]] | None = None,
        latency: float = 0,
        should_fail: bool = False,
        error_code: ProviderErrorCode = ProviderErrorCode.UNKNOWN,
        error_message: str = "Mock provider error",
        cost_usd: float | None = None,
        models: "ModelRegistry | None" = None,
        retry_policy: RetryPolicy | None = None,
        probe_cache_ttl: float | None = None,
        probe_cache_max_entries: int | None = None,
    ) -> None:
        super().__init__(
            models=models,
            retry_policy=retry_policy,
            probe_cache_ttl=probe_cache_ttl,
            probe_cache_max_entries=probe_cache_max_entries,
        )
        if name is not None:
            self.name = name
        self.call_count = 0
        self.received_steps: list[Step] = []
        self._assets = assets
        self._latency = latency
        self._should_fail = should_fail
        self._error = (error_code, error_message)
        self._cost_usd = cost_usd
        self._counting = threading.Lock()

    def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
        """Count the call, wait, and answer or fail.

        Raises:
            ProviderError: `should_fail` is set.
        """
        with self._counting:
            self.call_count += 1
            self.received_steps.append(step)
        if self._latency > 0:
            time.sleep(self._latency)
        if self._should_fail:
            code, message = self._error
            raise error_for_code(code, message, provider=self.name, model=step.model)
        step.assets.extend(self._outputs(step))
        step.cost_usd = self._cost_usd
        return step

    def read_output(self, asset: Asset, step: Step) -> bytes | Path | None:
        """Return the file that an output of a step stands for; None for file URLs."""
        if not asset.url.startswith(("https:", "http:")):
            return None
        media_type = asset.media_type
        if media_type == _SHAPELESS:
            media_type = _BY_MODALITY[step.modality]
        asked = (step.model, step.prompt, step.negative_prompt, step.seed, step.params, asset.url)
        inputs = [item.sha256 for item in step.inputs]
        return file_of(media_type, json.dumps((*asked, inputs), sort_keys=True, default=repr))

    def _outputs(self, step: Step) -> list[Asset]:
        if callable(self._assets):
            return list(self._assets(step))
        if self._assets is not None:
            return [asset.model_copy(deep=True) for asset in self._assets]
        return [self._default_asset()]

    def _default_asset(self) -> Asset:
        return Asset(url="https://mock.test/output.bin", media_type=_SHAPELESS, sha256="0" * 64)


class MockVideoProvider(MockProvider):
    """A `MockProvider` whose output is an MP4 video."""

    name = "mock-video"

    def _default_asset(self) -> Asset:
        return Asset(
            url="https://mock.test/video.mp4",
            media_type="video/mp4",
            sha256="1" * 64,
            video=VideoMetadata(codec="h264", has_audio=False),
        )


class MockAudioProvider(MockProvider):
    """A `MockProvider` whose output is an MP3."""

    name = "mock-audio"

    def _default_asset(self) -> Asset:
        return Asset(
            url="https://mock.test/audio.mp3",
            media_type="audio/mpeg",
            sha256="2" * 64,
            audio=AudioMetadata(sample_rate=44100, channels=1, codec="mp3"),
        )
