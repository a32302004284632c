"""One small, real call to a vendor: it costs money, needs a key, and runs only when asked for."""

import os
from pathlib import Path
from typing import Any

import pytest

from genblaze_dagster import Pipeline
from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.capabilities import capabilities
from genblaze_dagster.trust.verification import verify

pytestmark = pytest.mark.live

_AUDIO = {"modality": Modality.AUDIO}
_VIDEO = {"modality": Modality.VIDEO, "timeout": 900}
# The cheapest call of each provider that needs no input.
CALLS: dict[str, dict[str, Any]] = {
    "openai-dalle": {
        "model": "gpt-image-1-mini",
        "params": {"size": "1024x1024", "quality": "low"},
    },
    "openai-sora": {"model": "sora-2", "params": {"duration": 4}, **_VIDEO},
    "openai-tts": {"model": "gpt-4o-mini-tts", "params": {"voice": "alloy"}, **_AUDIO},
    "google-veo": {"model": "veo-3.1-fast-generate-preview", "params": {"duration": 4}, **_VIDEO},
    "google-gemini-image": {"model": "gemini-2.5-flash-image"},
    "google-imagen": {"model": "imagen-4.0-fast-generate-001", "params": {"n": 1}},
    "nvidia-image": {"model": "black-forest-labs/flux.1-schnell"},
    "runway": {"model": "gen4_image", "params": {"aspect_ratio": "1:1"}},
    "luma": {"model": "photon-flash-1"},
    "replicate": {"model": "black-forest-labs/flux-schnell"},
    "elevenlabs-tts": {
        "model": "eleven_flash_v2_5",
        "params": {"voice": "JBFqnCBsd6RMkjVDRZzb"},
        **_AUDIO,
    },
    "elevenlabs-sfx": {"model": "default", "params": {"duration": 0.5}, **_AUDIO},
    "stability-audio": {"model": "stable-audio-2.5", "params": {"duration": 5}, **_AUDIO},
    "lmnt": {"model": "blizzard", "params": {"voice": "leah"}, **_AUDIO},
    "hume-tts": {"model": "octave-1", "params": {"voice": "Male English Actor"}, **_AUDIO},
    "fal": {"model": "fal-ai/flux/schnell"},
}


def test_a_real_call_is_stored_and_verified(vendor: str, tmp_path: Path) -> None:
    """Each provider of the vendor that has its key makes, stores and proves one small thing."""
    chosen = [one for one in capabilities() if one.vendor == vendor and one.name in CALLS]
    if not chosen:
        pytest.skip(f"no provider of {vendor} can be called without an input")
    if not any(os.environ.get(variable) for variable in chosen[0].key_variables):
        pytest.skip(f"no key: set {chosen[0].variable}")
    store = (tmp_path / "store").as_uri()
    for one in chosen:
        call = dict(CALLS[one.name])
        params = call.pop("params", {})
        result = (
            Pipeline(f"live-{one.name}")
            .step(one.name, prompt="A single red dot on white.", **call, **params)
            .run(store=store, ledger=f"sqlite:///{tmp_path / 'ledger.db'}")
        )
        (outcome,) = result.outcomes.values()
        print(
            f"{one.name}: {[m.media_type for m in outcome.ref.media]}, {outcome.ref.cost_usd} USD"
        )
        assert outcome.ref.media
    assert verify(store).verdict.value == "verified_unsigned"
