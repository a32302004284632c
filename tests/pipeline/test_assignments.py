import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.errors import ConfigError
from genblaze_dagster.pipeline.assignments import parse_assignments, written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("seed=7", 7),
        ("seed=null", None),
        ("ratio=1.0", 1.0),
        ("size=1024x1024", "1024x1024"),
        ("loop=true", True),
        ('style={"a": [1]}', {"a": [1]}),
        ('quality="7"', "7"),
        ("quality=", ""),
        ("prompt=7", "7"),
        ("image.prompt=true = false", "true = false"),
        ('prompt="7"', "7"),
        ("model=[1]", "[1]"),
        (f"deep={'[' * 100_000}", "[" * 100_000),
    ],
    ids=lambda value: str(value)[:30],
)
def test_values_are_json_or_text(text: str, value: object) -> None:
    """What reads as JSON is JSON; prompts and names stay what was typed."""
    (found,) = parse_assignments([text]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("wrong", [["seed"], ["=7"], ["seed=1", "seed=2"]], ids=str)
def test_a_wrong_assignment_is_told(wrong: list[str]) -> None:
    """No name, no value, and two values for one name."""
    with pytest.raises(ConfigError):
        parse_assignments(wrong)


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "image.seed", "model", "video.a.b", "size"]),
        st.text() | st.none() | st.integers() | st.lists(st.booleans() | st.text()),
    )
)
def test_what_is_written_reads_back(changes: dict[str, object]) -> None:
    """Changes travel through run configuration and arrive as they were."""
    texts = {"prompt", "model"}
    sent = {k: v for k, v in changes.items() if k not in texts or isinstance(v, str)}
    assert parse_assignments(written(sent)) == sent
