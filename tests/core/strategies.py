"""Runs of every allowed shape, for property tests."""

from datetime import UTC, timedelta, timezone
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from genblaze_dagster.core.enums import (
    Modality,
    PromptVisibility,
    ProviderErrorCode,
    RunStatus,
    StepStatus,
    StepType,
)
from genblaze_dagster.core.models import (
    Asset,
    AudioMetadata,
    Run,
    Step,
    Track,
    VideoMetadata,
    WordTiming,
)

ZONES = st.sampled_from([UTC, timezone(timedelta(0)), timezone(timedelta(hours=-3, minutes=-30))])
TIMES = st.datetimes(timezones=ZONES)
# Composed, decomposed, wide and escaped characters more often than by chance.
TEXT = st.text(
    st.sampled_from('ae\u0301\u00e9\u0338="\\/\n\x00\x7f\u2028\u212b\uffff\U0001f600')
    | st.characters(exclude_categories=["Cs"]),
    max_size=8,
)
FLOATS = st.floats() | st.floats(-1, 1) | st.floats(1e-12, 1e-3) | st.integers().map(float)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FLOATS | TEXT
VALUES = st.recursive(
    SCALARS | TIMES | st.sampled_from(Modality) | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=4)
COUNTS = st.none() | st.integers(1, 2**66)
AMOUNTS = st.none() | st.floats(0, allow_nan=False, allow_infinity=False) | st.floats(0, 1e-3)
MAYBE_TEXT = st.none() | TEXT


@st.composite
def word_timings(draw: st.DrawFn) -> WordTiming:
    start = draw(st.floats(0, 1000))
    return WordTiming(
        word=draw(TEXT),
        start=start,
        end=start + draw(st.floats(0, 10)),
        confidence=draw(st.none() | st.floats(0, 1)),
    )


VIDEO = st.builds(
    VideoMetadata,
    frame_rate=AMOUNTS,
    codec=MAYBE_TEXT,
    bitrate=COUNTS,
    color_space=MAYBE_TEXT,
    has_audio=st.none() | st.booleans(),
    resolution=MAYBE_TEXT,
)
AUDIO = st.builds(
    AudioMetadata,
    sample_rate=COUNTS,
    channels=COUNTS,
    codec=MAYBE_TEXT,
    bitrate=COUNTS,
    word_timings=st.none() | st.lists(word_timings(), max_size=2),
)
TRACKS = st.builds(Track, kind=TEXT, codec=MAYBE_TEXT, label=MAYBE_TEXT)
SHA256 = st.binary(min_size=32, max_size=32).map(bytes.hex)

ASSETS = st.builds(
    Asset,
    asset_id=st.uuids().map(str),
    url=st.sampled_from(["https://cdn.test/a.png", "https://cdn.test/\u00e9?X-Amz-Date=1&b=a"]),
    media_type=st.sampled_from(["image/png", "video/mp4", "audio/x-wav"]),
    sha256=st.none() | SHA256 | TEXT,
    size_bytes=st.none() | st.integers(0, 2**66),
    width=COUNTS,
    height=COUNTS,
    duration=AMOUNTS,
    video=st.none() | VIDEO,
    audio=st.none() | AUDIO,
    tracks=st.none() | st.lists(TRACKS, max_size=2),
    metadata=OBJECTS,
)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    made: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {
                "model": TEXT,
                "provider": TEXT,
                "assets": st.lists(ASSETS, max_size=2),
                "inputs": st.lists(ASSETS, max_size=2),
                "params": OBJECTS,
                "metadata": OBJECTS,
            },
            optional={
                "run_id": MAYBE_TEXT,
                "step_type": st.sampled_from(StepType),
                "model_version": MAYBE_TEXT,
                "modality": st.sampled_from(Modality),
                "prompt": MAYBE_TEXT,
                "negative_prompt": MAYBE_TEXT,
                "prompt_visibility": st.sampled_from(
                    [PromptVisibility.PUBLIC, PromptVisibility.PRIVATE]
                ),
                "seed": st.none() | st.integers(-(2**70), 2**70),
                "status": st.sampled_from(StepStatus),
                "provider_payload": OBJECTS,
                "retries": st.integers(0, 5),
                "cost_usd": st.none() | FLOATS,
                "error": MAYBE_TEXT,
                "error_code": st.none() | st.sampled_from(ProviderErrorCode),
                "started_at": st.none() | TIMES,
                "completed_at": st.none() | TIMES,
                "step_index": st.none() | st.integers(0, 100),
            },
        )
    )
    return Step(**made)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    made = draw(st.lists(steps(), max_size=3))
    for before, after in pairwise(made):
        after.inputs += before.assets
    return Run(
        name=draw(MAYBE_TEXT),
        tenant_id=draw(MAYBE_TEXT),
        status=draw(st.sampled_from(RunStatus)),
        created_at=draw(TIMES),
        started_at=draw(st.none() | TIMES),
        steps=made,
        metadata=draw(OBJECTS),
    )
