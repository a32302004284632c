import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.errors import (
    AuthError,
    ContentPolicyError,
    InvalidRequestError,
    ModelError,
    OutputError,
    ProviderError,
    ProviderUnavailableError,
    QuotaError,
)
from genblaze_dagster.providers.openai import SoraProvider
from genblaze_dagster.providers.protocol import (
    FindsJobs,
    GenerationRequest,
    InputMedia,
    Provider,
    Submission,
)
from tests.support.wire import input_media

KEY = "sk-test-0123456789abcdef"
PICTURE = input_media(b"png", "image/png", url="https://store.test/a.png")
CLIP = input_media(b"mp4", "video/mp4", url="https://store.test/a.mp4")
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
EARLY = SINCE.timestamp() - 1
LATE = SINCE.timestamp() + 1


def asked(model: str = "sora-2", prompt: str | None = "a cat", **fields: Any) -> GenerationRequest:
    return GenerationRequest(
        model=model, prompt=prompt, **{"modality": Modality.VIDEO, "params": {}, **fields}
    )


def served(
    answers: list[Any], call: Callable[[SoraProvider], Any]
) -> tuple[Any, list[httpx.Request]]:
    """Await `call(provider)` against JSON answers in order; return its answer and the requests."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=answers[len(seen) - 1])

    async def main() -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
            return await call(SoraProvider(KEY, organization="org-1", client=client))

    return asyncio.run(main()), seen


def test_it_is_a_provider_that_finds_jobs() -> None:
    """The class has everything the protocols ask for, under the name of manifests."""
    provider = SoraProvider()
    assert isinstance(provider, Provider)
    assert isinstance(provider, FindsJobs)
    assert (provider.name, provider.deduplicates) == ("openai-sora", False)


@pytest.mark.parametrize(
    ("model", "params", "param", "allowed"),
    [
        ("sora-2", {"duration": 5}, "seconds", "'4'"),
        ("sora-2", {"duration": 8.5}, "seconds", "'8'"),
        ("sora-2", {"duration": True}, "seconds", "'12'"),
        ("sora-2", {"seconds": "16"}, "seconds", "'12'"),
        ("sora-2", {"size": "1024x1792"}, "size", "'1280x720'"),
        ("sora-2-2025-10-06", {"size": "100x100"}, "size", "'720x1280'"),
        ("sora-2-pro", {"size": "1920x1080"}, "size", "'1792x1024'"),
        ("sora-2", {"aspect_ratio": "1:1"}, "aspect_ratio", "16:9"),
        ("sora-2", {"aspect_ratio": "7:4"}, "aspect_ratio", "16:9"),
        ("sora-2", {"aspect_ratio": "wide"}, "aspect_ratio", "16:9"),
        ("sora-2", {"resolution": "1080p", "aspect_ratio": "16:9"}, "resolution", "1280x720"),
        ("sora-2", {"resolution": "720p"}, "resolution", "aspect_ratio"),
        ("sora-2", {"size": "1280x720", "aspect_ratio": "16:9"}, "size", "either"),
        ("sora-2", {"n": 2}, "n", "run n items"),
        ("sora-2", {"n": True}, "n", "run n items"),
        ("sora-2", {"output_format": "webm"}, "output_format", "mp4"),
        ("sora-2", {"fps": 24}, "fps", "seconds"),
        ("sora-2", {"prompt": "other"}, "prompt", "part of the request"),
        ("sora-2", {"model": "other"}, "model", "part of the request"),
        ("sora-2", {"image_transfer": "url"}, "image_transfer", "no image"),
        ("sora-2", {"image_transfer": "fax"}, "image_transfer", "upload"),
        ("sora-2", {"input_reference": "https://x.test/a"}, "input_reference", "image_url"),
        ("sora-2", {"video_id": "video_1"}, "video_id", "operation"),
        ("sora-2", {"operation": "reverse"}, "operation", "remix"),
        ("sora-2", {"operation": "remix"}, "video_id", "earlier video"),
        ("sora-2", {"operation": "remix", "video_id": "../x"}, "video_id", "pattern"),
        ("sora-2", {"operation": "edit"}, "video_id", "video input"),
        ("sora-2", {"operation": "edit", "video_id": "v", "duration": 4}, "seconds", "edit"),
        ("sora-2", {"operation": "extend", "video_id": "v", "duration": 5}, "seconds", "'20'"),
        ("sora-2", {"operation": "extend", "video_id": "v", "size": "1280x720"}, "size", "extend"),
        ("sora-9", {"aspect_ratio": "16:9"}, "aspect_ratio", "not known"),
        ("sora-9", {"n": 3}, "n", "run n items"),
    ],
)
def test_what_sora_does_not_take_is_refused_before_anything_is_sent(
    model: str, params: dict[str, Any], param: str, allowed: str
) -> None:
    """A refusal names the parameter and what is allowed, and nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        SoraProvider(KEY).validate(asked(model, params=params))
    assert caught.value.param == param
    assert allowed in str(caught.value)
    assert caught.value.sent is False


@pytest.mark.parametrize("fields", [{"negative_prompt": "blur"}, {"seed": 7}, {"prompt": None}])
def test_what_sora_lacks_or_needs_is_named(fields: dict[str, Any]) -> None:
    """There is no seed and no negative prompt, and no video without a prompt."""
    with pytest.raises(InvalidRequestError) as caught:
        SoraProvider(KEY).validate(asked(**fields))
    assert caught.value.param == next(iter(fields))


@pytest.mark.parametrize(
    ("inputs", "params"),
    [
        ((PICTURE, PICTURE), {}),
        ((input_media(b"", "image/gif"),), {}),
        ((input_media(b"", "audio/mpeg"),), {}),
        ((input_media(b"", "image/png", metadata={"role": "last_frame"}),), {}),
        ((CLIP,), {}),
        ((PICTURE,), {"input_reference": {"file_id": "file-1"}}),
        ((PICTURE,), {"operation": "extend", "video_id": "video_1"}),
        ((CLIP,), {"operation": "remix", "video_id": "video_1"}),
    ],
)
def test_inputs_without_a_place_are_refused(
    inputs: tuple[InputMedia, ...], params: dict[str, Any]
) -> None:
    """One picture for a new video, one video for an edit or an extension, and nothing else."""
    with pytest.raises(InvalidRequestError) as caught:
        SoraProvider(KEY).validate(asked(inputs=inputs, params=params))
    assert caught.value.param == "inputs"


@pytest.mark.parametrize("model", ["gpt-image-2", "tts-1", "gpt-4o-mini-tts", "o3", "dall-e-3"])
def test_models_of_another_kind_are_a_model_error(model: str) -> None:
    """OpenAI's other models certainly make no video."""
    with pytest.raises(ModelError, match=model):
        SoraProvider(KEY).validate(asked(model))


def test_a_missing_key_names_the_variable() -> None:
    """Without a key nothing is sent."""
    with pytest.raises(AuthError, match="OPENAI_API_KEY"):
        SoraProvider().validate(asked())


@pytest.mark.parametrize(
    ("model", "params", "native"),
    [
        ("sora-2", {"duration": 8}, {"seconds": "8"}),
        ("sora-2", {"duration": 12.0, "n": 1, "output_format": "mp4"}, {"seconds": "12"}),
        ("sora-2", {"resolution": "720p", "aspect_ratio": "16:9"}, {"size": "1280x720"}),
        ("sora-2", {"resolution": "720p", "aspect_ratio": "9:16"}, {"size": "720x1280"}),
        ("sora-2", {"resolution": "1280x720"}, {"size": "1280x720"}),
        ("sora-2-pro", {"aspect_ratio": "16:9"}, {"size": "1280x720"}),
        ("sora-2-pro", {"aspect_ratio": "7:4"}, {"size": "1792x1024"}),
        ("sora-2-pro", {"resolution": "1024p", "aspect_ratio": "4:7"}, {"size": "1024x1792"}),
        (
            "sora-9",
            {"duration": 30, "size": "1x1", "fps": 60},
            {"seconds": "30", "size": "1x1", "fps": 60},
        ),
    ],
)
def test_standard_and_native_parameters_become_openais(
    model: str, params: dict[str, Any], native: dict[str, Any]
) -> None:
    """Standard names are translated exactly; an unknown model takes any value."""
    request = asked(model, params=params)
    SoraProvider(KEY).validate(request)
    assert SoraProvider(KEY).payload(request) == {"prompt": "a cat", **native}


def submitted(request: GenerationRequest) -> httpx.Request:
    """Validate and submit; return what was sent."""

    async def call(provider: SoraProvider) -> Submission:
        provider.validate(request)
        return await provider.submit(request)

    submission, (sent,) = served([{"id": "video_2"}], call)
    assert submission.job_id == "video_2"
    return sent


@pytest.mark.parametrize(
    ("fields", "path", "body"),
    [
        (
            {"params": {"operation": "remix", "video_id": "video_1"}},
            "/v1/videos/video_1/remix",
            {"prompt": "a cat"},
        ),
        (
            {"params": {"operation": "extend", "video_id": "video_1", "duration": 20}},
            "/v1/videos/extensions",
            {"prompt": "a cat", "seconds": "20", "video": {"id": "video_1"}},
        ),
        (
            {"params": {"video_id": "video_1"}, "step_type": StepType.EDIT},
            "/v1/videos/edits",
            {"prompt": "a cat", "video": {"id": "video_1"}},
        ),
        (
            {"params": {"input_reference": {"file_id": "file-1"}, "duration": 4}},
            "/v1/videos",
            {
                "model": "sora-2",
                "prompt": "a cat",
                "seconds": "4",
                "input_reference": {"file_id": "file-1"},
            },
        ),
    ],
)
def test_what_has_no_file_goes_as_json(
    fields: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    """A remix, an extension and an edit name the earlier video; a picture may be a file id."""
    sent = submitted(asked(**fields))
    assert (sent.url.path, json.loads(sent.content)) == (path, body)


def test_a_video_input_is_uploaded_for_its_edit() -> None:
    """An edit of our own video sends the file, and no model or size."""
    sent = submitted(asked(inputs=(CLIP,), step_type=StepType.EDIT))
    assert sent.url.path == "/v1/videos/edits"
    assert b'name="video"; filename="a.mp4"' in sent.content
    assert b'name="model"' not in sent.content


def test_a_picture_without_a_public_url_cannot_be_fetched() -> None:
    """A file or memory store has no URL; nothing is sent."""
    request = asked(inputs=(PICTURE,), params={"image_transfer": "url"})
    with pytest.raises(InvalidRequestError, match="upload") as caught:
        asyncio.run(SoraProvider(KEY).submit(request))
    assert caught.value.sent is False


@pytest.mark.parametrize(
    ("error", "kind", "transient"),
    [
        ({"code": "moderation_blocked"}, ContentPolicyError, False),
        ({"code": "content_policy_violation"}, ContentPolicyError, False),
        ({"code": "insufficient_quota"}, QuotaError, False),
        ({"code": "server_error"}, ProviderUnavailableError, True),
        ({"code": "internal_error"}, ProviderUnavailableError, True),
        ({"code": "video_generation_failed"}, ModelError, False),
        ({"code": "something_new", "message": "No."}, ModelError, False),
        (None, ModelError, False),
    ],
)
def test_a_failed_job_has_the_error_its_code_calls_for(
    error: dict[str, Any] | None, kind: type[ProviderError], transient: bool
) -> None:
    """The list of codes is open; an unknown one is an error of the model."""
    video = {"id": "video_1", "status": "failed", "error": error}
    status, _ = served([video], lambda provider: provider.poll("video_1", asked()))
    assert isinstance(status.error, ProviderError)
    assert type(status.error) is kind
    assert status.error.transient is transient


def test_the_output_of_a_resumed_job_is_asked_for_again() -> None:
    """A process that has not polled itself gets the record, and headers name who is billed."""
    video = {"id": "video_1", "status": "completed", "expires_at": None, "seconds": "4"}
    result, (sent,) = served([video], lambda provider: provider.fetch_output("video_1", asked()))
    assert sent.url.path == "/v1/videos/video_1"
    (output,) = result.outputs
    assert output.url == "https://api.openai.com/v1/videos/video_1/content"
    assert output.headers["openai-organization"] == "org-1"
    assert output.expires_at is None


def test_a_thumbnail_is_to_be_had() -> None:
    """What OpenAI makes beside the video is fetched with the key."""
    content, (sent,) = served([7], lambda provider: provider.retrieve_content("video_1"))
    assert content == b"7"
    assert str(sent.url) == "https://api.openai.com/v1/videos/video_1/content?variant=thumbnail"
    assert sent.headers["accept"] == "application/binary"
    assert sent.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("answer", [{}, {"id": 5}])
def test_a_create_without_an_id_may_have_been_billed(answer: dict[str, Any]) -> None:
    """No job can be polled, and it is not safe to try again."""
    with pytest.raises(OutputError, match="billed") as caught:
        served([answer], lambda provider: provider.submit(asked()))
    assert caught.value.transient is False


def test_an_unfinished_video_has_no_output() -> None:
    """Fetching too early is an error, not an empty file."""
    with pytest.raises(OutputError, match="not complete"):
        served([{"status": "queued"}], lambda p: p.fetch_output("video_1", asked()))


def test_an_end_of_life_that_cannot_be_read_costs_no_video() -> None:
    """The video is paid for; when it ends is worth less."""
    for odd in ("soon", 1e30, [1]):
        answer = {"status": "completed", "expires_at": odd}
        result, _ = served([answer], lambda p: p.fetch_output("video_1", asked()))
        assert result.outputs[0].expires_at is None


def test_a_form_carries_texts_and_nothing_else() -> None:
    """Parameters of newer models go as they are; an object is refused, not written in Python."""
    sent = submitted(asked("sora-9", params={"watermark": True, "fps": 24}))
    assert b'name="watermark"\r\n\r\ntrue\r\n' in sent.content
    assert b'name="fps"\r\n\r\n24\r\n' in sent.content
    with pytest.raises(InvalidRequestError, match="options") as caught:
        submitted(asked("sora-9", params={"options": {"a": 1}}))
    assert caught.value.sent is False


def video(id: str, created_at: float = LATE, **fields: Any) -> dict[str, Any]:
    usual = {"model": "sora-2", "prompt": "a cat", "seconds": "4", "size": "720x1280"}
    source = {"remixed_from_video_id": None}
    return {"id": id, "created_at": created_at, **usual, **source, **fields}


def found(request: GenerationRequest, *pages: dict[str, Any]) -> tuple[Any, list[httpx.Request]]:
    return served([*pages], lambda provider: provider.find_jobs(request, since=SINCE))


def test_a_lost_job_is_found_by_model_prompt_and_time() -> None:
    """Newest first, page by page, until the videos are older than the submit."""
    first = {
        "data": [
            video("same"),
            video("snapshot", model="sora-2-2025-10-06"),
            video("other model", model="sora-2-pro"),
            video("other prompt", prompt="a dog"),
            video("other length", seconds="8"),
            video("remix", remixed_from_video_id="same"),
        ],
        "has_more": True,
    }
    last = {"data": [video("later page"), video("too old", EARLY)], "has_more": True}
    jobs, sent = found(asked(params={"duration": 4}), first, last)
    assert jobs.job_ids == ("same", "snapshot", "later page")
    assert jobs.is_complete is False
    assert [dict(request.url.params) for request in sent] == [
        {"limit": "100", "order": "desc"},
        {"limit": "100", "order": "desc", "after": "remix"},
    ]


def test_a_lost_remix_is_found_by_its_source() -> None:
    """A remix names the video it was made of."""
    page = {
        "data": [
            video("ours", remixed_from_video_id="video_1", model="sora-2-pro"),
            video("another", remixed_from_video_id="video_2"),
            video("new one"),
        ],
        "has_more": False,
    }
    request = asked(params={"operation": "remix", "video_id": "video_1"})
    assert found(request, page)[0].job_ids == ("ours",)


def test_looking_for_a_job_ends() -> None:
    """A list without an end is not read for ever."""
    page = {"data": [video("other", prompt="a dog")], "has_more": True}
    jobs, sent = found(asked(), *[page] * 50)
    assert jobs.job_ids == ()
    assert len(sent) == 10


@pytest.mark.parametrize(
    ("model", "fields", "usd"),
    [
        ("sora-2", {}, 0.4),
        ("sora-2", {"params": {"duration": 12, "aspect_ratio": "16:9"}}, 1.2),
        ("sora-2-2025-10-06", {"params": {"duration": 8}}, 0.8),
        ("sora-2-pro", {"params": {"duration": 8}}, 2.4),
        ("sora-2-pro", {"params": {"size": "1792x1024"}}, None),
        ("sora-2", {"params": {"operation": "remix", "video_id": "video_1"}}, None),
        ("sora-2", {"inputs": (CLIP,), "step_type": StepType.EDIT}, None),
        ("sora-2", {"params": {"duration": 7}}, None),
        ("sora-9", {"params": {"duration": 8}}, None),
        ("default", {}, None),
    ],
)
def test_the_estimate_is_the_price_by_second_or_unknown(
    model: str, fields: dict[str, Any], usd: float | None
) -> None:
    """What is not known has no price, and never the price 0."""
    assert SoraProvider().estimate_cost(asked(model, **fields)) == usd
