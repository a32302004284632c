"""What Sora accepts, as data: parameters, operations and prices."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.constraints import Constraint
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec, ParamTransformer
from genblaze_dagster.providers.openai.sizes import FindSize, no_size, one_of, sized_by
from genblaze_dagster.providers.openai.transfer import IMAGE_TRANSFER, UPLOADS_AND_URLS
from genblaze_dagster.providers.param_schemas import EnumSchema, StringSchema, refuse
from genblaze_dagster.providers.prices import InWords
from genblaze_dagster.providers.pricing import PricingContext

OPERATION = "operation"
"""Our own parameter: what to do with an earlier video; without it a new one is made."""

VIDEO_ID = "video_id"
"""Our own parameter: OpenAI's id of the earlier video."""

SECONDS = ("4", "8", "12")
EXTENSION_SECONDS = (*SECONDS, "16", "20")

_PAID_BY_SECOND: Mapping[str, Mapping[str, float]] = {
    "sora-2": {"720x1280": 0.10, "1280x720": 0.10},
    "sora-2-pro": {"720x1280": 0.30, "1280x720": 0.30},
}
_DEFAULTS = {"seconds": "4", "size": "720x1280"}
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_ALIASES = {"duration": "seconds"}
_PARAMS = frozenset(
    {"prompt", "seconds", "size", "input_reference", OPERATION, VIDEO_ID, IMAGE_TRANSFER}
)
# What each operation takes; None stands for a new video.
_TAKEN: Mapping[str | None, frozenset[str]] = {
    None: _PARAMS - {OPERATION, VIDEO_ID},
    "remix": frozenset({"prompt", OPERATION, VIDEO_ID}),
    "edit": frozenset({"prompt", OPERATION, VIDEO_ID}),
    "extend": frozenset({"prompt", OPERATION, VIDEO_ID, "seconds"}),
}


def base_model(model: str) -> str:
    """Return a model's name without the date of a snapshot."""
    return _SNAPSHOT.sub("", model)


def price(context: PricingContext) -> float | None:
    """Return what a new video costs by its seconds, model and size, in USD.

    As OpenAI's model pages said in 2026. The larger sizes and what is made of earlier videos have
    an unknown price.
    """
    step = context.step
    facts = {**_DEFAULTS, **step.params, **context.provider_payload}
    if any(facts.get(name) is not None for name in (OPERATION, VIDEO_ID)) or any(
        asset.media_type.startswith("video/") for asset in step.inputs
    ):
        return None
    rate = _PAID_BY_SECOND.get(base_model(step.model), {}).get(str(facts["size"]))
    if rate is None or facts["seconds"] not in SECONDS:
        return None
    return round(rate * int(facts["seconds"]), 4)


_PRICE = InWords(price, "by second and size")


def _seconds(value: Any) -> Any:
    """Write whole numbers as the text the API wants."""
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if is_whole and not isinstance(value, bool) else value


def _transform(find: FindSize) -> ParamTransformer:
    sized = sized_by(find)

    def transform(params: dict[str, Any]) -> dict[str, Any]:
        native = sized(params)
        count = native.pop("n", 1)
        if isinstance(count, bool) or count != 1:
            refuse("n", "one video per job; run n items")
        if native.pop("output_format", "mp4") != "mp4":
            refuse("output_format", "expected 'mp4', the only format")
        return native

    return transform


class _ReferenceSchema:
    """A picture by URL or file id."""

    def validate(self, key: str, value: Any) -> None:
        """Refuse everything else."""
        names = set(cast(Mapping[Any, Any], value)) if isinstance(value, Mapping) else set[Any]()
        if names not in ({"image_url"}, {"file_id"}):
            refuse(key, 'expected {"image_url": ...} or {"file_id": ...}')


def _fits_operation(params: dict[str, Any]) -> None:
    operation = params.get(OPERATION)
    for name in sorted(_PARAMS - _TAKEN[operation]):
        if params.get(name) is not None:
            what = f"operation {operation!r}" if operation else "a new video; give operation"
            refuse(name, f"not a parameter of {what}")
    if operation == "remix" and params.get(VIDEO_ID) is None:
        refuse(VIDEO_ID, "missing; a remix is made of an earlier video of OpenAI's")


def _has_known_length(params: dict[str, Any]) -> None:
    if params.get("seconds") is not None:
        allowed = EXTENSION_SECONDS if params.get(OPERATION) == "extend" else SECONDS
        EnumSchema(frozenset(allowed)).validate("seconds", params["seconds"])


def _spec(
    model_id: str, sizes: Sequence[str] | None, *constraints: Constraint, **fields: Any
) -> ModelSpec:
    return ModelSpec(
        model_id=model_id,
        modality=Modality.VIDEO,
        param_aliases=_ALIASES,
        param_transformer=_transform(no_size if sizes is None else one_of(sizes)),
        param_coercers={"seconds": _seconds},
        param_schemas={
            "prompt": StringSchema(min_len=1, max_len=32_000),
            "input_reference": _ReferenceSchema(),
            OPERATION: EnumSchema(frozenset({"remix", "edit", "extend"})),
            VIDEO_ID: StringSchema(pattern=r"[A-Za-z0-9_-]{1,128}$"),
            IMAGE_TRANSFER: UPLOADS_AND_URLS,
            **({} if sizes is None else {"size": EnumSchema(frozenset(sizes))}),
        },
        param_required=frozenset({"prompt"}),
        param_constraints=(_fits_operation, *constraints),
        **fields,
    )


def _family(name: str, sizes: Sequence[str]) -> ModelFamily:
    return ModelFamily(
        name=name,
        pattern=re.compile(rf"{name}(-\d{{4}}-\d{{2}}-\d{{2}})?$"),
        description="video with sound; shut down on 24 September 2026",
        example_slugs=(name,),
        spec_template=_spec(
            name, sizes, _has_known_length, pricing=_PRICE, param_allowlist=_PARAMS
        ),
    )


_SIZES = ("720x1280", "1280x720")
FAMILIES = (
    _family("sora-2-pro", (*_SIZES, "1024x1792", "1792x1024")),
    _family("sora-2", _SIZES),
)
OTHERS = _spec("*", None)
"""Newer models and the server's own choice: any parameter, under the API's names."""
