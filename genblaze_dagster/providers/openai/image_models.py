"""What OpenAI's image models accept, as data.

From https://platform.openai.com/docs/api-reference/images and the published OpenAPI document.
A model that no family describes is sent as asked: the vendor knows its newer models better.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec, ParamTransformer
from genblaze_dagster.providers.openai.pricing import PRICE
from genblaze_dagster.providers.openai.sizes import (
    FreeSizeSchema,
    free_size,
    no_size,
    one_of,
    sized_by,
)
from genblaze_dagster.providers.openai.transfer import (
    IMAGE_TRANSFER,
    UPLOADS,
    UPLOADS_AND_URLS,
)
from genblaze_dagster.providers.param_schemas import (
    EnumSchema,
    IntSchema,
    ParamSchema,
    StringSchema,
    refuse,
)

EDIT_PARAMS = ("input_fidelity", IMAGE_TRANSFER)
"""Parameters of edits only."""

EDITS = "edits"
"""The entry of `ModelSpec.extras` with a model's `EditLimits`."""

_MEBIBYTE = 1024 * 1024
_GPT_SIZES = ("1024x1024", "1536x1024", "1024x1536")
_DALLE3_SIZES = ("1024x1024", "1792x1024", "1024x1792")
_DALLE2_SIZES = ("256x256", "512x512", "1024x1024")
_RESPONSE_FORMATS = EnumSchema(frozenset({"url", "b64_json"}))


@dataclass(frozen=True, slots=True)
class EditLimits:
    """The input images of one edit: how many (0: no edits), of which types, each below a size."""

    max_images: int
    below_bytes: int = 50 * _MEBIBYTE
    types: frozenset[str] = frozenset({"image/png", "image/jpeg", "image/webp"})
    squares_only: bool = False


def _format(value: Any) -> Any:
    return "jpeg" if value == "jpg" else value


def _check_gpt(params: Mapping[str, Any]) -> None:
    output_format = params.get("output_format", "png")
    if params.get("output_compression") is not None and output_format == "png":
        refuse("output_compression", "png is not compressed; use jpeg or webp")
    if params.get("background") == "transparent" and output_format == "jpeg":
        refuse("background", "jpeg cannot be transparent; use png or webp")


def _gpt(
    name: str,
    pattern: str,
    examples: tuple[str, ...],
    *,
    sized: ParamTransformer,
    schemas: Mapping[str, ParamSchema],
) -> ModelFamily:
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern),
        description="GPT image: generates and edits",
        example_slugs=examples,
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.IMAGE,
            pricing=PRICE,
            param_transformer=sized,
            param_coercers={"output_format": _format},
            param_schemas={
                "prompt": StringSchema(max_len=32_000),
                "n": IntSchema(min=1, max=10),
                "output_format": EnumSchema(frozenset({"png", "jpeg", "webp"})),
                "output_compression": IntSchema(min=0, max=100),
                "background": EnumSchema(frozenset({"auto", "transparent", "opaque"})),
                "moderation": EnumSchema(frozenset({"auto", "low"})),
                "input_fidelity": EnumSchema(frozenset({"high", "low"})),
                IMAGE_TRANSFER: UPLOADS_AND_URLS,
                **schemas,
            },
            param_constraints=(_check_gpt,),
            param_allowlist=frozenset(
                {"prompt", "n", "size", "quality", "output_format", "output_compression"}
                | {"background", "moderation", "user", *EDIT_PARAMS}
            ),
            extras={EDITS: EditLimits(max_images=16)},
        ),
    )


def _dalle(
    name: str,
    *,
    sizes: Sequence[str],
    max_prompt: int,
    max_n: int,
    schemas: Mapping[str, ParamSchema],
    edits: EditLimits,
) -> ModelFamily:
    return ModelFamily(
        name=name,
        pattern=re.compile(f"{name}$"),
        description="retired on 12 May 2026",
        example_slugs=(name,),
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.IMAGE,
            pricing=PRICE,
            param_transformer=sized_by(one_of(sizes)),
            param_schemas={
                "prompt": StringSchema(max_len=max_prompt),
                "n": IntSchema(min=1, max=max_n),
                "size": EnumSchema(frozenset(sizes)),
                "response_format": _RESPONSE_FORMATS,
                **schemas,
            },
            param_allowlist=frozenset({"prompt", "n", "size", "response_format", "user", *schemas}),
            extras={EDITS: edits},
        ),
    )


FAMILIES = (
    _gpt(
        "gpt-image-1",
        r"gpt-image-1(\.5|-mini)?(-\d{4}-\d{2}-\d{2})?$",
        ("gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5"),
        sized=sized_by(one_of(_GPT_SIZES)),
        schemas={
            "size": EnumSchema(frozenset({"auto", *_GPT_SIZES})),
            "quality": EnumSchema(frozenset({"auto", "low", "medium", "high"})),
        },
    ),
    _gpt(
        "gpt-image-2",
        r"gpt-image-2(-\d{4}-\d{2}-\d{2})?$",
        ("gpt-image-2",),
        sized=sized_by(free_size),
        schemas={"size": FreeSizeSchema()},
    ),
    _gpt("gpt-image", r"(chat)?gpt-image-.", (), sized=sized_by(no_size), schemas={}),
    _dalle(
        "dall-e-3",
        sizes=_DALLE3_SIZES,
        max_prompt=4_000,
        max_n=1,
        schemas={
            "quality": EnumSchema(frozenset({"standard", "hd"})),
            "style": EnumSchema(frozenset({"vivid", "natural"})),
        },
        edits=EditLimits(max_images=0),
    ),
    _dalle(
        "dall-e-2",
        sizes=_DALLE2_SIZES,
        max_prompt=1_000,
        max_n=10,
        schemas={IMAGE_TRANSFER: UPLOADS},
        edits=EditLimits(
            max_images=1,
            below_bytes=4 * _MEBIBYTE,
            types=frozenset({"image/png"}),
            squares_only=True,
        ),
    ),
)


def _check_others(params: Mapping[str, Any]) -> None:
    for name in ("negative_prompt", "seed"):
        if params.get(name) is not None:
            refuse(name, f"OpenAI's image API has no {name}; leave it out")
    for name in ("stream", "partial_images"):
        if params.get(name) is not None:
            refuse(name, "partial images are not supported; leave the parameter out")


OTHERS = ModelSpec(
    model_id="*",
    param_transformer=sized_by(no_size),
    param_coercers={"output_format": _format},
    param_schemas={IMAGE_TRANSFER: UPLOADS_AND_URLS},
    param_constraints=(_check_others,),
)
"""Models of gateways and newer ones: any parameter, but those the API certainly lacks."""
