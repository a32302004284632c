"""What Google's image and video models take, by family; of others the parameters go as they are.

Prices stand in `pricing`: list prices as of October 2026; your contract may differ: give your own.
Unverified: which resolutions Veo 2 has.
"""

import re
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.google import pricing
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    ArraySchema,
    BoolSchema,
    EnumSchema,
    FloatSchema,
    IntSchema,
    ParamSchema,
    StringSchema,
    refuse,
)

_PERSONS = ("allow_all", "allow_adult", "dont_allow")
_FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg"}


def _plain_name(model: str) -> str:
    return model.removeprefix("models/") or model


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


# Veo

_VEO_ALIASES = {
    "duration": "durationSeconds",
    "duration_seconds": "durationSeconds",
    "aspect_ratio": "aspectRatio",
    "n": "sampleCount",
    "negative_prompt": "negativePrompt",
    "person_generation": "personGeneration",
    "enhance_prompt": "enhancePrompt",
}
_VEO_PARAMS = frozenset({*_VEO_ALIASES.values(), "prompt", "resolution"})
# Google writes 720p and 4k, and refuses other spellings.
_VEO_COERCERS = {"resolution": _lower, "personGeneration": _lower}


def _only_mp4(params: dict[str, Any]) -> dict[str, Any]:
    native = dict(params)
    if native.pop("output_format", "mp4") != "mp4":
        refuse("output_format", "this format is not one of the model's; expected 'mp4'")
    return native


def _large_takes_8_seconds(params: dict[str, Any]) -> None:
    is_large = params.get("resolution", "720p") != "720p"
    if is_large and params.get("durationSeconds", 8) != 8:
        refuse("duration", "above 720p a video has 8 seconds; expected 8")


def _veo(
    name: str,
    pattern: str,
    *examples: str,
    seconds: IntSchema,
    resolutions: frozenset[str],
    samples: int = 1,
    references: int = 0,
) -> ModelFamily:
    schemas: dict[str, ParamSchema] = {
        "prompt": StringSchema(min_len=1),
        "durationSeconds": seconds,
        "aspectRatio": EnumSchema(frozenset({"16:9", "9:16"})),
        "resolution": EnumSchema(resolutions),
        "sampleCount": IntSchema(min=1, max=samples),
        "personGeneration": EnumSchema(frozenset(_PERSONS)),
        "negativePrompt": StringSchema(),
        "enhancePrompt": BoolSchema(),
    }
    return ModelFamily(
        name=name,
        pattern=re.compile(rf"(models/)?{pattern}"),
        description="videos",
        example_slugs=examples,
        canonical_slug=_plain_name,
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.VIDEO,
            pricing=pricing.VEO,
            param_aliases=_VEO_ALIASES,
            param_transformer=_only_mp4,
            param_coercers=_VEO_COERCERS,
            param_schemas=schemas,
            param_constraints=(_large_takes_8_seconds,),
            param_allowlist=_VEO_PARAMS,
            extras={"references": references},
        ),
    )


VEO = (
    _veo(
        "veo-3.1",
        r"veo-3\.1(?:[.-]|$)",
        "veo-3.1-generate-preview",
        "veo-3.1-fast-generate-preview",
        seconds=IntSchema(enum=frozenset({4, 6, 8})),
        resolutions=frozenset({"720p", "1080p", "4k"}),
        references=3,
    ),
    _veo(
        "veo-3",
        r"veo-3(?:\.0)?(?:-|$)",
        "veo-3.0-generate-001",
        seconds=IntSchema(enum=frozenset({8})),
        resolutions=frozenset({"720p", "1080p"}),
    ),
    _veo(
        "veo-2",
        r"veo-2(?:[.-]|$)",
        "veo-2.0-generate-001",
        seconds=IntSchema(min=5, max=8),
        resolutions=frozenset({"720p", "1080p"}),
        samples=2,
    ),
    ModelFamily(
        name="veo",
        pattern=re.compile("."),
        description="videos of models that came later",
        canonical_slug=_plain_name,
        spec_template=ModelSpec(
            model_id="any",
            modality=Modality.VIDEO,
            param_aliases=_VEO_ALIASES,
            param_coercers=_VEO_COERCERS,
        ),
    ),
)

# Imagen

_IMAGEN_ALIASES = {
    "n": "sampleCount",
    "aspect_ratio": "aspectRatio",
    "resolution": "sampleImageSize",
    "person_generation": "personGeneration",
    "safety_setting": "safetySetting",
    "guidance_scale": "guidanceScale",
    "include_rai_reason": "includeRaiReason",
    "include_safety_attributes": "includeSafetyAttributes",
}
_IMAGEN_COERCERS = {"sampleImageSize": _upper, "personGeneration": _upper}


def _with_output_options(params: dict[str, Any]) -> dict[str, Any]:
    """Put the standard format where Imagen looks for it."""
    native = dict(params)
    wanted = native.pop("output_format", None)
    if wanted is None:
        return native
    media_type = _FORMATS.get(str(wanted), wanted)
    if media_type not in _FORMATS.values():
        refuse("output_format", "this format is not one of the model's; expected 'png' or 'jpeg'")
    native["outputOptions"] = {"mimeType": media_type, **native.get("outputOptions", {})}
    return native


IMAGEN = (
    ModelFamily(
        name="imagen",
        pattern=re.compile(r"(models/)?imagen-"),
        description="images",
        example_slugs=("imagen-4.0-generate-001",),
        canonical_slug=_plain_name,
        spec_template=ModelSpec(
            model_id="imagen",
            modality=Modality.IMAGE,
            pricing=pricing.IMAGEN,
            param_aliases=_IMAGEN_ALIASES,
            param_transformer=_with_output_options,
            param_coercers=_IMAGEN_COERCERS,
            param_schemas={
                "prompt": StringSchema(min_len=1),
                "sampleCount": IntSchema(min=1, max=4),
                "aspectRatio": EnumSchema(frozenset({"1:1", "3:4", "4:3", "9:16", "16:9"})),
                "sampleImageSize": EnumSchema(frozenset({"1K", "2K"})),
                "personGeneration": EnumSchema(frozenset(map(str.upper, _PERSONS))),
                "guidanceScale": FloatSchema(),
                "includeRaiReason": BoolSchema(),
                "includeSafetyAttributes": BoolSchema(),
            },
            param_required=frozenset({"prompt"}),
            param_allowlist=frozenset(
                {*_IMAGEN_ALIASES.values(), "prompt", "language", "outputOptions"}
            ),
        ),
    ),
    ModelFamily(
        name="others",
        pattern=re.compile("."),
        description="images of models that came later",
        canonical_slug=_plain_name,
        spec_template=ModelSpec(
            model_id="any",
            modality=Modality.IMAGE,
            param_aliases=_IMAGEN_ALIASES,
            param_transformer=_with_output_options,
            param_coercers=_IMAGEN_COERCERS,
            param_required=frozenset({"prompt"}),
        ),
    ),
)

# Gemini images

_GEMINI_ALIASES = {
    "aspect_ratio": "aspectRatio",
    "resolution": "imageSize",
    "image_size": "imageSize",
    "response_modalities": "responseModalities",
    "top_p": "topP",
    "top_k": "topK",
    "safety_settings": "safetySettings",
}
_GEMINI_PARAMS = frozenset(
    {"prompt", "aspectRatio", "responseModalities", "seed", "temperature", "topP", "topK"}
    | {"maxOutputTokens", "thinkingConfig"}
    | {"safetySettings", "systemInstruction", "tools", "toolConfig"}
)
_RATIOS = frozenset({"1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"})


def _one_picture(params: dict[str, Any]) -> dict[str, Any]:
    native = dict(params)
    if native.pop("n", 1) != 1:
        refuse("n", "a call makes one picture; expected 1, so run as many items as you want")
    return native


def _wants_a_picture(params: dict[str, Any]) -> None:
    if "IMAGE" not in params["responseModalities"]:
        refuse("responseModalities", "without 'IMAGE' there is no picture; add it")


def _gemini(
    name: str, pattern: str, *examples: str, sizes: tuple[str, ...], is_known: bool = True
) -> ModelFamily:
    schemas: dict[str, ParamSchema] = {
        "responseModalities": ArraySchema(item=EnumSchema(frozenset({"TEXT", "IMAGE"})))
    }
    if is_known:
        schemas["prompt"] = StringSchema(min_len=1)
        schemas["aspectRatio"] = EnumSchema(_RATIOS)
        if sizes:
            schemas["imageSize"] = EnumSchema(frozenset(sizes))
        schemas["seed"] = IntSchema()
        schemas["temperature"] = FloatSchema(min=0, max=2)
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description="images, also from other images",
        example_slugs=examples,
        canonical_slug=_plain_name,
        # Google lists these; those under other names are not told from models that only chat.
        discovery_required=is_known,
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.IMAGE,
            pricing=pricing.GEMINI_IMAGE if is_known else None,
            param_aliases=_GEMINI_ALIASES,
            param_transformer=_one_picture,
            param_coercers={"imageSize": _upper},
            param_defaults={"responseModalities": ["IMAGE"]},
            param_schemas=schemas,
            param_constraints=(_wants_a_picture,),
            param_required=frozenset({"prompt"}),
            param_allowlist=(
                _GEMINI_PARAMS | ({"imageSize"} if sizes else frozenset()) if is_known else None
            ),
        ),
    )


GEMINI_IMAGE = (
    _gemini(
        "gemini-2.5-flash-image",
        r"(models/)?gemini-2\.5-flash-image",
        "gemini-2.5-flash-image",
        sizes=(),
    ),
    _gemini(
        "gemini-image",
        r"(models/)?gemini-.*-image",
        "gemini-3.1-flash-image",
        sizes=("1K", "2K", "4K"),
    ),
    _gemini("others", ".", sizes=(), is_known=False),
)
