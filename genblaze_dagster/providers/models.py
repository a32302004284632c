"""The models of a provider by name: what is known about each, and how its requests are made."""

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from genblaze_dagster.core.models import Step
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers.model_checks import check_model
from genblaze_dagster.providers.model_spec import (
    FALLBACK_SPEC,
    FamilyMatch,
    ModelFamily,
    ModelSpec,
)
from genblaze_dagster.providers.once import Once
from genblaze_dagster.providers.payload import prepare
from genblaze_dagster.providers.prices import PriceLookup
from genblaze_dagster.providers.pricing import PricingStrategy
from genblaze_dagster.providers.validation import (
    DiscoveryResult,
    DiscoverySupport,
    ValidationResult,
)

__all__ = ["FALLBACK_SPEC", "FamilyMatch", "ModelFamily", "ModelRegistry", "ModelSpec"]

_MOST_FAMILIES = 32


class ModelRegistry:
    """Specs by model id; safe to use from many threads.

    A name is looked up as: a registered spec, a family added here (the latest first), a family of
    the provider (the first one first), an alias, a deprecated alias (which warns once), and at last
    the fallback. So an unknown model passes through, at an unknown price.

    Args:
        fallback: the spec of models nobody knows.
        provider_families: families the provider comes with.
        unstable_slugs: models known to come and go.
        strict_params: refuse parameters a model does not take; they are dropped with a warning
            otherwise.

    Raises:
        ConfigError: more than 32 families.
    """

    def __init__(
        self,
        fallback: ModelSpec = FALLBACK_SPEC,
        *,
        provider_families: Sequence[ModelFamily] = (),
        unstable_slugs: Iterable[str] = (),
        strict_params: bool = False,
    ) -> None:
        self._fallback = fallback
        self._provider_families = tuple(provider_families)
        _check_count(self._provider_families)
        self._user_families: tuple[ModelFamily, ...] = ()
        self._unstable = frozenset(unstable_slugs)
        self._strict = strict_params
        self._specs: dict[str, ModelSpec] = {}
        self._aliases: dict[str, str] = {}
        self._deprecated: dict[str, str] = {}
        self._prices: PriceLookup | None = None
        self._said = Once()
        self._lock = threading.RLock()

    def register(self, spec: ModelSpec, *, override: bool = True) -> None:
        """Add a model, or replace the one with its id. An alias goes to the latest that claims it.

        Raises:
            ConfigError: the id is taken, and `override` is False.
        """
        with self._lock:
            if not override and spec.model_id in self._specs:
                raise ConfigError(
                    f"model {spec.model_id!r} is registered already; pass override=True"
                )
            for table, names in (
                (self._aliases, spec.aliases),
                (self._deprecated, spec.deprecated_aliases),
            ):
                for stale in [a for a, owner in table.items() if owner == spec.model_id]:
                    del table[stale]
                table.update(dict.fromkeys(names, spec.model_id))
            self._specs[spec.model_id] = spec

    def register_family(self, family: ModelFamily) -> None:
        """Add a family before all others; it replaces one added under the same name.

        Raises:
            ConfigError: 32 families were added already.
        """
        with self._lock:
            others = tuple(f for f in self._user_families if f.name != family.name)
            _check_count((family, *others))
            self._user_families = (family, *others)

    def register_pricing(self, model_id: str, pricing: PricingStrategy) -> None:
        """Set the price of a model, under whatever name; all else about it stays."""
        with self._lock:
            canonical = self.resolve_canonical(model_id)
            self.register(replace(self._find(model_id), model_id=canonical, pricing=pricing))

    def use_prices(self, prices: PriceLookup | None) -> None:
        """Have the prices of a list before those of families; see `PriceList.lookup`.

        What was registered with a price of its own keeps it. None takes the list away.
        """
        self._prices = prices

    def extend(self, specs: Iterable[ModelSpec] | Mapping[str, ModelSpec]) -> None:
        """Register several models; of a mapping the values count."""
        given = (
            cast(Mapping[str, ModelSpec], specs).values() if isinstance(specs, Mapping) else specs
        )
        for spec in tuple(given):
            self.register(spec)

    def fork(self) -> "ModelRegistry":
        """Return a copy; what is registered in one of the two does not reach the other."""
        with self._lock:
            copy = ModelRegistry(
                self._fallback,
                provider_families=self._provider_families,
                unstable_slugs=self._unstable,
                strict_params=self._strict,
            )
            copy._user_families = self._user_families
            copy._specs = dict(self._specs)
            copy._aliases = dict(self._aliases)
            copy._deprecated = dict(self._deprecated)
            copy._prices = self._prices
            return copy

    def get(self, model_id: str) -> ModelSpec:
        """Return the spec of a model, the fallback for an unknown one.

        A deprecated alias gives a `DeprecationWarning`, the first time.
        """
        spec = self._find(model_id)
        if self.is_deprecated(model_id) and self._said.first(("deprecated", model_id)):
            warnings.warn(
                f"the model id {model_id!r} is deprecated; use {spec.model_id!r}",
                DeprecationWarning,
                stacklevel=2,
            )
        return self._with_price(model_id, spec)

    def has(self, model_id: str) -> bool:
        """Whether a model is known, by id, family or alias."""
        return self._find(model_id) is not self._fallback

    def __contains__(self, model_id: object) -> bool:
        return isinstance(model_id, str) and self.has(model_id)

    def items(self) -> Iterator[tuple[str, ModelSpec]]:
        """Yield the registered models by id."""
        with self._lock:
            return iter(tuple(self._specs.items()))

    def known(self) -> list[str]:
        """Return the ids of the registered models and of the families' examples, sorted."""
        with self._lock:
            examples = [f.canonical(slug) for f in self.families for slug in f.example_slugs]
            return sorted({*self._specs, *examples})

    @property
    def families(self) -> tuple[ModelFamily, ...]:
        """The families in the order they are asked."""
        return (*self._user_families, *self._provider_families)

    def match_family(self, model_id: str) -> FamilyMatch | None:
        """Return the first family a model belongs to, and the spec it gives the model."""
        for family in self.families:
            if family.matches(model_id):
                return FamilyMatch(family, family.resolve(model_id))
        return None

    def resolve_canonical(self, model_id: str) -> str:
        """Return the vendor's own name of a model; an unknown one is its own."""
        spec = self._find(model_id)
        return model_id if spec is self._fallback else spec.model_id

    def is_registered(self, model_id: str) -> bool:
        """Whether somebody registered the model; that its name suits a family does not count."""
        spec = self._find(model_id)
        return self._specs.get(spec.model_id) is spec

    def is_deprecated(self, model_id: str) -> bool:
        """Whether a name is found only as a deprecated alias."""
        return (
            model_id in self._deprecated
            and model_id not in self._specs
            and model_id not in self._aliases
            and self.match_family(model_id) is None
        )

    def is_unstable(self, model_id: str) -> bool:
        """Whether a model is known to come and go."""
        match = self.match_family(model_id)
        return model_id in self._unstable or (
            match is not None and model_id in match.family.unstable_examples
        )

    def validate(
        self,
        model_id: str,
        *,
        discovery_support: DiscoverySupport = DiscoverySupport.NONE,
        discovery: DiscoveryResult | None = None,
    ) -> ValidationResult:
        """Say whether there is such a model, as far as is known here; nobody is asked.

        Args:
            model_id: any name.
            discovery_support: whether the vendor lists all of its models.
            discovery: the vendor's list, if it was asked for.
        """
        return check_model(self, model_id, discovery=discovery, support=discovery_support)

    def prepare_payload(
        self, step: Step, *, base_params: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the parameters of a step as its vendor wants them; see `ModelSpec`.

        Args:
            step: prompt, negative prompt, seed and params are the base; params win.
            base_params: the base, in place of the step's own.

        Raises:
            InvalidRequestError: names the parameter, the type of what was given, and what is
                allowed.
        """
        return prepare(
            step,
            self.get(step.model),
            base_params=base_params,
            strict=self._strict,
            said=self._said,
        )

    def _with_price(self, model_id: str, spec: ModelSpec) -> ModelSpec:
        is_registered = self._specs.get(spec.model_id) is spec
        if self._prices is None or (is_registered and spec.pricing is not None):
            return spec
        listed = self._prices(model_id, spec)
        return spec if listed is None else replace(spec, pricing=listed)

    def _find(self, model_id: str) -> ModelSpec:
        spec = self._specs.get(model_id)
        if spec is not None:
            return spec
        match = self.match_family(model_id)
        if match is not None:
            # Registered for one of the family, under the vendor's own name.
            return self._specs.get(match.spec.model_id, match.spec)
        owner = self._aliases.get(model_id) or self._deprecated.get(model_id)
        return self._specs.get(owner, self._fallback) if owner is not None else self._fallback


def _check_count(families: Sequence[ModelFamily]) -> None:
    if len(families) > _MOST_FAMILIES:
        raise ConfigError(
            f"a model registry has {len(families)} families; {_MOST_FAMILIES} are allowed, so join "
            "some patterns"
        )
