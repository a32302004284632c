"""What Runway's models take, by family; others than these get their parameters as they are."""

import re
from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import EnumSchema, FloatSchema, IntSchema, refuse
from genblaze_dagster.providers.price_units import CREDITS
from genblaze_dagster.providers.runway.pricing import PRICE, credits_of

_GEN_RATIOS = {
    "16:9": "1280:720",
    "9:16": "720:1280",
    "4:3": "1104:832",
    "1:1": "960:960",
    "3:4": "832:1104",
    "21:9": "1584:672",
}
"""The six shapes of the Gen models."""
GEN_TEXT_RATIOS = ("1280:720", "720:1280")
"""Those of them that gen4.5 makes from text alone."""

_VEO_RATIOS = {
    ("16:9", "720p"): "1280:720",
    ("9:16", "720p"): "720:1280",
    ("16:9", "1080p"): "1920:1080",
    ("9:16", "1080p"): "1080:1920",
}
_IMAGE_RATIOS = {"16:9": "1920:1080", "9:16": "1080:1920", "1:1": "1024:1024"}
_ALIASES = {
    "prompt": "promptText",
    "negative_prompt": "negativePrompt",
    "n": "outputCount",
    "output_format": "outputFormat",
    "generate_audio": "audio",
}


def _ratio(params: dict[str, Any], table: Mapping[Any, str], *, tiered: bool = False) -> None:
    """Replace `aspect_ratio`, and `resolution` of tiered tables, by the pixels Runway wants."""
    ratio = params.pop("aspect_ratio", None)
    tier = params.pop("resolution", None) if tiered else None
    if ratio is None and tier is None:
        return
    if "ratio" in params:
        refuse("ratio", "give either ratio, or the standard parameters it stands for")
    if ratio is None:
        refuse("resolution", "it leaves the shape open; give aspect_ratio too, or ratio")
    native = table.get((ratio, tier or "720p") if tiered else ratio)
    if native is None:
        shapes = sorted({key[0] if tiered else key for key in table})
        refuse(
            "aspect_ratio",
            f"this shape is not one of the model's; expected one of {', '.join(shapes)}"
            + (" at 720p or 1080p" if tiered else ""),
        )
    params["ratio"] = native


def _gen(params: dict[str, Any]) -> dict[str, Any]:
    native = dict(params)
    _ratio(native, _GEN_RATIOS)
    return native


def _veo(params: dict[str, Any]) -> dict[str, Any]:
    native = dict(params)
    _ratio(native, _VEO_RATIOS, tiered=True)
    return native


def _image(params: dict[str, Any]) -> dict[str, Any]:
    native = dict(params)
    _ratio(native, _IMAGE_RATIOS)
    return native


def _speech(params: dict[str, Any]) -> dict[str, Any]:
    native = dict(params)
    if isinstance(native.get("voice"), str):
        native["voice"] = {"type": "runway-preset", "presetId": native["voice"]}
    return native


_SEED = IntSchema(min=0, max=4_294_967_295)
_MODERATION = "contentModeration"
_EXTRAS = {CREDITS: credits_of}

FAMILIES = (
    ModelFamily(
        name="gen4-video",
        pattern=re.compile(r"gen4(_turbo|\.5)$"),
        description="Runway's own video models",
        example_slugs=("gen4.5", "gen4_turbo"),
        spec_template=ModelSpec(
            model_id="gen4",
            pricing=PRICE,
            extras=_EXTRAS,
            modality=Modality.VIDEO,
            param_aliases=_ALIASES,
            param_transformer=_gen,
            param_schemas={
                "duration": IntSchema(min=2, max=10),
                "seed": _SEED,
                "ratio": EnumSchema(frozenset(_GEN_RATIOS.values())),
            },
            param_allowlist=frozenset(
                {"promptText", "ratio", "duration", "seed", "outputFormat", "proresProfile"}
                | {_MODERATION}
            ),
        ),
    ),
    ModelFamily(
        name="gen4-image",
        pattern=re.compile(r"gen4_image(_turbo)?$"),
        description="Runway's own image models",
        example_slugs=("gen4_image", "gen4_image_turbo"),
        spec_template=ModelSpec(
            model_id="gen4_image",
            pricing=PRICE,
            extras=_EXTRAS,
            modality=Modality.IMAGE,
            param_aliases=_ALIASES,
            param_transformer=_image,
            param_schemas={"seed": _SEED},
            param_allowlist=frozenset({"promptText", "ratio", "seed", _MODERATION}),
        ),
    ),
    ModelFamily(
        name="veo",
        pattern=re.compile(r"veo3\.1(_fast)?$"),
        description="Google's Veo by way of Runway",
        example_slugs=("veo3.1", "veo3.1_fast"),
        spec_template=ModelSpec(
            model_id="veo3.1",
            pricing=PRICE,
            extras=_EXTRAS,
            modality=Modality.VIDEO,
            param_aliases=_ALIASES,
            param_transformer=_veo,
            param_schemas={
                "duration": IntSchema(enum=frozenset({4, 6, 8})),
                "seed": _SEED,
                "ratio": EnumSchema(frozenset(_VEO_RATIOS.values())),
            },
            param_allowlist=frozenset(
                {"promptText", "negativePrompt", "ratio", "duration", "seed", "audio"}
            ),
        ),
    ),
    ModelFamily(
        name="sound",
        pattern=re.compile(r"eleven_text_to_sound"),
        description="sound effects of ElevenLabs by way of Runway",
        example_slugs=("eleven_text_to_sound_v2",),
        spec_template=ModelSpec(
            model_id="eleven_text_to_sound",
            pricing=PRICE,
            extras=_EXTRAS,
            modality=Modality.AUDIO,
            param_aliases=_ALIASES,
            param_schemas={"duration": FloatSchema(min=0.5, max=30)},
            param_allowlist=frozenset({"promptText", "duration", "loop"}),
        ),
    ),
    ModelFamily(
        name="speech",
        pattern=re.compile(r"eleven_"),
        description="speech of ElevenLabs by way of Runway",
        example_slugs=("eleven_v3", "eleven_multilingual_v2"),
        spec_template=ModelSpec(
            model_id="eleven",
            pricing=PRICE,
            extras=_EXTRAS,
            modality=Modality.AUDIO,
            param_aliases={**_ALIASES, "language": "languageCode"},
            param_transformer=_speech,
            param_required=frozenset({"promptText", "voice"}),
        ),
    ),
    ModelFamily(
        name="others",
        pattern=re.compile(r""),
        description="models of others by way of Runway; their parameters go as they are",
        spec_template=ModelSpec(
            model_id="any", pricing=PRICE, extras=_EXTRAS, param_aliases=_ALIASES
        ),
    ),
)
