"""Image edits: what inputs a model takes, and the body with files in multipart or URLs in JSON."""

from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import StepType
from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.providers.openai.image_models import EditLimits
from genblaze_dagster.providers.openai.transfer import fetched_url
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from genblaze_dagster.providers.vendor import inputs

_MASK_BELOW_BYTES = 4 * 1024 * 1024
_MASK_TYPES = frozenset({"image/png"})


def is_edit(request: GenerationRequest) -> bool:
    """Whether the request goes to the edits endpoint."""
    return bool(request.inputs) or request.step_type is StepType.EDIT


def check_inputs(provider: str, request: GenerationRequest, limits: EditLimits | None) -> None:
    """Refuse inputs that the model does not edit; without limits only what no model takes.

    Raises:
        InvalidRequestError: too few or many, of another type, too large, or of different sizes.
    """
    images, mask = _split(provider, request)
    if limits is None:
        return
    if limits.max_images == 0:
        raise _refused(
            provider, "inputs", f"{request.model} cannot edit images; use a gpt-image model"
        )
    inputs.check_inputs(provider, images, at_most=limits.max_images)
    inputs.check_inputs(
        provider,
        images,
        at_most=limits.max_images,
        what="image",
        types=limits.types,
        max_bytes=limits.below_bytes - 1,
    )
    first = images[0].asset
    size = (first.width, first.height)
    if limits.squares_only and first.width != first.height:
        raise _refused(
            provider,
            "image",
            f"an image of {first.width}x{first.height}; {request.model} takes squares only",
        )
    if mask is not None:
        inputs.check_inputs(
            provider,
            [mask],
            at_most=1,
            what="mask",
            types=_MASK_TYPES,
            max_bytes=_MASK_BELOW_BYTES - 1,
        )
        mask_size = (mask.asset.width, mask.asset.height)
        if None not in (*size, *mask_size) and size != mask_size:
            raise _refused(provider, "mask", "the mask must have the size of the first image")


async def edit_body(
    provider: str, request: GenerationRequest, fields: Mapping[str, Any], *, by_url: bool
) -> dict[str, Any]:
    """Return the arguments of the HTTP request that carry the fields and the images.

    Raises:
        InvalidRequestError: no image, a field a form cannot carry, or no URL where one was asked.
        ProviderUnavailableError: an input cannot be read from the store; nothing was sent.
    """
    images, mask = _split(provider, request)
    if by_url:
        linked = {"images": [{"image_url": fetched_url(provider, image)} for image in images]}
        masked = {} if mask is None else {"mask": {"image_url": fetched_url(provider, mask)}}
        return {"json": {**fields, **linked, **masked}}
    for name, value in fields.items():
        if not isinstance(value, str | int | float):
            raise _refused(
                provider,
                name,
                f"{name} is a {type(value).__name__}; uploads take text, numbers and booleans",
            )
    # One image is the part `image`, several are `image[]`; the API insists.
    part_name = "image" if len(images) == 1 else "image[]"
    files = [await inputs.file_part(provider, part_name, image) for image in images]
    if mask is not None:
        files.append(await inputs.file_part(provider, "mask", mask))
    return {"data": dict(fields), "files": files}


def _split(
    provider: str, request: GenerationRequest
) -> tuple[tuple[InputMedia, ...], InputMedia | None]:
    """Return the images to edit, and the mask: the input whose metadata says `role: mask`."""
    masks = inputs.with_role(request.inputs, "mask")
    if len(masks) > 1:
        raise _refused(
            provider, "inputs", f"{len(masks)} inputs have the role 'mask'; at most one may"
        )
    images = tuple(item for item in request.inputs if inputs.role_of(item) != "mask")
    if not images:
        raise _refused(
            provider, "inputs", "an edit needs at least one input image besides the mask"
        )
    return images, masks[0] if masks else None


def _refused(provider: str, param: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{provider}: {message}", provider=provider, param=param, sent=False)
