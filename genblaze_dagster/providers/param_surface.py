"""The parameters a model takes, put together from what its modality usually has."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from genblaze_dagster.core.enums import Modality

ParamCoercer = Callable[[Any], Any]
"""Turns a parameter into the vendor's type or unit; must leave its own result as it is."""

_EVERYWHERE = frozenset({"prompt", "negative_prompt", "seed"})

_defaults: dict[Modality, frozenset[str]] = {
    Modality.IMAGE: _EVERYWHERE
    | {"aspect_ratio", "image", "image_url", "number_of_images", "resolution"},
    Modality.VIDEO: _EVERYWHERE
    | {"aspect_ratio", "cfg_scale", "duration", "image", "image_url"}
    | {"resolution", "video", "video_url"},
    Modality.AUDIO: _EVERYWHERE
    | {"duration", "language", "output_format", "reference_audio", "voice_id"},
    Modality.TEXT: _EVERYWHERE,
}


def modality_defaults(modality: Modality) -> frozenset[str]:
    """Return the standard parameters of a modality."""
    return _defaults[modality]


def register_modality_default(modality: Modality, params: Iterable[str]) -> None:
    """Add standard parameters to a modality, for surfaces made afterwards in this process."""
    _defaults[modality] = _defaults[modality] | frozenset(params)


@dataclass(frozen=True, slots=True)
class ParamSurface:
    """Names, aliases and coercers of parameters; every method returns a new surface.

    `ModelSpec(model_id=..., **surface.build())` takes it over.
    """

    allowlist: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    coercers: Mapping[str, ParamCoercer] = field(default_factory=dict[str, ParamCoercer])

    @classmethod
    def empty(cls) -> Self:
        """Return a surface without parameters."""
        return cls()

    @classmethod
    def for_modality(cls, modality: Modality) -> Self:
        """Return the standard parameters of a modality."""
        return cls(allowlist=modality_defaults(modality))

    def extend(self, *params: str) -> Self:
        """Add parameters."""
        return replace(self, allowlist=self.allowlist | set(params))

    def remove(self, *params: str) -> Self:
        """Take parameters away; one that is not there is fine."""
        return replace(self, allowlist=self.allowlist - set(params))

    def with_aliases(self, mapping: Mapping[str, str] | None = None, /, **kwargs: str) -> Self:
        """Add native names by alias; the native ones are then allowed too."""
        added = {**(mapping or {}), **kwargs}
        return replace(
            self,
            aliases={**self.aliases, **added},
            allowlist=self.allowlist | set(added.values()),
        )

    def with_coercers(
        self, mapping: Mapping[str, ParamCoercer] | None = None, /, **kwargs: ParamCoercer
    ) -> Self:
        """Add coercers by native name."""
        return replace(self, coercers={**self.coercers, **(mapping or {}), **kwargs})

    def build(self) -> dict[str, Any]:
        """Return the fields of a `ModelSpec` that say this."""
        return {
            "param_allowlist": self.allowlist,
            "param_aliases": dict(self.aliases),
            "param_coercers": dict(self.coercers),
        }
