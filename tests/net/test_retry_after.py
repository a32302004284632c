from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.net.retry_after import parse_retry_after

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "12", "retry-after-ms": "11750"}, 11.75),
        ({"retry-after": "12", "retry-after-ms": "soon"}, 12.0),
        ({"retry-after-ms": "-5"}, 0.0),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_seconds_dates_and_milliseconds(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, HTTP dates and milliseconds are understood; nonsense is no answer."""
    assert parse_retry_after(headers, now=NOW) == seconds


@given(st.text(max_size=60))
def test_never_raises_and_never_negative(text: str) -> None:
    """Whatever a server writes, the answer is None or a number of seconds to wait."""
    value = parse_retry_after({"retry-after": text}, now=NOW)
    assert value is None or value >= 0
