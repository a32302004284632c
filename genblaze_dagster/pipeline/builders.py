"""Records of runs and steps, put together by hand: for imports from elsewhere, and for tests."""

from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from genblaze_dagster.core.enums import (
    Modality,
    PromptVisibility,
    RunStatus,
    StepStatus,
    StepType,
)
from genblaze_dagster.core.models import Asset, Run, Step
from genblaze_dagster.errors import ConfigError, SchemaError
from genblaze_dagster.net.redact import find_secret
from genblaze_dagster.pipeline.field_errors import field_errors

M = TypeVar("M", bound=BaseModel)


class StepBuilder:
    """Builds a `Step`; every method but `build` returns the builder.

    Args:
        provider: as in manifests; None for a step that ingests or imports media.
        model: the vendor's model name.
    """

    def __init__(self, provider: str | None, model: str) -> None:
        self._fields: dict[str, Any] = {"provider": provider, "model": model}
        self._params: dict[str, Any] = {}
        self._metadata: dict[str, Any] = {}
        self._inputs: list[Asset] = []
        self._assets: list[Asset] = []

    def prompt(self, text: str) -> Self:
        """Set the prompt."""
        return self._set(prompt=text)

    def negative_prompt(self, text: str) -> Self:
        """Set what the model was to avoid."""
        return self._set(negative_prompt=text)

    def modality(self, m: Modality) -> Self:
        """Set what the step produced; an image when not called."""
        return self._set(modality=m)

    def visibility(self, v: PromptVisibility) -> Self:
        """Set who may read the prompts; public when not called."""
        return self._set(prompt_visibility=v)

    def step_type(self, t: StepType) -> Self:
        """Set what the step did with its inputs; generate when not called."""
        return self._set(step_type=t)

    def seed(self, s: int) -> Self:
        """Set the seed."""
        return self._set(seed=s)

    def model_version(self, v: str) -> Self:
        """Set the version of the model."""
        return self._set(model_version=v)

    def model_hash(self, h: str) -> Self:
        """Set the hash of the model's weights."""
        return self._set(model_hash=h)

    def status(self, s: StepStatus) -> Self:
        """Set the state; pending when not called."""
        return self._set(status=s)

    def input_asset(self, url: str, media_type: str, **kwargs: Any) -> Self:
        """Add an input; keywords are the other fields of `Asset`.

        Raises:
            SchemaError: a field is wrong.
        """
        self._inputs.append(_checked(Asset, {"url": url, "media_type": media_type, **kwargs}))
        return self

    def asset(self, url: str, media_type: str, **kwargs: Any) -> Self:
        """Add an output; keywords are the other fields of `Asset`.

        Raises:
            SchemaError: a field is wrong.
        """
        self._assets.append(_checked(Asset, {"url": url, "media_type": media_type, **kwargs}))
        return self

    def params(self, **kwargs: Any) -> Self:
        """Add parameters of the model; a later one of the same name wins.

        Raises:
            ConfigError: a value looks like a secret.
        """
        where = find_secret(kwargs)
        if where is not None:
            raise ConfigError(
                f"params hold what looks like a secret at {where}; keys belong to the provider, "
                "not into a record"
            )
        self._params.update(kwargs)
        return self

    def meta(self, **kwargs: Any) -> Self:
        """Add metadata, which is hashed into manifests; a later one of the same name wins."""
        self._metadata.update(kwargs)
        return self

    def build(self) -> Step:
        """Return a new step with an id of its own.

        Raises:
            SchemaError: a field is wrong; names it, not its value.
        """
        return _checked(
            Step,
            {
                **self._fields,
                "params": dict(self._params),
                "metadata": dict(self._metadata),
                "inputs": list(self._inputs),
                "assets": list(self._assets),
            },
        )

    def _set(self, **fields: Any) -> Self:
        self._fields.update(fields)
        return self


class RunBuilder:
    """Builds a `Run`; every method but `build` returns the builder.

    Args:
        name: of the pipeline.
    """

    def __init__(self, name: str | None = None) -> None:
        self._fields: dict[str, Any] = {"name": name}
        self._metadata: dict[str, Any] = {}
        self._steps: list[Step] = []

    def run_id(self, id: str) -> Self:
        """Set the run id; a new one for every `build` when not called."""
        return self._set(run_id=id)

    def tenant(self, tenant_id: str) -> Self:
        """Set the tenant; stripped, and an empty one is none."""
        return self._set(tenant_id=tenant_id.strip() or None)

    def project(self, project_id: str) -> Self:
        """Set the project."""
        return self._set(project_id=project_id)

    def parent(self, parent_run_id: str) -> Self:
        """Set the run that this one refines."""
        return self._set(parent_run_id=parent_run_id)

    def status(self, s: RunStatus) -> Self:
        """Set the state; pending when not called."""
        return self._set(status=s)

    def add_step(self, step: Step) -> Self:
        """Add a step after those that are there."""
        self._steps.append(step)
        return self

    def meta(self, **kwargs: Any) -> Self:
        """Add metadata of the run; a later one of the same name wins."""
        self._metadata.update(kwargs)
        return self

    def build(self) -> Run:
        """Return a new run; its steps are copies that carry its id and their place.

        Raises:
            SchemaError: a field is wrong; names it, not its value.
        """
        run = _checked(Run, {**self._fields, "metadata": dict(self._metadata)})
        run.steps = [
            step.model_copy(update={"run_id": run.run_id, "step_index": index})
            for index, step in enumerate(self._steps)
        ]
        return run

    def _set(self, **fields: Any) -> Self:
        self._fields.update(fields)
        return self


def _checked(model: type[M], fields: dict[str, Any]) -> M:
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        raise SchemaError(f"{model.__name__} cannot be built: {field_errors(exc)}") from None
