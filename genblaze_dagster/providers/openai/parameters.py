"""From a request's parameters to OpenAI's fields, and what is refused before anything is paid."""

from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality, StepType
from genblaze_dagster.errors import ModelError
from genblaze_dagster.providers.openai.families import Family, makes_no_images
from genblaze_dagster.providers.openai.refusals import listed, refuse, shown
from genblaze_dagster.providers.openai.sizes import check_size, size_from_standard
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia

IMAGE_TRANSFER = "image_transfer"
"""Our own parameter: `upload` sends input images as files, `url` as URLs the vendor fetches."""

_STANDARD = ("aspect_ratio", "resolution")
# Set by the request itself, or with the input images.
_RESERVED = frozenset({"model", "prompt", "image", "images", "mask"})


def is_edit(request: GenerationRequest) -> bool:
    """Whether the request goes to the edits endpoint."""
    return bool(request.inputs) or request.step_type is StepType.EDIT


def split_mask(
    inputs: tuple[InputMedia, ...],
) -> tuple[tuple[InputMedia, ...], InputMedia | None]:
    """Return the images to edit, and the mask: the input whose metadata says `role: mask`.

    Raises:
        InvalidRequestError: no image, or more than one mask.
    """
    masks = [item for item in inputs if _is_mask(item)]
    if len(masks) > 1:
        raise refuse("inputs", f"{len(masks)} inputs have the role 'mask'; at most one may")
    images = tuple(item for item in inputs if not _is_mask(item))
    if not images:
        raise refuse("inputs", "an edit needs at least one input image besides the mask")
    return images, masks[0] if masks else None


def native_fields(request: GenerationRequest, family: Family | None) -> dict[str, Any]:
    """Return the JSON or form fields of a request, without images.

    Raises:
        InvalidRequestError: a parameter has no equivalent here; nothing is dropped in silence.
    """
    allowed = _allowed(request, family)
    for name, value in (("negative_prompt", request.negative_prompt), ("seed", request.seed)):
        if value is not None:
            raise refuse(name, f"OpenAI's image models have no {name}{_instead(allowed)}")
    fields: dict[str, Any] = {"model": request.model, "prompt": request.prompt}
    for name, value in request.params.items():
        if value is not None:
            _check_name(name, request.model, allowed)
            if name not in (*_STANDARD, IMAGE_TRANSFER):
                fields[name] = value
    size = size_from_standard(request.model, request.params, family)
    if size is not None:
        fields["size"] = size
    if fields.get("output_format") == "jpg":
        fields["output_format"] = "jpeg"
    return fields


def check_request(
    request: GenerationRequest, family: Family | None, fields: Mapping[str, Any]
) -> None:
    """Refuse values the model is known not to take.

    Raises:
        InvalidRequestError: names the parameter, the value and what is allowed.
        ModelError: the model makes no images.
    """
    if makes_no_images(request.model):
        raise ModelError(
            f"openai: {request.model!r} makes no images; use gpt-image-2 or another image model",
            provider="openai",
            model=request.model,
            sent=False,
        )
    if request.modality is not Modality.IMAGE:
        raise refuse("modality", f"openai makes images here, not {request.modality.value}")
    if not request.prompt:
        raise refuse("prompt", f"{request.model} needs a prompt; it is empty")
    images, mask = split_mask(request.inputs) if is_edit(request) else ((), None)
    if family is None:
        return
    if len(request.prompt) > family.max_prompt:
        raise refuse(
            "prompt",
            f"the prompt has {len(request.prompt)} characters; "
            f"{family.name} takes at most {family.max_prompt}",
        )
    _check_values(fields, family)
    check_size(fields, family)
    if images:
        transfers_by_url(request, family)
        _check_images(images, mask, family)


def transfers_by_url(request: GenerationRequest, family: Family | None) -> bool:
    """Whether the input images go as URLs; by default they are uploaded.

    Raises:
        InvalidRequestError: `image_transfer` is neither, or the model takes files only.
    """
    transfer = request.params.get(IMAGE_TRANSFER) or "upload"
    if transfer not in ("upload", "url"):
        raise refuse(IMAGE_TRANSFER, f"{IMAGE_TRANSFER}={shown(transfer)}; allowed: upload, url")
    if transfer == "url" and family is not None and not family.edits_by_url:
        raise refuse(IMAGE_TRANSFER, f"{family.name} takes uploaded images only")
    return transfer == "url"


def _allowed(request: GenerationRequest, family: Family | None) -> frozenset[str] | None:
    if family is None:
        return None
    own = family.params | {*_STANDARD}
    return own | family.edit_params | {IMAGE_TRANSFER} if is_edit(request) else own


def _check_name(name: str, model: str, allowed: frozenset[str] | None) -> None:
    if name in _RESERVED:
        raise refuse(name, f"{name!r} is part of the request itself, not a parameter")
    if name in ("stream", "partial_images"):
        raise refuse(name, "partial images are not supported; leave the parameter out")
    if allowed is not None and name not in allowed:
        raise refuse(name, f"{model} has no parameter {name!r}{_instead(allowed)}")


def _instead(allowed: frozenset[str] | None) -> str:
    return "" if allowed is None else f". Allowed: {listed(allowed)}"


def _check_values(fields: Mapping[str, Any], family: Family) -> None:
    for name, allowed in family.values.items():
        value = fields.get(name)
        if value is not None and value not in allowed:
            raise refuse(name, f"{name}={shown(value)}; {family.name} takes {listed(allowed)}")
    _check_whole_number(fields, "n", 1, family.max_n, family)
    _check_whole_number(fields, "output_compression", 0, 100, family)
    output_format = fields.get("output_format", "png")
    if fields.get("output_compression") is not None and output_format == "png":
        raise refuse("output_compression", "png is not compressed; use jpeg or webp")
    if fields.get("background") == "transparent" and output_format == "jpeg":
        raise refuse("background", "jpeg cannot be transparent; use png or webp")


def _check_whole_number(
    fields: Mapping[str, Any], name: str, low: int, high: int, family: Family
) -> None:
    value = fields.get(name)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise refuse(name, f"{name}={shown(value)}; {family.name} takes {low} to {high}")


def _check_images(images: tuple[InputMedia, ...], mask: InputMedia | None, family: Family) -> None:
    if family.max_images == 0:
        raise refuse("inputs", f"{family.name} cannot edit images; use a gpt-image model")
    if len(images) > family.max_images:
        raise refuse(
            "inputs",
            f"{len(images)} images to edit; {family.name} takes at most {family.max_images}",
        )
    for image in images:
        _check_image(image, "image", family.max_image_bytes, family.image_types, family)
    first = images[0].asset
    if family.name == "dall-e-2" and first.width != first.height:
        raise refuse("image", f"{first.width}x{first.height}; {family.name} takes squares only")
    if mask is not None:
        _check_image(mask, "mask", 4 * 1024 * 1024, ("image/png",), family)
        if None not in (first.width, mask.asset.width) and (first.width, first.height) != (
            mask.asset.width,
            mask.asset.height,
        ):
            raise refuse("mask", "the mask must have the size of the first image")


def _check_image(
    item: InputMedia, name: str, max_bytes: int, types: tuple[str, ...], family: Family
) -> None:
    asset = item.asset
    if asset.media_type not in types:
        raise refuse(name, f"input of type {asset.media_type}; {family.name} takes {listed(types)}")
    if asset.size_bytes is not None and asset.size_bytes >= max_bytes:
        raise refuse(name, f"input of {asset.size_bytes} bytes; must be below {max_bytes}")


def _is_mask(item: InputMedia) -> bool:
    return item.asset.metadata.get("role") == "mask"
