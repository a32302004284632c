"""fal's endpoints that make videos. Each takes a duration in its own way, or none at all."""

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.fal.endpoints import endpoint, one_of, seconds_as_text
from genblaze_dagster.providers.fal.pricing import VEO
from genblaze_dagster.providers.param_schemas import IntSchema

_IMAGE = {"image": "image_url"}
_KLING = "prompt negative_prompt duration cfg_scale"
_KLING_SCHEMAS = {
    "duration": one_of("5", "10"),
    "aspect_ratio": one_of("16:9", "9:16", "1:1"),
}

FAMILIES = (
    endpoint(
        "minimax",
        "fal-ai/minimax/(video-01|hailuo-02/pro/text-to-video)",
        Modality.VIDEO,
        "prompt prompt_optimizer",
        examples=("fal-ai/minimax/video-01", "fal-ai/minimax/hailuo-02/pro/text-to-video"),
        about="videos of a length of their own",
        required=("prompt",),
    ),
    endpoint(
        "hailuo",
        "fal-ai/minimax/hailuo-02/[^/]+/text-to-video",
        Modality.VIDEO,
        "prompt duration prompt_optimizer",
        examples=("fal-ai/minimax/hailuo-02/standard/text-to-video",),
        about="videos",
        required=("prompt",),
        coercers={"duration": seconds_as_text()},
        schemas={"duration": one_of("6", "10")},
    ),
    endpoint(
        "hailuo-image",
        "fal-ai/minimax/hailuo-02/standard/image-to-video",
        Modality.VIDEO,
        "prompt image_url end_image_url duration resolution prompt_optimizer",
        examples=("fal-ai/minimax/hailuo-02/standard/image-to-video",),
        about="videos from an image",
        required=("prompt",),
        coercers={"duration": seconds_as_text()},
        schemas={"duration": one_of("6", "10"), "resolution": one_of("512P", "768P")},
        media={**_IMAGE, "image:last_frame": "end_image_url"},
        needs=("image_url",),
    ),
    endpoint(
        "kling",
        r"fal-ai/kling-video/v2(\.[15])?(-turbo)?/[^/]+/text-to-video",
        Modality.VIDEO,
        f"{_KLING} aspect_ratio",
        examples=("fal-ai/kling-video/v2/master/text-to-video",),
        about="videos",
        required=("prompt",),
        coercers={"duration": seconds_as_text()},
        schemas=_KLING_SCHEMAS,
    ),
    endpoint(
        "kling-image",
        r"fal-ai/kling-video/v2(/master|\.1/(master|standard))/image-to-video",
        Modality.VIDEO,
        f"{_KLING} image_url",
        examples=("fal-ai/kling-video/v2/master/image-to-video",),
        about="videos from an image",
        required=("prompt",),
        coercers={"duration": seconds_as_text()},
        schemas=_KLING_SCHEMAS,
        media=_IMAGE,
        needs=("image_url",),
    ),
    endpoint(
        "kling-others",
        "fal-ai/kling-video/.+",
        Modality.VIDEO,
        None,
        examples=("fal-ai/kling-video/v1.6/pro/image-to-video",),
        about="videos; of their members only the duration is known",
        coercers={"duration": seconds_as_text()},
    ),
    endpoint(
        "veo",
        r"fal-ai/veo3\.1(/fast)?",
        Modality.VIDEO,
        "prompt negative_prompt seed duration resolution aspect_ratio generate_audio auto_fix "
        "safety_tolerance",
        examples=("fal-ai/veo3.1", "fal-ai/veo3.1/fast"),
        about="videos with sound",
        required=("prompt",),
        coercers={"duration": seconds_as_text("s")},
        schemas={
            "duration": one_of("4s", "6s", "8s"),
            "resolution": one_of("720p", "1080p"),
            "aspect_ratio": one_of("16:9", "9:16"),
            "seed": IntSchema(),
        },
        pricing=VEO,
    ),
    endpoint(
        "veo-others",
        "fal-ai/veo.+",
        Modality.VIDEO,
        None,
        examples=("fal-ai/veo3.1/image-to-video",),
        about="videos with sound; of their members only the duration is known",
        coercers={"duration": seconds_as_text("s")},
    ),
    endpoint(
        "wan-image",
        "fal-ai/wan-i2v",
        Modality.VIDEO,
        "prompt negative_prompt seed image_url resolution aspect_ratio num_frames "
        "frames_per_second num_inference_steps guide_scale shift acceleration "
        "enable_prompt_expansion enable_safety_checker",
        examples=("fal-ai/wan-i2v",),
        about="videos from an image",
        required=("prompt",),
        schemas={
            "resolution": one_of("480p", "720p"),
            "aspect_ratio": one_of("auto", "16:9", "9:16", "1:1"),
            "seed": IntSchema(),
        },
        media=_IMAGE,
        needs=("image_url",),
    ),
)
