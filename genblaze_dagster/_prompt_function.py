"""The function under `@generation_asset`: what it is given, and what it may return."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_origin, get_type_hints

import dagster as dg

from genblaze_dagster._flows import Inputs, Request
from genblaze_dagster.core.canonical import canonical_hash
from genblaze_dagster.core.reference import MediaRef
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.pipeline.agent.calls import source_of
from genblaze_dagster.pipeline.declaration import StepSpec
from genblaze_dagster.pipeline.template import Column, PromptTemplate
from genblaze_dagster.storage.media import Media
from genblaze_dagster.storage.store import MediaStore

_FIELDS = ("prompt", "negative_prompt", "seed", "params", "inputs")
# What a function returns is a value, not a template: it travels as variables, whose names no
# column can have.
_RETURNED = "returned: "
_RETURNED_PROMPT = "genblaze_returned_prompt"


class PromptFunction:
    """A prompt function with its declared step.

    Args:
        function: as the user wrote it, sync or async.
        step: the settings of the decorator.
        ins: upstream assets by parameter name; others are the assets of their parameter's name.

    Raises:
        ConfigError: a parameter cannot be given, or `ins` names no parameter.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        step: StepSpec,
        ins: Mapping[str, dg.AssetDep | dg.AssetKey | str],
    ) -> None:
        self._function = function
        self._step = step
        parameters = _parameters(function)
        self._plain = [name for name in parameters if name in ("row", "partition_key")]
        self._media = {
            name: dependency(ins.get(name, name)) for name in parameters if name not in self._plain
        }
        unused = sorted(set(ins) - set(self._media))
        if unused:
            raise ConfigError(
                f"ins of {function.__name__!r} names {unused[0]!r}, which is no parameter of the "
                "function; add the parameter or remove the entry"
            )
        self._dicts = _dict_parameters(function)

    @property
    def deps(self) -> tuple[dg.AssetDep, ...]:
        """The upstream assets, in the order of the parameters."""
        return tuple(self._media.values())

    @property
    def code_version(self) -> str:
        """Hash (12 hex characters) of the settings and the function's source."""
        wiring = {name: dep.asset_key.to_user_string() for name, dep in self._media.items()}
        return canonical_hash([self._step.code_version, source_of(self._function), wiring])[:12]

    async def prepare(
        self,
        store: MediaStore,
        partition: str | None,
        row: Mapping[str, object],
        consumed: Inputs,
    ) -> Request:
        """Call the function for one partition and make its request.

        Raises:
            ConfigError: it returned something else than a prompt or request fields.
        """
        given = {"row": dict(row), "partition_key": partition}
        arguments: dict[str, object] = {name: given[name] for name in self._plain}
        for name, dep in self._media.items():
            arguments[name] = self._argument(name, store, consumed[dep.asset_key])
        if inspect.iscoroutinefunction(self._function):
            returned = await self._function(**arguments)
        else:
            # It may read media, or call something slow.
            returned = await asyncio.to_thread(self._function, **arguments)
        everything = [ref for dep in self.deps for ref in consumed[dep.asset_key]]
        return self._request(self._fields(returned), row, everything)

    def _argument(
        self, name: str, store: MediaStore, refs: Sequence[MediaRef]
    ) -> Media | dict[str | None, Media]:
        if len(refs) == 1 and name not in self._dicts:
            return Media(refs[0], store)
        return {ref.partition_key: Media(ref, store) for ref in refs}

    def _fields(self, returned: object) -> Mapping[str, Any]:
        name = self._function.__name__
        if isinstance(returned, str):
            return {"prompt": returned}
        if not isinstance(returned, Mapping):
            raise ConfigError(
                f"{name} returned a {type(returned).__name__}; return the prompt as text, or a "
                f"mapping with any of {', '.join(_FIELDS)}"
            )
        unknown = sorted(str(key) for key in returned.keys() - set(_FIELDS))
        if unknown:
            raise ConfigError(
                f"{name} returned {unknown[0]!r}, which is no request field; use {', '.join(_FIELDS)}"
            )
        return returned

    def _request(
        self, fields: Mapping[str, Any], row: Mapping[str, object], inputs: Sequence[MediaRef]
    ) -> Request:
        variables = dict(row)
        changes: dict[str, Any] = {}
        for name in ("negative_prompt", "seed"):
            if name in fields:
                variables[_RETURNED + name] = fields[name]
                changes[name] = Column(_RETURNED + name)
        params = dict(self._step.params)
        for name, value in (fields.get("params") or {}).items():
            variables[f"{_RETURNED}params.{name}"] = value
            params[name] = Column(f"{_RETURNED}params.{name}")
        prompt = fields.get("prompt")
        if prompt is not None:
            if not isinstance(prompt, str):
                raise ConfigError(
                    f"{self._function.__name__} returned a {type(prompt).__name__} as prompt; "
                    "return text"
                )
            variables[_RETURNED_PROMPT] = prompt
            changes["prompt"] = PromptTemplate(f"{{{_RETURNED_PROMPT}}}")
        if "inputs" in fields:
            inputs = [item.ref if isinstance(item, Media) else item for item in fields["inputs"]]
            changes["sources"] = ()
        elif self._step.external_inputs:
            inputs = []
        spec = replace(self._step, params=params, **changes)
        return Request(spec, variables, inputs)


def _parameters(function: Callable[..., Any]) -> list[str]:
    names: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise ConfigError(
                f"{function.__name__} has the parameter {parameter}; name every parameter: row, "
                "partition_key, or an upstream asset"
            )
        if parameter.default is parameter.empty:
            names.append(name)
    if "context" in names:
        raise ConfigError(
            f"{function.__name__} asks for a Dagster context, which prompt functions do not get; "
            "use row, partition_key or an upstream asset"
        )
    return names


def _dict_parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        hints = get_type_hints(function)
    except (AttributeError, NameError, TypeError):
        # Annotations that only a type checker can read; what arrives then decides.
        return frozenset()
    kinds = {name: get_origin(hint) or hint for name, hint in hints.items()}
    return frozenset(name for name, kind in kinds.items() if kind in (dict, Mapping))


def dependency(upstream: dg.AssetDep | dg.AssetKey | str) -> dg.AssetDep:
    if isinstance(upstream, dg.AssetDep):
        return upstream
    key = dg.AssetKey.from_user_string(upstream) if isinstance(upstream, str) else upstream
    return dg.AssetDep(key)
