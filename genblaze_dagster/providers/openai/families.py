"""What OpenAI's image models accept, as data.

From https://platform.openai.com/docs/api-reference/images and the published OpenAPI document.
A model that no family describes is sent as asked: the vendor knows its newer models better.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024

FREE_SIZES = "free"
"""`Family.sizes` of models that take any width and height within rules; see `parameters`."""

_FORMATS = ("png", "jpeg", "webp")
_GPT_VALUES: Mapping[str, tuple[str, ...]] = {
    "output_format": _FORMATS,
    "background": ("auto", "transparent", "opaque"),
    "moderation": ("auto", "low"),
    "input_fidelity": ("high", "low"),
}
_GPT_PARAMS = frozenset(
    {
        "background",
        "moderation",
        "n",
        "output_compression",
        "output_format",
        "quality",
        "size",
        "user",
    }
)
_RESPONSE_FORMATS = ("url", "b64_json")


@dataclass(frozen=True, slots=True)
class Family:
    """The limits of a group of models.

    `params` are the native parameters of generations, `edit_params` those that edits take in
    addition. `values` lists the allowed values of a parameter. `sizes` is a tuple, `FREE_SIZES`,
    or None when not known; `ratios` maps an aspect ratio to its size. `max_images` counts the
    input images of one edit (0: no edits), each below `max_image_bytes`.
    """

    name: str
    pattern: re.Pattern[str]
    max_prompt: int
    max_n: int
    params: frozenset[str]
    edit_params: frozenset[str]
    values: Mapping[str, tuple[str, ...]]
    sizes: tuple[str, ...] | str | None
    ratios: Mapping[str, str]
    max_images: int
    max_image_bytes: int
    image_types: tuple[str, ...]
    edits_by_url: bool


def _gpt(
    name: str,
    pattern: str,
    *,
    sizes: tuple[str, ...] | str | None = None,
    ratios: Mapping[str, str] | None = None,
    qualities: tuple[str, ...] = (),
) -> Family:
    return Family(
        name=name,
        pattern=re.compile(pattern),
        max_prompt=32_000,
        max_n=10,
        params=_GPT_PARAMS,
        edit_params=frozenset({"input_fidelity"}),
        values={**_GPT_VALUES, **({"quality": qualities} if qualities else {})},
        sizes=sizes,
        ratios=ratios or {},
        max_images=16,
        max_image_bytes=50 * MEBIBYTE,
        image_types=("image/png", "image/jpeg", "image/webp"),
        edits_by_url=True,
    )


FAMILIES = (
    _gpt(
        "gpt-image-1",
        r"gpt-image-1(\.5|-mini)?(-\d{4}-\d{2}-\d{2})?",
        sizes=("auto", "1024x1024", "1536x1024", "1024x1536"),
        ratios={"1:1": "1024x1024", "3:2": "1536x1024", "2:3": "1024x1536"},
        qualities=("auto", "low", "medium", "high"),
    ),
    _gpt("gpt-image-2", r"gpt-image-2(-\d{4}-\d{2}-\d{2})?", sizes=FREE_SIZES),
    _gpt("gpt-image", r"(gpt|chatgpt)-image-.+"),
    Family(
        name="dall-e-3",
        pattern=re.compile(r"dall-e-3"),
        max_prompt=4_000,
        max_n=1,
        params=frozenset({"n", "quality", "response_format", "size", "style", "user"}),
        edit_params=frozenset(),
        values={
            "quality": ("standard", "hd"),
            "style": ("vivid", "natural"),
            "response_format": _RESPONSE_FORMATS,
        },
        sizes=("1024x1024", "1792x1024", "1024x1792"),
        ratios={"1:1": "1024x1024", "7:4": "1792x1024", "4:7": "1024x1792"},
        max_images=0,
        max_image_bytes=0,
        image_types=(),
        edits_by_url=False,
    ),
    Family(
        name="dall-e-2",
        pattern=re.compile(r"dall-e-2"),
        max_prompt=1_000,
        max_n=10,
        params=frozenset({"n", "response_format", "size", "user"}),
        edit_params=frozenset(),
        values={"response_format": _RESPONSE_FORMATS},
        sizes=("256x256", "512x512", "1024x1024"),
        ratios={"1:1": "1024x1024"},
        max_images=1,
        max_image_bytes=4 * MEBIBYTE,
        image_types=("image/png",),
        edits_by_url=False,
    ),
)

# OpenAI models that certainly make no images through this API.
_OTHER_KINDS = re.compile(r"sora-|tts-|whisper-|text-embedding-|o\d|gpt-(?!image)|omni-moderation")


def family_of(model: str) -> Family | None:
    """Return the family that describes a model, None for one we do not know."""
    return next((family for family in FAMILIES if family.pattern.fullmatch(model)), None)


def makes_no_images(model: str) -> bool:
    """Whether a model is known to be of another kind: video, speech, text, embeddings."""
    return _OTHER_KINDS.match(model) is not None
