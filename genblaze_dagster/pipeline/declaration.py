"""A pipeline is data: named steps and the edges between them, no I/O."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast

from genblaze_dagster.core.canonical import canonical_hash
from genblaze_dagster.core.enums import Modality, PromptVisibility, StepType
from genblaze_dagster.errors import ConfigError, ProviderTypeError, UnknownProviderError
from genblaze_dagster.net.redact import find_secret
from genblaze_dagster.pipeline.external import (
    External,
    ExternalInput,
    Source,
    StepOutput,
    declared_inputs,
)
from genblaze_dagster.pipeline.runs import Runs
from genblaze_dagster.pipeline.template import Column, PromptTemplate, declared, variables_of
from genblaze_dagster.providers.adapter import adapt
from genblaze_dagster.providers.base import BaseProvider
from genblaze_dagster.providers.protocol import Provider
from genblaze_dagster.providers.registry import resolve_provider
from genblaze_dagster.providers.retry import RetryPolicy

if TYPE_CHECKING:
    from genblaze_dagster.pipeline.moderation import ModerationHook
    from genblaze_dagster.pipeline.tracing import Tracer

DEFAULT_TIMEOUT_SECONDS = 600.0
_GUIDE_STYLE = ("name", "submit", "poll", "fetch_output")
_RESERVED_PARAMS = ("input", "inputs", "metadata", "prompt_visibility")

FALLBACK_MODELS = "_fallback_models"
FALLBACK_FROM = "fallback_from"
FALLBACK_MODEL = "fallback_model"
FALLBACK_ATTEMPTS = "fallback_attempts"
INPUT_FROM = "_input_from"
RESERVED_METADATA = (
    FALLBACK_MODELS,
    FALLBACK_FROM,
    FALLBACK_MODEL,
    FALLBACK_ATTEMPTS,
    INPUT_FROM,
)
"""Metadata keys that say how a step was run; nobody may declare them."""


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One declared step: what to ask of which model, and from which steps its inputs come.

    `prompt`, `negative_prompt`, `params` and `metadata` may hold templates and `Column`s that a
    partition's row fills. `sources` are the inputs in order: earlier steps, and external media.
    `timeout` is seconds for the whole step, `expected_duration_sec` what it may take, for who
    watches. `fallback_from` is the declared model while one of `fallback_models` is asked in its
    place.
    """

    name: str
    provider: Provider | str
    model: str
    prompt: str | PromptTemplate | None = field(default=None, repr=False)
    negative_prompt: str | PromptTemplate | None = field(default=None, repr=False)
    seed: int | Column | None = None
    params: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    modality: Modality = Modality.IMAGE
    step_type: StepType = StepType.GENERATE
    sources: tuple[Source, ...] = ()
    prompt_visibility: PromptVisibility = PromptVisibility.PUBLIC
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timeout: float = DEFAULT_TIMEOUT_SECONDS
    retry: RetryPolicy | None = None
    fallback_models: tuple[str, ...] = ()
    fallback_from: str | None = None
    expected_duration_sec: float | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The step of every input that an earlier step makes, in order."""
        made = (source for source in self.sources if not isinstance(source, ExternalInput))
        return tuple(s.step if isinstance(s, StepOutput) else s for s in made)

    @property
    def external_inputs(self) -> tuple[ExternalInput, ...]:
        """The inputs that no step of the pipeline makes, in order."""
        return tuple(source for source in self.sources if isinstance(source, ExternalInput))

    @property
    def provider_name(self) -> str:
        """The provider's name as it stands in manifests."""
        return self.provider if isinstance(self.provider, str) else self.provider.name

    @property
    def variables(self) -> frozenset[str]:
        """Columns that a partition's row must have."""
        parts = (self.prompt, self.negative_prompt, self.seed, self.params, self.metadata)
        return variables_of(parts)

    @property
    def code_version(self) -> str:
        """Hash (12 hex characters) of all that decides what this step produces."""
        declaration = {
            "provider": self.provider_name,
            "provider_version": _provider_version(self.provider),
            "model": self.model,
            "modality": self.modality,
            "step_type": self.step_type,
            "prompt": declared(self.prompt),
            "negative_prompt": declared(self.negative_prompt),
            "prompt_visibility": self.prompt_visibility,
            "seed": declared(self.seed),
            "params": declared(self.params),
            "metadata": declared(self.metadata),
            "inputs": [s if isinstance(s, str) else s.declared for s in self.sources],
        }
        if self.fallback_models:
            declaration["fallback_models"] = list(self.fallback_models)
        return canonical_hash(declaration)[:12]


class Pipeline(Runs):
    """Named steps and the edges between them; run in process or turned into Dagster assets.

    Args:
        name: used in manifests and as the first part of store references.
        tenant_id: stripped; an empty one is none.
        project_id: free text, hashed into manifests.
        chain: every step takes the outputs of the step before it.
        max_concurrency: how many steps or partitions run at once.
        structured_log: write JSON lines about every run.
        moderation: looks at what is asked and at what comes of it.
        tracer: watches every run.
        preflight: look before a run whether its models exist.

    Raises:
        ConfigError: `max_concurrency` is below 1.
    """

    def __init__(
        self,
        name: str | None = None,
        tenant_id: str | None = None,
        *,
        project_id: str | None = None,
        chain: bool = False,
        structured_log: bool = False,
        max_concurrency: int | None = None,
        moderation: "ModerationHook | None" = None,
        tracer: "Tracer | None" = None,
        preflight: bool = True,
    ) -> None:
        super().__init__(
            structured_log=structured_log,
            moderation=moderation,
            tracer=tracer,
            preflight=preflight,
        )
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigError(f"max_concurrency is {max_concurrency}; give at least 1")
        self.name = name
        self.tenant_id = (tenant_id or "").strip() or None
        self.project_id = project_id
        self.chain = chain
        self.max_concurrency = max_concurrency
        self._steps: dict[str, StepSpec] = {}

    @property
    def steps(self) -> tuple[StepSpec, ...]:
        """The steps in declaration order; inputs always come before their users."""
        return tuple(self._steps.values())

    def replaced(self, first: StepSpec) -> Self:
        """Return a copy of the pipeline whose first step is another."""
        other = copy.copy(self)
        other._steps = {first.name: first, **dict(list(self._steps.items())[1:])}
        return other

    def step(
        self,
        provider: Provider | BaseProvider | str,
        *,
        model: str,
        name: str | None = None,
        prompt: str | PromptTemplate | None = None,
        negative_prompt: str | PromptTemplate | None = None,
        seed: int | Column | None = None,
        modality: Modality | str = Modality.IMAGE,
        step_type: StepType | str = StepType.GENERATE,
        input_from: int | str | Sequence[int | str] | None = None,
        external_inputs: External | Sequence[External] | None = None,
        fallback_models: str | Sequence[str] | None = None,
        expected_duration_sec: float | None = None,
        prompt_visibility: PromptVisibility | str = PromptVisibility.PUBLIC,
        metadata: Mapping[str, Any] | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        params: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> Self:
        """Add a step and return the pipeline.

        Args:
            provider: a provider instance, also one written as in the genblaze guides, or the name
                of a registered one or of a Dagster resource.
            model: the vendor's model name.
            name: unique name; `<modality>`, `<modality>_2`, ... when left out.
            prompt: text; `{column}` fields are filled when there is a row.
            negative_prompt: what the model should avoid.
            seed: integer, or `Column` to take it from the row.
            modality: what the step produces.
            step_type: what the step does with its inputs.
            input_from: earlier steps, by name or index, whose outputs are this step's inputs, in
                this order. With `chain=True` the step before is the default.
            external_inputs: media that no step makes; in place of `input_from`.
            fallback_models: asked in turn when the model ends in a model error.
            expected_duration_sec: what the step may take, for who watches.
            prompt_visibility: anything but public keeps the prompt out of manifests, the index,
                logs and events; its SHA-256 is recorded instead.
            metadata: hashed into the manifest; keep run-specific values out.
            timeout: seconds for the whole step, waiting for the vendor included.
            retry: policy of this step; the runner's when left out.
            params: parameters of the model, standard or native names.
            **extra: more parameters; they win over `params`.

        Raises:
            ConfigError: unknown input, duplicate name, reserved parameter or metadata key, a secret
                in params, or both kinds of inputs.
            UnknownProviderError: a provider name that cannot be a name.
        """
        chosen = _provider(provider)
        merged = {**(params or {}), **extra}
        merged_seed = merged.pop("seed", None)
        merged_negative = merged.pop("negative_prompt", None)
        kind = Modality(modality)
        name = self._default_name(kind) if name is None else name
        return self.add(
            StepSpec(
                name=name,
                provider=chosen,
                model=model,
                prompt=prompt,
                negative_prompt=merged_negative if negative_prompt is None else negative_prompt,
                seed=merged_seed if seed is None else seed,
                params=merged,
                modality=kind,
                step_type=StepType(step_type),
                sources=self._sources(name, input_from, external_inputs),
                prompt_visibility=PromptVisibility(prompt_visibility),
                metadata=dict(metadata or {}),
                timeout=timeout,
                retry=retry,
                fallback_models=_names(fallback_models),
                expected_duration_sec=expected_duration_sec,
            )
        )

    def add(self, spec: StepSpec) -> Self:
        """Add a step that is declared already, and return the pipeline.

        Raises:
            ConfigError: as `step`.
        """
        if not is_step_name(spec.name):
            raise ConfigError(f"step name {spec.name!r} is not usable; use letters, digits and _")
        if spec.name in self._steps:
            raise ConfigError(f"step name {spec.name!r} is taken; names are unique in a pipeline")
        for wanted in spec.inputs:
            self._step_named(wanted)
        _check(spec)
        self._steps[spec.name] = spec
        return self

    def _default_name(self, modality: Modality) -> str:
        candidate, number = modality.value, 1
        while candidate in self._steps:
            number += 1
            candidate = f"{modality.value}_{number}"
        return candidate

    def _sources(
        self,
        name: str,
        input_from: int | str | Sequence[int | str] | None,
        external_inputs: External | Sequence[External] | None,
    ) -> tuple[Source, ...]:
        if external_inputs is not None:
            if input_from is not None:
                raise ConfigError(
                    f"step {name!r} has both input_from and external_inputs; give one of them"
                )
            return declared_inputs(external_inputs, name)
        if input_from is None:
            return tuple(self._steps)[-1:] if self.chain else ()
        wanted = [input_from] if isinstance(input_from, int | str) else list(input_from)
        return tuple(self._step_named(item) for item in wanted)

    def _step_named(self, wanted: int | str) -> str:
        if isinstance(wanted, int):
            if 0 <= wanted < len(self._steps):
                return list(self._steps)[wanted]
        elif wanted in self._steps:
            return wanted
        known = ", ".join(self._steps) or "none yet"
        raise ConfigError(f"input_from {wanted!r} names no earlier step (there are: {known})")


def _provider(given: object) -> Provider | str:
    if isinstance(given, str):
        if not given:
            raise UnknownProviderError("provider name is empty; give a provider or its name")
        return given
    if isinstance(given, Provider):
        return given
    if all(hasattr(given, name) for name in _GUIDE_STYLE) and not isinstance(given, type):
        return adapt(cast(BaseProvider, given))
    raise ProviderTypeError(
        f"provider is {'the class ' if isinstance(given, type) else 'a '}"
        f"{given.__name__ if isinstance(given, type) else type(given).__name__}, which is no "
        "provider; give an instance with submit, poll and fetch_output, or a name"
    )


def _names(models: str | Sequence[str] | None) -> tuple[str, ...]:
    return (models,) if isinstance(models, str) else tuple(models or ())


def is_step_name(text: str) -> bool:
    """Whether a step can be called that."""
    return text.isascii() and text.replace("_", "").isalnum()


def _check(spec: StepSpec) -> None:
    for reserved in _RESERVED_PARAMS:
        if reserved in spec.params:
            raise ConfigError(f"params of step {spec.name!r} hold {reserved!r}; pass it to step()")
    for reserved in RESERVED_METADATA:
        if reserved in spec.metadata:
            raise ConfigError(
                f"metadata of step {spec.name!r} holds {reserved!r}, which says how a step was run; "
                "choose another key"
            )
    if spec.prompt_visibility is PromptVisibility.ENCRYPTED:
        raise ConfigError(
            f"step {spec.name!r} asks for an encrypted prompt, and this release has no encryption; "
            "with 'private' the prompt stays out of everything that is stored"
        )
    models = (spec.model, *spec.fallback_models)
    if spec.fallback_models and (len(set(models)) < len(models) or not all(models)):
        raise ConfigError(
            f"fallback_models of step {spec.name!r} repeat a model or hold an empty one; name each "
            "model to ask once"
        )
    where = find_secret(declared(spec.params))
    if where is not None:
        raise ConfigError(
            f"params of step {spec.name!r} hold what looks like a secret at {where}; "
            "give keys to the provider or its resource, never to a step"
        )


@functools.cache
def _registered_version(name: str) -> str:
    try:
        return resolve_provider(name).version
    except UnknownProviderError:
        # Only a Dagster resource knows it; the name alone then stands for the adapter.
        return ""


def _provider_version(provider: Provider | str) -> str:
    return _registered_version(provider) if isinstance(provider, str) else provider.version
