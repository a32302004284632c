"""fal's endpoints that make, change, enlarge and cut out pictures."""

from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.fal.endpoints import endpoint, jpeg, one_of
from genblaze_dagster.providers.param_schemas import IntSchema, refuse

_SIZES = {
    "1:1": "square_hd",
    "4:3": "landscape_4_3",
    "3:4": "portrait_4_3",
    "16:9": "landscape_16_9",
    "9:16": "portrait_16_9",
}
_SIDE = IntSchema(min=1)


def _sized(params: dict[str, Any]) -> dict[str, Any]:
    """Write a width and height, or an aspect ratio, as fal's `image_size`."""
    native = dict(params)
    given = {n: native.pop(n) for n in ("aspect_ratio", "width", "height") if n in native}
    if not given:
        return native
    if "image_size" in native or ("aspect_ratio" in given and len(given) > 1):
        refuse("image_size", "give one of image_size, aspect_ratio, or width and height")
    if "aspect_ratio" in given:
        one_of(*_SIZES).validate("aspect_ratio", given["aspect_ratio"])
        return {**native, "image_size": _SIZES[given["aspect_ratio"]]}
    for name in ("width", "height"):
        if name not in given:
            refuse(name, "missing; width and height go together")
        _SIDE.validate(name, given[name])
    return {**native, "image_size": given}


def _known_size(params: dict[str, Any]) -> None:
    if isinstance(params.get("image_size"), str):
        one_of(*_SIZES.values(), "square").validate("image_size", params["image_size"])


_FLUX = (
    "prompt seed num_images num_inference_steps guidance_scale output_format acceleration "
    "enable_safety_checker sync_mode"
)
_FLUX_SCHEMAS = {"num_images": _SIDE, "output_format": one_of("jpeg", "png"), "seed": IntSchema()}
_IMAGE = {"image": "image_url"}

FAMILIES = (
    endpoint(
        "flux",
        "fal-ai/flux/(schnell|dev)",
        Modality.IMAGE,
        f"{_FLUX} image_size",
        examples=("fal-ai/flux/schnell", "fal-ai/flux/dev"),
        about="images",
        required=("prompt",),
        aliases={"n": "num_images"},
        transform=_sized,
        coercers={"output_format": jpeg},
        schemas=_FLUX_SCHEMAS,
        constraints=(_known_size,),
    ),
    endpoint(
        "flux-edit",
        "fal-ai/flux/dev/image-to-image",
        Modality.IMAGE,
        f"{_FLUX} image_url strength",
        examples=("fal-ai/flux/dev/image-to-image",),
        about="changed images",
        required=("prompt",),
        aliases={"n": "num_images"},
        coercers={"output_format": jpeg},
        schemas=_FLUX_SCHEMAS,
        media=_IMAGE,
        needs=("image_url",),
    ),
    endpoint(
        "flux-others",
        "fal-ai/flux.*",
        Modality.IMAGE,
        None,
        examples=("fal-ai/flux-pro/v1.1",),
        about="images; their members are not checked",
        aliases={"n": "num_images"},
        coercers={"output_format": jpeg},
    ),
    endpoint(
        "recraft",
        "fal-ai/recraft/v3/text-to-image",
        Modality.IMAGE,
        "prompt image_size style colors enable_safety_checker",
        examples=("fal-ai/recraft/v3/text-to-image",),
        about="images, vector graphics among them",
        required=("prompt",),
        transform=_sized,
        constraints=(_known_size,),
    ),
    endpoint(
        "esrgan",
        "fal-ai/esrgan",
        Modality.IMAGE,
        "image_url scale model face tile output_format",
        examples=("fal-ai/esrgan",),
        about="upscaling",
        coercers={"output_format": jpeg},
        schemas={"output_format": one_of("png", "jpeg")},
        media=_IMAGE,
        needs=("image_url",),
    ),
    endpoint(
        "aura-sr",
        "fal-ai/aura-sr",
        Modality.IMAGE,
        "image_url upscale_factor checkpoint overlapping_tiles",
        examples=("fal-ai/aura-sr",),
        about="upscaling",
        aliases={"scale": "upscale_factor"},
        media=_IMAGE,
        needs=("image_url",),
    ),
    endpoint(
        "clarity",
        "fal-ai/clarity-upscaler",
        Modality.IMAGE,
        "image_url upscale_factor prompt negative_prompt seed creativity resemblance "
        "guidance_scale num_inference_steps enable_safety_checker",
        examples=("fal-ai/clarity-upscaler",),
        about="upscaling with a prompt",
        aliases={"scale": "upscale_factor"},
        media=_IMAGE,
        needs=("image_url",),
    ),
    endpoint(
        "birefnet",
        "fal-ai/birefnet(/v2)?",
        Modality.IMAGE,
        "image_url model operating_resolution output_format output_mask mask_only "
        "refine_foreground sync_mode",
        examples=("fal-ai/birefnet", "fal-ai/birefnet/v2"),
        about="background removal",
        schemas={"output_format": one_of("webp", "png", "gif")},
        media=_IMAGE,
        needs=("image_url",),
    ),
)
