import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.errors import PromptTemplateError
from genblaze_dagster.pipeline.template import (
    Column,
    PromptTemplate,
    declared,
    render_value,
    variables_of,
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {subject} at dusk", "a fox at dusk"),
        ("{{subject}}", "{subject}"),
        ('{"a": 1, "b": {subject!r}}', '{"a": 1, "b": \'fox\'}'),
        ("{n:03d} {subject!s:>5}", "007   fox"),
        ("{ subject } {1} {}", "{ subject } {1} {}"),
        ("100% {subject}{subject}", "100% foxfox"),
        ("", ""),
    ],
)
def test_fields_are_filled_and_other_braces_stay(template: str, expected: str) -> None:
    """Named fields are replaced, doubled braces and JSON braces are literal."""
    assert PromptTemplate(template).render({"subject": "fox", "n": 7, "unused": 1}) == expected


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{a.b}", "plain name"),
        ("{a[0]}", "plain name"),
        ("{a!x}", "conversion"),
        ("{a:{b}}", "nested"),
        ("{open", "not closed"),
        ("{" + "a" * 300 + "}", "longer"),
    ],
)
def test_malformed_fields_are_refused_when_declared(template: str, words: str) -> None:
    """A broken template fails where it is written, not when the first row arrives."""
    with pytest.raises(PromptTemplateError, match=words):
        PromptTemplate(template)


def test_a_missing_variable_names_itself_and_what_the_row_has() -> None:
    """The error says which column is missing and which are there, without their values."""
    with pytest.raises(PromptTemplateError, match=r"needs mood.*it has: subject") as caught:
        PromptTemplate("{subject} {mood}").render({"subject": "top secret"})
    assert "top secret" not in str(caught.value)


def test_a_format_that_does_not_fit_is_a_typed_error() -> None:
    """A number format over text names the field and keeps the value out of the message."""
    with pytest.raises(PromptTemplateError, match="does not fit a str"):
        PromptTemplate("{n:d}").render({"n": "private"})


def test_columns_keep_their_type_and_leaves_are_rendered() -> None:
    """Columns pass values through; strings inside params are templates when there is a row."""
    value = {"seed": Column("seed"), "style": "{mood}", "list": ["{mood}", 3], "flag": True}
    row = {"seed": 5, "mood": "calm"}
    assert render_value(value, row) == {
        "seed": 5,
        "style": "calm",
        "list": ["calm", 3],
        "flag": True,
    }
    assert variables_of(value) == {"seed", "mood"}
    assert declared(value)["seed"] == {"$column": "seed"}


def test_plain_strings_without_a_row_are_text() -> None:
    """Without variables a plain string is never treated as a template."""
    assert render_value("{not_a_field}", {}) == "{not_a_field}"


@given(st.text(max_size=60))
def test_any_text_renders_or_is_refused(text: str) -> None:
    """No text makes the parser do anything but render or raise its typed error."""
    try:
        template = PromptTemplate(text)
    except PromptTemplateError:
        return
    rendered = template.render(dict.fromkeys(template.variables, "x"))
    if "{" not in text and "}" not in text:
        assert rendered == text
