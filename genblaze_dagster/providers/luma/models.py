"""What Luma's models take, by family: the Dream Machine API's ray and photon, and its successor's."""

import re
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.luma.pricing import PRICE
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import BoolSchema, EnumSchema, StringSchema, refuse

SUCCESSOR = re.compile(r"(uni-1|ray-3)")
"""Models of the successor API, which has another host and another key."""

_RATIOS = EnumSchema(frozenset({"1:1", "16:9", "9:16", "4:3", "3:4", "21:9", "9:21"}))
_VIDEO = ("duration", "resolution", "loop", "hdr")
_AGENTS_SECONDS = EnumSchema(frozenset({"5s", "10s"}))
_PROMPT = StringSchema(min_len=1)


def _seconds(value: Any) -> Any:
    """Write whole seconds as Luma wants them: 5 becomes "5s"."""
    return f"{value}s" if isinstance(value, int) and not isinstance(value, bool) else value


def _format(value: Any) -> Any:
    return "jpg" if value == "jpeg" else value


def _nested(params: dict[str, Any]) -> dict[str, Any]:
    """Put what concerns the video where the successor API looks for it."""
    native = dict(params)
    if not isinstance(native.get("video", {}), dict):
        refuse("video", "expected an object such as {'duration': '5s'}")
    video = {name: native.pop(name) for name in _VIDEO if name in native}
    if "duration" in video:
        video["duration"] = _seconds(video["duration"])
    if video:
        native["video"] = {**video, **native.get("video", {})}
    if "duration" in native.get("video", {}):
        _AGENTS_SECONDS.validate("duration", native["video"]["duration"])
    return native


FAMILIES = (
    ModelFamily(
        name="luma-agents",
        pattern=SUCCESSOR,
        description="the successor API's images and videos",
        example_slugs=("uni-1", "uni-1-max", "ray-3.2"),
        spec_template=ModelSpec(
            model_id="uni-1",
            pricing=PRICE,
            param_transformer=_nested,
            param_schemas={
                "prompt": _PROMPT,
                "aspect_ratio": _RATIOS,
                "output_format": EnumSchema(frozenset({"png", "jpeg"})),
                "web_search": BoolSchema(),
            },
            param_required=frozenset({"prompt"}),
            param_allowlist=frozenset(
                {"prompt", "type", "aspect_ratio", "output_format", "style", "web_search", "video"}
            ),
        ),
    ),
    ModelFamily(
        name="ray",
        pattern=re.compile(r"ray-"),
        description="videos",
        example_slugs=("ray-2", "ray-flash-2"),
        spec_template=ModelSpec(
            model_id="ray-2",
            modality=Modality.VIDEO,
            param_coercers={"duration": _seconds},
            param_schemas={
                "duration": EnumSchema(frozenset({"5s", "9s"})),
                "aspect_ratio": _RATIOS,
                "resolution": EnumSchema(frozenset({"540p", "720p", "1080p", "4k"})),
                "loop": BoolSchema(),
            },
            param_allowlist=frozenset(
                {"prompt", "duration", "aspect_ratio", "resolution", "loop", "concepts"}
                | {"callback_url", "keyframes"}
            ),
        ),
    ),
    ModelFamily(
        name="photon",
        pattern=re.compile(r"photon-"),
        description="images",
        example_slugs=("photon-1", "photon-flash-1"),
        spec_template=ModelSpec(
            model_id="photon-1",
            modality=Modality.IMAGE,
            param_aliases={"output_format": "format"},
            param_coercers={"format": _format},
            param_schemas={
                "prompt": _PROMPT,
                "aspect_ratio": _RATIOS,
                "format": EnumSchema(frozenset({"jpg", "png"})),
            },
            param_required=frozenset({"prompt"}),
            param_allowlist=frozenset(
                {"prompt", "aspect_ratio", "format", "image_ref", "style_ref", "character_ref"}
                | {"modify_image_ref", "callback_url"}
            ),
        ),
    ),
)
