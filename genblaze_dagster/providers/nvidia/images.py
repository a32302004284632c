"""Pictures by NVIDIA NIM: FLUX, Stable Diffusion XL, 3 and 3.5.

API reference: https://docs.api.nvidia.com/nim/reference. There is no client of NVIDIA's for these
models: methods, headers and polling follow its client of the same gateway
(langchain-nvidia-ai-endpoints 1.5.0), bodies the reference pages and public clients.
Submit: `POST https://ai.api.nvidia.com/v1/genai/{owner}/{model}`, JSON; see `nvidia.provider` for
what follows. Cost unit: credits per request, which no answer tells, so the price is unknown.
Quirks: the pictures are JPEG and nothing says so. A filtered picture comes with HTTP 200 and no
bytes. The name of SD 3.5 has an underscore. Gated models answer 404 until their licence is accepted.
Unverified: whether the hosted models take pictures of one's own, and what SD 3.5 takes apart from
prompt, `cfg_scale`, `steps` and `seed`.
"""

import re
from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.nvidia.parameters import one_each, pixels_of
from genblaze_dagster.providers.nvidia.provider import NvidiaProvider
from genblaze_dagster.providers.param_schemas import (
    EnumSchema,
    FloatSchema,
    IntSchema,
    ParamSchema,
    StringSchema,
    refuse,
)
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

_FLUX_SIDES = frozenset(range(768, 1345, 64))
# Exact shapes, but for 16:9, which no two sides have: this is the nearest.
_FLUX_SIZES = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "4:3": (1024, 768),
    "3:4": (768, 1024),
    "3:2": (1152, 768),
    "2:3": (768, 1152),
}
_SD3_RATIOS = frozenset({"1:1", "16:9", "9:16", "5:4", "4:5", "3:2", "2:3"})
_ALIASES = {"guidance_scale": "cfg_scale"}
_NO_INPUT: Mapping[str, Any] = {"inputs": ()}
_PICTURE: Mapping[str, Any] = {"inputs": ("image",)}
_SEED = IntSchema(min=0)
_GUIDED_MODEL = "black-forest-labs/flux.1-dev"
_GUIDED_MODES = ("canny", "depth")


def _flux(params: dict[str, Any]) -> dict[str, Any]:
    native = one_each(params)
    pixels_of(native)
    ratio = native.pop("aspect_ratio", None)
    if ratio is None:
        return native
    if "width" in native or "height" in native:
        refuse("aspect_ratio", "cannot stand beside a size in pixels; give one of them")
    size = _FLUX_SIZES.get(ratio)
    if size is None:
        refuse(
            "aspect_ratio",
            f"not one of {', '.join(_FLUX_SIZES)}; for another shape give width and height",
        )
    native["width"], native["height"] = size
    return native


def _weighted(params: dict[str, Any]) -> dict[str, Any]:
    """Make the prompts what Stable Diffusion XL wants: a list of texts with weights."""
    native = one_each(params)
    pixels_of(native)
    prompt, negative = native.pop("prompt", None), native.pop("negative_prompt", None)
    if prompt is None:
        if negative is not None:
            refuse("prompt", "missing; a negative_prompt needs one")
        return native
    if "text_prompts" in native:
        refuse("text_prompts", "cannot stand beside a prompt; give one of them")
    native["text_prompts"] = [{"text": prompt, "weight": 1}]
    if negative is not None:
        native["text_prompts"].append({"text": negative, "weight": -1})
    return native


def _family(
    name: str,
    pattern: str,
    example: str,
    *,
    schemas: Mapping[str, ParamSchema] | None = None,
    params: frozenset[str] | None = None,
    required: str = "prompt",
    **more: Any,
) -> ModelFamily:
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description="pictures",
        example_slugs=more.pop("examples", (example,)),
        canonical_slug=more.pop("canonical_slug", None),
        spec_template=ModelSpec(
            model_id=example,
            modality=Modality.IMAGE,
            param_aliases=_ALIASES,
            param_transformer=more.pop("transformer", one_each),
            param_schemas={"seed": _SEED, **(schemas or {})},
            param_required=frozenset({required}),
            param_allowlist=params,
            **more,
        ),
    )


_FLUX_PARAMS = frozenset(
    {"prompt", "mode", "image", "width", "height", "cfg_scale", "steps", "samples", "seed"}
)
_FLUX_SCHEMAS: Mapping[str, ParamSchema] = {
    "prompt": StringSchema(min_len=1),
    "width": IntSchema(enum=_FLUX_SIDES),
    "height": IntSchema(enum=_FLUX_SIDES),
    "samples": IntSchema(enum=frozenset({1})),
}
_FAST: Mapping[str, ParamSchema] = {
    **_FLUX_SCHEMAS,
    "cfg_scale": EnumSchema(frozenset({0})),
    "steps": IntSchema(min=1, max=4),
}

FAMILIES = (
    _family(
        "flux.1-dev",
        r"black-forest-labs/flux\.1-dev$",
        "black-forest-labs/flux.1-dev",
        transformer=_flux,
        schemas={
            **_FLUX_SCHEMAS,
            "mode": EnumSchema(frozenset({"base", *_GUIDED_MODES})),
            "cfg_scale": FloatSchema(min=0, max=9),
            "steps": IntSchema(min=5, max=100),
        },
        params=_FLUX_PARAMS,
        extras=_PICTURE,
    ),
    _family(
        "flux.1-schnell",
        r"black-forest-labs/flux\.1-schnell$",
        "black-forest-labs/flux.1-schnell",
        transformer=_flux,
        schemas={**_FAST, "mode": EnumSchema(frozenset({"base"}))},
        params=_FLUX_PARAMS - {"image"},
        extras=_NO_INPUT,
    ),
    _family(
        "flux.1-kontext",
        r"black-forest-labs/flux\.1-kontext",
        "black-forest-labs/flux.1-kontext-dev",
        schemas={
            "prompt": StringSchema(min_len=1),
            "cfg_scale": FloatSchema(min=0),
            "steps": IntSchema(min=20, max=50),
        },
        params=frozenset({"prompt", "image", "aspect_ratio", "cfg_scale", "steps", "seed"}),
        extras={**_PICTURE, "needs_input": "image"},
    ),
    _family(
        "flux.2-klein",
        r"black-forest-labs/flux\.2-klein",
        "black-forest-labs/flux.2-klein-4b",
        transformer=_flux,
        schemas=_FAST,
        params=frozenset({"prompt", "width", "height", "cfg_scale", "steps", "seed"}),
        extras=_NO_INPUT,
    ),
    _family("flux", r"black-forest-labs/flux\.", "black-forest-labs/flux", examples=()),
    _family(
        "sdxl",
        r"stabilityai/(stable-diffusion-xl|sdxl)",
        "stabilityai/stable-diffusion-xl",
        transformer=_weighted,
        required="text_prompts",
        schemas={
            "width": IntSchema(min=1),
            "height": IntSchema(min=1),
            "cfg_scale": FloatSchema(min=0),
            "steps": IntSchema(min=1),
            "samples": IntSchema(enum=frozenset({1})),
        },
        params=frozenset(
            {"text_prompts", "height", "width", "cfg_scale", "clip_guidance_preset", "sampler"}
            | {"samples", "seed", "steps", "style_preset"}
        ),
        extras=_NO_INPUT,
    ),
    _family(
        "sd3-medium",
        r"stabilityai/stable-diffusion-3-medium$",
        "stabilityai/stable-diffusion-3-medium",
        schemas={
            "prompt": StringSchema(min_len=1, max_len=10_000),
            "aspect_ratio": EnumSchema(_SD3_RATIOS),
            "cfg_scale": FloatSchema(min=0, max=9),
            "steps": IntSchema(min=5, max=100),
            "mode": EnumSchema(frozenset({"text-to-image"})),
            "model": EnumSchema(frozenset({"sd3"})),
            "output_format": EnumSchema(frozenset({"jpeg"})),
        },
        params=frozenset(
            {"prompt", "negative_prompt", "aspect_ratio", "cfg_scale", "mode", "model"}
            | {"output_format", "seed", "steps"}
        ),
        extras=_NO_INPUT,
    ),
    _family(
        "sd3",
        r"stabilityai/stable-diffusion-3",
        "stabilityai/stable-diffusion-3_5-large",
        canonical_slug=lambda model: re.sub(r"diffusion-3[.-]5", "diffusion-3_5", model),
        extras=_NO_INPUT,
    ),
)


class NvidiaImageProvider(NvidiaProvider):
    """NVIDIA's hosted picture models.

    Parameters are the models' own (`cfg_scale`, `steps`, `width`, `height`, ...) or the standard
    `guidance_scale`, `aspect_ratio`, `resolution` (`1024x1024`), `seed`, `negative_prompt`. FLUX has
    no 16:9: it becomes 1344x768, the nearest. A picture as input is what Kontext changes, and what
    FLUX.1-dev follows in the modes `canny` and `depth`. One picture per request.
    """

    name = "nvidia-image"
    poll_seconds = 2.0
    traits = Traits(
        makes=("image", "image edit"),
        modalities=(Modality.IMAGE,),
        inputs=(InputForm.DATA, InputForm.UPLOAD),
    )
    families = FAMILIES

    def check_media(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs the model does not take, and modes that lack one."""
        super().check_media(request, payload)
        if self.model_of(request) != _GUIDED_MODEL:
            return
        follows = payload.get("mode") in _GUIDED_MODES
        has_picture = bool(request.inputs) or "image" in payload
        if follows and not has_picture:
            raise self.refusal(
                "inputs", f"mode {payload['mode']} follows a picture; give one", request
            )
        if has_picture and not follows:
            raise self.refusal(
                "mode", "a picture is followed in the modes canny and depth; give one", request
            )
