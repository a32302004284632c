"""Which input of a step goes into which field of the vendor's request, by media type.

Inputs that find no slot are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import ConfigError

InputMapping = Callable[[Sequence[Asset]], dict[str, Any]]
"""From the inputs of a step, in order, to fields of the payload."""


def route_images(
    *, slots: Sequence[str] | None = None, array_slot: str | None = None
) -> InputMapping:
    """Put the first images into `slots` one by one, and the rest as a list into `array_slot`.

    Raises:
        ConfigError: neither is given.
    """
    if isinstance(slots, str) or not (slots or array_slot):
        raise ConfigError(
            "route_images has nowhere to put an image; give slots=['image'] or array_slot='images'"
        )
    names = tuple(slots or ())

    def route(assets: Sequence[Asset]) -> dict[str, Any]:
        images = _urls(assets, "image")
        fields: dict[str, Any] = dict(zip(names, images, strict=False))
        if array_slot is not None and len(images) > len(names):
            fields[array_slot] = images[len(names) :]
        return fields

    return route


def route_video(*, slot: str = "video") -> InputMapping:
    """Put the first video into a slot."""
    return _first("video", slot)


def route_audio(*, slot: str = "audio") -> InputMapping:
    """Put the first sound into a slot."""
    return _first("audio", slot)


def route_by_media_type(slots: Mapping[str, str]) -> InputMapping:
    """Put the first input of each kind into its slot.

    Args:
        slots: slot by media type, `image/png`, or by its first part, `image`; the more exact name
            wins.
    """
    by_type = {name.removesuffix("*").removesuffix("/"): slot for name, slot in slots.items()}

    def route(assets: Sequence[Asset]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for asset in assets:
            slot = by_type.get(asset.media_type) or by_type.get(_kind(asset))
            if slot is not None:
                fields.setdefault(slot, asset.url)
        return fields

    return route


def route_keyframes(
    *,
    frames: Sequence[str] = ("frame0", "frame1"),
    key: str = "keyframes",
    wrap: Callable[[Asset], dict[str, Any]] | None = None,
) -> InputMapping:
    """Put the first images as named frames under one key.

    Args:
        frames: names of the frames, in order.
        key: where the object with the frames goes.
        wrap: makes one frame; `{"type": "image", "url": ...}` when left out.
    """
    made = wrap or _frame

    def route(assets: Sequence[Asset]) -> dict[str, Any]:
        images = [asset for asset in assets if _kind(asset) == "image"]
        named = {name: made(image) for name, image in zip(frames, images, strict=False)}
        return {key: named} if named else {}

    return route


def chain_routers(*mappers: InputMapping) -> InputMapping:
    """Ask every router; when two fill the same field, the later one does."""

    def route(assets: Sequence[Asset]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for mapper in mappers:
            fields |= mapper(assets)
        return fields

    return route


def _first(kind: str, slot: str) -> InputMapping:
    def route(assets: Sequence[Asset]) -> dict[str, Any]:
        urls = _urls(assets, kind)
        return {slot: urls[0]} if urls else {}

    return route


def _urls(assets: Sequence[Asset], kind: str) -> list[str]:
    return [asset.url for asset in assets if _kind(asset) == kind]


def _kind(asset: Asset) -> str:
    return asset.media_type.partition("/")[0]


def _frame(image: Asset) -> dict[str, Any]:
    return {"type": "image", "url": image.url}
