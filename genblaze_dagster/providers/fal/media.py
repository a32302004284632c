"""Inputs of a step: into which member of a model's input each goes, and in what form."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.providers.fal.endpoints import MEDIA, USUAL_MEDIA
from genblaze_dagster.providers.fal.uploads import MAX_UPLOAD_BYTES
from genblaze_dagster.providers.model_spec import ModelSpec
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from genblaze_dagster.providers.vendor import inputs

Members = dict[str, list[InputMedia]]

_MAX_DATA_BYTES = 256_000


def members_of(request: GenerationRequest, spec: ModelSpec, payload: Mapping[str, Any]) -> Members:
    """Return which inputs go into which member.

    Raises:
        InvalidRequestError: one has no member, is too large, or wants a member that is taken.
    """
    members: Members = {}
    for item in request.inputs:
        member = _member(request, spec, item)
        if member in payload or (member in members and not _is_list(member)):
            raise _refused(request, member, f"{member} is given twice; leave one of them out")
        if item.public_url() is None:
            inputs.check_inputs("fal", (item,), at_most=1, max_bytes=MAX_UPLOAD_BYTES)
        members.setdefault(member, []).append(item)
    return members


async def written(
    members: Members, upload: Callable[[InputMedia], Awaitable[str]]
) -> dict[str, str | list[str]]:
    """Return the members as they are sent: URLs where the store has them, data URIs, or uploads."""
    body: dict[str, str | list[str]] = {}
    for member, items in members.items():
        urls = [await _uri(item, upload) for item in items]
        body[member] = urls if _is_list(member) else urls[0]
    return body


def _member(request: GenerationRequest, spec: ModelSpec, item: InputMedia) -> str:
    named = item.asset.metadata.get("field")
    if isinstance(named, str):
        return named
    media = spec.extras.get(MEDIA, USUAL_MEDIA)
    kind, role = item.asset.media_type.partition("/")[0], inputs.role_of(item)
    wanted = kind if role in (None, "first_frame", "reference") else f"{kind}:{role}"
    if wanted in media:
        return media[wanted]
    raise _refused(
        request,
        "inputs",
        f"takes {', '.join(media) or 'no inputs'}, not {wanted}; where that is wrong, name the "
        "member in the field of the input's metadata",
    )


def _is_list(member: str) -> bool:
    return member.endswith("s")


async def _uri(item: InputMedia, upload: Callable[[InputMedia], Awaitable[str]]) -> str:
    url = item.public_url()
    if url is not None:
        return url
    size = item.asset.size_bytes
    if size is not None and size <= _MAX_DATA_BYTES:
        return await inputs.data_uri("fal", item, max_bytes=_MAX_DATA_BYTES)
    return await upload(item)


def _refused(request: GenerationRequest, param: str, fact: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"fal {request.model}: {fact}",
        provider="fal",
        model=request.model,
        param=param,
        sent=False,
    )
