"""Rules between parameters of one request. A parameter that is None counts as not given."""

from collections.abc import Callable, Mapping
from typing import Any

from genblaze_dagster.providers.param_schemas import refuse

Constraint = Callable[[dict[str, Any]], None]
"""Raises `InvalidRequestError` when the parameters do not go together."""


def mutually_exclusive(*keys: str) -> Constraint:
    """Allow at most one of the parameters."""

    def check(params: dict[str, Any]) -> None:
        given = _given(keys, params)
        if len(given) > 1:
            refuse(given[1], f"cannot stand beside {given[0]}; give one of {', '.join(keys)}")

    return check


def required_one_of(*keys: str) -> Constraint:
    """Ask for at least one of the parameters."""

    def check(params: dict[str, Any]) -> None:
        if keys and not _given(keys, params):
            refuse(keys[0], f"missing; give at least one of {', '.join(keys)}")

    return check


def requires_together(*keys: str) -> Constraint:
    """Ask for all of the parameters, or none of them."""

    def check(params: dict[str, Any]) -> None:
        given = _given(keys, params)
        if given and len(given) < len(keys):
            missing = [key for key in keys if key not in given]
            refuse(missing[0], f"missing; {', '.join(keys)} go together, {given[0]} is given")

    return check


def implies(predicate: str, required: str) -> Constraint:
    """Ask for `required` when `predicate` is given."""

    def check(params: dict[str, Any]) -> None:
        if _given((predicate,), params) and not _given((required,), params):
            refuse(required, f"missing; {predicate} needs it")

    return check


def _given(keys: tuple[str, ...], params: Mapping[str, Any]) -> list[str]:
    return [key for key in keys if params.get(key) is not None]
