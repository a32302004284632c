import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Output
from genblaze_dagster.providers.registry import resolve_provider
from genblaze_dagster.providers.vendor.provider import VendorProvider
from tests.support.wire import input_media

FOX = "a fox in snow"
FILM = input_media(b"", "video/mp4", public_url="https://x.test/v.mp4", duration=6.5)
PICTURE = input_media(b"", "image/png", public_url="https://x.test/a.png")
HOUR = input_media(b"", "audio/mpeg", public_url="https://x.test/a.mp3", duration=3600)

# Provider, model, parameters, inputs, USD; what is known before the request is the cost after it.
DECLARED: list[tuple[str, str, dict[str, Any], tuple[InputMedia, ...], float | None]] = [
    ("runway", "gen4_turbo", {"duration": 5, "ratio": "1280:720"}, (PICTURE,), 0.25),
    ("runway", "gen4.5", {"duration": 10, "aspect_ratio": "16:9"}, (), 1.2),
    ("runway", "gen4.5", {"duration": 10, "output_format": "prores"}, (), None),
    ("runway", "veo3.1", {"duration": 4, "aspect_ratio": "16:9"}, (), 1.6),
    ("runway", "veo3.1_fast", {"duration": 8, "audio": False}, (), 0.8),
    ("runway", "veo3.1", {"aspect_ratio": "16:9"}, (), None),
    ("runway", "gen4_image", {"aspect_ratio": "16:9"}, (), 0.08),
    ("runway", "gen4_image", {"ratio": "1280:720"}, (), 0.05),
    ("runway", "gen4_image", {"aspect_ratio": "1:1"}, (), None),
    ("runway", "gen4_image_turbo", {"aspect_ratio": "1:1"}, (PICTURE,), 0.02),
    ("runway", "eleven_multilingual_v2", {"voice": "Maya"}, (), 0.01),
    ("runway", "seedance2", {"duration": 5}, (), None),
    ("google-veo", "veo-3.1-generate-preview", {}, (), 3.2),
    ("google-veo", "models/veo-3.1-generate-preview", {"duration": 4}, (), 1.6),
    ("google-veo", "veo-3.1-generate-preview", {"resolution": "4K"}, (), 4.8),
    ("google-veo", "veo-3.1-generate-preview", {}, (FILM,), None),
    ("google-veo", "veo-3.1-fast-generate-preview", {"duration": 6}, (), 0.6),
    ("google-veo", "veo-3.1-fast-generate-preview", {"resolution": "1080p"}, (), 0.96),
    ("google-veo", "veo-3.1-lite-generate-preview", {}, (), 0.4),
    ("google-veo", "veo-3.0-generate-001", {}, (), None),
    ("google-imagen", "imagen-4.0-generate-001", {"n": 2}, (), 0.08),
    ("google-imagen", "imagen-4.0-ultra-generate-001", {}, (), 0.24),
    ("google-imagen", "imagen-4.0-fast-generate-001", {"n": 1}, (), 0.02),
    ("google-imagen", "imagen-3.0-generate-002", {"n": 1}, (), None),
    ("google-gemini-image", "gemini-2.5-flash-image", {}, (), 0.0387),
    ("google-gemini-image", "gemini-3.1-flash-image-preview", {}, (), 0.0672),
    ("google-gemini-image", "gemini-3.1-flash-image", {"resolution": "4k"}, (), 0.1512),
    ("google-gemini-image", "gemini-3-pro-image-preview", {"resolution": "2K"}, (), 0.1344),
    ("google-gemini-image", "gemini-3-pro-image", {"tools": [{"google_search": {}}]}, (), None),
    ("luma", "ray-3.2", {"resolution": "720p", "duration": 5}, (), 0.3),
    ("luma", "ray-3.2", {"resolution": "1080p", "duration": "10s"}, (), 3.6),
    ("luma", "ray-3.2", {"resolution": "720p", "duration": 5, "loop": True}, (PICTURE,), 0.3),
    ("luma", "ray-3.2", {"resolution": "720p", "duration": 5, "hdr": True}, (), None),
    ("luma", "ray-3.2", {"resolution": "720p", "duration": 5, "type": "video_edit"}, (), None),
    ("luma", "ray-3.2", {"resolution": "720p"}, (), None),
    ("luma", "uni-1", {}, (), 0.0404),
    ("luma", "uni-1", {}, (PICTURE, PICTURE), 0.0464),
    ("luma", "uni-1-max", {}, (PICTURE,), 0.103),
    ("luma", "ray-2", {"duration": 5, "resolution": "720p"}, (), None),
    ("decart", "lucy-2.5", {}, (FILM,), 0.26),
    ("decart", "lucy-restyle-2", {}, (FILM,), 0.065),
    ("decart", "lucy-clip", {}, (FILM,), None),
    ("decart-image", "lucy-image-2", {}, (PICTURE,), 0.02),
    ("decart-image", "lucy-image-2", {"resolution": "480p"}, (PICTURE,), 0.01),
    ("stability-audio", "stable-audio-2.5", {"duration": 30}, (), 0.2),
    ("stability-audio", "stable-audio-2", {"duration": 30}, (), None),
    ("assemblyai", "universal-2", {"language": "en"}, (HOUR,), 0.15),
    ("assemblyai", "universal-3-pro", {"diarize": False}, (HOUR,), 0.21),
    ("assemblyai", "universal-3-pro", {"diarize": True}, (HOUR,), None),
    ("assemblyai", "universal-3-pro,universal-2", {}, (HOUR,), None),
    ("assemblyai", "default", {}, (HOUR,), None),
    ("replicate", "black-forest-labs/flux-schnell", {"num_outputs": 4}, (), 0.012),
    ("replicate", "luma/photon", {}, (), 0.03),
    ("replicate", "somebody/else", {}, (), None),
    ("fal", "fal-ai/veo3.1", {"duration": 4, "generate_audio": False}, (), 0.8),
    ("fal", "fal-ai/veo3.1", {}, (), 3.2),
    ("fal", "fal-ai/veo3.1/fast", {}, (), None),
    ("fal", "fal-ai/minimax/speech-02-turbo", {}, (), 0.00078),
    ("fal", "fal-ai/flux/schnell", {}, (), None),
    ("openai-tts", "tts-1-1106", {"voice": "nova"}, (), 0.000195),
    ("elevenlabs-tts", "eleven_v3", {"voice": "abc"}, (), None),
    ("lmnt", "blizzard", {"voice": "leah"}, (), None),
    ("hume-tts", "octave-2", {"voice": "Ava"}, (), None),
    ("nvidia-image", "black-forest-labs/flux.1-dev", {}, (), None),
    ("gmicloud", "kling-v2-6", {"duration": 5}, (), None),
]


def asked(
    provider: VendorProvider,
    model: str,
    params: Mapping[str, Any],
    inputs: tuple[InputMedia, ...] = (),
    *,
    prompt: str | None = FOX,
) -> GenerationRequest:
    modality = provider.traits.modalities[0]
    if provider.name == "luma" and model.startswith("uni"):
        modality = Modality.IMAGE
    return GenerationRequest(
        model=model,
        prompt=None if modality is Modality.TEXT else prompt,
        modality=modality,
        params=dict(params),
        inputs=inputs,
    )


def vendors(name: str) -> VendorProvider:
    provider = resolve_provider(name)
    assert isinstance(provider, VendorProvider)
    return provider


@pytest.mark.parametrize(
    ("name", "model", "params", "inputs", "usd"),
    DECLARED,
    ids=[f"{i}-{case[0]}-{case[1]}" for i, case in enumerate(DECLARED)],
)
def test_list_prices_are_the_same_before_and_after_a_request(
    name: str,
    model: str,
    params: dict[str, Any],
    inputs: tuple[InputMedia, ...],
    usd: float | None,
) -> None:
    """What a budget reserves is what is recorded, where declared parameters decide alone."""
    provider = vendors(name)
    request = asked(provider, model, params, inputs)
    assert provider.estimate_cost(request) == usd
    count = provider.outputs_of(provider.payload(request)) if usd is not None else 1
    outputs = [Output(data=b"x")] * count
    assert provider.cost(request, outputs, {}) == usd


@pytest.mark.parametrize(
    ("name", "model", "params"),
    [
        ("runway", "gpt_image_2", {"n": 3, "ratio": "1024:1024"}),
        ("openai", "gpt-image-1", {"n": 3}),
        ("google-imagen", "imagen-4.0-generate-001", {"n": 3}),
        ("gmicloud-image", "seedream-5.0-lite", {"max_images": 3}),
        ("replicate", "luma/photon", {"num_outputs": 3}),
        ("fal", "fal-ai/flux/schnell", {"num_images": 3}),
    ],
)
def test_a_price_by_the_image_counts_all_that_are_asked_for(
    name: str, model: str, params: dict[str, Any]
) -> None:
    """A budget that reserves one of three is passed by the other two."""
    provider = vendors(name)
    entry = {"vendor": name, "model": "*", "unit": "image", "usd": 0.05}
    priced = type(provider)(api_key="k", prices=[entry])
    assert priced.estimate_cost(asked(provider, model, params)) == 0.15


def test_the_price_of_an_enlarged_video_is_unknown() -> None:
    """Luma's list has none."""
    request = GenerationRequest(
        model="ray-3.2",
        modality=Modality.VIDEO,
        step_type=StepType.UPSCALE,
        params={"generation_id": "1", "resolution": "1080p"},
    )
    assert vendors("luma").estimate_cost(request) is None


REPORTED: list[tuple[str, str, dict[str, Any], float | None]] = [
    ("runway", "seedance2", {"credits": 36}, 0.36),
    ("runway", "gen4_turbo", {"credits": 30}, 0.3),
    (
        "google-gemini-image",
        "gemini-3.1-flash-image",
        {
            "usage": {
                "promptTokenCount": 1000,
                "candidatesTokenCount": 1220,
                "thoughtsTokenCount": 100,
                "candidatesTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 1120},
                    {"modality": "TEXT", "tokenCount": 100},
                ],
            }
        },
        0.0683,
    ),
    # Of its words the price is not known; then its pictures count as asked for.
    (
        "google-gemini-image",
        "gemini-2.5-flash-image",
        {
            "usage": {
                "promptTokenCount": 10,
                "candidatesTokenCount": 1300,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
            }
        },
        0.0387,
    ),
    ("assemblyai", "universal-2", {"audio_duration": 1800}, 0.075),
]


@pytest.mark.parametrize(
    ("name", "model", "payload", "usd"),
    REPORTED,
    ids=[f"{i}-{c[1]}" for i, c in enumerate(REPORTED)],
)
def test_what_a_vendor_reports_counts(
    name: str, model: str, payload: dict[str, Any], usd: float | None
) -> None:
    """Credits, tokens and lengths of the answer come before what was expected."""
    provider = vendors(name)
    inputs = (HOUR,) if name == "assemblyai" else ()
    request = asked(provider, model, {"duration": 5} if name == "runway" else {}, inputs)
    assert provider.cost(request, [Output(data=b"x")], payload) == usd


def test_an_own_price_wins_over_what_a_vendor_reports() -> None:
    """A contract by the second stays one by the second, whatever credits are charged."""
    entry = {"vendor": "runway", "model": "gen4*", "unit": "output_second", "usd": 0.04}
    provider = type(vendors("runway"))("k", prices=[entry])
    request = asked(provider, "gen4_turbo", {"duration": 5}, (PICTURE,))
    assert provider.estimate_cost(request) == 0.2
    assert provider.cost(request, [Output(url="https://x.test/v")], {"credits": 25}) == 0.2


def test_a_plans_credits_are_priced_by_its_own_rate() -> None:
    """ElevenLabs counts half a credit for a character of its flash models."""
    entry = {"vendor": "elevenlabs", "model": "*", "unit": "credit", "usd": 0.0002}
    provider = type(vendors("elevenlabs-tts"))("k", prices=[entry])
    flash = asked(provider, "eleven_flash_v2_5", {"voice": "abc"}, prompt="x" * 100)
    assert provider.estimate_cost(flash) == 0.01
    assert provider.cost(flash, [Output(data=b"x")], {"character_cost": "75"}) == 0.015
    credits = type(vendors("stability-audio"))(
        "k", prices=[{**entry, "vendor": "stability", "usd": 0.008}]
    )
    assert credits.estimate_cost(asked(credits, "stable-audio-2.5", {})) == 0.16


def test_pixels_of_the_files_count() -> None:
    """The size a provider knows of its outputs is what is priced."""
    entry = {"vendor": "fal", "model": "fal-ai/flux/*", "unit": "megapixel", "usd": 0.003}
    provider = type(vendors("fal"))("k", prices=[entry])
    request = asked(provider, "fal-ai/flux/schnell", {"image_size": {"width": 2000, "height": 500}})
    assert provider.estimate_cost(request) == 0.003
    output = Output(data=b"x", facts={"width": 1000, "height": 500})
    assert provider.cost(request, [output, output], {}) == 0.003


def test_no_price_needs_a_key_or_the_network() -> None:
    """Estimates are made where there is neither."""
    provider = vendors("runway")
    with pytest.raises(Exception, match="RUNWAYML_API_SECRET"):
        provider.validate(asked(provider, "gen4.5", {"duration": 5}))
    assert provider.estimate_cost(asked(provider, "gen4.5", {"duration": 5})) == 0.6
    asyncio.run(provider.aclose())
