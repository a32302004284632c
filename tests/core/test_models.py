"""What can be constructed, and what a tolerant load lets through."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from genblaze_dagster.core.enums import StepType
from genblaze_dagster.core.models import (
    TOLERANT,
    Asset,
    AudioMetadata,
    Run,
    Step,
    Track,
    VideoMetadata,
    WordTiming,
    is_valid_media,
    is_valid_sha256,
)

BROKEN_FACTS = [
    {"width": 0},
    {"height": "-5"},
    {"duration": -1},
    {"duration": float("nan")},
    {"duration": float("inf")},
    {"media_type": "image/png; charset=utf-8"},
    {"media_type": "png"},
    {"media_type": "\u00e9/png"},
    {"video": {"frame_rate": -1}},
    {"video": {"bitrate": 0}},
    {"audio": {"sample_rate": 0}},
    {"audio": {"channels": -2}},
    {"audio": {"bitrate": 0}},
]


def asset(**fields: Any) -> Asset:
    return Asset(**{"url": "https://a.test/b", "media_type": "image/png", **fields})


@pytest.mark.parametrize("facts", BROKEN_FACTS, ids=str)
def test_broken_media_facts_are_refused_now_and_reported_later(facts: dict[str, Any]) -> None:
    """Construction refuses a broken fact and names it; a load keeps it, and it is found."""
    with pytest.raises(ValidationError) as refusal:
        asset(**facts)
    assert next(iter(facts)) in str(refusal.value)
    fields = {"url": "https://a.test/b", "media_type": "image/png", **facts}
    loaded = Asset.model_validate(fields, context=TOLERANT)
    assert not is_valid_media(loaded)


@pytest.mark.parametrize(
    "fields",
    [
        {"size_bytes": -1},
        {"width": "wide"},
        {"duration": None, "url": None},
        {"audio": {"word_timings": [{"word": "a", "start": 2, "end": 1}]}},
        {"audio": {"word_timings": [{"word": "a", "start": -1, "end": 1}]}},
        {"audio": {"word_timings": [{"word": "a", "start": 0, "end": float("inf")}]}},
        {"audio": {"word_timings": [{"word": "a", "start": 0, "end": 1, "confidence": 2}]}},
        {"audio": {"word_timings": ["a"]}},
        {"tracks": [{}]},
        {"metadata": []},
        {"metadata": {1: 2}},
    ],
    ids=str,
)
def test_other_errors_stay_fatal_on_a_load(fields: dict[str, Any]) -> None:
    """Negative sizes, word timings and wrong types fail on construction and on loads."""
    everything = {"url": "https://a.test/b", "media_type": "image/png", **fields}
    with pytest.raises(ValidationError):
        Asset(**everything)
    with pytest.raises(ValidationError):
        Asset.model_validate(everything, context=TOLERANT)


@pytest.mark.parametrize("media_type", ["image/png", "a\u00e9/b", "image/svg+xml", "image/png\n"])
def test_media_types_are_read_as_pythons_re_reads_them(media_type: str) -> None:
    """Letters of any script after the first character and a final newline are allowed."""
    assert is_valid_media(asset(media_type=media_type))


def test_assignment_is_free_and_reported() -> None:
    """Models do not check assignments; verification does."""
    changed = asset(width=10, video=VideoMetadata(bitrate=5))
    changed.width = -1
    assert not is_valid_media(changed)
    changed.width = 1
    assert is_valid_media(changed)
    assert changed.video is not None
    changed.video.bitrate = 0
    assert not is_valid_media(changed)


def test_lax_spellings_are_converted() -> None:
    """Integral floats, numeric text and booleans count as numbers, as the format allows."""
    lax = asset(width=2.0, height="3", size_bytes=True, duration="1.5", video={"has_audio": "yes"})
    assert (lax.width, lax.height, lax.size_bytes, lax.duration) == (2, 3, 1, 1.5)
    assert lax.video is not None
    assert lax.video.has_audio is True


def test_unknown_keys_are_refused_on_steps_only() -> None:
    """A step forbids unknown keys, the other objects drop them."""
    with pytest.raises(ValidationError, match="surprise"):
        Step(model="m", provider="p", surprise=1)  # type: ignore[call-arg]
    for model, fields in (
        (Asset, {"url": "u", "media_type": "a/b"}),
        (Run, {}),
        (VideoMetadata, {}),
        (AudioMetadata, {}),
        (Track, {"kind": "video"}),
        (WordTiming, {"word": "a", "start": 0, "end": 1}),
    ):
        assert "surprise" not in model.model_validate({**fields, "surprise": 1}).model_dump()


def test_only_imports_need_no_provider() -> None:
    """A step without a provider must be an ingest or an import."""
    for step_type in StepType:
        if step_type in (StepType.INGEST, StepType.IMPORT):
            assert Step(model="m", step_type=step_type).provider is None
        else:
            for fields in ({}, {"provider": None}):
                with pytest.raises(ValidationError, match="null is for ingest and import steps"):
                    Step(model="m", step_type=step_type, **fields)


def test_defaults_are_fresh() -> None:
    """Ids are random UUIDs, times are now in UTC, and containers are not shared."""
    one, two = Run(), Run()
    assert one.run_id != two.run_id
    assert uuid.UUID(one.run_id).version == 4
    assert abs((datetime.now(UTC) - one.created_at).total_seconds()) < 60
    one.steps.append(Step(model="m", provider="p"))
    one.metadata["a"] = 1
    assert two.steps == []
    assert two.metadata == {}


def test_arguments_are_not_shared() -> None:
    """A list or dict that was passed in may change without changing the step."""
    params, assets = {"a": 1}, [asset()]
    step = Step(model="m", provider="p", params=params, assets=assets)
    params["b"] = 2
    assets.clear()
    assert step.params == {"a": 1}
    assert len(step.assets) == 1


def test_prompts_and_urls_stay_out_of_repr_and_errors() -> None:
    """What may be private or signed is in no repr and in no error message."""
    step = Step(
        model="m",
        provider="p",
        prompt="hush",
        negative_prompt="hush",
        params={"a": "hush"},
        metadata={"a": "hush"},
        provider_payload={"a": "hush"},
        assets=[asset(url="https://a.test/?sig=hush", metadata={"a": "hush"})],
    )
    assert "hush" not in repr(Run(steps=[step], metadata={"a": "hush"}))
    with pytest.raises(ValidationError) as refusal:
        Step(model="m", provider="p", prompt=["hush"], params="hush")  # type: ignore[arg-type]
    assert "hush" not in str(refusal.value)
    assert "prompt" in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        ("a" * 64, True),
        ("A" * 64, False),
        ("a" * 63, False),
        ("a" * 64 + "\n", False),
        ("sha256:" + "a" * 64, False),
        ("", False),
        (None, False),
    ],
)
def test_a_sha256_is_64_lower_case_hex_characters(value: str | None, valid: bool) -> None:
    """Upper case, prefixes and other lengths are no valid hash."""
    assert is_valid_sha256(value) is valid
    assert asset(sha256=value).sha256 == value
