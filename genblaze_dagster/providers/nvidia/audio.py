"""Sound by NVIDIA NIM: speech by Magpie TTS (Riva); Fugatto and Maxine as pass-through.

API reference: https://docs.nvidia.com/nim/riva/tts/latest/ (HTTP API). There is no client of
NVIDIA's for it; its gRPC client `nvidia-riva-client` is the other way in.
Submit: `POST {function}/v1/audio/synthesize`, multipart fields without a file, answered with a WAV
file; the function is a hosted one, or a container. Voices: `GET {function}/v1/audio/list_voices`.
All other models: `POST https://ai.api.nvidia.com/v1/genai/{model}`, JSON; see `nvidia.provider`.
Cost unit: credits per request, which no answer tells, so the price is unknown.
Quirks: one request gives up to about 20 seconds of speech; split longer texts. The id of the hosted
function can change. Unverified: that id, and all of Fugatto, Maxine and Riva under `/genai`: no page
or client with these addresses is known, so they are expected to answer that there is no such model.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.client import TextPart
from genblaze_dagster.providers.model_spec import ModelFamily, ModelSpec
from genblaze_dagster.providers.models import ModelRegistry
from genblaze_dagster.providers.nvidia.assets import Attachments
from genblaze_dagster.providers.nvidia.parameters import one_each
from genblaze_dagster.providers.nvidia.provider import NvidiaProvider
from genblaze_dagster.providers.nvidia.vendor import NVIDIA, container_api, function_url
from genblaze_dagster.providers.param_schemas import IntSchema, StringSchema
from genblaze_dagster.providers.protocol import GenerationRequest, InputMedia, Submission
from genblaze_dagster.providers.vendor.api import Api
from genblaze_dagster.providers.vendor.traits import InputForm, Traits

MAGPIE = "nvidia/magpie-tts-multilingual"
MAGPIE_FUNCTION = "877104f7-e885-42b9-8de8-f6e4c6303969"
"""The hosted function of Magpie TTS Multilingual; unverified, and it can change."""

_SPEECH = re.compile(r"nvidia/(magpie-tts|riva-tts)")
_FUNCTION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SPEECH_SPEC = ModelSpec(
    model_id=MAGPIE,
    modality=Modality.AUDIO,
    param_aliases={
        "prompt": "text",
        "voice_id": "voice",
        "sample_rate": "sample_rate_hz",
    },
    param_transformer=one_each,
    param_schemas={
        "text": StringSchema(min_len=1),
        "language": StringSchema(min_len=1),
        "voice": StringSchema(min_len=1),
        "encoding": StringSchema(min_len=1),
        "sample_rate_hz": IntSchema(min=1),
    },
    param_required=frozenset({"text"}),
    param_allowlist=frozenset({"text", "language", "voice", "encoding", "sample_rate_hz"}),
    extras={"inputs": ()},
)

FAMILIES = (
    ModelFamily(
        name="speech",
        pattern=_SPEECH,
        description="speech",
        example_slugs=(MAGPIE,),
        spec_template=_SPEECH_SPEC,
    ),
    ModelFamily(
        name="pass-through",
        pattern=re.compile(r"nvidia/(fugatto|maxine-)"),
        description="sound and voices; unverified, parameters go as they are",
        unstable_examples=frozenset({"nvidia/fugatto", "nvidia/maxine-voice-font"}),
        spec_template=ModelSpec(
            model_id="nvidia/fugatto", modality=Modality.AUDIO, param_transformer=one_each
        ),
    ),
)
CONTAINER = ModelFamily(
    name="speech-container",
    pattern=re.compile(""),
    description="speech of a container of one's own",
    spec_template=_SPEECH_SPEC,
)


class NvidiaAudioProvider(NvidiaProvider):
    """NVIDIA's hosted speech, or a speech container.

    The prompt is the text. Parameters: `voice` (such as `Magpie-Multilingual.EN-US.Aria`),
    `language` (`en-US`), `encoding` (`LINEAR_PCM`), `sample_rate_hz`. Models other than Magpie and
    Riva TTS get their parameters as they are.

    Args as of `NvidiaProvider`, whose `base_url` is for those others, and:
        function_id: of the hosted function that speaks; that of Magpie TTS when left out.
        container_url: address of a speech NIM container, such as `http://localhost:9000`. It runs
            one model, whatever its name here, and neither needs nor gets a key.
    """

    name = "nvidia-audio"
    poll_seconds = 2.0
    traits = Traits(
        makes=("speech",),
        modalities=(Modality.AUDIO,),
        inputs=(InputForm.URL, InputForm.DATA, InputForm.UPLOAD),
    )
    families = FAMILIES

    def __init__(
        self,
        api_key: str | None = None,
        *,
        function_id: str | None = None,
        container_url: str | None = None,
        **options: Any,
    ) -> None:
        if container_url is not None and options.get("models") is None:
            options["models"] = ModelRegistry(provider_families=(CONTAINER,), strict_params=True)
        super().__init__(api_key, **options)
        if function_id is not None and _FUNCTION.fullmatch(function_id) is None:
            raise ConfigError(f"{self.name}: function_id is no UUID; copy it from build.nvidia.com")
        self._is_container = container_url is not None
        self._has_own_function = function_id is not None
        client = options.get("client")
        if container_url is not None:
            self.api = self._speech = container_api(container_url, client)
        else:
            hosted = replace(NVIDIA, base_url=function_url(function_id or MAGPIE_FUNCTION))
            self._speech = Api(hosted, api_key=api_key, client=client)

    def check_media(self, request: GenerationRequest, payload: Mapping[str, Any]) -> None:
        """Refuse inputs the model does not take, and speech of a function nobody has named."""
        super().check_media(request, payload)
        is_known = self._is_container or self._has_own_function
        if "riva-tts" in request.model and not is_known:
            raise self.refusal(
                "model",
                f"{request.model} has no function that is known; give function_id or container_url",
                request,
            )

    async def submit(self, request: GenerationRequest) -> Submission:
        """Make the speech, or what another model makes.

        Raises:
            ProviderError: see `Provider`. A lost answer is ambiguous: NVIDIA cannot be asked.
        """
        if not self._is_container and _SPEECH.match(request.model) is None:
            return await super().submit(request)
        fields: list[TextPart] = [
            (name, (None, str(value))) for name, value in self.payload(request).items()
        ]
        answer = await self._speech.call(
            "POST",
            "/v1/audio/synthesize",
            request_of=request,
            files=fields,
            headers={"accept": "*/*"},
            seconds=request.timeout,
        )
        return self.submission(request, answer)

    async def body(self, request: GenerationRequest, attached: Attachments) -> dict[str, Any]:
        """Return the body of a submit; inputs go as URLs where the store has one."""
        fields = self.payload(request)
        for item in request.inputs:
            kind = item.asset.media_type.partition("/")[0]
            fields[self.field_of(request, kind)] = await _address(item, attached)
        return fields

    async def list_voices(self) -> dict[str, list[str]]:
        """Return the voices of the function, by the languages they speak (`en-US,es-US`)."""
        listed = await self._speech.document(
            "GET", "/v1/audio/list_voices", headers={"accept": "*/*"}
        )
        return {
            languages: [str(voice) for voice in cast(dict[str, Any], entry).get("voices") or ()]
            for languages, entry in listed.items()
            if isinstance(entry, dict)
        }


async def _address(item: InputMedia, attached: Attachments) -> str:
    return item.public_url() or await attached.value(item)
