"""How an endpoint of fal is described: a family with exactly the members its input has.

fal ignores members that a model does not have, so everything else is refused here. An endpoint that
is not described passes through. The members are those of the types of `@fal-ai/client` 1.10.1.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.constraints import Constraint
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec, ParamTransformer
from genblaze_dagster.providers.param_schemas import EnumSchema, ParamSchema
from genblaze_dagster.providers.param_surface import ParamCoercer
from genblaze_dagster.providers.pricing import PricingStrategy

MEDIA = "media"
"""Extra of a spec: the member an input goes into, by its kind, or by kind and role."""
NEEDS = "needs"
"""Extra of a spec: members of which one must be there, as a parameter or an input."""
OURS = "ours"
"""Extra of a spec: parameters that are not sent, but choose among what comes back."""

USUAL_MEDIA: Mapping[str, str] = {
    "image": "image_url",
    "video": "video_url",
    "audio": "audio_url",
}


def endpoint(
    name: str,
    pattern: str,
    modality: Modality,
    members: str | None,
    *,
    examples: tuple[str, ...],
    about: str,
    required: tuple[str, ...] = (),
    aliases: Mapping[str, str] | None = None,
    transform: ParamTransformer | None = None,
    coercers: Mapping[str, ParamCoercer] | None = None,
    schemas: Mapping[str, ParamSchema] | None = None,
    constraints: tuple[Constraint, ...] = (),
    defaults: Mapping[str, Any] | None = None,
    media: Mapping[str, str] | None = None,
    needs: tuple[str, ...] = (),
    ours: tuple[str, ...] = (),
    pricing: PricingStrategy | None = None,
) -> ModelFamily:
    """Describe the endpoints whose whole id matches a pattern; `members` None lets all pass."""
    taken = media or ({} if members is not None else USUAL_MEDIA)
    return ModelFamily(
        name=name,
        pattern=re.compile(rf"(?:{pattern})\Z"),
        description=about,
        example_slugs=examples,
        spec_template=ModelSpec(
            model_id=examples[0],
            modality=modality,
            pricing=pricing,
            param_aliases=aliases or {},
            param_transformer=transform,
            param_coercers=coercers or {},
            param_schemas=schemas or {},
            param_defaults=defaults or {},
            param_required=frozenset(required),
            param_constraints=constraints,
            param_allowlist=None if members is None else frozenset({*members.split(), *ours}),
            extras={MEDIA: taken, NEEDS: needs, OURS: ours},
        ),
    )


def one_of(*values: object) -> EnumSchema:
    """Return the schema of a member that has one of these values."""
    return EnumSchema(frozenset(values))


def seconds_as_text(unit: str = "") -> Callable[[Any], Any]:
    """Return what writes whole seconds as a text: 5 becomes "5", with a unit "5s"."""

    def coerce(value: Any) -> Any:
        if isinstance(value, bool):
            return value
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return f"{int(value)}{unit}"
        return f"{value}{unit}" if isinstance(value, str) and value.isdigit() else value

    return coerce


def whole(value: Any) -> Any:
    """Return a float without a fraction as the whole number it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def jpeg(value: Any) -> Any:
    """Return fal's name of a picture's format."""
    return "jpeg" if value == "jpg" else value
