"""What is known about one model: its names, its parameters, its price."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import ConfigError, InvalidRequestError
from genblaze_dagster.providers.constraints import Constraint
from genblaze_dagster.providers.input_mapping import InputMapping
from genblaze_dagster.providers.param_schemas import ParamSchema
from genblaze_dagster.providers.param_surface import ParamCoercer
from genblaze_dagster.providers.pricing import PricingStrategy
from genblaze_dagster.providers.validation import LiveProbeResult

ParamTransformer = Callable[[dict[str, Any]], dict[str, Any]]
"""Gets the parameters and returns new ones; must leave its own result as it is."""

FamilyProbe = Callable[..., LiveProbeResult]
"""Asks the vendor whether there is a model, given its name."""

# A longer name is nobody's, and patterns may be slow on long texts.
_LONGEST_NAME = 256


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. What is left out is not restricted, and its price is unknown.

    The `param_` fields work in this order: `param_aliases` (alias to native name; a native name
    that is given wins), `param_transformer`, `input_mapping` (a parameter that is given wins),
    `param_coercers`, `param_defaults`, `param_schemas`, `param_required`, `param_constraints`,
    `param_allowlist`. From the coercers on, names are native.

    Raises:
        ConfigError: no model id, a text where a set of names is due, an alias where a native name
            is due, a required parameter that is not allowed, or a default its schema refuses.
    """

    model_id: str
    aliases: frozenset[str] = frozenset()
    deprecated_aliases: frozenset[str] = frozenset()
    modality: Modality | None = None
    pricing: PricingStrategy | None = None
    param_aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    param_transformer: ParamTransformer | None = None
    param_coercers: Mapping[str, ParamCoercer] = field(default_factory=dict[str, ParamCoercer])
    param_schemas: Mapping[str, ParamSchema] = field(default_factory=dict[str, ParamSchema])
    param_defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    param_required: frozenset[str] = frozenset()
    param_allowlist: frozenset[str] | None = None
    param_constraints: tuple[Constraint, ...] = ()
    input_mapping: InputMapping | None = None
    extras: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Anything else a provider wants to know about the model."""

    def __post_init__(self) -> None:
        if not self.model_id:
            raise ConfigError("a ModelSpec has an empty model_id; give the vendor's name")
        for name in ("aliases", "deprecated_aliases", "param_required", "param_allowlist"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{self.model_id}: {name} is a text; give a set of names")
        _check_names(self)
        _check_defaults(self)

    @property
    def is_permissive(self) -> bool:
        """Whether parameters go to the vendor as they are."""
        declared: Collection[object] = (
            self.param_aliases,
            self.param_transformer,
            self.input_mapping,
            self.param_coercers,
            self.param_defaults,
            self.param_schemas,
            self.param_required,
            self.param_constraints,
        )
        return self.param_allowlist is None and not any(declared)


def _check_names(spec: ModelSpec) -> None:
    aliases = {alias for alias, native in spec.param_aliases.items() if alias != native}
    for field_name, names in (
        ("param_aliases", spec.param_aliases.values()),
        ("param_coercers", spec.param_coercers),
        ("param_defaults", spec.param_defaults),
        ("param_schemas", spec.param_schemas),
        ("param_required", spec.param_required),
    ):
        for alias in sorted(aliases.intersection(names)):
            raise ConfigError(
                f"{spec.model_id}: {field_name} names {alias!r}, which is an alias; name the "
                f"native parameter {spec.param_aliases[alias]!r}"
            )
    if spec.param_allowlist is not None and not spec.param_required <= spec.param_allowlist:
        lost = min(spec.param_required - spec.param_allowlist)
        raise ConfigError(
            f"{spec.model_id}: param_allowlist leaves out {lost!r}, which is required; add it"
        )


def _check_defaults(spec: ModelSpec) -> None:
    for name, value in spec.param_defaults.items():
        schema = spec.param_schemas.get(name)
        if schema is None or value is None:
            continue
        try:
            schema.validate(name, value)
        except InvalidRequestError as exc:
            raise ConfigError(
                f"{spec.model_id}: its schema refuses a default of its own: {exc}"
            ) from exc


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """Models that share a naming pattern and everything else.

    `pattern` is matched from the start of the model id. `spec_template` is the spec of each of
    them, but for its id, which is `canonical_slug(model_id)`. `unstable_examples` are known to come
    and go; with `discovery_required` a name is believed only when the vendor lists it.
    """

    name: str
    pattern: re.Pattern[str]
    spec_template: ModelSpec
    description: str
    example_slugs: tuple[str, ...] = ()
    unstable_examples: frozenset[str] = frozenset()
    probe: FamilyProbe | None = None
    discovery_required: bool = False
    canonical_slug: Callable[[str], str] | None = None

    def matches(self, model_id: str) -> bool:
        """Whether a model belongs to the family, by its name."""
        return len(model_id) <= _LONGEST_NAME and self.pattern.match(model_id) is not None

    def canonical(self, model_id: str) -> str:
        """Return the vendor's own name for a model of the family."""
        return self.canonical_slug(model_id) if self.canonical_slug is not None else model_id

    def resolve(self, model_id: str) -> ModelSpec:
        """Return the spec of a model of the family."""
        return replace(self.spec_template, model_id=self.canonical(model_id))


@dataclass(frozen=True, slots=True)
class FamilyMatch:
    """A family, and the spec it gives a model."""

    family: ModelFamily
    spec: ModelSpec


FALLBACK_SPEC = ModelSpec(model_id="*")
"""The spec of a model nobody knows: everything passes, the price is unknown."""
