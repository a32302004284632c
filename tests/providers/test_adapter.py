import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality, ProviderErrorCode
from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.errors import (
    ConfigError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    RateLimitError,
)
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.base import ProviderCapabilities, RunnableConfig
from genblaze_dagster.providers.local import LocalProvider
from genblaze_dagster.providers.protocol import GenerationRequest, JobState, Provider
from tests.providers.guide_style import PNG, REQUEST, Guide, Jobs, input_media, submit


def test_a_guide_style_provider_becomes_a_provider() -> None:
    """The result satisfies the protocol; a provider of the protocol is returned as it is."""
    adapted = adapt(Guide())
    assert isinstance(adapted, Provider)
    assert (adapted.name, adapted.version, adapted.deduplicates) == ("guide", "1", False)
    local = LocalProvider()
    assert adapt(local) is local


def test_something_else_is_refused() -> None:
    """An object without the methods is told what to derive from."""
    with pytest.raises(ConfigError, match="derive from BaseProvider"):
        adapt(type("Other", (), {"name": "other"})())


def test_the_step_is_the_request() -> None:
    """Model, prompt, parameters and an id shared by all attempts arrive in the step."""
    provider = Guide()
    submit(provider)
    submit(provider)
    step = provider.seen[0]
    assert (step.model, step.prompt, step.params) == ("m", "a fox", {"size": "8x8"})
    assert [seen.step_id for seen in provider.seen] == ["run-1", "run-1"]


def test_params_are_normalised_for_the_vendor() -> None:
    """`normalize_params` is applied; one that raises is an invalid, unsent request."""

    class Native(Guide):
        def normalize_params(self, params: dict[str, Any], modality: Any = None) -> dict[str, Any]:
            return {"resolution": params["size"]}

    provider = Native()
    submit(provider)
    assert provider.seen[0].params == {"resolution": "8x8"}
    with pytest.raises(InvalidRequestError) as refused:
        submit(provider, GenerationRequest(model="m"))
    assert refused.value.sent is False


def test_the_result_is_the_step() -> None:
    """Bytes, facts, cost, version and payload come back; metadata goes to the payload."""
    asset = Asset(
        url="https://media.test/a.mp3",
        media_type="audio/mpeg",
        duration=1.5,
        metadata={"voice": "x"},
        audio={"word_timings": [{"word": "fox", "start": 0, "end": 0.4}]},  # type: ignore[arg-type]
    )
    result = submit(
        Guide(
            asset,
            cost_usd=0.25,
            model_version="v2",
            provider_payload={"request_id": "r-1"},
            metadata={"upstream_id": "sync", "mood": "calm"},
        )
    ).result
    assert (result.cost_usd, result.model_version) == (0.25, "v2")
    assert result.provider_payload == {"request_id": "r-1", "metadata": {"mood": "calm"}}
    output = result.outputs[0]
    assert (output.data, output.media_type) == (PNG, "audio/mpeg")
    assert output.facts["duration"] == 1.5
    assert output.facts["metadata"] == {"voice": "x"}
    assert output.facts["audio"]["word_timings"][0]["word"] == "fox"


def test_the_payload_is_presentable() -> None:
    """Keys, grants, media in base64 and objects do not reach a manifest."""
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"deeper": deep}
    payload = {
        "url": "https://cdn.test/a.png?X-Amz-Signature=" + "ab" * 32,
        "image": base64.b64encode(bytes(10_000)).decode(),
        "object": object(),
        "nan": float("nan"),
        "deep": deep,
        "count": 3,
    }
    kept = submit(Guide(provider_payload=payload)).result.provider_payload
    assert "ab" * 32 not in str(kept)
    assert len(str(kept)) < 5000
    assert (kept["object"], kept["nan"], kept["count"]) == ("<object>", None, 3)


def test_https_outputs_are_left_to_the_download() -> None:
    """A URL that the provider has no bytes for becomes a URL output; its type is sniffed later."""
    asset = Asset(url="https://cdn.test/a?sig=1", media_type="application/octet-stream")
    output = submit(Guide(asset)).result.outputs[0]
    assert (output.url, output.media_type) == ("https://cdn.test/a?sig=1", None)


def test_file_outputs_lie_in_allowed_folders(tmp_path: Path) -> None:
    """Files below output_dir are taken; elsewhere, missing or of the system they are refused."""
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    provider = Guide(Asset(url=path.as_uri(), media_type="image/png"))
    provider.output_dir = tmp_path
    assert submit(provider).result.outputs[0].path == path
    for url in ("file:///etc/hostname", (tmp_path / "missing.png").as_uri()):
        provider.asset = Asset(url=url, media_type="image/png")
        with pytest.raises(OutputError):
            submit(provider)


def test_text_outputs_come_from_metadata() -> None:
    """A text model's answer needs no URL."""
    asset = Asset(url="text:1", media_type="text/plain", metadata={"text": "täxt"})
    request = GenerationRequest(model="m", modality=Modality.TEXT)
    output = submit(Guide(asset), request).result.outputs[0]
    assert (output.data, output.media_type) == ("täxt".encode(), "text/plain")


def test_other_outputs_are_refused() -> None:
    """A scheme that nobody can fetch is the provider's mistake, as is no output at all."""
    with pytest.raises(OutputError, match="s3"):
        submit(Guide(Asset(url="s3://bucket/a.png", media_type="image/png")))

    class Empty(Guide):
        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            return step

    with pytest.raises(OutputError, match="no assets"):
        submit(Empty())


def test_inputs_are_readable_by_the_provider() -> None:
    """An input has its public URL, else a file that exists for the time of the call only."""

    class Reading(Guide):
        read: bytes = b""
        urls: tuple[str, ...] = ()

        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            self.urls = tuple(item.url for item in step.inputs)
            self.read = Path(self.urls[1].removeprefix("file://")).read_bytes()
            return super().generate(step, config)

    provider = Reading()
    inputs = (input_media("https://store.test/signed"), input_media(None))
    submit(provider, GenerationRequest(model="m", inputs=inputs))
    assert provider.urls[0] == "https://store.test/signed"
    assert provider.urls[1].endswith(".png")
    assert provider.read == PNG
    assert not Path(provider.urls[1].removeprefix("file://")).parent.exists()


def test_the_recorded_address_of_an_input_is_not_passed_on() -> None:
    """What a manifest says of an input's origin is nothing a provider may fetch."""
    fetched: list[Step] = []

    class Fetching(Jobs):
        def fetch_output(self, prediction_id: Any, step: Step) -> Step:
            fetched.append(step)
            return super().fetch_output(prediction_id, step)

    request = GenerationRequest(
        model="m", inputs=(input_media(None), input_media("https://s.test/a"))
    )
    asyncio.run(adapt(Fetching()).fetch_output("job-1", request))
    assert [item.url for item in fetched[0].inputs] == ["about:blank", "https://s.test/a"]


def test_capabilities_are_checked_before_anything_is_paid() -> None:
    """A modality that is not made, and inputs that are not taken, are refused unsent."""

    class Declared(Guide):
        def get_capabilities(self) -> ProviderCapabilities:
            return ProviderCapabilities(supported_modalities=[Modality.IMAGE])

    adapted = adapt(Declared())
    adapted.validate(REQUEST)
    for request in (
        GenerationRequest(model="m", modality=Modality.AUDIO),
        GenerationRequest(model="m", inputs=(input_media(None),)),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            adapted.validate(request)
        assert refused.value.sent is False
    adapt(Guide()).validate(GenerationRequest(model="m", inputs=(input_media(None),)))


def test_estimates_never_break() -> None:
    """An estimate is the provider's, and unknown when it raises."""

    class Priced(Guide):
        def estimate_cost(self, model: str, params: Any = None, *, n: int = 1) -> Any:
            return 0.5 * n if model == "m" else 1 / 0

    adapted = adapt(Priced())
    assert adapted.estimate_cost(GenerationRequest(model="m", params={"n": 3})) == 1.5
    assert adapted.estimate_cost(GenerationRequest(model="other")) is None


SDK_OBJECT = object()


@pytest.mark.parametrize(
    ("prediction_id", "stored"),
    [
        ("job-1", "job-1"),
        (17, "json:17"),
        ({"id": "a", "model": "m"}, 'json:{"id": "a", "model": "m"}'),
        ("json:x", 'json:"json:x"'),
        (SDK_OBJECT, None),
    ],
    ids=["text", "number", "object", "lookalike", "sdk"],
)
def test_job_ids_survive_the_ledger(prediction_id: Any, stored: str | None) -> None:
    """Whatever submit returned comes back to poll, fetch_output and cancel."""
    provider = Jobs(prediction_id)

    async def body() -> str | None:
        adapted = adapt(provider)
        submission = await adapted.submit(REQUEST)
        assert submission.job_id is not None
        running = await adapted.poll(submission.job_id, REQUEST)
        assert (running.state, running.progress) == (JobState.RUNNING, 0.4)
        assert (running.message, running.poll_after) == ("drawing", 0.002)
        assert (await adapted.poll(submission.job_id, REQUEST)).state is JobState.SUCCEEDED
        for _ in range(2):
            result = await adapted.fetch_output(submission.job_id, REQUEST)
            assert result.provider_payload == {}
        assert await adapted.cancel(submission.job_id)
        return submission.job_id

    job_id = asyncio.run(body())
    assert stored is None or job_id == stored
    assert provider.polled + provider.fetched + provider.cancelled == [prediction_id] * 5


def test_the_object_of_another_process_leaves_the_job_open() -> None:
    """An id that died with its process neither ends the job nor allows a new submit."""

    async def body() -> None:
        await adapt(Jobs()).poll("object:gone", REQUEST)

    with pytest.raises(ProviderError, match="another process") as lost:
        asyncio.run(body())
    assert not isinstance(lost.value, InvalidRequestError | ModelError)


def test_generate_that_fails_its_step_is_an_error() -> None:
    """A returned step of status failed raises the error it names."""
    with pytest.raises(RateLimitError, match="slow down"):
        submit(Guide(status="failed", error="slow down", error_code=ProviderErrorCode.RATE_LIMIT))


def test_generate_without_a_step_may_be_paid() -> None:
    """A missing return is a bug after the payment: ambiguous, never sent again."""

    class Forgetful(Guide):
        def generate(self, step: Step, config: RunnableConfig | None = None) -> Step:
            return None  # type: ignore[return-value]

    with pytest.raises(OutputError, match="return the step") as bug:
        submit(Forgetful())
    assert bug.value.sent is None


def test_prices_of_the_registry_fill_an_empty_cost() -> None:
    """The provider's own cost wins; a price that cannot be computed leaves it unknown."""

    class Priced(Guide):
        def price(self, step: Step) -> float | None:
            return 0.75 if step.model == "m" else 1 / 0

    assert submit(Priced()).result.cost_usd == 0.75
    assert submit(Priced(cost_usd=0.5)).result.cost_usd == 0.5
    assert submit(Priced(), GenerationRequest(model="other")).result.cost_usd is None
