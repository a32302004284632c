"""Prompt templates: `{name}` fields filled from a partition's row, everything else literal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from genblaze_dagster.errors import PromptTemplateError

MAX_FIELD_CHARS = 256
_CONVERSIONS = {"s": str, "r": repr, "a": ascii}


@dataclass(frozen=True, slots=True)
class Column:
    """A request value taken from the partition's row as it is, with its type.

    `seed=Column("seed")` gives every partition the seed of its own row.
    """

    name: str


@dataclass(frozen=True, slots=True, init=False)
class PromptTemplate:
    """A prompt with `{name}` fields: `PromptTemplate("a {subject}")`.

    A field may carry `!s`, `!r` or `!a` and a format `:spec`; `{{` and `}}` are literal braces, and
    a brace that no letter or underscore follows is literal text, so JSON survives. Attribute and
    index access are refused.

    Raises:
        PromptTemplateError: on construction, when a field is malformed.
    """

    text: str

    def __init__(self, template: str) -> None:
        _parse(template)
        object.__setattr__(self, "text", template)

    @property
    def template(self) -> str:
        """The text, as the genblaze guides call it."""
        return self.text

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the fields, in order of first use."""
        names = [part.name for part in _parse(self.text) if isinstance(part, _Field)]
        return tuple(dict.fromkeys(names))

    def render(self, variables: Mapping[str, object] | None = None, /, **named: object) -> str:
        """Fill the fields from a mapping, or by name; variables no field names are ignored.

        Raises:
            PromptTemplateError: a variable is missing, or its format spec does not fit its value.
        """
        variables = {**(variables or {}), **named}
        missing = [name for name in self.variables if name not in variables]
        if missing:
            known = ", ".join(sorted(variables)) or "none"
            raise PromptTemplateError(
                f"prompt template needs {', '.join(missing)}, which the row does not have "
                f"(it has: {known}); add the column or correct the name"
            )
        parts = _parse(self.text)
        return "".join(p if isinstance(p, str) else p.render(variables[p.name]) for p in parts)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    conversion: str
    spec: str

    def render(self, value: object) -> str:
        if self.conversion:
            value = _CONVERSIONS[self.conversion](value)
        try:
            return format(value, self.spec)
        except (TypeError, ValueError) as exc:
            raise PromptTemplateError(
                f"prompt template field {{{self.name}:{self.spec}}} does not fit a "
                f"{type(value).__name__}; correct the format or the column"
            ) from exc


def _parse(text: str) -> list[str | _Field]:
    parts: list[str | _Field] = []
    literal: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        following = text[at + 1 : at + 2]
        if char in "{}" and following == char:
            literal.append(char)
            at += 2
        elif char == "{" and following and (following.isalpha() or following == "_"):
            end = text.find("}", at)
            if end < 0:
                raise PromptTemplateError(
                    f"prompt template field at character {at} is not closed; add '}}' or write '{{{{'"
                )
            if literal:
                parts.append("".join(literal))
                literal = []
            parts.append(_field(text[at + 1 : end], at))
            at = end + 1
        else:
            literal.append(char)
            at += 1
    if literal:
        parts.append("".join(literal))
    return parts


def _field(body: str, at: int) -> _Field:
    where = f"prompt template field at character {at}"
    if len(body) > MAX_FIELD_CHARS:
        raise PromptTemplateError(f"{where} is longer than {MAX_FIELD_CHARS} characters")
    head, _, spec = body.partition(":")
    name, bang, conversion = head.partition("!")
    if not name.isidentifier():
        raise PromptTemplateError(
            f"{where} is not a plain name; attribute and index access are not supported"
        )
    if bang and conversion not in _CONVERSIONS:
        raise PromptTemplateError(f"{where} has an unknown conversion; use !s, !r or !a")
    if "{" in spec:
        raise PromptTemplateError(f"{where} has a nested format spec, which is not supported")
    return _Field(name, conversion, spec)


def render_value(value: Any, variables: Mapping[str, object]) -> Any:
    """Render one request value: templates and `Column`s anywhere in it; the rest stays as it is.

    Plain strings are rendered only when there are variables: without a row, `"{x}"` is text.

    Raises:
        PromptTemplateError: a variable or column is missing.
    """
    if isinstance(value, PromptTemplate):
        return value.render(variables)
    if isinstance(value, Column):
        if value.name not in variables:
            known = ", ".join(sorted(variables)) or "none"
            raise PromptTemplateError(
                f"column {value.name!r} is not in the row (it has: {known}); "
                "add the column or correct the name"
            )
        return variables[value.name]
    if isinstance(value, str):
        return PromptTemplate(value).render(variables) if variables and "{" in value else value
    return _in_containers(value, lambda item: render_value(item, variables))


def declared(value: Any) -> Any:
    """Return the JSON form of an unrendered value, for hashing a declaration."""
    if isinstance(value, PromptTemplate):
        return value.text
    if isinstance(value, Column):
        return {"$column": value.name}
    return _in_containers(value, declared)


def _in_containers(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value)
        return {key: change(item) for key, item in items.items()}
    if isinstance(value, list | tuple):
        entries = cast(Sequence[Any], value)
        return [change(item) for item in entries]
    return value


def variables_of(value: Any) -> frozenset[str]:
    """Return the names of all variables and columns an unrendered value uses."""
    found: set[str] = set()

    def visit(item: Any) -> None:
        if isinstance(item, Column):
            found.add(item.name)
        elif isinstance(item, PromptTemplate):
            found.update(item.variables)
        elif isinstance(item, str):
            if "{" in item:
                found.update(PromptTemplate(item).variables)
        else:
            _in_containers(item, visit)

    visit(value)
    return frozenset(found)
