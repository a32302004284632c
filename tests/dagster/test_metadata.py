from dataclasses import replace

import dagster as dg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.models import Run, Step
from genblaze_dagster.core.reference import MediaObject, MediaRef, Rendition
from genblaze_dagster.metadata import (
    EVENT_BYTES,
    link,
    media_metadata,
    outcome_metadata,
    preview_card,
    size_text,
    thumbnail,
    within_budget,
)
from genblaze_dagster.pipeline.outcome import Origin, StepOutcome

MEDIA = MediaObject(
    asset_id="id",
    sha256="ab" * 32,
    size_bytes=1_234_567,
    media_type="image/png",
    key="assets/ab/x.png",
    url="https://cdn.example.com/assets/ab/x.png",
    width=1024,
    height=768,
)
RENDITION = Rendition("12" * 32, 2_000, "assets/12/y.png", "https://cdn.example.com/y.png")
REF = MediaRef(
    asset_key="story/image",
    partition_key="a",
    run_id="run",
    step_id="step",
    manifest_key="manifests/run.json",
    manifest_url="https://cdn.example.com/manifests/run.json",
    canonical_hash="cd" * 32,
    generation_key="ef" * 32,
    provider="local",
    model="local-image",
    modality="image",
    cost_usd=0.0,
    created_at="2026-01-01T00:00:00+00:00",
    media=(MEDIA,),
)
KEYS = (
    "preview",
    "media",
    "sha256",
    "manifest",
    "model",
    "bytes",
    "request_key",
    "run_id",
    "provider",
)


def noise(width: int, height: int) -> bytes:
    from io import BytesIO

    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@given(
    prompt=st.text(max_size=3000) | st.none(),
    url=st.text(max_size=1200).map(lambda text: f"https://x/{text}"),
    picture=st.binary(max_size=900) | st.none(),
    model=st.text(min_size=1, max_size=300),
)
def test_a_card_is_always_short_enough_to_be_drawn_inline(
    prompt: str | None, url: str, picture: bytes | None, model: str
) -> None:
    """Whatever goes in, the UI gets less than 1,000 characters, and something."""
    ref = replace(REF, model=model, media=(replace(MEDIA, url=url),))
    card = preview_card(ref, thumbnail=picture, prompt=prompt)
    assert 0 < len(card) < 1000


def test_a_card_with_a_picture_links_to_the_media() -> None:
    """The thumbnail is a data URI around which there is a link."""
    card = preview_card(REF, thumbnail=b"RIFF", prompt="a *red* fox\nat night")
    first, facts, prompt = card.split("\n\n")
    assert first == (
        "[![image/png, 1024x768, 1.2 MB](data:image/webp;base64,UklGRg==)]"
        "(https://cdn.example.com/assets/ab/x.png)"
    )
    assert facts == "local-image: image/png, 1024x768, 1.2 MB"
    assert prompt == r"a \*red\* fox at night"


def test_without_a_picture_there_is_a_link_and_without_a_web_address_there_is_text() -> None:
    """Files are not clickable in a browser, so nothing pretends to be."""
    assert preview_card(REF).startswith("[image/png")
    local = replace(REF, media=(replace(MEDIA, url="file:///store/x.png"),))
    assert preview_card(local) == "image/png, 1024x768, 1.2 MB"


@pytest.mark.parametrize(
    ("url", "kind", "text"),
    [
        ("https://x/y.png", dg.UrlMetadataValue, "https://x/y.png"),
        ("file:///data/a%20b/y.png", dg.PathMetadataValue, "/data/a b/y.png"),
        ("memory://s/y.png", dg.PathMetadataValue, "memory://s/y.png"),
    ],
)
def test_only_web_addresses_are_links(url: str, kind: type, text: str) -> None:
    """Everything else is a path to copy."""
    value = link(url)
    assert isinstance(value, kind)
    assert value.value == text


@pytest.mark.parametrize("size", [(8, 8), (640, 480), (2000, 100), (1, 1)])
def test_a_thumbnail_fits_the_card_even_for_noise(size: tuple[int, int]) -> None:
    """The hardest picture to compress still becomes a WebP of at most 500 bytes."""
    small = thumbnail(noise(*size), MEDIA)
    assert small is not None
    assert small[8:12] == b"WEBP"
    assert len(small) <= 500


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n" + b"x" * 99])
def test_a_broken_picture_has_no_thumbnail(data: bytes) -> None:
    """It is stored and proven all the same."""
    assert thumbnail(data, MEDIA) is None


def test_a_giant_picture_is_not_decoded() -> None:
    """Its declared size alone keeps the decoder away."""
    assert thumbnail(noise(8, 8), replace(MEDIA, width=30_000, height=30_000)) is None


def test_the_keys_are_always_the_same_and_numbers_are_numbers() -> None:
    """A fixed list, so that values plot over time."""
    values = media_metadata(REF, prompt="x")
    assert set(values) == {*KEYS, "prompt"}
    assert isinstance(values["bytes"], dg.IntMetadataValue)
    timed = media_metadata(replace(REF, media=(replace(MEDIA, duration=2.5),)))
    assert timed["duration_s"].value == 2.5


def test_a_rendition_is_shown_beside_its_output() -> None:
    """Link, hash and size of the first; of several outputs each with its own."""
    other = replace(MEDIA, sha256="ee" * 32)
    ref = replace(REF, media=(replace(MEDIA, embedded=RENDITION), other))
    values = media_metadata(ref)
    assert set(values) == {*KEYS, "embedded", "embedded_sha256", "embedded_bytes", "outputs"}
    assert values["embedded"] == dg.MetadataValue.url(RENDITION.url)
    assert (values["embedded_sha256"].value, values["embedded_bytes"].value) == ("12" * 32, 2_000)
    first, second = values["outputs"].value["first"]
    assert (first["embedded_sha256"], first["embedded_url"]) == ("12" * 32, RENDITION.url)
    assert set(second) == {"sha256", "url"}


def test_a_missing_rendition_is_explained_in_few_words() -> None:
    """The first reason there is, cut to what people read."""
    explained = replace(MEDIA, not_embedded="because " * 500)
    values = media_metadata(replace(REF, media=(MEDIA, explained)))
    assert values["not_embedded"].value.startswith("because because")
    assert len(values["not_embedded"].value) == 500
    assert "embedded" not in values


def test_an_unknown_price_is_left_out_and_nothing_asked_costs_nothing() -> None:
    """Zero would plot as free, and a price that was paid earlier is not paid again."""
    manifest = Manifest.from_run(Run(steps=[Step(provider="local", model="m", prompt="p")]))
    unknown = StepOutcome(replace(REF, cost_usd=None), manifest, Origin.GENERATED, 1.0, 1)
    assert "cost_usd" not in outcome_metadata(unknown)
    reused = StepOutcome(replace(REF, cost_usd=0.5), manifest, Origin.REUSED, 1.0, 0)
    assert outcome_metadata(reused)["cost_usd"].value == 0.0
    assert list(outcome_metadata(reused))[:3] == ["preview", "media", "sha256"]


def test_an_event_stays_below_its_budget() -> None:
    """Long prompts are cut and long lists dropped; the hashes stay."""
    many = tuple(replace(MEDIA, url=f"https://x/{'y' * 1500}{i}") for i in range(40))
    values = within_budget(media_metadata(replace(REF, media=many), prompt="p" * 100_000))
    size = sum(len(str(value.value)) for value in values.values())
    assert size <= EVENT_BYTES
    assert "sha256" in values


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (5 * 10**12, "5000.0 GB")]
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    """Powers of 1,000, as disks are sold."""
    assert size_text(size) == text
