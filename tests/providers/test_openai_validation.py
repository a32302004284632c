import asyncio
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.errors import AuthError, InvalidRequestError, ModelError, ProviderError
from genblaze_dagster.providers.openai import DalleProvider
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Provider
from tests.support.wire import input_media

KEY = "sk-test-0123456789abcdef"
MIB = 1024 * 1024


def asked(model: str = "gpt-image-1.5", prompt: str | None = "a fox", **fields: Any):
    return GenerationRequest(model=model, prompt=prompt, **fields)


def validate(request: GenerationRequest) -> None:
    DalleProvider(KEY).validate(request)


def refused(request: GenerationRequest) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        validate(request)
    assert caught.value.sent is False
    assert caught.value.transient is False
    return caught.value


def png(**facts: Any) -> InputMedia:
    return input_media(b"png", "image/png", **facts)


def test_it_is_a_provider() -> None:
    """The class has everything the Provider protocol asks for."""
    provider = DalleProvider()
    assert isinstance(provider, Provider)
    assert (provider.name, provider.deduplicates) == ("openai", False)


def test_a_missing_key_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key validate and submit fail alike, naming the variable and a way without key."""
    request = asked(negative_prompt="blur")
    for key in (None, "", "  "):
        provider = DalleProvider(key)
        for call in (
            lambda p=provider: p.validate(request),
            lambda p=provider: asyncio.run(p.submit(request)),
        ):
            with pytest.raises(AuthError, match=r"OPENAI_API_KEY.*'local'") as caught:
                call()
            assert caught.value.sent is False
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    DalleProvider().validate(asked())


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-a b", "sk-ä", "sk-\x00"])
def test_a_damaged_key_is_refused_without_repeating_it(key: str) -> None:
    """A key that cannot be a header value is an AuthError that does not quote it."""
    with pytest.raises(AuthError) as caught:
        DalleProvider(key).validate(asked())
    assert key not in str(caught.value)


def test_the_key_is_in_no_representation() -> None:
    """repr shows where requests go, and neither key nor password."""
    shown = repr(DalleProvider(KEY, base_url="https://user:pw12345@gw.test/v1?key=abcdef"))
    assert shown == "DalleProvider(base_url='https://gw.test/v1')"


@pytest.mark.parametrize(
    "url",
    ["api.openai.com/v1", "ftp://x/v1", "https://u:p@x/v1", "https://x/v1?k=v", "https://x/v1#f"],
)
def test_a_base_url_that_cannot_be_one_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENAI_BASE_URL is checked before a request, and named."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert "OPENAI_BASE_URL" in str(refused(asked()))


def test_blanks_around_a_base_url_and_its_slash_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A variable read from a file ends in a newline."""
    monkeypatch.setenv("OPENAI_BASE_URL", " https://gw.test/v1/\n")
    assert DalleProvider(KEY).api.base_url == "https://gw.test/v1"


@pytest.mark.parametrize("fields", [{"negative_prompt": "blur"}, {"seed": 7}, {"seed": 0}], ids=str)
@pytest.mark.parametrize("model", ["gpt-image-2", "dall-e-3", "flux-on-my-gateway"])
def test_what_openai_lacks_is_refused_not_dropped(model: str, fields: dict[str, Any]) -> None:
    """negative_prompt and seed have no equivalent; the error names them and what is allowed."""
    error = refused(asked(model, **fields))
    assert error.param == next(iter(fields))
    if model != "flux-on-my-gateway":
        assert "it takes " in str(error)
        assert "size" in str(error)


@pytest.mark.parametrize(
    ("model", "params", "param"),
    [
        ("gpt-image-1", {"duration": 5}, "duration"),
        ("gpt-image-1", {"fps": 24}, "fps"),
        ("gpt-image-1", {"response_format": "b64_json"}, "response_format"),
        ("gpt-image-2", {"response_format": "url"}, "response_format"),
        ("gpt-image-1", {"style": "vivid"}, "style"),
        ("gpt-image-1", {"stream": True}, "stream"),
        ("gpt-image-1", {"partial_images": 2}, "partial_images"),
        ("gpt-image-1", {"input_fidelity": "high"}, "input_fidelity"),
        ("gpt-image-1", {"image_transfer": "url"}, "image_transfer"),
        ("gpt-image-1", {"model": "gpt-image-2"}, "model"),
        ("gpt-image-1", {"n": 0}, "n"),
        ("gpt-image-1", {"n": 11}, "n"),
        ("gpt-image-1", {"n": True}, "n"),
        ("gpt-image-1", {"n": "2"}, "n"),
        ("gpt-image-1", {"size": "1024x1025"}, "size"),
        ("gpt-image-1", {"size": 1024}, "size"),
        ("gpt-image-1", {"quality": "hd"}, "quality"),
        ("gpt-image-1", {"quality": ["low"]}, "quality"),
        ("gpt-image-1.5-2025-12-16", {"quality": "hd"}, "quality"),
        ("gpt-image-1-mini", {"output_format": "gif"}, "output_format"),
        ("gpt-image-1", {"background": "red"}, "background"),
        ("gpt-image-1", {"background": "transparent", "output_format": "jpeg"}, "background"),
        ("gpt-image-1", {"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ("gpt-image-1", {"output_compression": 50}, "output_compression"),
        ("gpt-image-1", {"moderation": "none"}, "moderation"),
        ("gpt-image-1", {"aspect_ratio": "16:9"}, "aspect_ratio"),
        ("gpt-image-1", {"aspect_ratio": ["1:1"]}, "aspect_ratio"),
        ("gpt-image-1", {"resolution": "1080p"}, "resolution"),
        ("gpt-image-1", {"resolution": 1080}, "resolution"),
        ("gpt-image-1", {"size": "1024x1024", "aspect_ratio": "1:1"}, "size"),
        ("gpt-image-2", {"size": "1000x1000"}, "size"),
        ("gpt-image-2", {"size": "3856x1600"}, "size"),
        ("gpt-image-2", {"size": "3840x2176"}, "size"),
        ("gpt-image-2", {"size": "1600x512"}, "size"),
        ("gpt-image-2", {"size": "big"}, "size"),
        ("gpt-image-2", {"resolution": "1080p", "aspect_ratio": "16:9"}, "resolution"),
        ("gpt-image-2", {"aspect_ratio": "wide"}, "aspect_ratio"),
        ("gpt-image-2", {"aspect_ratio": "101:100"}, "aspect_ratio"),
        ("gpt-image-9", {"aspect_ratio": "1:1"}, "aspect_ratio"),
        ("dall-e-3", {"n": 2}, "n"),
        ("dall-e-3", {"size": "512x512"}, "size"),
        ("dall-e-3", {"size": "auto"}, "size"),
        ("dall-e-3", {"quality": "high"}, "quality"),
        ("dall-e-3", {"output_format": "png"}, "output_format"),
        ("dall-e-3", {"aspect_ratio": "16:9"}, "aspect_ratio"),
        ("dall-e-2", {"size": "1792x1024"}, "size"),
        ("dall-e-2", {"style": "vivid"}, "style"),
        ("dall-e-2", {"response_format": "png"}, "response_format"),
        ("unknown-model", {"prompt": "other"}, "prompt"),
        ("unknown-model", {"aspect_ratio": "1:1"}, "aspect_ratio"),
        ("unknown-model", {"resolution": "720p"}, "resolution"),
        ("unknown-model", {"stream": True}, "stream"),
        ("unknown-model", {"mask": "a.png"}, "mask"),
        ("gpt-image-1", {"resolution": "1024p"}, "resolution"),
        ("gpt-image-1", {"resolution": "1024p", "aspect_ratio": "9:16"}, "aspect_ratio"),
    ],
)
def test_values_a_model_does_not_take_are_refused(
    model: str, params: dict[str, Any], param: str
) -> None:
    """Each limit of each family names the parameter it is about."""
    assert refused(asked(model, params=params)).param == param


@pytest.mark.parametrize(
    ("model", "params", "native"),
    [
        ("gpt-image-1", {"aspect_ratio": "3:2"}, {"size": "1536x1024"}),
        ("gpt-image-1", {"aspect_ratio": "2:3", "n": 2}, {"size": "1024x1536", "n": 2}),
        ("gpt-image-1", {"resolution": "1024x1024"}, {"size": "1024x1024"}),
        ("gpt-image-1", {"size": "auto", "quality": "auto"}, {"size": "auto", "quality": "auto"}),
        ("gpt-image-1", {"output_format": "jpg"}, {"output_format": "jpeg"}),
        ("gpt-image-1", {"quality": None}, {}),
        ("gpt-image-2", {"aspect_ratio": "1:1"}, {"size": "1024x1024"}),
        ("gpt-image-2", {"aspect_ratio": "3:2"}, {"size": "1536x1024"}),
        ("gpt-image-2", {"aspect_ratio": "16:9"}, {"size": "1536x864"}),
        ("gpt-image-2", {"aspect_ratio": "9:16"}, {"size": "864x1536"}),
        ("gpt-image-2", {"aspect_ratio": "32:18"}, {"size": "1536x864"}),
        ("gpt-image-2", {"aspect_ratio": "4:3"}, {"size": "1536x1152"}),
        ("gpt-image-2", {"aspect_ratio": "16:9", "resolution": "720p"}, {"size": "1280x720"}),
        ("gpt-image-2", {"aspect_ratio": "9:16", "resolution": "720p"}, {"size": "720x1280"}),
        ("gpt-image-2", {"resolution": "2160p", "aspect_ratio": "16:9"}, {"size": "3840x2160"}),
        ("gpt-image-2", {"size": "3840x2160"}, {"size": "3840x2160"}),
        ("gpt-image-2", {"size": "2160x3840"}, {"size": "2160x3840"}),
        ("gpt-image-2", {"quality": "ultra"}, {"quality": "ultra"}),
        ("gpt-image-9", {"size": "12x12"}, {"size": "12x12"}),
        ("dall-e-3", {"aspect_ratio": "7:4"}, {"size": "1792x1024"}),
        ("dall-e-3", {"n": 1, "style": "natural"}, {"n": 1, "style": "natural"}),
        ("gpt-image-1", {"resolution": "1024p", "aspect_ratio": "6:4"}, {"size": "1536x1024"}),
        ("dall-e-2", {"resolution": "512p"}, {"size": "512x512"}),
        ("dall-e-2", {"aspect_ratio": "1:1", "n": 10}, {"size": "1024x1024", "n": 10}),
        ("flux-on-my-gateway", {"steps": 30, "size": "1x1"}, {"steps": 30, "size": "1x1"}),
    ],
)
def test_standard_and_native_parameters_become_openais(
    model: str, params: dict[str, Any], native: dict[str, Any]
) -> None:
    """Standard names are translated exactly; native ones and unknown models pass through."""
    request = asked(model, params=params)
    validate(request)
    assert DalleProvider(KEY).payload(request) == {"prompt": "a fox", **native}


@pytest.mark.parametrize(
    ("model", "limit"), [("gpt-image-2", 32_000), ("dall-e-3", 4_000), ("dall-e-2", 1_000)]
)
def test_prompts_have_a_length(model: str, limit: int) -> None:
    """A prompt may be as long as the model allows and not longer; it is not in the message."""
    validate(asked(model, "x" * limit))
    error = refused(asked(model, "y" * (limit + 1)))
    assert error.param == "prompt"
    assert "yyy" not in str(error)
    for empty in (None, ""):
        assert refused(asked(model, empty)).param == "prompt"


@pytest.mark.parametrize("model", ["sora-2", "tts-1", "gpt-4o", "whisper-1", "o3"])
def test_models_of_another_kind_are_a_model_error(model: str) -> None:
    """A video, speech or text model is refused as a model that makes no images."""
    with pytest.raises(ModelError, match=model) as caught:
        validate(asked(model))
    assert caught.value.sent is False


def test_only_images_are_made() -> None:
    """Another modality is refused."""
    assert refused(asked(modality=Modality.VIDEO)).param == "modality"


@pytest.mark.parametrize(
    ("model", "inputs", "param"),
    [
        ("gpt-image-1", (), "inputs"),
        ("gpt-image-1", (png(),) * 17, "inputs"),
        ("gpt-image-1", (png(metadata={"role": "mask"}),), "inputs"),
        ("gpt-image-1", (png(), *(png(metadata={"role": "mask"}),) * 2), "inputs"),
        ("gpt-image-1", (input_media(b"", "image/gif"),), "image"),
        ("gpt-image-1", (input_media(b"", "video/mp4"),), "image"),
        ("gpt-image-1", (png(size_bytes=50 * MIB),), "image"),
        ("gpt-image-1", (png(), png(metadata={"role": "mask"}, size_bytes=4 * MIB)), "mask"),
        (
            "gpt-image-1",
            (png(), input_media(b"", "image/jpeg", metadata={"role": "mask"})),
            "mask",
        ),
        (
            "gpt-image-1",
            (
                png(width=64, height=64),
                png(width=64, height=32, metadata={"role": "mask"}),
            ),
            "mask",
        ),
        ("flux-on-my-gateway", (), "inputs"),
        ("dall-e-3", (png(),), "inputs"),
        ("dall-e-2", (png(), png()), "inputs"),
        ("dall-e-2", (png(width=64, height=32),), "image"),
        ("dall-e-2", (input_media(b"", "image/jpeg"),), "image"),
    ],
)
def test_images_an_edit_cannot_take_are_refused(
    model: str, inputs: tuple[InputMedia, ...], param: str
) -> None:
    """Number, type, size and shape of images and mask are checked before anything is read."""
    request = asked(model, step_type=StepType.EDIT, inputs=inputs)
    assert refused(request).param == param


@pytest.mark.parametrize(
    ("model", "inputs", "params"),
    [
        ("gpt-image-1", (png(),) * 16, {"input_fidelity": "high"}),
        ("gpt-image-1", (png(), png(metadata={"role": "mask"})), {}),
        ("gpt-image-1", (png(public_url="https://x.test/a"),), {"image_transfer": "url"}),
        ("dall-e-2", (png(width=64, height=64),), {}),
    ],
)
def test_edits_within_the_limits_pass(
    model: str, inputs: tuple[InputMedia, ...], params: dict[str, Any]
) -> None:
    """Inputs make a request an edit; what the family allows passes."""
    validate(asked(model, inputs=inputs, params=params))


@pytest.mark.parametrize(
    ("model", "transfer"), [("dall-e-2", "url"), ("gpt-image-1", "carrier pigeon")]
)
def test_image_transfer_is_checked(model: str, transfer: str) -> None:
    """URLs are for GPT image models only, and there are two ways to transfer."""
    request = asked(model, inputs=(png(),), params={"image_transfer": transfer})
    assert refused(request).param == "image_transfer"


def test_a_url_that_the_store_does_not_have_is_refused_before_sending() -> None:
    """A file or memory store has no URL a vendor could fetch; nothing is sent."""
    request = asked(inputs=(png(),), params={"image_transfer": "url"})
    with pytest.raises(InvalidRequestError, match="upload") as caught:
        asyncio.run(DalleProvider(KEY).submit(request))
    assert caught.value.sent is False


def test_a_form_cannot_carry_nested_values() -> None:
    """A nested parameter of an unknown model is refused where files are uploaded."""
    request = asked("flux-on-my-gateway", inputs=(png(),), params={"extra": {"a": 1}})
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(DalleProvider(KEY).submit(request))
    assert (caught.value.param, caught.value.sent) == ("extra", False)


def test_there_is_no_job_to_poll() -> None:
    """The calls of job APIs answer plainly that there is none."""
    provider = DalleProvider(KEY)
    assert asyncio.run(provider.cancel("x")) is False
    for call in (provider.poll, provider.fetch_output):
        with pytest.raises(ProviderError):
            asyncio.run(call("x", asked()))
    asyncio.run(provider.aclose())
