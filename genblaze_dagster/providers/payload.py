"""From a step to the vendor's parameters, as the model's spec says; see `ModelSpec` for the order.

A parameter that is None counts as not given. Nothing given is changed in place, and preparing a
payload again changes nothing.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ConfigError, GenblazeError, InvalidRequestError
from genblaze_dagster.net.redact import redact
from genblaze_dagster.providers.model_spec import ModelSpec
from genblaze_dagster.providers.once import Once
from genblaze_dagster.providers.param_schemas import refuse

T = TypeVar("T")

_log = logging.getLogger(__name__)

_MAX_NAME = 80


def prepare(
    step: Step, spec: ModelSpec, *, base_params: Mapping[str, Any] | None, strict: bool, said: Once
) -> dict[str, Any]:
    """Return the payload of a step.

    Args:
        step: its prompts, seed and parameters are the base; its inputs are mapped.
        spec: of its model.
        base_params: the base, in place of the step's.
        strict: refuse parameters that are not allowed; otherwise they are dropped with a warning.
        said: the warnings that were logged.

    Raises:
        InvalidRequestError: names the parameter, the type of what was given, and what is allowed.
    """
    try:
        base = _base(step) if base_params is None else base_params
        # A copy: what lies deeper belongs to the step, and specs bring functions of their own.
        payload = _native(_guarded("params", lambda: copy.deepcopy(_given(base))), spec)
        payload = _with_inputs(payload, step, spec)
        payload = _coerced(payload, spec)
        payload = {**copy.deepcopy(_given(spec.param_defaults)), **payload}
        _check(payload, spec, step.model)
        return _allowed(payload, spec, step.model, strict, said)
    except InvalidRequestError as exc:
        exc.provider = exc.provider or step.provider
        exc.model = exc.model or step.model
        raise


def _base(step: Step) -> dict[str, Any]:
    return {
        "prompt": step.prompt,
        "negative_prompt": step.negative_prompt,
        "seed": step.seed,
        **_given(step.params),
    }


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _native(payload: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    for alias, native in spec.param_aliases.items():
        if alias in payload:
            value = payload.pop(alias)
            payload.setdefault(native, value)
    transform = spec.param_transformer
    if transform is None:
        return payload
    made = _guarded("params", lambda: transform(payload))
    return _given(_as_dict(made, spec, "param_transformer"))


def _with_inputs(payload: dict[str, Any], step: Step, spec: ModelSpec) -> dict[str, Any]:
    mapping = spec.input_mapping
    if mapping is None or not step.inputs:
        return payload
    mapped = _guarded("inputs", lambda: mapping(tuple(step.inputs)))
    return {**_as_dict(mapped, spec, "input_mapping"), **payload}


def _coerced(payload: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    coerced = dict(payload)
    for name, coerce in spec.param_coercers.items():
        if name in payload:
            value = payload[name]
            coerced[name] = _guarded(name, lambda coerce=coerce, value=value: coerce(value), value)
    return _given(coerced)


def _check(payload: dict[str, Any], spec: ModelSpec, model: str) -> None:
    for name, schema in spec.param_schemas.items():
        if name in payload:
            value = payload[name]
            _guarded(
                name,
                lambda schema=schema, name=name, value=value: schema.validate(name, value),
                value,
            )
    missing = sorted(name for name in spec.param_required if name not in payload)
    if missing:
        refuse(missing[0], f"missing; {model} needs {', '.join(missing)}")
    for constraint in spec.param_constraints:
        _guarded("params", lambda constraint=constraint: constraint(dict(payload)))


def _allowed(
    payload: dict[str, Any], spec: ModelSpec, model: str, strict: bool, said: Once
) -> dict[str, Any]:
    allowed = spec.param_allowlist
    extra = sorted(set(payload) - allowed) if allowed is not None else []
    if allowed is None or not extra:
        return payload
    names = ", ".join(redact(name, max_chars=_MAX_NAME) for name in extra)
    if strict:
        known = ", ".join(sorted(allowed)) or "none"
        refuse(
            redact(extra[0], max_chars=_MAX_NAME),
            f"{model} has no parameter {names}; it takes {known}",
        )
    if said.first(("left out", model, *extra)):
        _log.warning("%s: parameters it does not take are left out: %s", model, names)
    return {name: value for name, value in payload.items() if name in allowed}


def _guarded(name: str, function: Callable[[], T], value: object = None) -> T:
    """Call what a spec brought; whatever it raises is a refusal of the parameter."""
    try:
        return function()
    except GenblazeError:
        raise
    except Exception as exc:
        # Not its message: it quotes the value, which may be a private prompt.
        what = "this request" if value is None else f"a {type(value).__name__}"
        raise InvalidRequestError(
            f"{name}: {what} cannot be used ({type(exc).__name__}); see the model's parameters",
            param=name,
            sent=False,
        ) from exc


def _as_dict(made: object, spec: ModelSpec, what: str) -> dict[str, Any]:
    if not isinstance(made, dict):
        raise ConfigError(
            f"{spec.model_id}: its {what} returned {type(made).__name__}; it must return a dict"
        )
    return dict(made)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
