"""What the video models at GMI take, by family.

From GMI's own pages, but for Seedance 2 and HappyHorse (copies of GMI's guide by others) and PixVerse
and Wan (unverified, so their parameters go as they are).
"""

import re

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.gmicloud.parameters import (
    SORA_SIZES,
    digits,
    each,
    on_or_off,
    single,
    sized_by,
)
from genblaze_dagster.providers.gmicloud.slots import ANY_REFERENCE, FIRST, LAST, REFERENCE, Slot
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    FloatSchema,
    IntSchema,
    StringSchema,
)

_KLING_COERCERS = {"duration": digits, "sound": on_or_off}
_KLING_SECONDS = EnumSchema(frozenset({"5", "10"}))
_SOUND = EnumSchema(frozenset({"on", "off"}))
_FRAMES = (Slot("first_frame", roles=FIRST), Slot("last_frame", roles=LAST))
_VEO_ALIASES = {
    "duration": "durationSeconds",
    "aspect_ratio": "aspectRatio",
    "negative_prompt": "negativePrompt",
    "generate_audio": "generateAudio",
    "person_generation": "personGeneration",
}


def _kling_of_2025(name: str, pattern: str, example: str, *slots: Slot) -> ModelFamily:
    media = {slot.field for slot in slots}
    return ModelFamily(
        name=name,
        pattern=re.compile(pattern, re.IGNORECASE),
        description="Kling 1.6 and 2.1",
        example_slugs=(example,),
        spec_template=ModelSpec(
            model_id=name,
            modality=Modality.VIDEO,
            param_transformer=single,
            param_coercers=_KLING_COERCERS,
            param_schemas={"duration": _KLING_SECONDS, "cfg_scale": FloatSchema()},
            param_allowlist=frozenset(
                {"prompt", "negative_prompt", "cfg_scale", "duration"} | media
            ),
            extras={"slots": slots},
        ),
    )


VIDEO_FAMILIES = (
    ModelFamily(
        name="sora",
        pattern=re.compile(r"sora-2"),
        description="OpenAI's Sora",
        example_slugs=("sora-2", "sora-2-pro"),
        spec_template=ModelSpec(
            model_id="sora-2",
            modality=Modality.VIDEO,
            param_aliases={"duration": "seconds"},
            param_transformer=each(single, sized_by(SORA_SIZES)),
            param_coercers={"seconds": digits},
            param_schemas={
                "prompt": StringSchema(min_len=1),
                "seconds": EnumSchema(frozenset({"4", "8", "12"})),
                "size": StringSchema(pattern=r"\d+x\d+$"),
            },
            param_required=frozenset({"prompt"}),
            param_allowlist=frozenset({"prompt", "input_reference", "seconds", "size"}),
            extras={"slots": (Slot("input_reference", roles=FIRST, by_url=True),)},
        ),
    ),
    ModelFamily(
        name="veo",
        pattern=re.compile(r"veo-?3", re.IGNORECASE),
        description="Google's Veo, under Google's names of the parameters",
        example_slugs=("veo-3.1-generate-preview", "Veo3"),
        spec_template=ModelSpec(
            model_id="veo-3.1-generate-preview",
            modality=Modality.VIDEO,
            param_aliases=_VEO_ALIASES,
            param_transformer=single,
            param_schemas={
                "durationSeconds": IntSchema(enum=frozenset({4, 6, 8})),
                "aspectRatio": EnumSchema(frozenset({"16:9", "9:16"})),
                "generateAudio": BoolSchema(),
                "seed": IntSchema(),
            },
            param_allowlist=frozenset(
                {*_VEO_ALIASES.values(), "prompt", "seed"}
                | {"image", "lastFrame", "reference_image"}
            ),
            extras={
                "slots": (
                    Slot("image", roles=FIRST),
                    Slot("lastFrame", roles=LAST),
                    Slot("reference_image", roles=REFERENCE),
                )
            },
        ),
    ),
    ModelFamily(
        name="kling-v3-image",
        pattern=re.compile(r"kling-v3-image-to-video"),
        description="Kling 3 from one or two frames",
        example_slugs=("kling-v3-image-to-video",),
        spec_template=ModelSpec(
            model_id="kling-v3-image-to-video",
            modality=Modality.VIDEO,
            param_aliases={"generate_audio": "sound"},
            param_transformer=single,
            param_coercers=_KLING_COERCERS,
            param_schemas={
                "duration": EnumSchema(frozenset(map(str, range(3, 16)))),
                "sound": _SOUND,
            },
            param_allowlist=frozenset(
                {"prompt", "negative_prompt", "duration", "sound", "image", "image_tail"}
            ),
            extras={
                "slots": (
                    Slot("image", roles=FIRST, is_required=True),
                    Slot("image_tail", roles=LAST),
                )
            },
        ),
    ),
    ModelFamily(
        name="kling-v2.6",
        pattern=re.compile(r"kling-v2-6"),
        description="Kling 2.6",
        example_slugs=("kling-v2-6",),
        spec_template=ModelSpec(
            model_id="kling-v2-6",
            modality=Modality.VIDEO,
            param_aliases={"generate_audio": "sound"},
            param_transformer=single,
            param_coercers=_KLING_COERCERS,
            param_schemas={
                "duration": _KLING_SECONDS,
                "sound": _SOUND,
                "cfg_scale": FloatSchema(),
            },
            param_allowlist=frozenset(
                {"prompt", "duration", "sound", "mode", "cfg_scale", "image"}
            ),
            extras={"slots": (Slot("image", roles=FIRST),)},
        ),
    ),
    _kling_of_2025(
        "kling-image2video",
        r"kling-image2video-v(1\.6|2\.1)-",
        "Kling-Image2Video-V1.6-Pro",
        Slot("image", roles=FIRST, is_required=True),
    ),
    _kling_of_2025(
        "kling-text2video", r"kling-text2video-v(1\.6|2\.1)-", "Kling-Text2Video-V2.1-Master"
    ),
    ModelFamily(
        name="kling",
        pattern=re.compile(r"kling-", re.IGNORECASE),
        description="other Kling models; all of them want the seconds as text",
        spec_template=ModelSpec(
            model_id="kling", modality=Modality.VIDEO, param_coercers={"duration": digits}
        ),
    ),
    ModelFamily(
        name="seedance-2",
        pattern=re.compile(r"seedance-2"),
        description="Seedance 2: from text, frames, or references of any kind",
        example_slugs=("seedance-2-0-260128",),
        spec_template=ModelSpec(
            model_id="seedance-2-0-260128",
            modality=Modality.VIDEO,
            param_aliases={"aspect_ratio": "ratio"},
            param_transformer=single,
            param_schemas={
                "duration": IntSchema(min=4, max=15),
                "resolution": StringSchema(min_len=1),
                "ratio": StringSchema(min_len=1),
                "seed": IntSchema(),
                "watermark": BoolSchema(),
                "generate_audio": BoolSchema(),
            },
            param_allowlist=frozenset(
                {"prompt", "duration", "resolution", "ratio", "seed", "watermark"}
                | {"generate_audio", "first_frame", "last_frame"}
                | {"reference_images", "reference_videos", "reference_audios"}
            ),
            extras={
                "slots": (
                    *_FRAMES,
                    Slot("reference_images", roles=REFERENCE, most=None, is_list=True),
                    Slot("reference_videos", "video", ANY_REFERENCE, most=None, is_list=True),
                    Slot("reference_audios", "audio", ANY_REFERENCE, most=None, is_list=True),
                )
            },
        ),
    ),
    ModelFamily(
        name="seedance",
        pattern=re.compile(r"seedance-"),
        description="earlier Seedance models; unverified, but for the name of the shape",
        spec_template=ModelSpec(
            model_id="seedance", modality=Modality.VIDEO, param_aliases={"aspect_ratio": "ratio"}
        ),
    ),
    ModelFamily(
        name="happyhorse",
        pattern=re.compile(r"happyhorse-"),
        description="HappyHorse, from text or frames",
        spec_template=ModelSpec(
            model_id="happyhorse",
            modality=Modality.VIDEO,
            param_transformer=single,
            param_allowlist=frozenset(
                {"prompt", "first_frame", "last_frame", "resolution", "duration"}
            ),
            extras={"slots": _FRAMES},
        ),
    ),
    ModelFamily(
        name="wan-pixverse",
        pattern=re.compile(r"wan\d+\.\d+-r2v$|pixverse-"),
        description="Wan from references, and PixVerse; unverified",
        spec_template=ModelSpec(
            model_id="wan-pixverse",
            modality=Modality.VIDEO,
            extras={
                "slots": (
                    Slot("image_url", roles=(*FIRST, "reference")),
                    Slot("tail_image_url", roles=LAST),
                )
            },
        ),
    ),
)
