"""Which field of a model's payload takes which input: by the input's kind and its role."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genblaze_dagster.errors import InvalidRequestError
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia
from genblaze_dagster.providers.vendor import inputs

FIRST = (None, "first_frame")
LAST = ("last_frame",)
REFERENCE = ("reference",)
ANY_REFERENCE = (None, "reference")

_MAX_DATA_BYTES = 10 * 1024 * 1024
_KINDS = ("image", "video", "audio")


@dataclass(frozen=True, slots=True)
class Slot:
    """A field that takes media.

    Args:
        field: its name in the payload.
        kind: `image`, `video` or `audio`.
        roles: of the inputs it takes; None is an input without one.
        most: how many it takes, None when nobody says. One that `is_list` takes a list even of one.
        is_list: whether its value is a list.
        by_url: whether it takes nothing but URLs.
        is_required: whether the model does nothing without it.
    """

    field: str
    kind: str = "image"
    roles: tuple[str | None, ...] = (None,)
    most: int | None = 1
    is_list: bool = False
    by_url: bool = False
    is_required: bool = False


Placed = Mapping[Slot, Sequence[InputMedia]]


def place(
    vendor: str, request: GenerationRequest, slots: Sequence[Slot] | None, given: Mapping[str, Any]
) -> Placed:
    """Return which input goes where.

    Args:
        vendor: named in refusals.
        request: its inputs.
        slots: of the model; None for one that nobody knows: then the field is what the input's
            metadata names as `field`, else its kind.
        given: the payload so far, which may hold media as native parameters.

    Raises:
        InvalidRequestError: an input without a field, too many for one, none where one is needed,
            or a field that has a parameter already.
    """
    placed: dict[Slot, list[InputMedia]] = {}
    for item in request.inputs:
        slot = _slot_by_field(vendor, item) if slots is None else _slot_of(vendor, item, slots)
        placed.setdefault(slot, []).append(item)
    for slot, items in placed.items():
        if slot.field in given:
            raise _refused(
                vendor, slot.field, f"{slot.field} is given both as a parameter and as an input"
            )
        if slot.most is not None and len(items) > slot.most:
            raise _refused(
                vendor,
                "inputs",
                f"{len(items)} inputs for {slot.field}; {request.model} takes at most {slot.most}",
            )
    for slot in slots or ():
        if slot.is_required and slot not in placed and slot.field not in given:
            raise _refused(
                vendor, slot.field, f"{request.model} needs an input of type {slot.kind}"
            )
    return placed


async def media_of(vendor: str, placed: Placed) -> dict[str, Any]:
    """Return the fields with the media: URLs where the store has them, else data URIs.

    Raises:
        InvalidRequestError: there is no URL where one is needed, or too many bytes for a data URI.
        ProviderUnavailableError: an input cannot be read from the store; nothing was sent.
    """
    fields: dict[str, Any] = {}
    for slot, items in placed.items():
        values = [await _value(vendor, slot, item) for item in items]
        fields[slot.field] = values if slot.is_list or len(values) > 1 else values[0]
    return fields


async def _value(vendor: str, slot: Slot, item: InputMedia) -> str:
    if slot.by_url:
        return inputs.public_url(vendor, item)
    return await inputs.url_or_data(vendor, item, max_data_bytes=_MAX_DATA_BYTES)


def _slot_of(vendor: str, item: InputMedia, slots: Sequence[Slot]) -> Slot:
    kind, role = _kind(item), inputs.role_of(item)
    for slot in slots:
        if slot.kind == kind and role in slot.roles:
            return slot
    taken = ", ".join(f"{slot.kind}{_spoken(slot.roles)}" for slot in slots) or "none"
    named = kind if role is None else f"{kind} of another role"
    raise _refused(vendor, "inputs", f"an input that is {named}; the model takes: {taken}")


def _slot_by_field(vendor: str, item: InputMedia) -> Slot:
    # Equal for equal fields, whatever the kinds: what goes into one field is one list.
    named = item.asset.metadata.get("field")
    if isinstance(named, str) and named:
        return Slot(named, most=None)
    if _kind(item) not in _KINDS or inputs.role_of(item) is not None:
        raise _refused(
            vendor,
            "inputs",
            f"an input of type {item.asset.media_type}, or with this role, has no usual field; the "
            "model's are not known here, so name it in the input's metadata as field",
        )
    return Slot(_kind(item), most=None)


def _spoken(roles: Sequence[str | None]) -> str:
    return "" if None in roles else f" of role {' or '.join(filter(None, roles))}"


def _kind(item: InputMedia) -> str:
    return item.asset.media_type.partition("/")[0]


def _refused(vendor: str, param: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{vendor}: {message}", provider=vendor, param=param, sent=False)
