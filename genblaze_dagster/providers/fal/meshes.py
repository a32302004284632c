"""fal's endpoints that make 3D models.

A manifest knows images, videos, sound and text: a step that makes a 3D model is declared as an
image, and the output's media type (`model/gltf-binary`, ...) says what it is.
"""

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.fal.endpoints import endpoint, one_of

MESH_TYPES = {
    "glb": "model/gltf-binary",
    "gltf": "model/gltf+json",
    "obj": "model/obj",
    "stl": "model/stl",
    "usdz": "model/vnd.usdz+zip",
}
"""Media types by extension; FBX has none."""

_IMAGE = {"image": "image_url"}

FAMILIES = (
    endpoint(
        "triposr",
        "fal-ai/triposr",
        Modality.IMAGE,
        "image_url output_format do_remove_background foreground_ratio mc_resolution",
        examples=("fal-ai/triposr",),
        about="3D from an image",
        schemas={"output_format": one_of("glb", "obj")},
        media=_IMAGE,
        needs=("image_url",),
    ),
    endpoint(
        "trellis",
        "fal-ai/trellis",
        Modality.IMAGE,
        "image_url seed mesh_simplify texture_size slat_guidance_strength slat_sampling_steps "
        "ss_guidance_strength ss_sampling_steps",
        examples=("fal-ai/trellis",),
        about="3D from an image",
        media=_IMAGE,
        needs=("image_url",),
    ),
    endpoint(
        "rodin",
        "fal-ai/hyper3d/rodin",
        Modality.IMAGE,
        "prompt input_image_urls seed geometry_file_format material quality tier use_hyper "
        "addons bbox_condition condition_mode TAPose",
        examples=("fal-ai/hyper3d/rodin",),
        about="3D from a prompt or images",
        aliases={"output_format": "geometry_file_format"},
        schemas={"geometry_file_format": one_of("glb", "usdz", "fbx", "obj", "stl")},
        media={"image": "input_image_urls"},
        needs=("prompt", "input_image_urls"),
    ),
    endpoint(
        "hunyuan3d",
        "fal-ai/hunyuan3d-v3/text-to-3d",
        Modality.IMAGE,
        "prompt enable_pbr face_count generate_type polygon_type",
        examples=("fal-ai/hunyuan3d-v3/text-to-3d",),
        about="3D from a prompt",
        required=("prompt",),
        schemas={"output_format": one_of("glb", "obj", "fbx", "usdz")},
        ours=("output_format",),
    ),
)
