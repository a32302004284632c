"""What the image models at GMI take, by family.

From GMI's own pages. The pixels of a shape are those that the models' makers recommend; GMI's pages
tell one or two of them. Unverified: SeedEdit, Reve and Bria, whose parameters go as they are, and
what `gpt-image-2-edit` takes beyond prompt and image.
"""

import re

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.gmicloud.parameters import (
    GPT_IMAGE_SIZES,
    SEEDREAM_3_SIZES,
    SEEDREAM_SIZES,
    each,
    single,
    sized_by,
    up_to,
)
from genblaze_dagster.providers.gmicloud.slots import ANY_REFERENCE, Slot
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    FloatSchema,
    IntSchema,
    StringSchema,
)

_PROMPT = frozenset({"prompt"})
_PIXELS = StringSchema(pattern=r"\d+x\d+$")
_MASK = Slot("mask", roles=("mask",))
_GPT_PARAMS = frozenset({"prompt", "size", "quality", "output_format", "n"})


def _gpt_image(name: str, pattern: str, *slots: Slot) -> ModelFamily:
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description="OpenAI's gpt-image-2",
        example_slugs=(name,),
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.IMAGE,
            param_transformer=sized_by(GPT_IMAGE_SIZES),
            param_schemas={
                "prompt": StringSchema(min_len=1),
                "size": StringSchema(pattern=r"(\d+x\d+|auto)$"),
                "n": IntSchema(min=1),
            },
            param_required=_PROMPT,
            param_allowlist=_GPT_PARAMS | {slot.field for slot in slots},
            extras={"slots": slots},
        ),
    )


def _unverified(name: str, pattern: str, description: str, *slots: Slot) -> ModelFamily:
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description=description,
        spec_template=ModelSpec(model_id=name, modality=Modality.IMAGE, extras={"slots": slots}),
    )


IMAGE_FAMILIES = (
    ModelFamily(
        name="seedream-3",
        pattern=re.compile(r"seedream-3-0-t2i"),
        description="Seedream 3, from text only",
        example_slugs=("seedream-3-0-t2i-250415",),
        spec_template=ModelSpec(
            model_id="seedream-3-0-t2i-250415",
            modality=Modality.IMAGE,
            param_aliases={"watermark": "add_watermark"},
            param_transformer=each(single, sized_by(SEEDREAM_3_SIZES)),
            param_schemas={
                "prompt": StringSchema(min_len=1),
                "size": _PIXELS,
                "seed": IntSchema(),
                "guidance_scale": FloatSchema(),
                "add_watermark": BoolSchema(),
            },
            param_required=_PROMPT,
            param_allowlist=frozenset(
                {"prompt", "size", "seed", "guidance_scale", "add_watermark", "response_format"}
            ),
            extras={"slots": ()},
        ),
    ),
    ModelFamily(
        name="seedream-4",
        pattern=re.compile(r"seedream-4-0"),
        description="Seedream 4, from text and images",
        example_slugs=("seedream-4-0-250828",),
        spec_template=ModelSpec(
            model_id="seedream-4-0-250828",
            modality=Modality.IMAGE,
            param_transformer=each(up_to, sized_by(SEEDREAM_SIZES)),
            param_schemas={
                "prompt": StringSchema(min_len=1),
                "size": _PIXELS,
                "max_images": IntSchema(min=1),
                "seed": IntSchema(),
                "watermark": BoolSchema(),
            },
            param_required=_PROMPT,
            param_allowlist=frozenset(
                {"prompt", "image", "size", "max_images", "sequential_image_generation"}
                | {"seed", "watermark"}
            ),
            extras={"slots": (Slot("image", roles=ANY_REFERENCE, most=None, is_list=True),)},
        ),
    ),
    ModelFamily(
        name="seedream-5-lite",
        pattern=re.compile(r"seedream-5\.0-lite"),
        description="Seedream 5 lite, from text and up to 14 images",
        example_slugs=("seedream-5.0-lite",),
        spec_template=ModelSpec(
            model_id="seedream-5.0-lite",
            modality=Modality.IMAGE,
            param_transformer=each(up_to, sized_by(SEEDREAM_SIZES, alone=("2K", "3K"))),
            param_schemas={
                "prompt": StringSchema(min_len=1),
                "size": StringSchema(pattern=r"(2K|3K|\d+x\d+)$"),
                "max_images": IntSchema(min=1, max=15),
                "watermark": BoolSchema(),
            },
            param_required=_PROMPT,
            param_allowlist=frozenset(
                {"prompt", "image", "size", "output_format", "max_images", "watermark"}
            ),
            extras={"slots": (Slot("image", roles=ANY_REFERENCE, most=14, is_list=True),)},
        ),
    ),
    _gpt_image("gpt-image-2-generate", r"gpt-image-2-generate$"),
    _gpt_image(
        "gpt-image-2-edit",
        r"gpt-image-2-edit$",
        Slot("image", roles=ANY_REFERENCE, is_required=True),
        _MASK,
    ),
    _unverified(
        "edits",
        r"seededit-|reve-edit|reve-remix",
        "edits by SeedEdit and Reve",
        Slot("image", roles=ANY_REFERENCE, is_required=True),
    ),
    _unverified("bria", r"bria-(genfill|eraser)$", "Bria's fill and eraser", Slot("image"), _MASK),
)
