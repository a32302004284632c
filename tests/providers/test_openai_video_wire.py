import asyncio
import base64
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import InvalidRequestError, ProviderError
from genblaze_dagster.providers.openai import SoraProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, JobState
from tests.support.vendor import Driven, called, check_expected, replayed
from tests.support.wire import API_KEY, Scenario, input_media, replay, scenario_names

# Without a create: what a later poll or a call of its own meets.
OTHER_CALLS = ("video_delete", "video_poll_503_then_success", "video_retrieve_404")
# What the vendor refuses, and we before it is sent.
REFUSED = ("video_invalid_400",)
JOBS = [n for n in scenario_names("openai", "video_*") if n not in OTHER_CALLS + REFUSED]


def load(vectors: Path, name: str) -> Scenario:
    return Scenario.load(vectors / "wire" / "openai" / f"{name}.json")


def make(client: httpx.AsyncClient) -> SoraProvider:
    return SoraProvider(API_KEY, client=client)


def asked(model: str = "sora-2", prompt: str | None = "a cat", **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        model=model, prompt=prompt, **{"modality": Modality.VIDEO, "params": {}, **fields}
    )


def request_of(exchange: Mapping[str, Any]) -> GenerationRequest:
    """Build the call a user of ours makes for what the captured request asks."""
    captured = exchange["request"]
    if "json" in captured:
        fields = dict(captured["json"])
        url = fields.pop("input_reference")["image_url"]
        fields["image_transfer"] = "url"
        inputs = [input_media(b"", "image/png", public_url=url)]
    else:
        parts = captured["multipart"]
        fields = {part["name"]: part["value"] for part in parts if "value" in part}
        inputs = [picture(part) for part in parts if "body_base64" in part]
    if "seconds" in fields:
        fields["duration"] = int(fields.pop("seconds"))
    return asked(
        fields.pop("model", "default"), fields.pop("prompt"), params=fields, inputs=tuple(inputs)
    )


def picture(part: Mapping[str, Any]) -> InputMedia:
    url = f"https://store.example.com/{part['filename']}"
    return input_media(base64.b64decode(part["body_base64"]), part["content_type"], url=url)


def check(scenario: Scenario, driven: Driven) -> None:
    """Assert what is expected of the videos' scenarios; the first state is that of the create."""
    check_expected(scenario, driven, key=API_KEY)
    expect = scenario.expect
    if expect.get("retry_after_s", "") is None:
        assert driven.error is not None
        assert driven.error.retry_after is None
    if driven.statuses and "progress" in expect:
        found = [round((status.progress or 0) * 100) for status in driven.statuses]
        assert found == expect["progress"][-len(found) :]
    if expect.get("normalized") == ["queued"]:
        assert driven.job_id == scenario.exchanges[-1]["response"]["json"]["id"]


@pytest.mark.parametrize("name", JOBS)
def test_a_golden_job_sends_equal_requests_and_ends_as_expected(vectors: Path, name: str) -> None:
    """Each golden job gives equal requests and the expected states, bytes or error."""
    scenario = load(vectors, name)
    driven = replayed(scenario, make, request_of(scenario.exchanges[0]), download=True)
    check(scenario, driven)


def test_the_video_is_fetched_with_the_key_before_it_expires(vectors: Path) -> None:
    """The content is downloaded with key and type; facts and price come from the job."""
    scenario = load(vectors, "video_create_poll_download")
    request = request_of(scenario.exchanges[0])
    driven = replayed(scenario, make, request, download=True)
    assert driven.result is not None
    (output,) = driven.result.outputs
    assert output.media_type == scenario.expect["asset"]["media_type"]
    assert len(driven.data[0]) == scenario.expect["asset"]["bytes"]
    check_expected(
        replace(scenario, expect={"output_sha256": scenario.expect["asset"]["sha256"]}),
        driven,
        key=API_KEY,
    )
    assert output.expires_at == datetime.fromtimestamp(1758945200, UTC)
    assert API_KEY not in repr(output)
    assert driven.result.cost_usd == pytest.approx(0.8)
    assert driven.result.model_version == "sora-2"
    assert driven.result.provider_payload == {"seconds": "8", "size": "1280x720"}


def test_a_poll_meets_an_overloaded_engine(vectors: Path) -> None:
    """A 503 of a poll is transient; the next one tells the progress."""
    scenario = load(vectors, "video_poll_503_then_success")
    driven = resumed(scenario)
    check(scenario, driven)
    assert [status.state for status in driven.statuses] == [JobState.RUNNING]
    assert driven.statuses[0].poll_after == 5.0


def test_a_video_that_is_gone_is_an_invalid_request(vectors: Path) -> None:
    """An unknown id ends the job; it is not taken for an unknown model."""
    scenario = load(vectors, "video_retrieve_404")
    check(scenario, resumed(scenario))


def resumed(scenario: Scenario) -> Driven:
    """Poll the scenario's job as a later process does, until there is an answer."""
    job_id = scenario.exchanges[0]["request"]["url"].rpartition("/")[2]
    driven = Driven()

    async def poll(provider: SoraProvider) -> None:
        for _ in scenario.exchanges:
            try:
                driven.statuses.append(await provider.poll(job_id, asked()))
            except ProviderError as exc:
                driven.failed_attempts.append(exc)

    called(scenario, make, poll)
    if not driven.statuses:
        driven.error = driven.failed_attempts[-1]
    return driven


def test_a_video_is_deleted(vectors: Path) -> None:
    """OpenAI confirms; nothing cancels a running job."""
    scenario = load(vectors, "video_delete")
    video_id = scenario.exchanges[0]["request"]["url"].rpartition("/")[2]
    assert called(scenario, make, lambda provider: provider.delete_video(video_id)) is True
    assert asyncio.run(SoraProvider(API_KEY).cancel(video_id)) is False


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_vendor_refuses_is_refused_before(vectors: Path, name: str) -> None:
    """The golden refusal never needs to be asked for, and would be understood."""
    scenario = load(vectors, name)
    request = request_of(scenario.exchanges[0])
    with pytest.raises(InvalidRequestError) as caught:
        SoraProvider(API_KEY).validate(request)
    assert caught.value.param == scenario.expect["param"]
    driven = replayed(scenario, make, replace(request, params={}), same_requests=False)
    check(scenario, driven)
    assert driven.error is not None
    assert driven.error.param == scenario.expect["param"]


def test_every_video_vector_is_replayed() -> None:
    """The replayed scenarios are all there are."""
    count = len(scenario_names("openai", "video_*"))
    print(f"openai-sora: {len(JOBS) + len(OTHER_CALLS) + len(REFUSED)} of {count} vectors replayed")
    assert len(JOBS) + len(OTHER_CALLS) + len(REFUSED) == count == 16


def test_a_running_job_is_looked_at_as_often_as_the_server_asks() -> None:
    """The header with milliseconds wins over our own rhythm."""
    answer = {
        "status": 200,
        "headers": {"openai-poll-after-ms": "12500"},
        "json": {"id": "video_1", "status": "new_state", "progress": 5},
    }
    scenario = Scenario("s", "openai", {}, [{"request": {}, "response": answer}])

    async def main() -> Any:
        async with wire.client() as client:
            return await make(client).poll("video_1", asked())

    with replay(scenario) as wire:
        status = asyncio.run(main())
    assert (status.state, status.poll_after) == (JobState.RUNNING, 12.5)
