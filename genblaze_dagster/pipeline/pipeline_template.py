"""Pipelines as JSON: to keep, to share, and to fill with variables.

The format is genblaze's. Fields it does not know (`name`, `negative_prompt`, `prompt_visibility`,
`metadata`, `timeout`) are left out where they say nothing new, and genblaze skips them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from genblaze_dagster.core.enums import Modality, PromptVisibility, StepType
from genblaze_dagster.core.manifest import check_json
from genblaze_dagster.errors import (
    ConfigError,
    ManifestError,
    PromptTemplateError,
    UnknownProviderError,
)
from genblaze_dagster.media.whole import replacing
from genblaze_dagster.pipeline.declaration import DEFAULT_TIMEOUT_SECONDS, Pipeline, StepSpec
from genblaze_dagster.pipeline.field_errors import field_errors
from genblaze_dagster.pipeline.template import (
    Column,
    PromptTemplate,
    declared,
    render_value,
    variables_of,
)
from genblaze_dagster.providers.protocol import Provider

MAX_TEMPLATE_BYTES = 1024 * 1024
MAX_STEPS = 1000

_COLUMN = "$column"
_BYTE_ORDER_MARK = "\ufeff"


def _no_steps() -> list["StepTemplate"]:
    return []


class _Template(BaseModel):
    """Unknown keys are dropped, as genblaze does; errors never quote what may be a prompt."""

    model_config = ConfigDict(hide_input_in_errors=True)

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Refuse depth, numbers and half characters that JSON or a manifest cannot hold."""
        for item in _items(value):
            if isinstance(item, str | dict):
                try:
                    check_json(cast(object, item), where="this")
                except ManifestError as exc:
                    raise ValueError(str(exc)) from None
        return value


class StepTemplate(_Template):
    """One step. `input_from` holds indexes of earlier steps; None follows `chain`.

    `{"$column": "name"}` in `params` stands for the variable's own value, with its type.
    """

    provider_name: str = Field(min_length=1)
    model: str = Field(min_length=1)
    prompt: str | None = Field(default=None, repr=False)
    params: dict[str, Any] = Field(default_factory=dict, repr=False)
    modality: Modality = Modality.IMAGE
    step_type: StepType = StepType.GENERATE
    fallback_models: list[str] = Field(default_factory=list)
    input_from: list[int] | None = None
    name: str | None = None
    negative_prompt: str | None = Field(default=None, repr=False)
    prompt_visibility: PromptVisibility = PromptVisibility.PUBLIC
    metadata: dict[str, Any] = Field(default_factory=dict, repr=False)
    timeout: float = Field(default=DEFAULT_TIMEOUT_SECONDS, gt=0, allow_inf_nan=False)


_OURS: Mapping[str, object] = {
    "name": None,
    "negative_prompt": None,
    "prompt_visibility": PromptVisibility.PUBLIC.value,
    "metadata": {},
    "timeout": DEFAULT_TIMEOUT_SECONDS,
}
"""Fields genblaze does not know, and the value with which they are left out of the JSON."""


class PipelineTemplate(_Template):
    """The declaration of a pipeline, without its providers and without the tenant it runs for."""

    name: str | None = None
    steps: list[StepTemplate] = Field(default_factory=_no_steps, max_length=MAX_STEPS)
    chain: bool = False
    max_concurrency: int | None = Field(default=None, ge=1)
    description: str | None = None
    version: str | None = None
    tags: list[str] = Field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read the JSON form.

        Raises:
            ConfigError: a field is wrong; names it, not its value.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as exc:
            raise ConfigError(f"pipeline template is malformed: {field_errors(exc)}") from None

    @classmethod
    def from_json(cls, json_str: str) -> Self:
        """Read JSON text of at most 1 MiB.

        Raises:
            ConfigError: it is too long, not JSON, or a field is wrong.
        """
        if len(json_str) > MAX_TEMPLATE_BYTES:
            raise ConfigError(
                f"pipeline template has {len(json_str)} characters; the limit is "
                f"{MAX_TEMPLATE_BYTES}"
            )
        try:
            data: object = json.loads(json_str.removeprefix(_BYTE_ORDER_MARK))
        except (ValueError, RecursionError) as exc:
            where = f" at line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
            raise ConfigError(
                f"pipeline template is not JSON{where}; it may be truncated"
            ) from None
        if not isinstance(data, dict):
            raise ConfigError("pipeline template is not a JSON object; write {...}")
        return cls.from_dict(cast(dict[str, Any], data))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a file of JSON text.

        Raises:
            ConfigError: it cannot be read, or as `from_json`.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_TEMPLATE_BYTES + 1)
            return cls.from_json(data.decode())
        except OSError as exc:
            raise ConfigError(f"pipeline template {path} cannot be read: {exc.strerror}") from exc
        except UnicodeDecodeError:
            raise ConfigError(f"pipeline template {path} is not UTF-8 text") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        data = self.model_dump(mode="json")
        data["steps"] = [
            {k: v for k, v in step.items() if k not in _OURS or v != _OURS[k]}
            for step in data["steps"]
        ]
        return data

    def to_json(self, *, indent: int = 2) -> str:
        """Return JSON text. It holds the prompts, private ones too."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def save(self, path: str | Path) -> None:
        """Write JSON text to a file, which is there whole or not at all.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            with replacing(Path(path)) as part:
                part.write_text(self.to_json() + "\n", encoding="utf-8")
        except OSError as exc:
            raise ConfigError(
                f"pipeline template {path} cannot be written: {exc.strerror}"
            ) from exc

    def instantiate(
        self,
        providers: Mapping[str, Provider] | None = None,
        *,
        variables: Mapping[str, object] | None = None,
        tenant_id: str | None = None,
        project_id: str | None = None,
    ) -> Pipeline:
        """Return a pipeline.

        With `variables`, prompts and the texts in params and metadata are filled now. Without, a
        prompt with fields is a `PromptTemplate`, to be filled by `run(variables=...)` or by the
        rows of a batch; it is never sent with a field open.

        Args:
            providers: by the names the template uses; registered ones are taken when left out.
            variables: values of the fields; those no field names are ignored.
            tenant_id: as of `Pipeline`.
            project_id: as of `Pipeline`.

        Raises:
            UnknownProviderError: `providers` lacks one; names it and what there is.
            PromptTemplateError: a field is malformed, or its variable is missing.
            ConfigError: what `Pipeline.step` refuses: unknown inputs, reserved names, secrets.
        """
        pipeline = Pipeline(
            self.name,
            tenant_id=tenant_id,
            project_id=project_id,
            chain=self.chain,
            max_concurrency=self.max_concurrency,
        )
        _check_variables(self.steps, variables)
        for index, step in enumerate(self.steps):
            _add(pipeline, step, _provider(step, index, providers), variables or {})
        return pipeline


def template_of(
    pipeline: Pipeline,
    *,
    description: str | None = None,
    version: str | None = None,
    tags: Sequence[str] | None = None,
) -> PipelineTemplate:
    """Return the template of a pipeline.

    Retry policies are not part of it, nor are tenant and project.

    Raises:
        ConfigError: a step takes external media or a single output of another step, which a
            template cannot hold.
        ManifestError: params or metadata have no JSON form.
    """
    names = [spec.name for spec in pipeline.steps]
    return PipelineTemplate(
        name=pipeline.name,
        steps=[_step_template(spec, names, pipeline.chain) for spec in pipeline.steps],
        chain=pipeline.chain,
        max_concurrency=pipeline.max_concurrency,
        description=description,
        version=version,
        tags=list(tags or ()),
    )


def _items(value: object) -> list[object]:
    return cast(list[object], value) if isinstance(value, list) else [value]


def _step_template(spec: StepSpec, names: Sequence[str], chain: bool) -> StepTemplate:
    if not all(isinstance(source, str) for source in spec.sources):
        raise ConfigError(
            f"step {spec.name!r} takes external media or a single output of another step, which a "
            "template cannot hold; add such inputs to the pipeline it gives"
        )
    at = names.index(spec.name)
    inputs = [names.index(name) for name in spec.inputs]
    follows = [at - 1] if chain and at else []
    params: dict[str, Any] = declared(dict(spec.params))
    if spec.seed is not None:
        params["seed"] = declared(spec.seed)
    metadata: dict[str, Any] = declared(dict(spec.metadata))
    check_json(params, where=f"params of step {spec.name!r}")
    check_json(metadata, where=f"metadata of step {spec.name!r}")
    return StepTemplate(
        provider_name=spec.provider_name,
        model=spec.model,
        prompt=declared(spec.prompt),
        params=params,
        modality=spec.modality,
        step_type=spec.step_type,
        fallback_models=list(spec.fallback_models),
        input_from=None if inputs == follows else inputs,
        name=spec.name,
        negative_prompt=declared(spec.negative_prompt),
        prompt_visibility=spec.prompt_visibility,
        metadata=metadata,
        timeout=spec.timeout,
    )


def _add(
    pipeline: Pipeline,
    step: StepTemplate,
    provider: Provider | str,
    variables: Mapping[str, object],
) -> None:
    pipeline.step(
        provider,
        model=step.model,
        name=step.name,
        prompt=_text(step.prompt, variables),
        negative_prompt=_text(step.negative_prompt, variables),
        modality=step.modality,
        step_type=step.step_type,
        input_from=step.input_from,
        fallback_models=step.fallback_models,
        prompt_visibility=step.prompt_visibility,
        metadata=_filled(step.metadata, variables),
        timeout=step.timeout,
        params=_filled(step.params, variables),
    )


def _provider(
    step: StepTemplate, index: int, providers: Mapping[str, Provider] | None
) -> Provider | str:
    if providers is None:
        return step.provider_name
    if step.provider_name not in providers:
        known = ", ".join(sorted(providers)) or "none"
        raise UnknownProviderError(
            f"step {index} of the template uses provider {step.provider_name[:80]!r}, which is not "
            f"among those given ({known}); add it to providers"
        )
    return providers[step.provider_name]


def _check_variables(steps: Sequence[StepTemplate], variables: Mapping[str, object] | None) -> None:
    """Name every missing variable at once."""
    if not variables:
        return
    parts = [(step.prompt, step.negative_prompt, step.params, step.metadata) for step in steps]
    missing = sorted(variables_of(_columns(parts)) - set(variables))
    if missing:
        raise PromptTemplateError(
            f"pipeline template needs {', '.join(missing)}, which the variables do not have (they "
            f"have: {', '.join(sorted(variables))}); add them or correct the names"
        )


def _text(text: str | None, variables: Mapping[str, object]) -> str | PromptTemplate | None:
    if text is None or not variables:
        template = PromptTemplate(text) if text is not None else None
        return template if template is not None and template.variables else text
    return PromptTemplate(text).render(variables)


def _filled(value: dict[str, Any], variables: Mapping[str, object]) -> dict[str, Any]:
    with_columns: dict[str, Any] = _columns(value)
    return render_value(with_columns, variables) if variables else with_columns


def _columns(value: Any) -> Any:
    """Return a value with `{"$column": name}` turned into the columns they stand for."""
    if isinstance(value, dict):
        items = cast(dict[str, Any], value)
        name = items.get(_COLUMN)
        if len(items) == 1 and isinstance(name, str):
            return Column(name)
        return {key: _columns(item) for key, item in items.items()}
    if isinstance(value, list | tuple):
        return [_columns(item) for item in cast(Sequence[Any], value)]
    return value
