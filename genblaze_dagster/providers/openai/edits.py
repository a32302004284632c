"""The body of an image edit: files in multipart, or URLs in JSON."""

from collections.abc import Mapping
from posixpath import basename
from typing import Any
from urllib.parse import unquote, urlsplit

from genblaze_dagster.errors import GenblazeError, ProviderUnavailableError
from genblaze_dagster.media.sniff import extension_for
from genblaze_dagster.net.client import FilePart
from genblaze_dagster.providers.openai.families import Family
from genblaze_dagster.providers.openai.parameters import (
    IMAGE_TRANSFER,
    split_mask,
    transfers_by_url,
)
from genblaze_dagster.providers.openai.refusals import refuse, shown
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia


async def edit_body(
    request: GenerationRequest, family: Family | None, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of the HTTP request that carry the fields and the images.

    Raises:
        InvalidRequestError: no image, a field a form cannot carry, or no URL where one was asked.
        ProviderUnavailableError: an input cannot be read from the store; nothing was sent.
    """
    images, mask = split_mask(request.inputs)
    if transfers_by_url(request, family):
        return {"json": _by_url(fields, images, mask)}
    for name, value in fields.items():
        if not isinstance(value, str | int | float):
            raise refuse(name, f"{name}={shown(value)}; uploads take text, numbers and booleans")
    # One image is the part `image`, several are `image[]`; the API insists.
    part_name = "image" if len(images) == 1 else "image[]"
    files = [await _file_part(part_name, image) for image in images]
    if mask is not None:
        files.append(await _file_part("mask", mask))
    return {"data": dict(fields), "files": files}


def _by_url(
    fields: Mapping[str, Any], images: tuple[InputMedia, ...], mask: InputMedia | None
) -> dict[str, Any]:
    body = {**fields, "images": [{"image_url": _public_url(image)} for image in images]}
    if mask is not None:
        body["mask"] = {"image_url": _public_url(mask)}
    return body


def _public_url(item: InputMedia) -> str:
    url = item.public_url()
    if url is None:
        raise refuse(
            IMAGE_TRANSFER,
            f"{IMAGE_TRANSFER}='url', but the store has no public URL for input "
            f"{item.asset.asset_id}; leave the parameter out to upload the image",
        )
    return url


async def _file_part(part_name: str, item: InputMedia) -> FilePart:
    try:
        data = await item.read()
    except GenblazeError as exc:
        raise ProviderUnavailableError(
            f"openai: input {item.asset.asset_id} cannot be read from the store: {exc}",
            provider="openai",
            transient=exc.transient,
            sent=False,
        ) from exc
    return part_name, (_file_name(item), data, item.asset.media_type)


def _file_name(item: InputMedia) -> str:
    name = basename(unquote(urlsplit(item.asset.url).path))
    return name if "." in name else f"image{extension_for(item.asset.media_type)}"
