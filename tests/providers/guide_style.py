"""Providers written as in the genblaze guides, and how to ask them once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.base import (
    BaseProvider,
    RunnableConfig,
    SubmitResult,
    SyncProvider,
)
from genblaze_dagster.providers.mock_media import file_of
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia

PNG = file_of("image/png", "adapter")
REQUEST = GenerationRequest(
    model="m", prompt="a fox", params={"size": "8x8"}, idempotency_key="run-1", timeout=5.0
)


class Guide(SyncProvider):
    """Answers with the given record; bytes are in hand for https."""

    name = "guide"

    def __init__(self, asset: Asset | None = None, **changes: Any) -> None:
        super().__init__()
        self.asset = asset or Asset(url="https://media.test/a.png", media_type="image/png")
        self.changes = changes
        self.seen: list[Step] = []

    def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
        self.seen.append(step.model_copy(deep=True))
        for name, value in self.changes.items():
            setattr(step, name, value)
        step.assets = [self.asset]
        return step

    def read_output(self, asset: Asset, step: Step) -> bytes | None:
        return PNG if asset.url.startswith("https://media.test/") else None


class Jobs(BaseProvider):
    """Jobs with any id; over at the second poll."""

    name = "guide-jobs"
    poll_interval = 0.002

    def __init__(self, prediction_id: Any = "job-1") -> None:
        super().__init__()
        self.prediction_id = prediction_id
        self.submits = 0
        self.polled: list[Any] = []
        self.fetched: list[Any] = []
        self.cancelled: list[Any] = []

    def submit(self, step: Step, config: RunnableConfig | None = None) -> Any:
        self.submits += 1
        return SubmitResult(self.prediction_id, estimated_seconds=0.001)

    def poll(self, prediction_id: Any, config: RunnableConfig | None = None) -> bool:
        self.polled.append(prediction_id)
        return len(self.polled) > 1

    def poll_progress(self, prediction_id: Any) -> dict[str, Any]:
        return {"progress_pct": 40, "message": "drawing"}

    def fetch_output(self, prediction_id: Any, step: Step) -> Step:
        self.fetched.append(prediction_id)
        step.assets.append(Asset(url="https://media.test/a.png", media_type="image/png"))
        step.metadata["upstream_id"] = prediction_id
        return step

    def read_output(self, asset: Asset, step: Step) -> bytes:
        return PNG

    def cancel(self, prediction_id: Any) -> bool:
        self.cancelled.append(prediction_id)
        return True


def input_media(url: str | None, sha256: str = "a" * 64) -> InputMedia:
    async def read() -> bytes:
        return PNG

    async def stream() -> AsyncIterator[bytes]:
        yield PNG[:10]
        yield PNG[10:]

    asset = Asset(url="memory://x/a.png", media_type="image/png", sha256=sha256)
    return InputMedia(asset=asset, read=read, stream=stream, public_url=lambda: url)


def submit(provider: BaseProvider, request: GenerationRequest = REQUEST) -> Any:
    return asyncio.run(adapt(provider).submit(request))
