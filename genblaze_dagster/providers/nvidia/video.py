"""Video by NVIDIA NIM: Cosmos, Stable Video Diffusion, and a Cosmos container of one's own.

API reference: https://docs.api.nvidia.com/nim/reference. There is no client of NVIDIA's for these
models: methods, headers and polling follow its client of the same gateway
(langchain-nvidia-ai-endpoints 1.5.0); the container's body is NVIDIA's own schema, the hosted
models' bodies are those of public clients.
Submit: `POST https://ai.api.nvidia.com/v1/cosmos/nvidia/{model}` (Cosmos) or `/v1/genai/{model}`,
JSON; see `nvidia.provider` for what follows. `POST {container}/infer`, which answers with the video.
Cost unit: credits per request, which no answer tells, so the price is unknown.
Quirks: Cosmos predict1 takes a command line inside a Triton body and gives a zip; the video stands
in `b64_video`, `video` or `artifacts`, or is the answer itself. Access to Cosmos is gated and
changes. Unverified: the bodies of Cosmos3 nano and Stable Video Diffusion, how predict1 escapes
quotes and names its inputs, how guardrails report, and the form of a container's inputs.
"""

import re
from collections.abc import Mapping
from typing import Any

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.providers.constraints import mutually_exclusive, required_one_of
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.nvidia.assets import Attachments
from genblaze_dagster.providers.nvidia.parameters import frames_of, one_each, pixels_of
from genblaze_dagster.providers.nvidia.provider import NvidiaProvider
from genblaze_dagster.providers.nvidia.vendor import container_api
from genblaze_dagster.providers.param_schemas import (
    BoolSchema,
    EnumSchema,
    FloatSchema,
    IntSchema,
    StringSchema,
    refuse,
)
from genblaze_dagster.providers.protocol import GenerationRequest
from genblaze_dagster.providers.vendor import inputs
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

_TRITON = re.compile(r"nvidia/cosmos-(predict1|1\.0)")
_COSMOS3 = re.compile(r"nvidia/cosmos3")
_MODES = {None: "text2video", "image": "image2video", "video": "video2video"}
_VIDEO_PARAMS = ("height", "width", "frames_count", "frames_per_sec")
_CONTAINER_INPUT_BYTES = 256 * 1024 * 1024
_SEED = IntSchema(min=0)
_PROMPT = StringSchema(min_len=1)


def _cosmos3(params: dict[str, Any]) -> dict[str, Any]:
    native = one_each(params)
    frames_of(native, frames="num_frames", fps="fps")
    ratio, tier = native.pop("aspect_ratio", None), native.get("resolution")
    if ratio is None and (tier is None or "_" in str(tier)):
        return native
    if ratio is None or tier is None or "_" in str(tier):
        refuse("resolution", "goes with aspect_ratio (480p and 16:9), or is native (480_16_9)")
    native["resolution"] = f"{str(tier).removesuffix('p')}_{str(ratio).replace(':', '_')}"
    return native


def _whole_groups(params: dict[str, Any]) -> None:
    frames = params.get("num_frames")
    if frames is not None and frames % 4 != 1:
        refuse("num_frames", "expected a multiple of 4, and 1: 117, 121, 125, ...")


def _container(params: dict[str, Any]) -> dict[str, Any]:
    native = one_each(params)
    pixels_of(native)
    frames_of(native, frames="frames_count", fps="frames_per_sec")
    flat = {name: native.pop(name) for name in _VIDEO_PARAMS if name in native}
    if flat and "video_params" in native:
        refuse("video_params", f"cannot stand beside {', '.join(flat)}; give one of them")
    if flat:
        native["video_params"] = flat
    return native


FAMILIES = (
    ModelFamily(
        name="stable-video-diffusion",
        pattern=re.compile(r"stabilityai/stable-video-diffusion"),
        description="video from a picture",
        example_slugs=("stabilityai/stable-video-diffusion",),
        spec_template=ModelSpec(
            model_id="stabilityai/stable-video-diffusion",
            modality=Modality.VIDEO,
            param_aliases={"guidance_scale": "cfg_scale"},
            param_transformer=one_each,
            param_schemas={
                "seed": _SEED,
                "cfg_scale": FloatSchema(min=0),
                "motion_bucket_id": IntSchema(min=0),
            },
            param_allowlist=frozenset({"image", "seed", "cfg_scale", "motion_bucket_id"}),
            extras={"inputs": ("image",), "needs_input": "image"},
        ),
    ),
    ModelFamily(
        name="cosmos-predict1",
        pattern=_TRITON,
        description="worlds from text, a picture or a video",
        example_slugs=("nvidia/cosmos-predict1-7b",),
        spec_template=ModelSpec(
            model_id="nvidia/cosmos-predict1-7b",
            modality=Modality.VIDEO,
            param_transformer=one_each,
            param_schemas={"prompt": _PROMPT, "seed": _SEED, "command": _PROMPT},
            param_constraints=(
                required_one_of("prompt", "command"),
                mutually_exclusive("prompt", "command"),
                mutually_exclusive("seed", "command"),
            ),
            param_allowlist=frozenset({"prompt", "seed", "command"}),
            extras={"inputs": ("image", "video")},
        ),
    ),
    ModelFamily(
        name="cosmos3",
        pattern=_COSMOS3,
        description="video from text, a picture or a video",
        example_slugs=("nvidia/cosmos3-nano",),
        spec_template=ModelSpec(
            model_id="nvidia/cosmos3-nano",
            modality=Modality.VIDEO,
            param_aliases={"steps": "num_inference_steps"},
            param_transformer=_cosmos3,
            param_schemas={
                "prompt": _PROMPT,
                "model_mode": EnumSchema(frozenset(_MODES.values())),
                "resolution": StringSchema(pattern=r"\d+_\d+_\d+$"),
                "num_frames": IntSchema(min=1),
                "fps": IntSchema(min=1),
                "num_inference_steps": IntSchema(min=1),
                "guidance_scale": FloatSchema(min=0),
                "seed": _SEED,
            },
            param_required=frozenset({"prompt"}),
            param_constraints=(_whole_groups,),
            param_allowlist=frozenset(
                {"model_mode", "prompt", "negative_prompt", "input_reference", "resolution"}
                | {"num_frames", "fps", "num_inference_steps", "guidance_scale", "seed"}
            ),
            extras={"inputs": ("image", "video")},
        ),
    ),
)
CONTAINER = ModelFamily(
    name="cosmos-container",
    pattern=re.compile(""),
    description="Cosmos in a container of one's own",
    spec_template=ModelSpec(
        model_id="nvidia/cosmos",
        modality=Modality.VIDEO,
        param_aliases={"fps": "frames_per_sec", "num_frames": "frames_count"},
        param_transformer=_container,
        param_schemas={
            "prompt": _PROMPT,
            "prompt_upsampling": BoolSchema(),
            "seed": _SEED,
            "guidance_scale": FloatSchema(min=0),
            "steps": IntSchema(min=1),
        },
        param_required=frozenset({"prompt"}),
        param_allowlist=frozenset(
            {"prompt", "negative_prompt", "prompt_upsampling", "seed", "guidance_scale", "steps"}
            | {"image", "video", "video_params"}
        ),
        extras={"inputs": ("image", "video")},
    ),
)


class NvidiaVideoProvider(NvidiaProvider):
    """NVIDIA's hosted video models, or a Cosmos container.

    Parameters are the models' own or the standard `duration` (with `fps`, else at 24),
    `aspect_ratio` with `resolution`, `steps`, `seed`, `negative_prompt`. A picture or a video as
    input is what Cosmos goes on from; Stable Video Diffusion needs a picture. Cosmos predict1 also
    takes its whole `command`. Other models get their parameters as they are.

    Args as of `NvidiaProvider`, and:
        container_url: address of a Cosmos NIM container, such as `http://localhost:8000/v1`. It
            runs one model, whatever its name here, and neither needs nor gets a key.
    """

    name = "nvidia-video"
    poll_seconds = 10.0
    traits = Traits(
        makes=("video", "image to video", "video to video"),
        modalities=(Modality.VIDEO,),
        inputs=(InputForm.DATA, InputForm.UPLOAD),
    )
    families = FAMILIES

    def __init__(
        self, api_key: str | None = None, *, container_url: str | None = None, **options: Any
    ) -> None:
        if container_url is not None and options.get("models") is None:
            options["models"] = ModelRegistry(provider_families=(CONTAINER,), strict_params=True)
        super().__init__(api_key, **options)
        self._is_container = container_url is not None
        if container_url is not None:
            self.api = container_api(container_url, options.get("client"))

    def path(self, request: GenerationRequest) -> str:
        """Return the path of a model; Cosmos has its own."""
        if self._is_container:
            return "/infer"
        model = self.model_of(request)
        return f"/cosmos/{model}" if model.startswith("nvidia/cosmos") else super().path(request)

    def field_of(self, request: GenerationRequest, kind: str) -> str:
        """Return the field of the body that holds an input of a kind."""
        is_cosmos3 = not self._is_container and _COSMOS3.match(request.model)
        return "input_reference" if is_cosmos3 else kind

    async def body(self, request: GenerationRequest, attached: Attachments) -> dict[str, Any]:
        """Return the body of a submit."""
        if self._is_container:
            return {**self.payload(request), **await self._contained(request)}
        if _TRITON.match(request.model):
            return await self._triton(request, attached)
        fields = await super().body(request, attached)
        if _COSMOS3.match(request.model):
            fields.setdefault("model_mode", _MODES[_kind(request)])
        return fields

    async def _contained(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the inputs for a container, which has no assets and may not reach our store."""
        return {
            item.asset.media_type.partition("/")[0]: await inputs.data_uri(
                self.name, item, max_bytes=_CONTAINER_INPUT_BYTES
            )
            for item in request.inputs
        }

    async def _triton(self, request: GenerationRequest, attached: Attachments) -> dict[str, Any]:
        """Return the body of Cosmos predict1; it finds its input by number among the assets."""
        fields = self.payload(request)
        kind = _kind(request)
        for item in request.inputs:
            await attached.upload(item)
        command = fields.get("command") or _command(fields, kind)
        return {
            "inputs": [{"name": "command", "shape": [1], "datatype": "BYTES", "data": [command]}],
            "outputs": [{"name": "status", "datatype": "BYTES", "shape": [1]}],
        }


def _kind(request: GenerationRequest) -> str | None:
    return next((item.asset.media_type.partition("/")[0] for item in request.inputs), None)


def _command(fields: Mapping[str, Any], kind: str | None) -> str:
    prompt = fields["prompt"].replace("\\", "\\\\").replace('"', '\\"')
    words = ["text2world" if kind is None else "video2world", f'--prompt="{prompt}"']
    if kind is not None:
        words.append(f"--input_{kind}_index=0")
    if "seed" in fields:
        words.append(f"--seed={fields['seed']}")
    return " ".join(words)
