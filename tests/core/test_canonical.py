"""Canonical JSON of single values."""

import enum
import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genblaze_dagster.core.canonical import canonical_hash, canonical_json
from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Track
from genblaze_dagster.errors import ManifestError

NOON = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))


def nested(levels: int, *innermost: object) -> list[object]:
    value = list(innermost)
    for _ in range(levels - 1):
        value = [value]
    return value


VALUES = {
    "utc datetime": NOON,
    "utc datetime 120us": NOON.replace(microsecond=120),
    "offset +05:30": NOON.replace(tzinfo=INDIA),
    "uuid": UUID(int=7),
    "tuple (1,2.0)": (1, 2.0),
    "enum Modality.VIDEO": Modality.VIDEO,
    "int-keyed dict {10:'a',2:'b'}": {10: "a", 2: "b"},
}
REFUSED = {
    "bytes": b"a",
    "set": {1},
    "Decimal": Decimal(1),
    "date": date(2025, 1, 2),
    "naive datetime": datetime(2025, 1, 2),  # noqa: DTZ001
    "object()": object(),
    "mixed str/int keys": {1: 1, "a": 2},
    "nested 101": nested(101, 1),
}


class Half(float, enum.Enum):
    PRECISE = 0.1234567890123


class Pair(enum.Enum):
    BOTH = (1, 2.5)


class Text(enum.Enum):
    DECOMPOSED = "e\u0301"


class TextItself(str, enum.Enum):  # noqa: UP042
    DECOMPOSED = "e\u0301"


def test_recorded_texts_match(vectors: Path) -> None:
    """JSON values print and hash exactly as recorded."""
    cases = json.loads((vectors / "genblaze" / "canonical_cases.json").read_bytes())["json"]
    for case in cases:
        value = json.loads(case["json_text"])
        assert canonical_json(value) == case["canonical"]
        assert canonical_hash(value) == case["sha256"]


def test_recorded_python_values_match(vectors: Path) -> None:
    """Times, UUIDs, tuples, enum members and number keys print as recorded."""
    cases = json.loads((vectors / "genblaze" / "canonical_cases.json").read_bytes())["python"]
    assert {case["python_value"] for case in cases} == VALUES.keys()
    for case in cases:
        assert canonical_json(VALUES[case["python_value"]]) == case["canonical"]


def test_recorded_refusals_match(vectors: Path) -> None:
    """What JSON has no form for is refused with a typed error."""
    cases = json.loads((vectors / "genblaze" / "canonical_cases.json").read_bytes())["errors"]
    assert {case["python_value"] for case in cases} == REFUSED.keys()
    for case in cases:
        with pytest.raises(ManifestError):
            canonical_json(REFUSED[case["python_value"]])


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (1e-11, "0.0"),
        (-1e-11, "-0.0"),
        (5e-11, "1e-10"),
        (2.5e-10, "3e-10"),
        (1.5e-10, "1e-10"),
        (1e-5, "1e-05"),
        (0.0001, "0.0001"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (0.1 + 0.2, "0.3"),
        (1 / 3, "0.3333333333"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (7.0, "7.0"),
        (7, "7"),
        (True, "true"),
        (math.inf, "null"),
        (2**70, "1180591620717411303424"),
        (Half.PRECISE, "0.1234567890123"),
        (Pair.BOTH, "[1,2.5]"),
        (Text.DECOMPOSED, '"e\u0301"'),
        (TextItself.DECOMPOSED, '"\u00e9"'),
        ({True: 1, False: 2}, '{"false":2,"true":1}'),
        ({None: 1}, '{"null":1}'),
        ({1.5: 1, 0.5: 2}, '{"0.5":2,"1.5":1}'),
        (Track(kind="video", codec="h264"), '{"codec":"h264","kind":"video","label":null}'),
        (NOON.replace(tzinfo=timezone(timedelta(seconds=30))), '"2025-01-02T03:04:05+00:00:30"'),
    ],
)
def test_numbers_enums_keys_and_models_print_as_specified(value: object, printed: str) -> None:
    """The cases that trip other writers print as the format says."""
    assert canonical_json(value) == printed


def test_the_hundredth_level_is_the_last() -> None:
    """Values down to level 100 are written, one more is refused, scalars included."""
    assert canonical_json(nested(101)) == "[" * 101 + "]" * 101
    assert canonical_json(nested(100, 1)) == "[" * 100 + "1" + "]" * 100
    for too_deep in (nested(102), nested(101, 1), {"a": nested(100, "b")}):
        with pytest.raises(ManifestError, match="100 levels"):
            canonical_json(too_deep)


def test_a_cycle_is_refused() -> None:
    """A value that contains itself ends at the depth limit."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(ManifestError, match="100 levels"):
        canonical_json(value)


def test_half_a_surrogate_pair_cannot_be_hashed() -> None:
    """A lone surrogate prints, but hashing it is a typed error and not a crash."""
    assert canonical_json("\ud800") == '"\ud800"'
    with pytest.raises(ManifestError, match="surrogate"):
        canonical_hash({"a": "\ud800"})


@pytest.mark.parametrize(
    "value",
    [10**5000, {10**5000: 1}, {(1, 2): 3}],
    ids=["long integer", "long integer key", "tuple key"],
)
def test_what_python_cannot_print_is_refused(value: object) -> None:
    """Integers beyond Python's limit and keys that are no JSON keys are typed errors."""
    with pytest.raises(ManifestError):
        canonical_json(value)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_canonical_text_is_stable(value: object) -> None:
    """Reading canonical text and writing it again changes nothing."""
    once = canonical_json(value)
    assert canonical_json(json.loads(once)) == once
